"""A container's process has ended: what was held is let go of, then everyone is told."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.container import failure, policy, remove, restart
from engine.container.model import Status
from engine.container.publish import publish, publish_unmounts
from engine.container.state import ACTIVE, ALIVE, Event, next_status
from engine.container.teardown import forget, take_away
from engine.errors import WharfError
from engine.runtime.protocol import Entry, Exit

if TYPE_CHECKING:
    from engine.container.model import Container, State
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.runtime.protocol import Json

log = logging.getLogger(__name__)


_LOST = "the monitor of the container has died, and the container was killed with it"


class Recorded(NamedTuple):
    """`reason` is the sentence for State.Error, "" where the container ended by itself."""

    exit: Exit
    reason: str = ""


def recorded(rooms: Rooms, container_id: str, known: State) -> Recorded:
    """What the journal says; without a word the monitor was killed, and its container with it.

    An exit with `again_ns` is one whose restart has not come. Without a journal, the host was
    started anew, which is nobody's fault.
    """
    entries = rooms.runtime.recorded(container_id)
    if not entries and known.status is Status.RESTARTING:
        waits = Exit(
            code=known.exit_code,
            at_ns=known.finished_ns,
            count=known.restart_count,
            again_ns=1,
        )
        return Recorded(waits)
    count: int | None = None
    has_oom = False
    for entry in reversed(entries):
        if entry.event == Entry.EXITED:
            return Recorded(Exit.from_json(entry.facts))
        has_oom = has_oom or entry.event == Entry.OOM
        if entry.event == Entry.STARTED:
            count = entry.facts.get("count")
            break
    log.error("container %s has ended with its monitor, or was ended for want of one", container_id)
    again_ns = None if count is None else 0
    killed = Exit(code=137, at_ns=time.time_ns(), oom=has_oom, count=count, again_ns=again_ns)
    return Recorded(killed, _LOST if entries else "")


async def exited(
    rooms: Rooms, handle: Handle, exit: Exit, *, reason: str = "", may_restart: bool = True
) -> None:
    """Take note of an exit; the lock is held by the caller. One that was noted is ignored.

    `reason` is as in `Recorded`. `may_restart` is False at boot, which starts again what has ended
    before.
    """
    before = handle.state
    if before.status not in ACTIVE or handle.retry is not None:
        return
    count = policy.next_count(handle.container, exit) if may_restart else None
    if handle.stops_under_way:
        count = None
    status = _status_after(handle, will_restart=count is not None)
    handle.task = None
    handle.is_unreached = False
    handle.search = None  # it finds that out by itself, and the next run has one of its own
    await end_execs(rooms, handle)
    is_taken_away = await take_away(rooms, handle.container)
    if before.status is not Status.RESTARTING:
        publish_unmounts(rooms.events, handle.container)
    state = msgspec.structs.replace(
        restart.waiting(before, exit),
        status=status,
        finished_ns=exit.at_ns or time.time_ns(),
        error=reason or (before.error if exit.failure is None else _said(exit.failure)),
    )
    if count is not None:
        state = msgspec.structs.replace(state, restart_count=count)
    # The one belief that does not wait for the disk: a full one must not leave anyone waiting, and
    # the next boot finds the exit in the journal.
    is_kept = await rooms.store.note(handle, without_sandbox(handle.container, state))
    handle.waiters.stopped(state)
    for _ in range(handle.stops_under_way):
        publish(rooms.events, handle.container, "stop")
    # That it died was told when it began to wait.
    if before.status is not Status.RESTARTING or before.finished_ns != state.finished_ns:
        restart.tell_death(rooms, handle.container)
    handle.is_torn_down = is_taken_away and is_kept
    if is_kept:  # not before: an engine that is killed in between learns from the journal
        await forget(rooms, handle.id)
    if count is not None:
        restart.schedule(rooms, handle)


def _status_after(handle: Handle, *, will_restart: bool) -> Status:
    before = handle.state.status
    if before is Status.RESTARTING:
        status = next_status(before, Event.GIVE_UP, handle.id)
        return before if will_restart else status
    event = Event.EXIT_TO_RESTART if will_restart else Event.EXIT
    return next_status(before, event, handle.id)


def _said(failed: Json) -> str:
    """Of a restart that could not be done, in the words of a start."""
    in_init = failed.get("step") != "monitor"
    return str(failure.of_create(str(failed.get("text", "")), in_init=in_init).error)


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


async def end_execs(rooms: Rooms, handle: Handle) -> None:
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
