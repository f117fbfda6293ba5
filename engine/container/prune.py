"""Removing all containers that do not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import filters as filtering
from engine import offload
from engine.container.model import Pruned
from engine.container.remove import remove
from engine.container.state import ACTIVE
from engine.errors import WharfError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.container.rooms import Rooms

_KNOWN = frozenset({"label", "label!", "until"})


async def prune(rooms: Rooms, filters: Mapping[str, tuple[str, ...]]) -> Pruned:
    """Remove what matches; what cannot be removed just now stays."""
    filtering.check(filters, _KNOWN)
    until_ns = filtering.until_ns(filters)
    removed: list[str] = []
    reclaimed = 0
    for handle in rooms.store.all():
        container = handle.container
        if container.state.status in ACTIVE:
            continue
        if until_ns is not None and container.created_ns > until_ns:
            continue
        if not filtering.passes_labels(filters, container.config.labels):
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


def _usage(rooms: Rooms, snapshot_key: str) -> int:
    return rooms.snapshots.usage(snapshot_key) if rooms.snapshots.exists(snapshot_key) else 0
