"""What Go's JSON decoder says of a document that it cannot take, for those that msgspec refused.

Clients of Docker read these sentences, whoever sent the document: a request's body, an image's
config, a registry's manifest. The words are those of Go 1.27, with which Debian builds dockerd
28.5.2.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

    Names = Mapping[str, str]
    """What Go calls each struct, by the name of ours: "image.Image"."""

TOO_DEEP = "exceeded max depth"
TRUNCATED = "unexpected end of JSON input"
UNEXPECTED_EOF = "unexpected EOF"
"""What a decoder of a stream says where a decoder of bytes says TRUNCATED."""

_KEY = "looking for beginning of object key string"
_VALUE = "looking for beginning of value"
_CONTEXTS = {
    "object keys must be strings": _KEY,
    "trailing comma in object": _KEY,
    "trailing comma in array": _VALUE,
    "expected ':'": "after object key",
    "expected ',' or '}'": "after object key:value pair",
    "expected ',' or ']'": "after array element",
}
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)")
_SURROGATES = re.compile(
    rb"(?P<keep>\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_LITERALS = (b"true", b"null", b"false")
_ONE_FOR_ONE = "gojson.one-for-one"  # how bytes are decoded that have to keep their places


def _one_for_one(exc: UnicodeError) -> tuple[str, int]:
    assert isinstance(exc, UnicodeDecodeError)
    return "?" * (exc.end - exc.start), exc.end


codecs.register_error(_ONE_FOR_ONE, _one_for_one)


def is_truncated(said: str) -> bool:
    return "truncated" in said


def trailing(said: str) -> int | None:
    """Where something follows a whole document; None if that is not what msgspec complains of."""
    found = _MALFORMED.search(said)
    if found is None or found[1] != "trailing characters":
        return None
    return int(found[2]) - 1  # it has read one byte on


def end_of_first(data: bytes) -> int:
    """Where the first document ends; that of the bytes where it is broken or alone."""
    at = trailing(_complaint(data))
    return len(data) if at is None else at


def _complaint(data: bytes) -> str:
    """What msgspec finds wrong with bytes, its places being those of `data`; "" if nothing.

    `loads` puts something longer in the place of what is not valid Unicode, this does not.
    """
    try:
        _decoder.decode(_mended(data, _ONE_FOR_ONE))
    except msgspec.DecodeError as exc:
        return str(exc)
    except RecursionError:
        pass
    return ""


def syntax_error(data: bytes, said: str) -> str:
    """The sentence for bytes that are no JSON; `said` is msgspec's."""
    said = _complaint(data) or said
    found = _MALFORMED.search(said)
    if found is None:
        return TRUNCATED if is_truncated(said) else said[:1].lower() + said[1:]
    what, at = found[1], int(found[2])
    if (end := trailing(said)) is not None:
        return _unexpected(data, end, "after top-level value")
    if "escape" in what or "surrogate" in what:
        return _bad_escape(data, at)
    if what == "invalid number":
        return _bad_number(data, at)
    if what in _CONTEXTS:
        return _unexpected(data, at, _CONTEXTS[what])
    return _bad_character(data, at)


def _unexpected(data: bytes, at: int, context: str) -> str:
    if at >= len(data):
        return TRUNCATED
    return f"invalid character {_quoted(data, at)} {context}"


def _quoted(data: bytes, at: int) -> str:
    """The character there as Go's strconv quotes a rune."""
    for length in range(1, 5):
        try:
            character = data[at : at + length].decode()
        except UnicodeDecodeError:
            continue
        if character in "'\\":
            return f"'\\{character}'"
        if character.isprintable():
            return f"'{character}'"
        named = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b", "\f": "\\f"}
        number = ord(character)
        spelled = f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}"
        return f"'{named.get(character, spelled)}'"
    return f"'\\x{data[at]:02x}'"


def _bad_escape(data: bytes, at: int) -> str:
    begin = data.rfind(b"\\", 0, at)
    length = 6 if data[begin + 1 : begin + 2] == b"u" else 2
    shown = data[begin : begin + length].decode(errors="replace")
    return f"invalid escape sequence `{shown}` in string"


def _bad_number(data: bytes, at: int) -> str:
    if data[at - 1 : at] == b"0":  # a number ends behind a leading zero: its owner is surprised
        is_item = data[:at].rstrip(b"0").rstrip().endswith((b"[", b","))
        return _unexpected(
            data, at, "after array element" if is_item else "after object key:value pair"
        )
    return _unexpected(data, at, "in numeric literal")


def _bad_character(data: bytes, at: int) -> str:
    """A byte that fits nowhere: in a string, in a literal, in a number, or instead of a value."""
    for literal in _LITERALS:
        begin = at - len(literal)
        if begin < 0 or data[begin] != literal[0] or data[begin:at] == literal:
            continue
        good = next(n for n, byte in enumerate(literal) if data[begin + n] != byte)
        context = f"in literal {literal.decode()} (expecting '{chr(literal[good])}')"
        return _unexpected(data, begin + good, context)
    before = data[:at].rstrip(b" \t\r\n")[-1:]
    if before in (b"", b":", b",", b"["):
        return _unexpected(data, at, _VALUE)
    return _unexpected(data, at, "in numeric literal" if before == b"-" else "in string")


# A number too large for a float is of a wrong type where one is wanted, and no broken document.
_decoder = msgspec.json.Decoder(float_hook=float)


def loads(data: bytes) -> Any:
    """The document as Go takes it: U+FFFD stands for what is not valid Unicode in a string.

    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError):
        mended = _mended(data, "replace")
        if mended == data:
            raise
        return _decoder.decode(mended)


def _mended(data: bytes, errors: str) -> bytes:
    """The bytes with something in the place of what is not valid Unicode."""
    return _SURROGATES.sub(lambda m: m["keep"] or b"\\ufffd", data.decode(errors=errors).encode())


# Values of the wrong type


def type_error(data: bytes, cls: Any, names: Names, anonymous: frozenset[str]) -> str | None:
    """The sentence for JSON that is not a `cls`; None if nothing is wrong with its types.

    `anonymous` are the structs of `names` whose name Go leaves out before a field's.
    """
    found = _mismatch(inspect.type_info(cls), loads(data), ())
    if found is None:
        return None
    path, wanted, value = found
    kind = _kind(wanted, value, data, path)
    if isinstance(wanted, inspect.Metadata) and _is_single(wanted):
        return f"json: cannot unmarshal {kind} into Go value of type string"
    if not path:
        return f"json: cannot unmarshal {kind} into Go value of type {_go_type(wanted, names)}"
    root = names.get(getattr(cls, "__name__", ""), "")
    owner = "" if root in anonymous else root.rpartition(".")[2]
    place = ".".join((owner, *(_escaped(step) for step in path)))
    what = place if str(path[-1]).isdecimal() else f"Go struct field {place}"
    return f"json: cannot unmarshal {kind} into {what} of type {_go_type(wanted, names)}"


def _escaped(step: str | int) -> str:
    """A step of a JSON pointer (RFC 6901)."""
    return str(step).replace("~", "~0").replace("/", "~1")


_Path = tuple[str | int, ...]
_Mismatch = tuple[_Path, inspect.Type, object]


def _mismatch(info: inspect.Type, value: object, path: _Path) -> _Mismatch | None:
    """The first value, in the document's order, that is of another type; null fits all."""
    if value is None:
        return None
    info = _bare(info)
    match info:
        case inspect.Metadata(type=inner) if _is_single(info):
            found = _mismatch(inner, [value] if isinstance(value, str) else value, path)
            return (path, info, value) if found else None
        case inspect.Metadata(type=inner):
            found = _mismatch(inner, value, path)
            # A name of its own is the whole's, not that of something inside.
            return (path, info, value) if found and found[0] == path else found
        case inspect.StructType(fields=fields):
            known = {f.encode_name: f.type for f in fields}
            folded = {f.encode_name.casefold(): f.type for f in fields}
            return _within(value, info, path, lambda k: known.get(k) or folded.get(k.casefold()))
        case inspect.DictType(value_type=inner):
            return _within(value, info, path, lambda _: inner)
        case inspect.VarTupleType(item_type=inner) | inspect.ListType(item_type=inner):
            return _among(value, info, path, inner)
        case inspect.TupleType(item_types=inners):
            return _among(value, info, path, inners[0])
        case _:
            return None if _fits(info, value) else (path, info, value)


def _within(value: object, info: inspect.Type, path: _Path, of_key: Any) -> _Mismatch | None:
    if not isinstance(value, dict):
        return path, info, value
    for key, item in cast("dict[str, object]", value).items():
        inner = of_key(key)
        if inner is not None and (found := _mismatch(inner, item, (*path, key))):
            return found
    return None


def _among(value: object, info: inspect.Type, path: _Path, inner: inspect.Type) -> _Mismatch | None:
    if not isinstance(value, list):
        return path, info, value
    for place, item in enumerate(cast("list[object]", value)):
        if found := _mismatch(inner, item, (*path, place)):
            return found
    return None


def _fits(info: inspect.Type, value: object) -> bool:
    match info:
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType(ge=least, le=most):
            return (
                isinstance(value, int)
                and not isinstance(value, bool)
                and (least is None or value >= least)
                and (most is None or value <= most)
            )
        case inspect.FloatType():
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case _:
            return True


def _kind(wanted: inspect.Type, value: object, data: bytes, path: _Path) -> str:
    """Go's word for the value; a number that only does not fit is shown as it was written."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            while isinstance(wanted, inspect.Metadata):
                wanted = wanted.type
            is_number = isinstance(wanted, (inspect.IntType, inspect.FloatType))
            return f"number {_literal(data, path)}" if is_number else "number"


def _literal(data: bytes, path: _Path) -> str:
    raw = data
    for step in path:
        if isinstance(step, int):
            raw = bytes(msgspec.json.decode(raw, type=list[msgspec.Raw])[step])
        else:
            raw = bytes(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[step])
    return raw.strip().decode(errors="replace")


def _bare(info: inspect.Type) -> inspect.Type:
    """Without null, and without notes but those that mean something here."""
    while True:
        match info:
            case inspect.UnionType(types=types):
                info = next(t for t in types if not isinstance(t, inspect.NoneType))
            case inspect.Metadata(type=inner) if not (_named(info) or _is_single(info)):
                info = inner
            case _:
                return info


def _extra(info: inspect.Metadata) -> dict[str, object]:
    return cast("Any", info).extra or {}


def _named(info: inspect.Metadata) -> str:
    return str(_extra(info).get("go", ""))


def _is_single(info: inspect.Metadata) -> bool:
    """A list for which a bare string may stand: Go's type for that reports its own failures."""
    return bool(_extra(info).get("single"))


def _go_type(info: inspect.Type, names: Names) -> str:
    match _bare(info):
        case inspect.Metadata() as noted:
            return _named(noted)
        case inspect.StrType():
            return "string"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "int"
        case inspect.AnyType():
            return "interface {}"
        case inspect.DictType(value_type=inner):
            return f"map[string]{_go_type(inner, names)}"
        case inspect.VarTupleType(item_type=inner) | inspect.ListType(item_type=inner):
            return f"[]{_go_type(inner, names)}"
        case inspect.TupleType(item_types=inners):
            return f"[{len(inners)}]{_go_type(inners[0], names)}"
        case inspect.StructType(cls=cls) if cls.__struct_fields__ or cls.__name__ in names:
            return names.get(cls.__name__, f"container.{cls.__name__}")
        case _:
            return "struct {}"
