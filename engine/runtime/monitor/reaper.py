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

    __slots__ = ("_fd", "_loop", "_strangers", "_watched")

    def __init__(self, loop: Loop, children: int) -> None:
        """`children` is a signalfd of SIGCHLD, which is blocked (see `launcher`)."""
        self._watched: dict[int, Callable[[int], None]] = {}
        self._strangers: dict[int, int] | None = None
        self._loop = loop
        self._fd = children
        loop.add(children, EPOLLIN, self._on_signal)

    def watch(self, pid: int, callback: Callable[[int], None]) -> None:
        """`callback` gets the exit code, 128 + n after signal n."""
        code = self._strangers.pop(pid, None) if self._strangers else None
        if code is None:
            self._watched[pid] = callback
        else:
            self._loop.call_later(0.0, lambda: callback(code))

    def remember_strangers(self, wanted: bool) -> None:
        """While others fork for this process: a child of theirs may end before it is watched."""
        self._strangers = {} if wanted else None

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
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            callback = self._watched.pop(pid, None)
            if callback is not None:
                callback(code)
            elif self._strangers is not None:
                self._strangers[pid] = code
