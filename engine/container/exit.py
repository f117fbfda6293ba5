"""A container's process has ended: what was held is let go of, then everyone is told."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from engine.container import health, remove
from engine.container.publish import publish, publish_unmounts
from engine.container.state import ACTIVE, ALIVE, Event, next_status
from engine.container.teardown import forget, take_away
from engine.errors import WharfError
from engine.runtime.protocol import Entry, Exit

if TYPE_CHECKING:
    from engine.container.model import Container
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)


def recorded(rooms: Rooms, container_id: str) -> Exit:
    """What the journal says; without a word the monitor was killed, and its container with it."""
    entries = rooms.runtime.recorded(container_id)
    for entry in reversed(entries):
        if entry.event == Entry.EXITED:
            return Exit.from_json(entry.facts)
    log.error("container %s has ended with its monitor, or was ended for want of one", container_id)
    has_oom = any(entry.event == Entry.OOM for entry in entries)
    return Exit(code=137, at_ns=time.time_ns(), oom=has_oom)


async def exited(rooms: Rooms, handle: Handle, exit: Exit) -> None:
    """Take note of an exit; the lock is held by the caller. One that was noted is ignored."""
    state = handle.state
    if state.status not in ALIVE:
        return
    status = next_status(state.status, Event.EXIT, handle.id)
    handle.task = None
    handle.is_unreached = False
    handle.search = None  # it finds that out by itself, and the next run has one of its own
    await end_execs(rooms, handle, exit)
    is_taken_away = await take_away(rooms, handle.container)
    publish_unmounts(rooms.events, handle.container)
    state = msgspec.structs.replace(
        handle.state,
        status=status,
        pid=0,
        exit_code=exit.code,
        finished_ns=exit.at_ns or time.time_ns(),
        oom_killed=handle.state.oom_killed or exit.oom,
        is_held=False,
        health=health.unwatched(health.told(exit.health, handle.state.health)),
    )
    # The one belief that does not wait for the disk: a full one must not leave anyone waiting, and
    # the next boot finds the exit in the journal.
    is_kept = await rooms.store.note(handle, without_sandbox(handle.container, state))
    handle.waiters.stopped(state)
    for _ in range(handle.stops_under_way):
        publish(rooms.events, handle.container, "stop")
    seconds = max(0, state.finished_ns - state.started_ns) // 10**9
    publish(
        rooms.events,
        handle.container,
        "die",
        exitCode=str(exit.code),
        execDuration=str(seconds),
    )
    handle.is_torn_down = is_taken_away and is_kept
    if is_kept:  # not before: an engine that is killed in between learns from the journal
        await forget(rooms, handle.id)


def without_sandbox(container: Container, state: object) -> Container:
    """What remains of the networks when none is joined: the names and the wishes."""
    return msgspec.structs.replace(
        container,
        state=state,
        endpoints=tuple(
            type(each)(
                network_name=each.network_name,
                network_id=each.network_id,
                config=each.config,
                dns_names=each.dns_names,
            )
            for each in container.endpoints
            if not container.unsettled_endpoint or each.endpoint_id != container.unsettled_endpoint
        ),
        unsettled_endpoint="",
        has_unsettled_limits=False,
        ports=(),
        sandbox_id="",
        sandbox_key="",
    )


async def end_execs(rooms: Rooms, handle: Handle, exit: Exit) -> None:
    """Processes that were exec'd die with the container's own; what told nobody is 137."""
    for exec in list(handle.execs.values()):
        if exec.is_running:
            ended = msgspec.structs.replace(exec, is_running=False, exit_code=137, pid=0)
            await rooms.store.note_exec(handle, ended)
            publish(rooms.events, handle.container, "exec_die", execID=exec.id, exitCode="137")


async def exec_exited(rooms: Rooms, handle: Handle, exec_id: str, code: int) -> None:
    exec = handle.execs.get(exec_id)
    if exec is None or exec.exit_code is not None:
        return
    ended = msgspec.structs.replace(exec, is_running=False, exit_code=code)
    await rooms.store.note_exec(handle, ended)
    publish(rooms.events, handle.container, "exec_die", execID=exec_id, exitCode=str(code))


async def auto_remove(rooms: Rooms, handle: Handle) -> None:
    """`--rm`: also its anonymous volumes. Not between the halves of a restart."""
    if not handle.container.host_config.auto_remove or handle.restarts_under_way:
        return
    if handle.state.status in ACTIVE or handle.is_gone:
        return
    try:
        await remove.remove(rooms, handle, ref=handle.id, force=True, volumes=True)
    except WharfError as exc:
        log.info("container %s is not removed by --rm: %s", handle.id, exc)


async def out_of_memory(rooms: Rooms, handle: Handle) -> None:
    """The kernel killed something inside; the container itself may live on."""
    if handle.state.status in ALIVE:
        await rooms.store.save_state(handle, msgspec.structs.replace(handle.state, oom_killed=True))
        publish(rooms.events, handle.container, "oom")
