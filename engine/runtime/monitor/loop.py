"""The monitor's event loop: descriptors and timers, nothing else."""

from __future__ import annotations

import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

EPOLLIN = select.EPOLLIN
EPOLLOUT = select.EPOLLOUT
EPOLLHUP = select.EPOLLHUP
EPOLLERR = select.EPOLLERR


# poll(2) takes milliseconds as an int: who has longer to wait looks at the clock in between.
_LONGEST_S = 86400.0
_FEW_TIMERS = 64


class Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Handlers get the epoll events of their descriptor; they must not block."""

    __slots__ = ("_count", "_epoll", "_handlers", "_many_timers", "_timers", "is_running")

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._many_timers = _FEW_TIMERS
        self._count = itertools.count()
        self.is_running = True

    def add(self, fd: int, events: int, handler: Handler) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed; nothing to do for one that was not added."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """As `remove`, of one that was closed already, which took it out of the kernel's set."""
        self._handlers.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        if len(self._timers) >= self._many_timers:
            self._drop_cancelled()
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._count), timer))
        return timer

    def _drop_cancelled(self) -> None:
        """Before their time comes, for there may be many with long to wait."""
        self._timers = [each for each in self._timers if each[2].callback is not None]
        heapq.heapify(self._timers)
        self._many_timers = max(_FEW_TIMERS, 2 * len(self._timers))

    def run(self) -> None:
        """Until `is_running` is false."""
        while self.is_running:
            for fd, events in self._epoll.poll(self._timeout_s()):
                # A handler that ran in this round may have removed this one.
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            self._run_timers()

    def _timeout_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return min(_LONGEST_S, max(0.0, self._timers[0][0] - time.monotonic()))

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
