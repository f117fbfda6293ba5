"""Ending a container, asked or forced, and holding it still."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from typing import TYPE_CHECKING

import msgspec

from engine import offload, signals
from engine.container import health, restart
from engine.container.model import RestartPolicyName, Status, WaitCondition
from engine.container.publish import publish
from engine.container.state import ACTIVE, ALIVE, Event, next_status
from engine.errors import EngineError, WharfError
from engine.linux import cgroup, oserror

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from engine.container.model import WaitResult
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 10
_PROMPT_S = 2  # after which a monitor is asked whether it still answers
_SILENCE_S = 4
_KILL_WAIT_S = 10
_LAST_WAIT_S = 2


def ended(handle: Handle) -> Awaitable[WaitResult]:
    """Register before signalling: a fast exit must not be missed."""
    return handle.waiters.register(WaitCondition.NOT_RUNNING, handle.state)


async def _within(waiting: Awaitable[WaitResult], timeout_s: float | None) -> bool:
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(waiting)), timeout_s)
    except TimeoutError:
        return False
    return True


async def stop(
    rooms: Rooms,
    handle: Handle,
    *,
    signo: int,
    timeout_s: float | None,
    is_asked: bool = True,
) -> None:
    """Signal, wait, then kill. None waits for ever. The lock is not held: the exit needs it.

    That it stopped is told with the exit, before that it died. `is_asked` is False at the engine's
    own end, after which policies apply as before.
    """
    next_status(handle.state.status, Event.STOP, handle.id)
    waiting = ended(handle)
    handle.stops_under_way += 1
    try:
        await send(rooms, handle, signo, is_asked=is_asked)
        if not await _within(waiting, timeout_s):
            log.info("container %s did not stop in %s s and is killed", handle.id, timeout_s)
            await kill(rooms, handle, is_asked=is_asked)
    finally:
        handle.stops_under_way -= 1


def stop_plan(
    handle: Handle, signal: str | None, timeout_s: int | None
) -> tuple[int, float | None]:
    """(signal, seconds to wait): the caller's, else the container's, else Docker's."""
    config = handle.container.config
    signo = signals.parse(signal) if signal else signals.stop_signal(config.stop_signal)
    chosen = timeout_s if timeout_s is not None else config.stop_timeout_s
    seconds = DEFAULT_TIMEOUT_S if chosen is None else chosen
    return signo, None if seconds < 0 else float(seconds)


async def send(rooms: Rooms, handle: Handle, signo: int, *, is_asked: bool = True) -> None:
    """One signal to the container's first process; a paused one is thawed to take it.

    One that waits to be started again, and so has no process, stays as it is where the signal is
    one to end it.
    """
    is_thawed = False
    async with handle.lock:
        if handle.state.status not in ACTIVE:
            return
        if _ends(handle, signo) or _ends_policy(handle):
            await _give_up(rooms, handle, is_asked=is_asked)
        state = handle.state
        if state.status not in ALIVE:
            return
        try:
            await _signal(handle, signo)
        except ProcessLookupError:
            return  # it ended by itself; its exit is on the way
        if state.status is Status.PAUSED and _ends(handle, signo):
            await offload.kernel(cgroup.thaw, handle.container.cgroup_path)
            await _set_paused(rooms, handle, Event.UNPAUSE)
            is_thawed = True
    publish(rooms.events, handle.container, "kill", signal=str(signo))
    if is_thawed and signo != signals.SIGKILL:  # what is killed does not live to go on
        publish(rooms.events, handle.container, "unpause")


async def _give_up(rooms: Rooms, handle: Handle, *, is_asked: bool) -> None:
    """It is to end, and not by itself. The row says so before anything is done."""
    if is_asked and not handle.state.is_manually_stopped:
        await rooms.store.save_state(
            handle, msgspec.structs.replace(handle.state, is_manually_stopped=True)
        )
    await restart.give_up(rooms, handle)


async def _signal(handle: Handle, signo: int) -> None:
    """Also without a monitor. Raises ProcessLookupError."""
    if handle.task is not None and handle.is_connected:
        await handle.task.signal(signo)
    else:
        await offload.kernel(_signal_in, handle.container.cgroup_path, handle.state.pid, signo)


def _signal_in(group: str, pid: int, signo: int) -> None:
    """Only if it is in that group: the number may be another's by now."""
    pidfd = os.pidfd_open(pid)
    try:
        if pid not in cgroup.processes(group):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        signal.pidfd_send_signal(pidfd, signo)
    finally:
        os.close(pidfd)


def _ends(handle: Handle, signo: int) -> bool:
    """Whether this is the signal that means "stop" to this container."""
    asked = handle.container.config.stop_signal
    return signo == signals.SIGKILL or not asked or signo == signals.stop_signal(asked)


def _ends_policy(handle: Handle) -> bool:
    """For this policy any signal of a user's means that he has stopped the container."""
    return handle.container.host_config.restart_policy.name is RestartPolicyName.UNLESS_STOPPED


async def kill(rooms: Rooms, handle: Handle, *, is_asked: bool = True) -> None:
    """SIGKILL and wait; first to the process, then to all that is in its group."""
    waiting = ended(handle)
    await send(rooms, handle, signals.SIGKILL, is_asked=is_asked)
    if await _within(waiting, _PROMPT_S):
        return
    await _end_silent(rooms, handle)
    if await _within(waiting, _KILL_WAIT_S):
        return
    log.warning("container %s outlives SIGKILL; ending its whole group", handle.id)
    await offload.kernel(cgroup.kill, handle.container.cgroup_path)
    if not await _within(waiting, _LAST_WAIT_S):
        raise EngineError("tried to kill container, but did not receive an exit event")


async def _end_silent(rooms: Rooms, handle: Handle) -> None:
    """A monitor that tells nothing ends with its container; that is reported, as any loss."""
    task = handle.task
    if task is not None and handle.is_connected:
        if await task.is_silent(_SILENCE_S):
            log.error("the monitor of container %s hangs; it ends with its container", handle.id)
            await offload.kernel(cgroup.kill, handle.container.cgroup_path)
            task.end_monitor()
        return
    async with handle.lock:  # else it may be another run's by now
        is_lost = not handle.is_connected and handle.retry is None
        if handle.state.status in ACTIVE and is_lost:
            log.error("the monitor of container %s is lost; it ends with its container", handle.id)
            await offload.kernel(cgroup.kill, handle.container.cgroup_path)
            await rooms.runtime.end_monitor(handle.id)


async def pause(rooms: Rooms, handle: Handle) -> None:
    async with handle.lock:
        next_status(handle.state.status, Event.PAUSE, handle.id)
        await _pause(rooms, handle)


async def _pause(rooms: Rooms, handle: Handle, *, is_held: bool = False) -> None:
    try:
        await offload.kernel(cgroup.freeze, handle.container.cgroup_path)
    except OSError as exc:
        is_over = exc.errno in (errno.ENOENT, errno.ENODEV)  # its exit is on the way
        cause = "OCI runtime pause failed: container not running"
        raise EngineError(
            f"cannot pause container {handle.id}: {cause if is_over else oserror.sentence(exc)}"
        ) from exc
    await _set_paused(rooms, handle, Event.PAUSE, is_held=is_held)
    publish(rooms.events, handle.container, "pause")


async def unpause(rooms: Rooms, handle: Handle) -> None:
    async with handle.lock:
        next_status(handle.state.status, Event.UNPAUSE, handle.id)
        await _unpause(rooms, handle)


async def _unpause(rooms: Rooms, handle: Handle) -> None:
    try:
        await offload.kernel(cgroup.thaw, handle.container.cgroup_path)
    except OSError as exc:
        raise EngineError(f"Cannot unpause container {handle.id}: {oserror.sentence(exc)}") from exc
    await _set_paused(rooms, handle, Event.UNPAUSE)
    publish(rooms.events, handle.container, "unpause")


async def _set_paused(rooms: Rooms, handle: Handle, event: Event, *, is_held: bool = False) -> None:
    status = next_status(handle.state.status, event, handle.id)
    known = handle.state.health
    state = msgspec.structs.replace(
        handle.state,
        status=status,
        is_held=is_held,
        health=health.unwatched(known) if event is Event.PAUSE else known,
    )
    await rooms.store.save_state(handle, state)
    if handle.task is not None:
        handle.task.watch(event is not Event.PAUSE)


@contextlib.asynccontextmanager
async def held(rooms: Rooms, handle: Handle) -> AsyncGenerator[None]:
    """A container that runs stands still meanwhile; one that does not, or is paused, is left alone.

    Its row says so before it is frozen: whatever becomes of this engine, the next one lets it go on
    (see restore). Several may hold it, the last one lets go. Who pauses or unpauses it meanwhile
    has the last word.
    """
    async with handle.lock:
        is_ours = await _hold(rooms, handle)
    try:
        yield
    finally:
        if is_ours:
            async with handle.lock:
                await _let_go(rooms, handle)


async def _hold(rooms: Rooms, handle: Handle) -> bool:
    """A failure is not the commit's: it goes on with a container that runs (as dockerd's)."""
    state = handle.state
    if state.status is Status.RUNNING:
        try:
            await rooms.store.save_state(handle, msgspec.structs.replace(state, is_held=True))
            await _pause(rooms, handle, is_held=True)
        except WharfError as exc:
            log.warning("%s", exc)
            await _let_go_again(rooms, handle)
            return False
    elif state.status is not Status.PAUSED or not state.is_held:
        return False
    handle.holds += 1
    return True


async def _let_go(rooms: Rooms, handle: Handle) -> None:
    handle.holds -= 1
    if handle.holds or handle.state.status is not Status.PAUSED or not handle.state.is_held:
        return
    try:
        await _unpause(rooms, handle)
    except WharfError:
        log.exception("container %s could not go on after a commit", handle.id)


async def _let_go_again(rooms: Rooms, handle: Handle) -> None:
    """It may be frozen although its row could not be written; nothing else would thaw it."""
    try:
        await offload.kernel(cgroup.thaw, handle.container.cgroup_path)
        state = msgspec.structs.replace(handle.state, status=Status.RUNNING, is_held=False)
        await rooms.store.save_state(handle, state)
    except (WharfError, OSError):
        log.exception("container %s may not go on after a commit", handle.id)
