"""The grammar of a command line, as pflag has it.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`; a flag whose argument is optional
(a boolean) takes one only behind `=`; short flags may stand together, `-Dl debug`; `--` ends the
flags. Nothing is abbreviated and nothing is guessed. This module knows no flag by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class UsageError(Exception):
    """The command line cannot be understood; `str()` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """`bare` is the value of a flag given without one; None if it must have one."""

    name: str
    short: str = ""
    bare: str | None = None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One flag as it was given: the flag's name and the text of its value."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    occurrences: tuple[Occurrence, ...]
    arguments: tuple[str, ...]


def parse(flags: Sequence[Flag], argv: Sequence[str]) -> Parsed:
    """Take the command line apart; raises UsageError in pflag's words."""
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in flags if flag.short}
    occurrences: list[Occurrence] = []
    arguments: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if word.startswith("--"):
            occurrences.append(_long(by_name, word, rest))
        elif word.startswith("-") and len(word) > 1:
            occurrences += _shorts(by_short, word, rest)
        else:
            arguments.append(word)
    return Parsed(tuple(occurrences), tuple(arguments))


def _long(flags: Mapping[str, Flag], word: str, rest: list[str]) -> Occurrence:
    """One `--flag`, with the next word of `rest` if it needs it."""
    name, equals, value = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}")
    flag = flags.get(name)
    if flag is None:
        raise UsageError(f"unknown flag: --{name}")
    if equals:
        return Occurrence(name, value)
    if flag.bare is not None:
        return Occurrence(name, flag.bare)
    if not rest:
        raise UsageError(f"flag needs an argument: {word}")
    return Occurrence(name, rest.pop(0))


def _shorts(flags: Mapping[str, Flag], word: str, rest: list[str]) -> list[Occurrence]:
    """All short flags of one word; the last may have its value behind it or in the next word."""
    found: list[Occurrence] = []
    letters = word[1:]
    while letters:
        flag = flags.get(letters[0])
        if flag is None:
            raise UsageError(f"unknown shorthand flag: '{letters[0]}' in -{letters}")
        behind = letters[1:]
        if behind.startswith("=") and len(behind) > 1:
            return [*found, Occurrence(flag.name, behind[1:])]
        if flag.bare is not None:
            found.append(Occurrence(flag.name, flag.bare))
            letters = behind
            continue
        if not behind and not rest:
            raise UsageError(f"flag needs an argument: '{letters[0]}' in -{letters}")
        return [*found, Occurrence(flag.name, behind or rest.pop(0))]
    return found
