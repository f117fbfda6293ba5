"""Which networks a list's filters mean. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine import filters
from engine.errors import EngineError, InvalidParameter
from engine.network.model import PREDEFINED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.network.model import Network, NetworkView

    Filters = Mapping[str, Sequence[str]]

LIST: Final = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
PRUNE: Final = frozenset(("label", "label!", "until"))


def _passes(network: Network, wanted: Filters) -> bool:
    exact = (("driver", network.driver), ("scope", network.scope))
    fuzzy = (("name", network.name), ("id", network.id))
    return (
        all(text in wanted[name] for name, text in exact if wanted.get(name))
        and all(filters.matches_text(wanted[n], text) for n, text in fuzzy if wanted.get(n))
        and filters.matches_labels(wanted.get("label", ()), network.labels)
    )


def select(views: Iterable[NetworkView], wanted: Filters) -> list[NetworkView]:
    """Raises InvalidParameter for what is no filter, or no value of one."""
    filters.check(wanted, LIST)
    found = [view for view in views if _passes(view.network, wanted)]
    if wanted.get("dangling"):
        is_wanted = _dangling(wanted["dangling"])
        found = [v for v in found if _is_dangling(v) == is_wanted]
    if wanted.get("type"):
        found = [v for kind in wanted["type"] for v in found if _is_of_type(v.network, kind)]
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
