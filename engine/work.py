"""Work that goes on when whoever asked for it has left.

A client that leaves cancels waiting, never a change of state. So every change runs as a task owned
here: the caller waits for it through a shield, and `close` waits for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from engine.errors import Unavailable, WharfError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from engine.linux.fd import OwnedFd

T = TypeVar("T")

log = logging.getLogger(__name__)


class Work:
    """The tasks of one engine. A failing task harms no other."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._endless: set[asyncio.Task[object]] = set()
        self._is_open = True
        self._is_closing = False  # what is under way may still ask for more, but not for long

    async def do(
        self,
        coroutine: Coroutine[object, object, T],
        *,
        what: str,
        given: OwnedFd | None = None,
    ) -> T:
        """Run to the end and return its result; cancelling this call stops only the waiting.

        What was `given` to the work and is not taken by its end is closed, also where it never
        begins: refused, or cancelled before its first step, a coroutine runs no `finally`.
        """
        try:
            task = self._spawn(coroutine, what)
        except Unavailable:
            if given is not None:
                given.close()
            raise
        if given is not None:
            task.add_done_callback(lambda _: given.close())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise

    def spawn(
        self, coroutine: Coroutine[object, object, object], *, what: str
    ) -> asyncio.Future[object]:
        """Run without anyone waiting; a failure is logged."""
        task = self._spawn(coroutine, what)
        task.add_done_callback(_report)
        return task

    def keep_running(
        self, coroutine: Coroutine[object, object, object], *, what: str
    ) -> asyncio.Task[object]:
        """Run what has no end of its own until closing cancels it; a failure is logged."""
        task = self._spawn(coroutine, what)
        if self._is_closing:
            task.cancel()
        self._endless.add(task)
        task.add_done_callback(self._endless.discard)
        task.add_done_callback(_report)
        return task

    def _spawn(self, coroutine: Coroutine[object, object, T], what: str) -> asyncio.Task[T]:
        if not self._is_open:
            coroutine.close()
            raise Unavailable(f"the engine is shutting down: {what}")
        task = asyncio.get_running_loop().create_task(coroutine, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, timeout_s: float) -> None:
        """Take no more and wait for what is under way; what outlasts the time is cancelled."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._is_closing = True
        for task in self._endless:
            task.cancel()
        while pending := set(self._tasks):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(pending, timeout=left)
        self._is_open = False
        for task in set(self._tasks):
            log.warning("%s did not end in time and is given up", task.get_name())
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _report(task: asyncio.Task[T]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, WharfError):
        log.info("%s: %s", task.get_name(), error)
    elif error is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
