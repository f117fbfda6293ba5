"""Work that several clients wait for, each hearing of all of it; the last to leave ends it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine import offload
from engine.errors import Unavailable
from engine.image.model import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterable

    Listener = Callable[[Progress], None]

T = TypeVar("T")
J = TypeVar("J", bound="Joint[Any]")


class Joint(Generic[T]):
    """One piece of work. `task` ends with what it was for."""

    def __init__(self, key: Hashable, display_id: str) -> None:
        self.key = key
        self.display_id = display_id
        self.task: asyncio.Task[T] | None = None
        self._listeners: list[Listener] = []
        self._last: Progress | None = None

    def begin(self, work: Coroutine[object, object, T], name: str) -> None:
        self.task = asyncio.get_running_loop().create_task(work, name=f"{name} {self.display_id}")

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


class Joints(Generic[J]):
    """Those under way that another client may go along with, by their keys."""

    def __init__(self) -> None:
        self._running: dict[Hashable, J] = {}

    def get(self, key: Hashable) -> J | None:
        """One that has ended and was not yet forgotten is none: its failure is not shared."""
        joint = self._running.get(key)
        return None if joint is None or joint.task is None or joint.task.done() else joint

    def has(self, joint: J) -> bool:
        return self._running.get(joint.key) is joint

    def add(self, joint: J) -> None:
        """It has begun."""
        assert joint.task is not None
        self._running[joint.key] = joint
        joint.task.add_done_callback(lambda _: self._forget(joint))

    async def leave(self, joint: J, listener: Listener) -> bool:
        """Lose interest; the last to do so ends it, waits until it has ended, and is told so."""
        if not joint.leave(listener):
            return False
        self._forget(joint)
        await joint.end()
        return True

    async def close(self) -> None:
        """End all that is under way."""
        await asyncio.gather(*(joint.end() for joint in tuple(self._running.values())))

    def _forget(self, joint: J) -> None:
        """Nobody joins it any more: what was made is found, a failure is not shared."""
        if self.has(joint):
            del self._running[joint.key]


async def all_done(joints: Iterable[Joint[T]]) -> None:
    """Wait for all, or for the first to fail; raises what ended the first one, in the order given.

    Raises Unavailable where the engine has ended them.
    """
    tasks = [joint.task for joint in joints if joint.task is not None]
    if not tasks:
        return
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task.cancelled():
            raise Unavailable("the engine is being shut down")
        if task.done():
            task.result()
