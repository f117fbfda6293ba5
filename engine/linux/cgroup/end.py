"""Ending all processes of a control group where the kernel has no single write for it."""

from __future__ import annotations

import os

from engine.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIGKILL = 9
# So many descriptors at once at most: a fork bomb may not use up ours.
_BATCH = 256


def kill_all(processes: Callable[[], list[int]]) -> None:
    """Send SIGKILL to each process that the list names, and to no other.

    A pid may be given to a stranger between reading the list and the signal. So each is held by a
    pidfd first, and gets the signal only if the list, read again, still names it.
    """
    pids = processes()
    for start in range(0, len(pids), _BATCH):
        _kill_batch(pids[start : start + _BATCH], processes)


def _kill_batch(pids: list[int], processes: Callable[[], list[int]]) -> None:
    held: dict[int, int] = {}
    try:
        for pid in pids:
            _hold(held, pid)
        for pid in held.keys() & set(processes()):
            _signal(held[pid])
    finally:
        for fd in held.values():
            os.close(fd)


def _hold(held: dict[int, int], pid: int) -> None:
    try:
        held[pid] = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it ended by itself


def _signal(pidfd: int) -> None:
    try:
        syscalls.pidfd_send_signal(pidfd, _SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself
