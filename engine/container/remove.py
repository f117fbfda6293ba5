"""Taking a container away: its process, its layer, its folder, its row, and volumes of its own."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import stop
from engine.container.model import MountType, Status
from engine.container.publish import publish
from engine.container.state import ACTIVE, Event, next_status
from engine.container.teardown import sweep, teardown
from engine.errors import EngineError, NoSpace, NotFound, WharfError
from engine.linux import cgroup, tree
from engine.runtime.client import MonitorUnreached

if TYPE_CHECKING:
    from engine.container.model import State
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)

_END_S = 10


async def remove(
    rooms: Rooms, handle: Handle, *, ref: str, force: bool = False, volumes: bool = False
) -> None:
    """Raises Conflict if it runs and force was not said, or if it is being removed already."""
    while True:
        if force and handle.state.status in ACTIVE:
            await _end(rooms, handle, ref)
        async with handle.lock:
            if handle.is_gone:
                return
            if not (force and handle.state.status in ACTIVE):  # else started again meanwhile
                before = await _remove_locked(rooms, handle, ref=ref, volumes=volumes)
                break
    # Who waits for the removal is told how that went, not what went wrong at some start.
    handle.waiters.removed(msgspec.structs.replace(before, error=""))
    publish(rooms.events, handle.container, "destroy")


async def remove_unreadable(
    rooms: Rooms, container_id: str, *, ref: str, volumes: bool = False
) -> None:
    """Remove a container of which only id and name are known, and all that carries its id.

    What runs of it is ended, its layer, folder and execs go, then its row. The anonymous volumes
    made for it stay, as those of any container do, unless `volumes`. A control group below a parent
    of its own goes with its monitor. Whoever comes twice, or after a crash, finds less to do.
    """
    try:
        await _end_unknown(rooms, container_id)
        await sweep(rooms, container_id, os.path.join(rooms.cgroup_parent, container_id))
        await offload.disk(remove_from_disk, rooms, container_id, container_id)
        anonymous = rooms.volumes.made_for(container_id)
        for volume in () if volumes else anonymous:
            await rooms.volumes.keep(volume, container_id)
        name = rooms.store.unreadable_name(container_id)
        was_there = await rooms.store.delete_unreadable(container_id)
        # As long as there was the row, it may have used any volume.
        for volume in anonymous if volumes else ():
            await _remove_volume(rooms, volume)
            await rooms.volumes.keep(volume, container_id)
    except Exception as exc:
        log.exception("container %s, whose row cannot be read, could not be removed", container_id)
        raise EngineError(f'cannot remove container "{ref}": {exc}') from exc
    if was_there:
        rooms.events.publish("container", "destroy", container_id, {"name": name})


async def _end_unknown(rooms: Rooms, container_id: str) -> None:
    path = os.path.join(rooms.cgroup_parent, container_id)
    try:
        task = await rooms.runtime.adopt(container_id)
    except (MonitorUnreached, OSError):
        await offload.kernel(cgroup.kill, path)
        await rooms.runtime.end_monitor(container_id)
        return
    if task is not None:
        # A paused one would not end.
        with contextlib.suppress(OSError):
            await offload.kernel(cgroup.thaw, path)
        await task.end(_END_S)


async def _remove_locked(rooms: Rooms, handle: Handle, *, ref: str, volumes: bool) -> State:
    """The state it had; one that cannot be removed is dead from here on."""
    status = next_status(handle.state.status, Event.REMOVE, handle.id, ref=ref)
    before = handle.state
    removing = msgspec.structs.replace(before, status=status, gives_up_volumes=volumes)
    try:
        await rooms.store.save_state(handle, removing)
    except NoSpace:
        # A full disk: removing it is what helps, and its volumes too, which it may not seem to use.
        handle.container = msgspec.structs.replace(handle.container, state=removing)
    try:
        await _remove(rooms, handle, volumes=volumes)
    except Exception as exc:
        await _mark_dead(rooms, handle, exc)
        raise EngineError(f'cannot remove container "{ref}": {exc}') from exc
    return before


async def _end(rooms: Rooms, handle: Handle, ref: str) -> None:
    try:
        await stop.kill(rooms, handle)
    except WharfError as exc:
        raise EngineError(
            f'cannot remove container "{ref}": could not kill container: {exc}'
        ) from exc


async def _remove(rooms: Rooms, handle: Handle, *, volumes: bool) -> None:
    container = handle.container
    if not handle.is_torn_down:
        await teardown(rooms, container)
    await offload.disk(remove_from_disk, rooms, container.id, container.snapshot_key)
    # The row last: it says what is still to be done when the engine is killed on the way.
    for point in container.mount_points:
        if point.is_anonymous and point.type is MountType.VOLUME:
            if volumes:
                await _remove_volume(rooms, point.name)
            await rooms.volumes.keep(point.name, container.id)
    await rooms.store.delete(handle)
    handle.drop_queued()


def remove_from_disk(rooms: Rooms, container_id: str, snapshot_key: str) -> None:
    """The layer and the folder; nothing there is fine.

    Of an image that was removed by force before, this may have been what its layers were kept for.
    """
    snapshots = rooms.snapshots
    below = snapshots.parent(snapshot_key) if snapshots.exists(snapshot_key) else None
    snapshots.remove(snapshot_key)
    rooms.images.catalog.release(below)
    tree.remove(rooms.folder(container_id))


async def _remove_volume(rooms: Rooms, name: str) -> None:
    """Another container may have taken it over by --volumes-from; then it stays."""
    try:
        await rooms.volumes.remove(name, force=False)
    except NotFound:
        pass
    except WharfError as exc:
        log.info("volume %s stays: %s", name, exc)


async def _mark_dead(rooms: Rooms, handle: Handle, exc: Exception) -> None:
    log.error("container %s could not be removed", handle.id, exc_info=exc)
    if rooms.store.get(handle.id) is handle:
        state = msgspec.structs.replace(handle.state, status=Status.DEAD, error=str(exc))
        with contextlib.suppress(NoSpace):
            await rooms.store.save_state(handle, state)
        handle.waiters.removed(state)
