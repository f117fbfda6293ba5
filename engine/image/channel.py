"""Progress on its way to one client: bounded, however slowly it reads.

Counts of a layer that the client has not taken yet are overtaken by newer ones; everything else is
kept in order, and there is only so much of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from engine import offload
from engine.errors import WharfError
from engine.image import failure
from engine.image.model import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine


class _Slot:
    __slots__ = ("progress",)

    def __init__(self, progress: Progress) -> None:
        self.progress = progress


def _overtakes(newer: Progress, older: Progress) -> bool:
    return bool(newer.total and older.total) and newer.status == older.status


class Channel:
    """One producer's side is `send` and `close`; the other iterates."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()
        self._newest: dict[str, _Slot] = {}
        self._changed = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._slots)

    def send(self, progress: Progress) -> None:
        """Never waits."""
        newest = self._newest.get(progress.id)
        if newest is not None and _overtakes(progress, newest.progress):
            newest.progress = progress
            return
        slot = _Slot(progress)
        self._slots.append(slot)
        self._newest[progress.id] = slot
        self._changed.set()

    def close(self) -> None:
        """The iteration ends behind what was sent."""
        self._is_closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        while True:
            while self._slots:
                slot = self._slots.popleft()
                if self._newest.get(slot.progress.id) is slot:
                    del self._newest[slot.progress.id]
                yield slot.progress
            if self._is_closed:
                return
            self._changed.clear()
            await self._changed.wait()


async def with_progress(
    work: Coroutine[object, object, None], channel: Channel, name: str
) -> AsyncGenerator[Progress]:
    """What `work` sends to the channel while it runs; ends with it, ends it when closed.

    What it raises is raised before the first progress, and is the last one afterwards. An OSError
    is the disk's.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(lambda _: channel.close())
    has_begun = False
    try:
        async for progress in channel:
            has_begun = True
            yield progress
        await task
    except (WharfError, OSError) as exc:
        error = exc if isinstance(exc, WharfError) else failure.of_disk(exc)
        if not has_begun:
            raise error from exc
        yield Progress(error=str(error))
    finally:
        task.cancel()
        # Whoever cleans up behind this, even cancelled once more, finds that it has ended.
        await offload.to_the_end(offload.ended(task))
