"""Removing all containers that do not run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine import offload, timestamp
from engine.container.model import Pruned
from engine.container.remove import remove
from engine.container.state import ACTIVE
from engine.errors import InvalidParameter, WharfError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.container.model import Container
    from engine.container.rooms import Rooms

_KNOWN = frozenset({"label", "label!", "until"})


async def prune(rooms: Rooms, filters: Mapping[str, tuple[str, ...]]) -> Pruned:
    """Remove what matches; what cannot be removed just now stays."""
    for name in filters:
        if name not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{name}'")
    until_ns = _until(filters.get("until", ()))
    removed: list[str] = []
    reclaimed = 0
    for handle in rooms.store.all():
        container = handle.container
        if container.state.status in ACTIVE or not _matches(container, filters, until_ns):
            continue
        size = await offload.disk(_usage, rooms, container.snapshot_key)
        try:
            await remove(rooms, handle, ref=container.id)
        except WharfError:
            continue
        removed.append(container.id)
        reclaimed += size
    rooms.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return Pruned(ids=tuple(removed), reclaimed_bytes=reclaimed)


def _until(values: tuple[str, ...]) -> int | None:
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    for value in values:
        try:
            return timestamp.parse_user_ns(value, time.time_ns())
        except ValueError as exc:
            raise InvalidParameter(f'failed to parse value as time or duration: "{value}"') from exc
    return None


def _matches(
    container: Container, filters: Mapping[str, tuple[str, ...]], until_ns: int | None
) -> bool:
    if until_ns is not None and container.created_ns > until_ns:
        return False
    labels = container.config.labels
    if not all(_has(labels, text) for text in filters.get("label", ())):
        return False
    unwanted = filters.get("label!", ())
    return not (unwanted and all(_has(labels, text) for text in unwanted))


def _has(labels: Mapping[str, str], text: str) -> bool:
    key, separator, value = text.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _usage(rooms: Rooms, snapshot_key: str) -> int:
    return rooms.snapshots.usage(snapshot_key) if rooms.snapshots.exists(snapshot_key) else 0
