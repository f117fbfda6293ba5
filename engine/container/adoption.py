"""Containers that run, and of whose monitor this engine has no hold: found again, or known to end.

A monitor that does not answer is not dead. This process may be short of descriptors, the machine
busy, or somebody may have stopped the monitor for a while; its container runs meanwhile, and goes
on. So a try that fails says nothing, and another follows, until the monitor answers or is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import exit, health, restart
from engine.container.model import Status
from engine.container.state import ACTIVE
from engine.linux import cgroup
from engine.runtime.client import MonitorUnreached, NewerMonitor, RuntimeFailure
from engine.runtime.protocol import Entry

if TYPE_CHECKING:
    from engine.container.model import State
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.runtime.client import Task

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 30.0


async def attempt(rooms: Rooms, handle: Handle, *, may_restart: bool = True) -> bool:
    """One try, the lock held by the caller; False where another has to follow.

    One that has ended is settled as the journal tells it; `may_restart` is as for `exit.exited`.
    Raises NewerMonitor.
    """
    if handle.state.status not in ACTIVE or handle.is_connected or handle.retry is not None:
        return True
    try:
        is_known = await _attempt(rooms, handle, may_restart=may_restart)
    except NewerMonitor:
        handle.is_unreached = True
        raise
    handle.is_unreached = not is_known
    return is_known


async def _attempt(rooms: Rooms, handle: Handle, *, may_restart: bool) -> bool:
    try:
        task = await rooms.runtime.adopt(handle.id)
        if task is not None and task.exit is None and (task.pid or task.waits_after):
            await _take_over(rooms, handle, task)
        else:
            how = await offload.disk(exit.recorded, rooms, handle.id, handle.state)
            await exit.exited(rooms, handle, how.exit, reason=how.reason, may_restart=may_restart)
            handle.drop_queued()
    except NewerMonitor:
        raise
    except (MonitorUnreached, OSError) as exc:
        log.warning("the monitor of container %s is not reached: %s", handle.id, exc)
        return False
    except Exception:
        log.exception("container %s could not be taken over", handle.id)
        return False
    return True


def look_on(rooms: Rooms, handle: Handle) -> None:
    """After an attempt that told nothing: others follow, until it is known how it stands."""
    if handle.search is None or handle.search.done():
        what = f"looking for the monitor of container {handle.id}"
        handle.search = rooms.work.keep_running(_keep_trying(rooms, handle), what=what)


async def _keep_trying(rooms: Rooms, handle: Handle) -> None:
    """Again and again, more and more seldom."""
    delay_s = _FIRST_DELAY_S
    while True:
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        try:
            # Not to be torn in the middle when the engine closes.
            what = f"taking over container {handle.id}"
            if await rooms.work.do(_try_again(rooms, handle), what=what):
                return
        except NewerMonitor as exc:
            log.error("%s", exc)
            return


async def _try_again(rooms: Rooms, handle: Handle) -> bool:
    async with handle.lock:
        is_known = await attempt(rooms, handle)
    if is_known:
        await exit.auto_remove(rooms, handle)
    return is_known


async def _take_over(rooms: Rooms, handle: Handle, task: Task) -> None:
    """Believe what kernel and monitor say, the task last: without it there is another try."""
    try:
        before = handle.state.health
        state = await _state(handle, task)
        if state != handle.state:
            await rooms.store.save_state(handle, state)
        if task.waits_after is None:
            health.tell_change(rooms, handle.container, before)
        await _correct_execs(rooms, handle, task)
    except BaseException:
        task.close()
        raise
    handle.task = task
    task.watch(state.status is not Status.PAUSED)
    if task.restarts is not None or handle.container.host_config.restart_policy.name != "no":
        await restart.tell_policy(handle)  # the last engine may not have come to that
    if state.is_manually_stopped:
        await restart.give_up(rooms, handle)
    queued, handle.queued = handle.queued, []
    for attachment in queued:
        with contextlib.suppress(RuntimeFailure):
            await task.attach(attachment)


async def _state(handle: Handle, task: Task) -> State:
    known = handle.state
    if task.waits_after is not None:
        return msgspec.structs.replace(
            restart.waiting(known, task.waits_after), started_ns=task.started_ns
        )
    is_frozen = await offload.kernel(cgroup.is_frozen, handle.container.cgroup_path)
    if is_frozen and known.is_held and not handle.holds:
        await offload.kernel(cgroup.thaw, handle.container.cgroup_path)  # the commit is no more
        is_frozen = False
    now = health.told(task.health, known.health)
    state = msgspec.structs.replace(
        known,
        status=Status.PAUSED if is_frozen else Status.RUNNING,
        pid=task.pid,
        is_held=known.is_held and is_frozen,
        health=health.unwatched(now) if is_frozen else now,
    )
    if task.restarts is None or task.pid == known.pid:
        return state
    # Another run than the row knows, begun by the policy meanwhile.
    return msgspec.structs.replace(
        state,
        started_ns=task.started_ns,
        restart_count=task.restarts,
        exit_code=0,
        error="",
        oom_killed=False,
    )


async def _correct_execs(rooms: Rooms, handle: Handle, task: Task) -> None:
    """An exec that the monitor does not know any more has ended; the journal says how."""
    running = [each for each in handle.execs.values() if each.is_running]
    if not running:
        return
    known = (await task.state())["execs"]
    journal = await offload.disk(rooms.runtime.recorded, handle.id)
    codes = {
        entry.facts.get("exec_id"): entry.facts.get("code", 137)
        for entry in journal
        if entry.event == Entry.EXEC_EXITED
    }
    for each in running:
        if each.id not in known:
            await exit.exec_exited(rooms, handle, each.id, int(codes.get(each.id, 137)))
