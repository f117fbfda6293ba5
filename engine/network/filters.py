"""Filters of lists and prunes, with Docker's meaning of each. Pure."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from engine import timestamp
from engine.errors import EngineError, InvalidParameter
from engine.network.model import PREDEFINED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.network.model import Network, NetworkView

    Filters = Mapping[str, Sequence[str]]

LIST: Final = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
PRUNE: Final = frozenset(("label", "label!", "until"))


class UnknownFilter(InvalidParameter):
    def __init__(self, name: str) -> None:
        super().__init__(f"invalid filter '{name}'")


def check(filters: Filters, known: frozenset[str]) -> None:
    for name in filters:
        if name not in known:
            raise UnknownFilter(name)


def matches_text(values: Sequence[str], text: str) -> bool:
    """One of the values is the text, or a pattern that is found in it."""
    return text in values or any(_found(value, text) for value in values)


def _found(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
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


def _passes(network: Network, filters: Filters) -> bool:
    exact = (("driver", network.driver), ("scope", network.scope))
    fuzzy = (("name", network.name), ("id", network.id))
    return (
        all(text in filters[name] for name, text in exact if filters.get(name))
        and all(matches_text(filters[name], text) for name, text in fuzzy if filters.get(name))
        and matches_labels(filters.get("label", ()), network.labels)
    )


def select(views: Iterable[NetworkView], filters: Filters) -> list[NetworkView]:
    """Raises InvalidParameter for what is no filter, or no value of one."""
    check(filters, LIST)
    found = [view for view in views if _passes(view.network, filters)]
    if filters.get("dangling"):
        is_wanted = _dangling(filters["dangling"])
        found = [v for v in found if _is_dangling(v) == is_wanted]
    if filters.get("type"):
        found = [v for kind in filters["type"] for v in found if _is_of_type(v.network, kind)]
    return found


def _dangling(values: Sequence[str]) -> bool:
    if len(values) > 1:
        raise InvalidParameter('got more than one value for filter key "dangling"')
    if values[0] not in ("0", "1", "false", "true"):
        raise InvalidParameter(
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
        )
    return values[0] in ("1", "true")


def _is_dangling(view: NetworkView) -> bool:
    return view.network.name not in PREDEFINED and not view.members


def _is_of_type(network: Network, kind: str) -> bool:
    if kind not in ("builtin", "custom"):
        raise EngineError(f"invalid filter: 'type'='{kind}'")
    return (network.name in PREDEFINED) == (kind == "builtin")


def until_ns(filters: Filters) -> int | None:
    """The moment before which a thing must have been made to be pruned."""
    values = filters.get("until", ())
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    return timestamp.parse_user_ns(values[0], time.time_ns()) if values else None
