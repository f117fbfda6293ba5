"""The grammar of WWW-Authenticate (RFC 7235 §4.1), as registries send it: pure.

Bearer realm="https://auth.example/token",service="example",scope="repository:a:pull"
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"\s*({_TOKEN})[ \t]*")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_COMMA = re.compile(r"[ \t]*,[ \t,]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to authenticate; the scheme and the parameters' names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


def parse(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in the header's values; what cannot be read is left out."""
    return tuple(challenge for header in headers for challenge in _challenges(header))


def _challenges(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(header, position):
        parameters, position = _parameters(header, scheme.end())
        found.append(Challenge(scheme=scheme[1].lower(), parameters=parameters))
        comma = _COMMA.match(header, position)
        if comma is None:
            break
        position = comma.end()
    return found


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    """Parameters until something else begins: the next challenge, or nonsense."""
    parameters: dict[str, str] = {}
    while found := _PARAMETER.match(header, position):
        value = found[2] if found[2] is not None else _ESCAPE.sub(r"\1", found[3])
        parameters.setdefault(found[1].lower(), value)
        position = found.end()
        comma = _COMMA.match(header, position)
        if comma is None or not _PARAMETER.match(header, comma.end()):
            break
        position = comma.end()
    return parameters, position
