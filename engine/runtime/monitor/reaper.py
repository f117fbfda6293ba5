"""Children and orphans: who has ended, and with which code."""

from __future__ import annotations

import os

from engine.runtime.monitor.loop import EPOLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.runtime.monitor.loop import Loop

_SIGINFO_BYTES = 128


class Reaper:
    """Reaps every child of this process, also those adopted as subreaper.

    A child is watched right after its fork; its end is taken up in a later round of the loop.
    """

    __slots__ = ("_fd", "_watched")

    def __init__(self, loop: Loop, children: int) -> None:
        """`children` is a signalfd of SIGCHLD, which is blocked (see `launcher`)."""
        self._watched: dict[int, Callable[[int], None]] = {}
        self._fd = children
        loop.add(children, EPOLLIN, self._on_signal)

    def watch(self, pid: int, callback: Callable[[int], None]) -> None:
        """`callback` gets the exit code, 128 + n after signal n."""
        self._watched[pid] = callback

    def _on_signal(self, _events: int) -> None:
        try:
            os.read(self._fd, _SIGINFO_BYTES)
        except BlockingIOError:
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            callback = self._watched.pop(pid, None)
            if callback is not None:
                code = os.waitstatus_to_exitcode(status)
                callback(code if code >= 0 else 128 - code)
