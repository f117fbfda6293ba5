"""Which events a client asked for: the filters of `docker events`, as a test of one event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import filters as filtering
from engine.errors import InvalidParameter
from engine.oci import reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.events import Event

_BY_NAME = (
    *("container", "daemon", "plugin", "volume", "network"),
    *("service", "node", "secret", "config"),
)
_WITH_DETAIL = {"health_status", "exec_create", "exec_start"}


def matches(event: Event, filters: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether all filters let the event pass; a filter that nobody knows lets all (as dockerd)."""
    return (
        _of_action(event.action, filters.get("event", ()))
        and _one_of(event.type, filters.get("type", ()))
        and _one_of(event.scope, filters.get("scope", ()))
        and all(_named(event, filters.get(noun, ())) for noun in _BY_NAME)
        and _of_image(event, filters.get("image", ()))
        and filtering.matches_labels(filters.get("label", ()), event.attributes)
    )


def _of_action(action: str, wanted: tuple[str, ...]) -> bool:
    """Some actions carry a detail ("exec_create: ls"); naming one without it means all of it."""
    if _WITH_DETAIL.isdisjoint(wanted):
        return _one_of(action, wanted)
    return any(action.startswith(w) for w in wanted)


def _one_of(candidate: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or candidate in wanted


def _named(event: Event, wanted: tuple[str, ...]) -> bool:
    """Ids and names, or their beginnings."""
    name = event.attributes.get("name", "")
    return not wanted or any(event.actor_id.startswith(w) or name.startswith(w) for w in wanted)


def _of_image(event: Event, wanted: tuple[str, ...]) -> bool:
    """The image's own events, and those of containers made from it; with or without its tag."""
    if not wanted:
        return True
    key = "name" if event.type == "image" else "image"
    known = {event.actor_id, event.attributes.get(key, "")}
    known |= {_without_tag(name) for name in known}
    return not known.isdisjoint(wanted)


def _without_tag(name: str) -> str:
    try:
        return reference.parse(name).familiar_name
    except InvalidParameter:
        return name  # an id, or no name at all
