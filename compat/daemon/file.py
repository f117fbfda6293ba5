"""The configuration file: JSON whose keys are the options' long names.

It may be empty, may begin with a byte order mark, and may group the proxies in an object of their
own. A key that is no option is an error that names it, and so is an option that was given as a flag
too. null, and any value that says nothing ("", 0, [], {}), leaves the default.
"""

from __future__ import annotations

import codecs
import functools
from typing import TYPE_CHECKING, Any, cast

import msgspec

from compat.daemon.checks import without_password
from compat.daemon.options import OLD_KEYS, Option, by_key
from compat.daemon.values import Boolean, Integer, Pairs, Strings, Switches, Text
from engine import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_BYTES = 16 * 1024 * 1024
"""More than anybody writes into such a file; what is longer is not read."""

_NESTED = "proxies"


class FileError(Exception):
    """The file cannot be used; `str()` says why."""


def read(path: str) -> dict[str, Any]:
    """The options that the file sets, by flag; raises FileError, FileNotFoundError included."""
    try:
        with open(path, "rb") as stream:
            raw = stream.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise FileError(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
    return decode(raw)


def decode(raw: bytes) -> dict[str, object]:
    """The file's keys and values as they stand there, proxies brought up; unknown ones refused."""
    if len(raw) > LIMIT_BYTES:
        raise FileError(f"the file is longer than {LIMIT_BYTES} bytes")
    document = _flat(_document(raw))
    known = by_key()
    unknown = [key for key in document if key not in known and key not in OLD_KEYS]
    if unknown:
        raise FileError(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    for old, new in OLD_KEYS.items():
        if old in document and new in document:
            raise FileError(f"{old} and {new} must not both be specified in the config file")
        if old in document:
            document[new] = [document.pop(old)]
    return document


def values(document: Mapping[str, object]) -> dict[str, Any]:
    """What the document sets, by flag; raises FileError naming the key whose value cannot be."""
    if said := _mismatch(document):
        raise FileError(f"invalid JSON: {said}")
    found: dict[str, Any] = {}
    for key, option in by_key().items():
        given = document.get(key)
        if given is None or _is_silent(given):
            continue
        try:
            found[option.flag] = option.kind.decode(given)
        except ValueError as exc:
            raise FileError(f"invalid value for {key}: {exc}") from exc
    return found


# What Go's struct has for each kind of option; the others decode themselves.
_GO_TYPES: Mapping[type, object] = {
    Boolean: bool,
    Integer: int,
    Text: str,
    Strings: list[str],
    Pairs: dict[str, str],
    Switches: dict[str, bool],
}


def _mismatch(document: Mapping[str, object]) -> str | None:
    """Go's sentence about the first value of a wrong type, null for none."""
    return gojson.type_error(
        msgspec.json.encode(document), _go_config(), {"Config": "config.Config"}, frozenset()
    )


@functools.cache
def _go_config() -> type[msgspec.Struct]:
    known = [
        (f"option{number}", _GO_TYPES[type(option.kind)], key)
        for number, (key, option) in enumerate(by_key().items())
        if type(option.kind) in _GO_TYPES
    ]
    return msgspec.defstruct(
        "Config",
        [
            (name, cast("Any", kind), msgspec.field(name=key, default=None))
            for name, kind, key in known
        ],
    )


def conflicts(document: Mapping[str, object], flags: Mapping[str, Any]) -> list[str]:
    """The options that flags and file both set, each with both values; runtimes add up."""
    return [
        f"{key}: (from flag: {_shown(option, flags[option.flag])}, "
        f"from file: {_shown(option, document[key])})"
        for key, option in by_key().items()
        if key in document and option.flag in flags and option.flag != "add-runtime"
    ]


def _document(raw: bytes) -> dict[str, object]:
    """The JSON object; nesting, number and encoding bombs end as FileError like any bad syntax."""
    text = _without_mark(raw).strip()
    if not text or text == b"null":
        return {}
    try:
        document: object = gojson.loads(text)
    except msgspec.DecodeError as exc:
        raise FileError(f"invalid JSON: {gojson.syntax_error(text, str(exc))}") from None
    except RecursionError:
        raise FileError(f"invalid JSON: {gojson.TOO_DEEP}") from None
    except UnicodeDecodeError:
        raise FileError("invalid JSON: invalid UTF-8 in string") from None
    if not isinstance(document, dict):
        said = gojson.type_error(text, dict[str, Any], {}, frozenset())
        raise FileError(f"invalid JSON: {said}")
    return cast("dict[str, object]", document)


def _without_mark(raw: bytes) -> bytes:
    """UTF-8 without its mark; UTF-16 (as some editors write) made UTF-8."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return raw.decode("utf-16").encode()
        except UnicodeError as exc:
            raise FileError(f"invalid JSON: {exc}") from None
    return raw


def _flat(document: dict[str, object]) -> dict[str, object]:
    nested = document.pop(_NESTED, None)
    if nested is None:
        return document
    if not isinstance(nested, dict):
        raise FileError(f"invalid value for {_NESTED}: must be an object")
    return {**document, **cast("dict[str, object]", nested)}


def _is_silent(value: object) -> bool:
    return value is not False and not value


def _shown(option: Option, value: object) -> str:
    text = go_text(value)
    return without_password(text) if option.is_secret else text


def go_text(value: object) -> str:
    """A value as Go's %v prints it: lists with spaces between, maps sorted."""
    match value:
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return "[" + " ".join(map(go_text, cast("list[object]", value))) + "]"
        case dict():
            entries = sorted(cast("dict[str, object]", value).items())
            return "map[" + " ".join(f"{key}:{go_text(entry)}" for key, entry in entries) + "]"
        case _:
            return str(value)
