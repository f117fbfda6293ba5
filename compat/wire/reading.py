"""Reading JSON as Go's decoder does, into the structs of this package.

Go ignores unknown keys, matches keys without case when none fits exactly, lets null stand for
whatever is there already, and takes the last of several equal keys. Clients rely on each. A body
is therefore decoded loosely first, then carried over to the names and shapes of its struct by a
reader made once a type, then converted strictly.

Every malformed body ends as InvalidParameter, whatever it does: deep nesting, numbers of ten
thousand digits, NaN, half of a surrogate pair, bytes that are no UTF-8.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, cast

import msgspec
from msgspec import inspect

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Reader: TypeAlias = "Callable[[Any], Any]"

_ABSENT = object()  # what a reader gives for null where Go leaves the zero value

_SURROGATES = re.compile(
    rb"(?P<keep>\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def read(data: bytes, cls: type[T]) -> T:
    """The body as `cls`. Raises InvalidParameter with dockerd's sentences."""
    try:
        loose = _decode(data)
    except RecursionError:
        raise InvalidParameter("invalid JSON: exceeded max depth") from None
    except UnicodeDecodeError:
        raise InvalidParameter("invalid JSON: invalid UTF-8 in string") from None
    except msgspec.DecodeError as exc:
        raise _malformed(data, str(exc)) from None
    try:
        return _convert(loose, cls)
    except msgspec.ValidationError as exc:
        raise InvalidParameter(f"invalid JSON: {_as_go(str(exc), cls)}") from None


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError):
        # Go puts U+FFFD where a string is not valid Unicode; try once more with that done.
        mended = data.decode(errors="replace").encode()
        mended = _SURROGATES.sub(lambda m: m["keep"] or b"\\ufffd", mended)
        if mended == data:
            raise
        return msgspec.json.decode(mended)


def _convert(loose: Any, cls: type[T]) -> T:
    carried = _reader(cast("Any", cls))(loose)
    return msgspec.convert({} if carried is _ABSENT else carried, cls)


def _malformed(data: bytes, said: str) -> InvalidParameter:
    if not data.strip():
        return InvalidParameter("invalid JSON: got EOF while reading request body")
    if "truncated" in said:
        return InvalidParameter("invalid JSON: unexpected EOF")
    if "trailing characters" in said:
        return InvalidParameter("unexpected content after JSON")
    if "out of range" in said:
        return InvalidParameter("invalid JSON: number out of range")
    where = re.search(r"\(byte (\d+)\)", said)
    at = int(where[1]) if where else len(data)
    character = data[at : at + 1].decode("latin-1")
    return InvalidParameter(f"invalid JSON: invalid character '{character}' (byte {at})")


_GO_KINDS = {"int": "number", "float": "number", "str": "string"}

# What dockerd calls the documents it reads.
_GO_NAMES = {
    "ContainerCreateRequest": "container.CreateRequest",
    "HostConfig": "container.UpdateConfig",
    "ExecCreateRequest": "container.ExecOptions",
    "ExecStartRequest": "container.ExecStartOptions",
    "NetworkCreateRequest": "network.CreateRequest",
    "NetworkConnectRequest": "network.ConnectOptions",
    "NetworkDisconnectRequest": "network.DisconnectOptions",
    "VolumeCreateRequest": "volume.CreateOptions",
}


def _as_go(said: str, cls: Any) -> str:
    """``Expected `int`, got `str` - at `$.HostConfig.Memory` `` in dockerd's words."""
    where = re.search(r" - at `\$(.*)`$", said)
    steps = re.findall(r"\[[^\]]*\]|[^.\[\]]+", where[1]) if where else []
    got = re.match(r"Expected `.*`, got `(\w+)`", said)
    kind = _GO_KINDS.get(got[1], got[1]) if got else "number"
    if not steps:
        return f"json: cannot unmarshal {kind} into Go value of type {_go_root(cls)}"
    place = ".".join(step for step in steps if not step.startswith("["))
    wanted = _go_type(_at(inspect.type_info(cls), steps))
    return f"json: cannot unmarshal {kind} into Go struct field .{place} of type {wanted}"


def _go_root(cls: Any) -> str:
    name: str = cls.__name__
    return _GO_NAMES.get(name, name)


def _at(info: inspect.Type, steps: list[str]) -> inspect.Type:
    """The type at the end of a path into a document."""
    for step in steps:
        info = _bare(info)
        match info:
            case inspect.StructType(fields=fields):
                info = next(f.type for f in fields if f.encode_name == step)
            case inspect.DictType(value_type=inner) | inspect.VarTupleType(item_type=inner):
                info = inner
            case inspect.TupleType(item_types=inners):
                info = inners[0]
            case _:
                break
    return info


def _bare(info: inspect.Type) -> inspect.Type:
    """Without null, and without notes but those that name a type."""
    while True:
        match info:
            case inspect.UnionType(types=types):
                info = next(t for t in types if not isinstance(t, inspect.NoneType))
            case inspect.Metadata(type=inner) if not _named(info):
                info = inner
            case _:
                return info


def _named(info: inspect.Metadata) -> str:
    notes: dict[str, str] = cast("Any", info).extra or {}
    return str(notes.get("go", ""))


def _go_type(info: inspect.Type) -> str:
    match _bare(info):
        case inspect.Metadata() as noted:
            return _named(noted)
        case inspect.StrType():
            return "string"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "int"
        case inspect.DictType(value_type=inner):
            return f"map[string]{_go_type(inner)}"
        case inspect.VarTupleType(item_type=inner):
            return f"[]{_go_type(inner)}"
        case inspect.TupleType(item_types=inners):
            return f"[{len(inners)}]{_go_type(inners[0])}"
        case inspect.StructType(cls=cls) if cls.__struct_fields__:
            return f"container.{cls.__name__}"
        case _:
            return "struct {}"


# Readers


@functools.cache
def _reader(cls: Any) -> Reader:
    return _of_type(inspect.type_info(cls))


def _of_type(info: inspect.Type) -> Reader:
    match info:
        case inspect.Metadata(type=inner, extra={"single": True}):
            return functools.partial(_read_single, _of_type(inner))
        case inspect.Metadata(type=inner):
            return _of_type(inner)
        case inspect.StructType(cls=cls):
            return _of_struct(cls)
        case inspect.UnionType(types=types):
            is_nullable = any(isinstance(t, inspect.NoneType) for t in types)
            inner_type = next(t for t in types if not isinstance(t, inspect.NoneType))
            return functools.partial(_read_union, _of_type(inner_type), is_nullable)
        case inspect.DictType(value_type=inner):
            return functools.partial(_read_dict, _of_type(inner), _zero(inner))
        case inspect.VarTupleType(item_type=inner):
            return functools.partial(_read_list, _of_type(inner), _zero(inner))
        case inspect.TupleType(item_types=inners):
            return functools.partial(_read_array, len(inners))
        case _:
            return _read_scalar


def _zero(info: inspect.Type) -> Any:
    """What null means as an element of a list or a map."""
    match info:
        case inspect.Metadata(type=inner):
            return _zero(inner)
        case inspect.StrType():
            return ""
        case inspect.IntType():
            return 0
        case inspect.BoolType():
            return False
        case inspect.StructType():
            return {}
        case inspect.VarTupleType():
            return ()
        case _:
            return None


def _read_scalar(value: Any) -> Any:
    return _ABSENT if value is None else value


def _read_single(inner: Reader, value: Any) -> Any:
    return inner([value] if isinstance(value, str) else value)


def _read_union(inner: Reader, is_nullable: bool, value: Any) -> Any:
    if value is None:
        return None if is_nullable else _ABSENT
    return inner(value)


def _read_dict(inner: Reader, zero: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return _read_scalar(value)
    items = cast("dict[str, Any]", value).items()
    return {k: zero if (r := inner(v)) is _ABSENT else r for k, v in items}


def _read_list(inner: Reader, zero: Any, value: Any) -> Any:
    if not _is_list(value):
        return _read_scalar(value)
    return [zero if (r := inner(v)) is _ABSENT else r for v in value]


def _read_array(length: int, value: Any) -> Any:
    """Go's fixed arrays of numbers: what is too much is dropped, what is missing is zero."""
    if not _is_list(value):
        return _read_scalar(value)
    return [0 if v is None else v for v in (value + [0] * length)[:length]]


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


@functools.cache
def _of_struct(cls: type[msgspec.Struct]) -> Reader:
    fields = cast("inspect.StructType", inspect.type_info(cls)).fields
    exact = {f.encode_name: (f.encode_name, _of_type(f.type)) for f in fields}
    folded = {name.casefold(): found for name, found in exact.items()}
    return functools.partial(_read_struct, exact, folded)


def _read_struct(
    exact: dict[str, tuple[str, Reader]], folded: dict[str, tuple[str, Reader]], value: Any
) -> Any:
    if not isinstance(value, dict):
        return _read_scalar(value)
    carried: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", value).items():
        found = exact.get(key) or folded.get(key.casefold())
        if found is not None and (read := found[1](item)) is not _ABSENT:
            carried[found[0]] = read
    return carried
