"""Filters of lists and prunes: what the values of one mean to all nouns alike. Pure.

Docker's `filters` are a name and some values each; which names there are is each noun's affair.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine import literals, patterns, timestamp
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Filters = Mapping[str, Sequence[str]]


_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


class UnknownFilter(InvalidParameter):
    def __init__(self, name: str) -> None:
        super().__init__(f"invalid filter '{name}'")


class BadFilterValue(InvalidParameter):
    """The values do not fit the filter, or there are none."""

    def __init__(self, name: str, values: Sequence[str], why: str = "") -> None:
        given = f"=[{' '.join(values)}]" if values else ""
        super().__init__(f"invalid filter '{name}{given}'{why}")


def check(filters: Filters, known: frozenset[str]) -> None:
    """Raises UnknownFilter."""
    for name in filters:
        if name not in known:
            raise UnknownFilter(name)


def matches_text(values: Sequence[str], text: str) -> bool:
    """One of the values is the text, or a pattern that is found in it."""
    return text in values or any(_found(value, text) for value in values)


def _found(pattern: str, text: str) -> bool:
    try:
        return patterns.compile(pattern).search(text)
    except patterns.BadPattern:
        return False


def matches_labels(values: Sequence[str], labels: Mapping[str, str]) -> bool:
    """All of them: "key" is there, "key=value" has that value."""
    for wanted in values:
        key, equals, value = wanted.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def passes_labels(filters: Filters, labels: Mapping[str, str]) -> bool:
    """`label` and `label!` of a prune."""
    without = filters.get("label!", ())
    return matches_labels(filters.get("label", ()), labels) and not (
        without and matches_labels(without, labels)
    )


def truth(filters: Filters, name: str) -> bool | None:
    """A filter that is true or false; None where it is not given. Raises BadFilterValue.

    What is neither says nothing beside one that is (moby api/types/filters, GetBoolOrDefault).
    """
    if name not in filters:
        return None
    values = filters[name]
    meant = {value in _TRUE for value in values if value in _TRUE | _FALSE}
    if len(meant) != 1:
        raise BadFilterValue(name, values)
    return meant.pop()


def single_truth(filters: Filters, name: str) -> bool | None:
    """The same of one value in any of Go's spellings (moby daemon/volume/service/convert.go)."""
    values = filters.get(name, ())
    if len(values) > 1:
        raise BadFilterValue(name, values, ": only one value is expected")
    if not values:
        return None
    try:
        return literals.boolean(values[0])
    except ValueError as exc:
        raise InvalidParameter(f"invalid filter '{name}': {exc}") from None


def until_ns(filters: Filters) -> int | None:
    """The moment before which a thing must have been made to be pruned."""
    values = filters.get("until", ())
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    if not values:
        return None
    try:
        return timestamp.parse_user_ns(values[0], time.time_ns())
    except ValueError as exc:
        raise InvalidParameter(str(exc)) from None
