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
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, cast

import msgspec
from msgspec import inspect

from engine import gojson
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Reader: TypeAlias = "Callable[[Any], Any]"

_ABSENT = object()  # what a reader gives for null where Go leaves the zero value

# What dockerd calls the structs it reads.
_GO_NAMES = {
    "AuthRequest": "registry.AuthConfig",
    "ClusterVolumeSpec": "volume.ClusterVolumeSpec",
    "ContainerCreateRequest": "container.CreateRequest",
    "EndpointIPAMConfig": "network.EndpointIPAMConfig",
    "EndpointSettings": "network.EndpointSettings",
    "ExecCreateRequest": "container.ExecOptions",
    "ExecStartRequest": "container.ExecStartOptions",
    "HealthConfig": "v1.HealthcheckConfig",
    "IPAM": "network.IPAM",
    "IPAMConfig": "network.IPAMConfig",
    "Mount": "mount.Mount",
    "NetworkConnectRequest": "network.ConnectOptions",
    "NetworkCreateRequest": "network.CreateRequest",
    "NetworkDisconnectRequest": "network.DisconnectOptions",
    "NetworkingConfig": "network.NetworkingConfig",
    "Platform": "v1.Platform",
    "PortBinding": "nat.PortBinding",
    "Ulimit": "units.Ulimit",
    "VolumeCreateRequest": "volume.CreateOptions",
}
# Structs that Go embeds in one without a name, or that decode themselves.
_ANONYMOUS = frozenset({"container.CreateRequest", "registry.AuthConfig"})


class Malformed(InvalidParameter):
    """`reason` is what Go's decoder says, without what dockerd puts before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid JSON: {reason}")
        self.reason = reason


def read(data: bytes, cls: type[T], fault: str = "") -> T:
    """The body as `cls`. Raises InvalidParameter with dockerd's sentences.

    `fault` is what kept the rest of it from coming, if anything did: Go's decoder comes upon that
    where it wants more, and dockerd where it looks whether there is more.
    """
    if not data.strip():
        raise Malformed(fault or "got EOF while reading request body")
    try:
        loose = gojson.loads(data)
    except RecursionError:
        raise Malformed(gojson.TOO_DEEP) from None
    except UnicodeDecodeError:
        raise Malformed("invalid UTF-8 in string") from None
    except msgspec.DecodeError as exc:
        if gojson.trailing(str(exc)) is not None:
            raise InvalidParameter("unexpected content after JSON") from None
        sentence = _syntax(data, str(exc))
        raise Malformed(
            fault if fault and sentence == gojson.UNEXPECTED_EOF else sentence
        ) from None
    try:
        document = _convert(loose, cls)
    except msgspec.ValidationError as exc:
        said = gojson.type_error(data, cls, _names(cls), _ANONYMOUS)
        raise Malformed(said or str(exc)) from None
    if fault:
        raise InvalidParameter("unexpected content after JSON")
    return document


def read_first(data: bytes, cls: type[T], fault: str = "") -> T:
    """The first document in the body, whatever follows it; a failure says only what Go says."""
    if not data.strip():
        raise InvalidParameter(fault or "EOF")
    try:
        return read(data[: gojson.end_of_first(data)], cls)
    except Malformed as exc:
        is_cut = fault and exc.reason == gojson.UNEXPECTED_EOF
        raise InvalidParameter(fault if is_cut else exc.reason) from None


def read_text(text: str, cls: type[T]) -> T:
    """A document that is one word of a query; a failure says what Go says of bytes at hand."""
    data = text.encode(errors="replace")
    try:
        return read(data, cls)
    except Malformed as exc:
        is_cut = exc.reason == gojson.UNEXPECTED_EOF or not data.strip()
        raise InvalidParameter(gojson.TRUNCATED if is_cut else exc.reason) from None
    except InvalidParameter:
        raise InvalidParameter(gojson.syntax_error(data, "")) from None


def _names(cls: type[object]) -> dict[str, str]:
    """A HostConfig by itself is an update; inside a create it has its own name."""
    is_update = cls.__name__ == "HostConfig"
    return _GO_NAMES | {"HostConfig": "container.UpdateConfig"} if is_update else _GO_NAMES


def _syntax(data: bytes, said: str) -> str:
    if "out of range" in said:
        return "number out of range"
    sentence = gojson.syntax_error(data, said)
    return gojson.UNEXPECTED_EOF if sentence == gojson.TRUNCATED else sentence


def _convert(loose: Any, cls: type[T]) -> T:
    carried = _reader(cast("Any", cls))(loose)
    return msgspec.convert({} if carried is _ABSENT else carried, cls)


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
