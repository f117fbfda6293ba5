"""Containers that are started again by their policies.

The monitor of a container restarts it by itself, whether an engine listens or not
(runtime/monitor/container.py); here its reports become state and events. The engine restarts what a
monitor cannot: a container whose monitor was killed or is of an earlier version, and one that
shares namespaces of another. Such a restart waits for the engine while that is down. At boot
everything is started that its policy wants to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import health, policy, start
from engine.container.model import Status
from engine.container.publish import publish, publish_mount, publish_unmounts
from engine.container.state import ACTIVE, ALIVE, Event, next_status
from engine.errors import WharfError
from engine.linux import cgroup
from engine.runtime.client import RuntimeFailure
from engine.runtime.monitor import restart as rules

if TYPE_CHECKING:
    from engine.container.model import Container, State
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.runtime.protocol import Exit

log = logging.getLogger(__name__)

_AT_ONCE = 16
_NS = 10**9


# What the monitor reports


async def ended(rooms: Rooms, handle: Handle, how: Exit) -> None:
    """A run is over that another one follows; the lock is held by the caller.

    All but what was the run's own stays as it is: networks, volumes, the task.
    """
    if handle.state.status not in ALIVE or handle.state.is_manually_stopped:
        return  # one that is to stop is told of once more, at its end
    state = waiting(handle.state, how)
    await rooms.store.note(handle, msgspec.structs.replace(handle.container, state=state))
    handle.waiters.stopped(state)
    rooms.networks.announce_leave(handle.id)
    publish_unmounts(rooms.events, handle.container)
    tell_death(rooms, handle.container)


def waiting(state: State, how: Exit) -> State:
    """Between two runs. Pure."""
    return msgspec.structs.replace(
        state,
        status=Status.RESTARTING,
        pid=0,
        exit_code=how.code,
        finished_ns=how.at_ns,
        oom_killed=state.oom_killed or how.oom,
        is_held=False,
        restart_count=state.restart_count if how.count is None else how.count,
        health=health.unwatched(health.told(how.health, state.health)),
    )


def tell_death(rooms: Rooms, container: Container) -> None:
    state = container.state
    seconds = max(0, state.finished_ns - state.started_ns) // _NS
    publish(
        rooms.events,
        container,
        "die",
        exitCode=str(state.exit_code),
        execDuration=str(seconds),
    )


async def began(rooms: Rooms, handle: Handle, pid: int, started_ns: int, count: int) -> None:
    """The next run has begun; the lock is held by the caller."""
    if handle.state.status not in ACTIVE or handle.task is None:
        return
    was_waiting = handle.state.status is Status.RESTARTING
    # Somebody may have paused what he took for the run before.
    is_frozen = await offload.kernel(_is_frozen, handle.container.cgroup_path)
    state = msgspec.structs.replace(
        handle.state,
        status=Status.PAUSED if is_frozen else Status.RUNNING,
        pid=pid,
        is_held=is_frozen and handle.holds > 0,
        exit_code=0,
        error="",
        oom_killed=False,
        started_ns=started_ns,
        restart_count=count,
        health=health.begun(handle.container),
    )
    await rooms.store.note(handle, msgspec.structs.replace(handle.container, state=state))
    if was_waiting:
        for point in handle.container.mount_points:
            if point.name and point.driver:
                publish_mount(rooms.events, handle.container, point)
        rooms.networks.announce(handle.id)
        publish(rooms.events, handle.container, "start")


def _is_frozen(path: str) -> bool:
    try:
        return bool(path) and cgroup.is_frozen(path)
    except OSError:
        return False  # it has ended again


async def tell_policy(handle: Handle) -> None:
    """What the row says, to a monitor that may act upon it; the lock is held by the caller."""
    task = handle.task
    if task is None or not handle.is_connected or any(policy.donors(handle.container)):
        return
    try:
        await task.change_policy(policy.for_monitor(handle.container))
    except RuntimeFailure as exc:
        log.info("container %s is restarted by the engine: %s", handle.id, exc)


# Giving up


async def give_up(rooms: Rooms, handle: Handle) -> None:
    """Have it start no more, until somebody starts it; the lock is held by the caller.

    A restart that waits is over: by the monitor's report, or at once where it is the engine's.
    """
    if handle.task is not None and handle.is_connected:
        if _is_monitored(handle):
            with contextlib.suppress(RuntimeFailure):  # gone, and its restarts with it
                await handle.task.give_up()
        return
    retry, handle.retry = handle.retry, None
    if retry is not None:
        retry.cancel()
        await _stay(rooms, handle, handle.state)
        for _ in range(handle.stops_under_way):
            publish(rooms.events, handle.container, "stop")


def _is_monitored(handle: Handle) -> bool:
    """There may have been a policy that has been changed since."""
    return handle.state.restart_count > 0 or bool(policy.for_monitor(handle.container))


async def _stay(rooms: Rooms, handle: Handle, state: State) -> None:
    """A restart that waited does not come."""
    status = next_status(Status.RESTARTING, Event.GIVE_UP, handle.id)
    state = msgspec.structs.replace(state, status=status, pid=0)
    await rooms.store.note(handle, msgspec.structs.replace(handle.container, state=state))
    handle.waiters.stopped(state)


# What the engine restarts


def schedule(rooms: Rooms, handle: Handle) -> None:
    """Of a container that has ended, and whose state says that it waits."""
    state = handle.state
    handle.restart_delay_ns = rules.next_delay_ns(
        handle.restart_delay_ns, state.finished_ns - state.started_ns
    )
    handle.retry = rooms.work.keep_running(
        _start_later(rooms, handle, handle.restart_delay_ns / _NS),
        what=f"restarting container {handle.id} by its policy",
    )


async def _start_later(rooms: Rooms, handle: Handle, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    # From here on it is a start like any other, which nobody breaks off.
    handle.retry = None
    try:
        await rooms.work.do(
            _start_again(rooms, handle), what=f"restarting container {handle.id} by its policy"
        )
    except WharfError as exc:
        log.warning("container %s could not be restarted: %s", handle.id, exc)


async def _start_again(rooms: Rooms, handle: Handle) -> None:
    async with handle.lock:
        if handle.is_gone or handle.state.status is not Status.RESTARTING:
            return
        before = handle.state
        if before.is_manually_stopped:
            await _stay(rooms, handle, before)
            return
        try:
            await start.start(rooms, handle, by_policy=True)
        except WharfError as exc:
            await _stay(rooms, handle, msgspec.structs.replace(before, error=str(exc)))
            raise


# At boot


async def at_boot(rooms: Rooms) -> None:
    """Start what its policy wants to run, those first that others link to or share (as dockerd,
    which waits for the first alone). What cannot be started is logged.
    """
    wanted: dict[str, Handle] = {
        handle.id: handle
        for handle in rooms.store.all()
        if handle.state.status is Status.EXITED and policy.is_wanted(handle.container)
    }
    needs = {key: _needs(rooms, handle.container) for key, handle in wanted.items()}
    limit = asyncio.Semaphore(_AT_ONCE)
    for group in policy.order(needs):
        await asyncio.gather(*(_start_at_boot(rooms, wanted[key], limit) for key in group))


def _needs(rooms: Rooms, container: Container) -> frozenset[str]:
    found = {link.container_id for link in container.links}
    for ref in policy.donors(container):
        with contextlib.suppress(WharfError):
            found.add(rooms.store.find(ref).id)
    return frozenset(found)


async def _start_at_boot(rooms: Rooms, handle: Handle, limit: asyncio.Semaphore) -> None:
    async with limit, handle.lock:
        if handle.is_gone or handle.state.status in ACTIVE:
            return
        try:
            await start.start(rooms, handle)
        except WharfError as exc:
            log.error("container %s could not be started: %s", handle.id, exc)
        except Exception:  # the others, and the engine, are to start all the same
            log.exception("container %s could not be started", handle.id)
