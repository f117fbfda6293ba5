"""What stands behind an instruction's word: flags, a JSON array, names with values.

Sentences and their order are BuildKit's (frontend/dockerfile/parser and instructions).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from engine.dockerfile import words
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class InvalidArguments(InvalidParameter):
    """An instruction that cannot be read."""


def flags(rest: str, known: Collection[str] = ()) -> tuple[dict[str, str], str]:
    """The leading `--name=value`s, and what is behind them. Raises InvalidArguments.

    A lone `--` ends them and is taken off.
    """
    found: dict[str, str] = {}
    while rest.startswith("--"):
        option, rest = _first_word(rest)
        if option == "--":
            break
        name, equals, value = option[2:].partition("=")
        if name not in known:
            raise InvalidArguments(f"unknown flag: --{name}")
        if name in found:
            raise InvalidArguments(f"duplicate flag specified: --{name}")
        if not equals:
            raise InvalidArguments(f"missing a value on flag: --{name}")
        found[name] = value
    return found, rest


def without_flags(rest: str) -> str:
    """What is behind the flags, of an instruction that does not look at them."""
    while rest.startswith("--"):
        option, rest = _first_word(rest)
        if option == "--":
            break
    return rest


def _first_word(text: str) -> tuple[str, str]:
    parts = text.split(None, 1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def json_array(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, None if it is none: then it is the shell's.

    Raises InvalidArguments for an array of something else.
    """
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    found = cast("list[object]", value)
    texts = tuple(v for v in found if isinstance(v, str))
    if len(texts) != len(found):
        raise InvalidArguments(
            "when using JSON array syntax, arrays must be comprised of strings only"
        )
    # A half of a surrogate pair is no character, as Go reads it.
    return tuple(t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts)


def _refuse(_constant: str) -> object:
    """NaN and the like are Python's alone."""
    raise ValueError


def raw_words(rest: str) -> list[str]:
    """Split at blanks that are outside quotes; quotes and backslashes stay."""
    found: list[str] = []
    current: list[str] = []
    quote = ""
    at = 0
    while at < len(rest):
        char = rest[at]
        if char == "\\" and at + 1 < len(rest) and quote != "'":
            current.append(rest[at : at + 2])
            at += 2
            continue
        if char in "'\"" and (not quote or quote == char):
            quote = "" if quote else char
        if char.isspace() and not quote:
            if current:
                found.append("".join(current))
            current = []
        else:
            current.append(char)
        at += 1
    return [*found, "".join(current)] if current else found


def pairs(word: str, rest: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old `name the value`. Raises InvalidArguments, InvalidWord."""
    found = check_pairs(word, rest)
    if any(not name for name, _ in found):
        raise InvalidArguments(f"{word} names can not be blank")
    return [
        (words.expand(name, variables), words.expand(value, variables)) for name, value in found
    ]


def check_pairs(word: str, rest: str) -> list[tuple[str, str]]:
    """The pairs as they are written. Raises InvalidArguments."""
    raw = raw_words(rest)
    if not raw:
        raise InvalidArguments(f"{word} requires at least one argument")
    if "=" not in raw[0]:
        name, value = _first_word(rest)
        if not value:
            raise InvalidArguments(f"{word} must have two arguments")
        return [(name, value)]
    for each in raw:
        if "=" not in each:
            raise InvalidArguments(
                f'Syntax error - can\'t find = in "{words.quoted(each)}". '
                "Must be of the form: name=value"
            )
    found = (each.partition("=") for each in raw)
    return [(name, value) for name, _, value in found]
