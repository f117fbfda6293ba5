"""After the last daemon ended, however it did: the kernel is read first, then the rows follow.

Running containers are adopted through their monitors (see adoption). A row that says "running"
without a monitor gets the exit that the journal tells. A run that no row knows of was a start that
never finished: it is undone like any failed start. What belongs to no row at all is swept away by
its names.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from engine import ids, offload
from engine.container import adoption, exit, networking, remove, update
from engine.container.model import Status
from engine.container.state import ACTIVE
from engine.container.teardown import sweep, teardown
from engine.errors import WharfError
from engine.linux import cgroup, tree
from engine.runtime.client import NewerMonitor

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)

_AT_ONCE = 32


async def restore(rooms: Rooms) -> None:
    """All of it; what it does grows with what ran, not with what is there."""
    handles = rooms.store.all()
    alive = [handle for handle in handles if handle.state.status in ACTIVE]
    # Before one of them turns out to have ended, and lets go of what another has as well.
    for handle in alive:
        for name in _volumes(handle):
            rooms.volumes.still_holds(name, handle.id)
    await _each([_adopt(rooms, handle) for handle in alive])
    unread = {each: rooms.store.unreadable_name(each) for each in rooms.store.unreadable()}
    await rooms.networks.settle(unread=unread)
    await rooms.volumes.settle()
    await rooms.volumes.sweep(rooms.store.has_row)
    await _sweep_runs(rooms)
    with_rows = {*(handle.id for handle in rooms.store.all()), *rooms.store.unreadable()}
    await offload.disk(_sweep_folders, rooms, with_rows)
    await _each([_finish(rooms, h) for h in handles if h.state.status is Status.REMOVING])
    await _each(
        [
            exit.auto_remove(rooms, h)
            for h in handles
            if h.container.host_config.auto_remove
            and h.state.status in (Status.CREATED, Status.EXITED)
        ]
    )


async def _each(work: list[Awaitable[None]]) -> None:
    """A bounded number at a time; one that fails is logged and harms no other.

    But what a newer engine runs is not this one's to judge: nothing is done beyond that.
    """
    limit = asyncio.Semaphore(_AT_ONCE)
    refusals: list[NewerMonitor] = []

    async def one(each: Awaitable[None]) -> None:
        async with limit:
            try:
                await each
            except NewerMonitor as exc:
                refusals.append(exc)
            except Exception:
                log.exception("a container could not be restored")

    await asyncio.gather(*(one(each) for each in work))
    if refusals:
        raise refusals[0]


# Running ones


async def _adopt(rooms: Rooms, handle: Handle) -> None:
    async with handle.lock:
        is_known = await adoption.attempt(rooms, handle, may_restart=False)
        if not is_known:
            adoption.look_on(rooms, handle)
        if handle.state.status in ACTIVE:
            await _hold(rooms, handle)


async def _hold(rooms: Rooms, handle: Handle) -> None:
    """What it has of networks and volumes is its own still; what is unsettled gets settled."""
    container = handle.container
    rooms.networks.adopt(
        container.id,
        container.endpoints,
        container.ports,
        name=container.name,
        mode=container.host_config.network_mode,
    )
    await asyncio.gather(
        *(
            _try(container.id, rooms.volumes.acquire(name, container.id))
            for name in _volumes(handle)
        )
    )
    await _try(container.id, networking.settle(rooms, handle))
    await _try(container.id, update.settle(rooms, handle))


def _volumes(handle: Handle) -> list[str]:
    return [p.name for p in handle.container.mount_points if p.name and p.driver]


async def _try(container_id: str, step: Awaitable[object]) -> None:
    """A container that runs goes on with all but what fails."""
    try:
        await step
    except Exception:
        log.exception("container %s runs, and not all that it has is as it was", container_id)


async def _finish(rooms: Rooms, handle: Handle) -> None:
    """A removal that was under way is brought to its end."""
    volumes = handle.state.gives_up_volumes
    async with handle.lock:
        state = msgspec.structs.replace(handle.state, status=Status.DEAD)
        await rooms.store.save_state(handle, state)
    try:
        await remove.remove(rooms, handle, ref=handle.id, force=True, volumes=volumes)
    except WharfError:
        log.exception("container %s stays dead", handle.id)


# What is left over


async def _sweep_runs(rooms: Rooms) -> None:
    """Take away every trace of a run that belongs to no running container.

    One whose row cannot be read may run, and goes on.
    """
    found = await offload.disk(_traces, rooms)
    kept = {handle.id for handle in rooms.store.all() if handle.state.status in ACTIVE}
    leftovers = found - kept - set(rooms.store.unreadable())
    await _each([_undo(rooms, container_id) for container_id in leftovers])


async def _undo(rooms: Rooms, container_id: str) -> None:
    log.info("removing what an unfinished run of container %s has left", container_id)
    handle = rooms.store.get(container_id)
    if handle is not None:
        await teardown(rooms, handle.container)
    else:
        await sweep(rooms, container_id, os.path.join(rooms.cgroup_parent, container_id))


def _traces(rooms: Rooms) -> set[str]:
    """The ids in the names of what runs leave behind: folders and control groups.

    Namespaces and links, which carry less than an id, are swept by the network room.
    """
    exec_root = rooms.config.exec_root
    names = {
        *_names(os.path.join(exec_root, "containers")),
        *_groups(rooms.cgroup_parent),
    }
    return {name for name in names if ids.is_id(name)}


def _groups(parent: str) -> set[str]:
    roots = cgroup.setup.roots()
    mounts = roots.hierarchies() if roots.version == 1 else [roots.unified or ""]
    return {name for root in mounts for name in _names(cgroup.setup.join(root, parent))}


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _sweep_folders(rooms: Rooms, with_rows: set[str]) -> None:
    """Layers and folders of a create that never came to its row."""
    for key in rooms.snapshots.keys():  # noqa: SIM118 (a method of ours, not of a dict)
        if key not in with_rows:
            rooms.snapshots.remove(key)
    folder = os.path.join(rooms.config.data_root, "containers")
    for name in _names(folder):
        if name not in with_rows:
            tree.remove(os.path.join(folder, name))
