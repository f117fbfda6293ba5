"""Work that several clients wait for, each hearing of all of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from engine import offload
from engine.image.model import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[Progress], None]

T = TypeVar("T")


class Joint(Generic[T]):
    """One piece of work. `task` ends with what it was for."""

    def __init__(self, display_id: str) -> None:
        self.display_id = display_id
        self.task: asyncio.Task[T] | None = None
        self._listeners: list[Listener] = []
        self._last: Progress | None = None

    def join(self, listener: Listener) -> None:
        """Hear of everything from now on, and where it stands."""
        self._listeners.append(listener)
        if self._last is not None:
            listener(self._last)

    def leave(self, listener: Listener) -> bool:
        """Whether nobody is left."""
        self._listeners.remove(listener)
        return not self._listeners

    def report(self, status: str, current: int = 0, total: int = 0) -> None:
        progress = Progress(id=self.display_id, status=status, current=current, total=total)
        self._last = progress
        for listener in tuple(self._listeners):
            listener(progress)

    async def result(self) -> T:
        """What it was for; raises what ended it. Cancelling this ends only the waiting."""
        assert self.task is not None
        return await asyncio.shield(self.task)

    async def end(self) -> None:
        """Stop it and wait until it has ended."""
        if self.task is not None:
            self.task.cancel()
            await offload.ended(self.task)
