"""Identifiers: 64 hexadecimal digits, unique, found again by any unambiguous prefix."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable

ContainerId = NewType("ContainerId", str)
NetworkId = NewType("NetworkId", str)
ExecId = NewType("ExecId", str)

SHORT = 12
_HEX = frozenset("0123456789abcdef")


def generate() -> str:
    """A new random id.

    An id whose first twelve digits are all decimal is never given: as a host name it would read
    as a number.
    """
    while True:
        candidate = secrets.token_hex(32)
        if not candidate[:SHORT].isdecimal():
            return candidate


def short(identifier: str) -> str:
    """The twelve digits that users see."""
    return identifier[:SHORT]


def is_id(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def matches(prefix: str, candidates: Iterable[str]) -> list[str]:
    """The candidates that begin with `prefix`: none, the one meant, or too many."""
    return [c for c in candidates if c.startswith(prefix)] if prefix else []
