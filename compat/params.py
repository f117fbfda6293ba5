"""What a request says besides its path: the words of its query, its body, its credentials.

Everything here reads as Go reads it, because clients have come to rely on that: what counts as
false, how a filter may be written, which sentence a wrong number earns.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast
from urllib.parse import unquote_plus

import msgspec

from compat import connection, versions
from compat.translate import images, system
from compat.wire import images as wire
from compat.wire import reading
from compat.wire.system import AuthRequest
from engine import literals
from engine.errors import InvalidParameter, Unclassified
from engine.registry.auth import RegistryAuth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from compat.versions import Version
    from engine.oci.platform import Platform

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 2**20  # a document, not an archive; the longest create bodies seen are 100 kB

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INT = re.compile(r"[+-]?[0-9]+")
_INT64_DIGITS = 19
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")


# The body


async def body(request: web.Request, cls: type[T], version: Version) -> T:
    """The JSON document a request carries, shaped for its version.

    An empty body is a document without fields. Raises InvalidParameter.
    """
    check_is_json(request)
    if (request.content_length or 0) == 0 and not request.body_exists:
        return cls()
    return versions.shape(await _read(request, cls), version)


async def required_body(request: web.Request, cls: type[T], version: Version) -> T:
    check_is_json(request)
    return versions.shape(await _read(request, cls), version)


async def _read(request: web.Request, cls: type[T]) -> T:
    data, fault = await read_all(request)
    return reading.read(data, cls, fault)


async def read_all(request: web.Request) -> tuple[bytes, str]:
    """The whole body, if it is of a document's size, and what is wrong with its transfer."""
    data = bytearray()
    try:
        async with aclosing(connection.body(request)) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise InvalidParameter("request body too large")
    except connection.BrokenBody as exc:
        return bytes(data), str(exc)
    return bytes(data), ""


async def read_form(request: web.Request) -> bytes:
    data, fault = await read_all(request)
    if fault:
        raise InvalidParameter(fault)
    return data


def check_is_json(request: web.Request) -> None:
    said = request.headers.get("Content-Type")
    if said is None and not request.body_exists:
        return
    said = said or ""
    media_type, _, rest = said.partition(";")
    media_type = media_type.strip().lower()
    if not media_type:
        raise InvalidParameter(f"malformed Content-Type header ({said}): mime: no media type")
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidParameter(
            f"malformed Content-Type header ({said}): mime: unexpected content after media type"
        )
    if any(p.strip() and not p.partition("=")[2].strip() for p in rest.split(";")):
        raise InvalidParameter(
            f"malformed Content-Type header ({said}): mime: invalid media parameter"
        )
    if media_type != "application/json":
        raise InvalidParameter(
            f"unsupported Content-Type header ({said}): must be 'application/json'"
        )


# The query


@dataclass(frozen=True, slots=True)
class Words:
    """What a query or a form says, and what is wrong with its spelling, if anything."""

    values: Mapping[str, Sequence[str]]
    fault: str = ""


def parse_query(*texts: str) -> Words:
    """Words by name, in order, as Go's url.ParseQuery finds them."""
    values: dict[str, list[str]] = {}
    fault = ""
    for word in "&".join(texts).split("&"):
        if ";" in word:
            fault = "invalid semicolon separator in query"
        elif found := _BAD_ESCAPE.search(word):
            fault = fault or f'invalid URL escape "{found[0]}"'
        elif word:
            name, _, value = word.partition("=")
            values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return Words(values, fault)


class Query:
    """The words of one request's query that its version knows on its route.

    A query that is spelled wrongly hurts only who asks for a word, as with dockerd.
    """

    def __init__(self, words: Words, route: str, version: Version) -> None:
        self._fault = words.fault
        self._known = {
            name: values
            for name, values in words.values.items()
            if versions.knows(version, route, name)
        }

    @property
    def _words(self) -> dict[str, Sequence[str]]:
        if self._fault:
            raise InvalidParameter(self._fault)
        return self._known

    def __contains__(self, name: str) -> bool:
        return name in self._words

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self._words.get(name, ()))

    def text(self, name: str) -> str:
        """The first value; "" if there is none. NUL is refused: no name may hold one."""
        values = self._words.get(name)
        if not values:
            return ""
        if "\0" in values[0]:
            raise InvalidParameter(f"invalid value for {name}: contains a NUL character")
        return values[0]

    def flag(self, name: str, default: bool = False) -> bool:
        if name not in self._words:
            return default
        return self.text(name).strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        text = self.text(name)
        return parse_int(text, "strconv.Atoi") if text else None

    def uint32(self, name: str, what: str) -> int:
        text = self.text(name)
        digits = text.removeprefix("-")
        if not digits.isascii() or not digits.isdecimal():
            raise InvalidParameter(f'invalid {what} "{text}": invalid syntax')
        if text.startswith("-") or len(digits) > 10 or int(digits) >= 2**32:
            raise InvalidParameter(f'invalid {what} "{text}": value out of range')
        return int(digits)

    def filters(self) -> dict[str, tuple[str, ...]]:
        return parse_filters(self.text("filters"))

    def platform(self, name: str, *, is_single: bool = False) -> Platform | None:
        """The platform that is spelled in JSON; of several the first, or none at all."""
        if is_single and len(self.all(name)) > 1:
            raise InvalidParameter("multiple platform parameters not supported")
        text = self.text(name)
        return parse_platform(text) if text else None

    def platforms(self, name: str) -> tuple[Platform, ...]:
        return tuple(parse_platform(text) for text in self.all(name))

    def time_ns(self, name: str) -> int | None:
        """A moment as "seconds[.fraction]" since the epoch; None if nothing or 0 was said."""
        text = self.text(name)
        return parse_unix_time(text) if text else None


def parse_int(text: str, function: str = "strconv.ParseInt") -> int:
    if not _INT.fullmatch(text):
        raise Unclassified(f'{function}: parsing "{text}": invalid syntax')
    digits = text.lstrip("+-").lstrip("0")
    number = int(text) if len(digits) <= _INT64_DIGITS else 2**63
    if not -(2**63) <= number < 2**63:
        raise Unclassified(f'{function}: parsing "{text}": value out of range')
    return number


def parse_bool(text: str) -> bool:
    try:
        return literals.boolean(text)
    except ValueError as exc:
        raise InvalidParameter(str(exc)) from None


def parse_platform(text: str) -> Platform:
    try:
        sent = reading.read_text(text, wire.Platform)
    except InvalidParameter as exc:
        raise InvalidParameter(f"failed to parse platform: {exc}") from None
    return images.to_platform(sent)


# Filters


def parse_filters(text: str) -> dict[str, tuple[str, ...]]:
    """`{"status": {"running": true}}` or, as old clients write it, `{"status": ["running"]}`."""
    if not text:
        return {}
    try:
        document: Any = msgspec.json.decode(text.encode(errors="replace"))
    except (msgspec.DecodeError, RecursionError):
        raise InvalidParameter("invalid filter") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidParameter("invalid filter")
    named = cast("dict[str, Any]", document)
    for values_of in (_in_map, _in_list):  # one form for all
        found = {name: values_of(values) for name, values in named.items()}
        if None not in found.values():
            return cast("dict[str, tuple[str, ...]]", found)
    raise InvalidParameter("invalid filter")


def _in_map(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return ()
    if not isinstance(values, dict):
        return None
    said = cast("dict[str, Any]", values)
    is_fit = all(is_meant is None or isinstance(is_meant, bool) for is_meant in said.values())
    return tuple(said) if is_fit else None


def _in_list(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return ()
    if not _is_list(values) or not all(v is None or isinstance(v, str) for v in values):
        return None
    return tuple(dict.fromkeys(value or "" for value in values))


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


# Time


def parse_unix_time(text: str) -> int:
    """Nanoseconds of "seconds[.fraction]". Raises InvalidParameter in Go's words."""
    seconds, dot, fraction = text.partition(".")
    whole = parse_int(seconds)
    if not dot:
        return whole * 10**9
    parse_int(fraction)
    return whole * 10**9 + int(fraction[:9].ljust(9, "0"))


# Credentials


def registry_auth(request: web.Request) -> RegistryAuth:
    """What X-Registry-Auth holds: base64, of either alphabet, of a JSON document.

    An unreadable header counts as none, as with dockerd: clients send "" and "null" in it.
    """
    said = request.headers.get("X-Registry-Auth", "")
    try:
        data = base64.b64decode(said.translate(_URL_ALPHABET) + "==")
        return system.credentials(reading.read(data, AuthRequest))
    except (InvalidParameter, binascii.Error, ValueError):
        return RegistryAuth()


async def any_registry_auth(request: web.Request) -> RegistryAuth:
    """The header's credentials or, as old clients send them, the body's."""
    if request.headers.get("X-Registry-Auth"):
        return registry_auth(request)
    try:
        data, _ = await read_all(request)
        return system.credentials(reading.read_first(data, AuthRequest))
    except InvalidParameter:
        return RegistryAuth()


_URL_ALPHABET = str.maketrans("-_", "+/")


def now_ns() -> int:
    return time.time_ns()
