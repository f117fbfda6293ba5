"""Values in text as Go programs read them, with the sentences of their refusals. Pure.

Flags, files, labels and options all carry booleans and sizes as text, and dockerd reads each kind
in one way. What cannot be read raises ValueError; who asked says for what it was.
"""

from __future__ import annotations

import re

INT64_MAX = 2**63 - 1

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_UNITS = "bkmgtp"
_FLOAT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMERIC = "0123456789. "


def boolean(text: str) -> bool:
    """As strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def integer(text: str) -> int:
    """As strconv.Atoi."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    number = int(text) if len(text) < 40 else INT64_MAX + 1
    if not -INT64_MAX <= number <= INT64_MAX:
        raise ValueError(f'strconv.Atoi: parsing "{text}": value out of range')
    return number


def size_bytes(text: str) -> int:
    """A size with an optional unit, each 1024 of the one before: "1.5g", "64 MiB", "100".

    go-units RAMInBytes; like that it goes through a float, exact up to 2**53.
    """
    return _size_bytes(text, 1024)


def decimal_size_bytes(text: str) -> int:
    """The same where each unit is 1000 of the one before, "KiB" too (go-units FromHumanSize)."""
    return _size_bytes(text, 1000)


def _size_bytes(text: str, base: int) -> int:
    last = max(text.rfind(character) for character in _NUMERIC)
    if last < 0:
        raise ValueError(f"invalid size: '{text}'")
    number = text[:last] if text[last] == " " else text[: last + 1]
    suffix = text[last + 1 :].lower()
    if not _FLOAT.fullmatch(number):
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax')
    if float(number) < 0:
        raise ValueError(f"invalid size: '{text}'")
    unit = suffix[:1] or "b"
    if unit not in _UNITS or suffix[1:] not in {"", "b", "ib"} or suffix in {"bb", "bib"}:
        raise ValueError(f"invalid suffix: '{suffix}'")
    size = float(number) * base ** _UNITS.index(unit)
    if size > INT64_MAX:
        raise ValueError(f"invalid size: '{text}'")
    return int(size)
