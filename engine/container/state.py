"""What may happen next to a container: the one table, and its refusals in Docker's words.

    created ─start→ running ⇄ paused
       │               │ exit
       │               ├────────────→ exited ─start→ running
       │               └─exit, policy→ restarting ─start again→ running
       └──────────── remove → removing ─fail→ dead

Everything that changes a status asks `next_status` first. A pair that is not in the table is a
refusal; which sentence and which kind depends on the event and on where the container stands.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from engine.container.model import Status
from engine.errors import Conflict, EngineError, NotModified, WharfError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Event(StrEnum):
    START = "start"
    START_AGAIN = "start again"  # by the restart policy
    STOP = "stop"
    KILL = "kill"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RESIZE = "resize"
    TOP = "top"
    EXEC = "exec"
    ATTACH = "attach"
    LOGS = "logs"
    UPDATE = "update"
    EXIT = "exit"
    EXIT_TO_RESTART = "exit to restart"  # the policy will start it again
    GIVE_UP = "give up"  # a restart that was waiting is cancelled, or failed
    COMMIT = "commit"
    EXPORT = "export"
    REMOVE = "remove"
    REMOVE_FAILED = "remove failed"


_C, _R, _P, _W = Status.CREATED, Status.RUNNING, Status.PAUSED, Status.RESTARTING
_E, _X, _D = Status.EXITED, Status.REMOVING, Status.DEAD

TRANSITIONS: Mapping[Status, Mapping[Event, Status]] = {
    _C: {
        Event.START: _R,
        Event.ATTACH: _C,
        Event.LOGS: _C,
        Event.UPDATE: _C,
        Event.COMMIT: _C,
        Event.EXPORT: _C,
        Event.REMOVE: _X,
    },
    _R: {
        Event.STOP: _R,
        Event.KILL: _R,
        Event.PAUSE: _P,
        Event.RESIZE: _R,
        Event.TOP: _R,
        Event.EXEC: _R,
        Event.ATTACH: _R,
        Event.LOGS: _R,
        Event.UPDATE: _R,
        Event.COMMIT: _R,
        Event.EXPORT: _R,
        Event.EXIT: _E,
        Event.EXIT_TO_RESTART: _W,
    },
    _P: {
        Event.STOP: _P,
        Event.KILL: _P,
        Event.UNPAUSE: _R,
        Event.RESIZE: _P,
        Event.TOP: _P,
        Event.LOGS: _P,
        Event.UPDATE: _P,
        Event.COMMIT: _P,
        Event.EXPORT: _P,
        Event.EXIT: _E,
        Event.EXIT_TO_RESTART: _W,
    },
    _W: {
        Event.START_AGAIN: _R,
        Event.STOP: _W,
        Event.KILL: _W,
        Event.LOGS: _W,
        Event.UPDATE: _W,
        Event.COMMIT: _W,
        Event.EXPORT: _W,
        Event.GIVE_UP: _E,
    },
    _E: {
        Event.START: _R,
        Event.ATTACH: _E,
        Event.LOGS: _E,
        Event.UPDATE: _E,
        Event.COMMIT: _E,
        Event.EXPORT: _E,
        Event.REMOVE: _X,
    },
    _X: {Event.REMOVE_FAILED: _D},
    _D: {Event.REMOVE: _X},
}

ACTIVE = frozenset({_R, _P, _W})
"""Docker calls all of these running: `rm` needs force, `stop` has something to do."""

ALIVE = frozenset({_R, _P})
"""A process exists."""


class ContainerNotRunning(Conflict):
    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id} is not running")
        self.container_id = container_id


class ContainerRestarting(Conflict):
    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"Container {container_id} is restarting, wait until the container is running"
        )


class ContainerPaused(Conflict):
    def __init__(self, ref: str) -> None:
        super().__init__(f"Container {ref} is paused, unpause the container before exec")


def next_status(status: Status, event: Event, container_id: str, *, ref: str = "") -> Status:
    """Where `event` leads from `status`; raises the refusal a client reads.

    `ref` is what the user called the container, for the sentences that repeat it.
    """
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        raise _refusal(status, event, container_id, ref or container_id) from None


def _refusal(status: Status, event: Event, container_id: str, ref: str) -> WharfError:
    match event:
        case Event.START:
            return _refused_start(status)
        case Event.STOP:
            return NotModified("container is already stopped")
        case Event.PAUSE if status is Status.PAUSED:
            return Conflict(f"Container {container_id} is already paused")
        case Event.UNPAUSE:
            return EngineError(f"Container {container_id} is not paused")
        case Event.EXEC | Event.ATTACH if status is Status.PAUSED:
            return _refused_paused(event, ref)
        case Event.ATTACH if status is Status.RESTARTING:
            return Conflict(f"container {ref} is restarting, wait until the container is running")
        case Event.PAUSE | Event.EXEC | Event.TOP if status is Status.RESTARTING:
            return ContainerRestarting(container_id)
        case Event.LOGS:
            return Conflict("can not get logs from container which is dead or marked for removal")
        case Event.UPDATE:
            return Conflict(
                f"Cannot update container {container_id}: container is marked for removal and "
                'cannot be "update"'
            )
        case Event.COMMIT | Event.EXPORT:
            what = "Dead" if status is Status.DEAD else "being removed"
            return Conflict(f"You cannot {event} container {container_id} which is {what}")
        case Event.REMOVE:
            return _refused_remove(status, ref)
        case _:
            return ContainerNotRunning(container_id)


def _refused_start(status: Status) -> WharfError:
    if status is Status.PAUSED:
        return Conflict("cannot start a paused container, try unpause instead")
    if status in ACTIVE:
        return NotModified("container is already running")
    return Conflict("container is marked for removal and cannot be started")


def _refused_paused(event: Event, ref: str) -> WharfError:
    if event is Event.EXEC:
        return ContainerPaused(ref)
    return Conflict(f"container {ref} is paused, unpause the container before attach")


def _refused_remove(status: Status, ref: str) -> WharfError:
    if status is Status.REMOVING:
        return Conflict(f"removal of container {ref} is already in progress")
    if status is Status.PAUSED:
        cause = "container is paused and must be unpaused first"
    else:
        cause = f"container is {status}: stop the container before removing or force remove"
    return Conflict(f'cannot remove container "{ref}": {cause}')
