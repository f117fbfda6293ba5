"""Work in a thread that is told to stop when its caller is cancelled; unpacking a layer above all.

Nobody sees a layer that was only unpacked.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from engine import offload
from engine.errors import WharfError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.oci.digest import DiffId
    from engine.storage.compression import Readable
    from engine.storage.snapshots import Snapshots, StagedLayer

T = TypeVar("T")


async def until_stopped(
    call: Awaitable[T],
    stop: Callable[[], None],
    undo: Callable[[T], Awaitable[object]] | None = None,
) -> T:
    """As offload.to_the_end, for what may take minutes: cancelled, it is told before it is awaited.

    It may end whole all the same, so there is `undo`.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        await offload.to_the_end(_ended(task, undo))
        raise


async def _ended(
    task: asyncio.Future[T], undo: Callable[[T], Awaitable[object]] | None = None
) -> None:
    await asyncio.wait((task,))
    if task.exception() is None and undo is not None:
        with suppress(WharfError, OSError):  # the caller is to hear that it was cancelled
            await undo(task.result())


async def stage(
    snapshots: Snapshots,
    stream: Readable,
    *,
    diff_id: DiffId | None = None,
    is_plain: bool = False,
) -> StagedLayer:
    """As Snapshots.stage_layer, in a thread; cancelled, it waits for that to end, and discards."""
    cancelled = threading.Event()
    unpacking = offload.unpack(
        snapshots.stage_layer,
        _UntilCancelled(stream, cancelled),
        diff_id=diff_id,
        is_plain=is_plain,
        is_cancelled=cancelled.is_set,
    )
    return await until_stopped(unpacking, cancelled.set, undo=discard)


async def discard(staged: StagedLayer) -> None:
    """Remove what was unpacked, unless it was committed."""
    await offload.to_the_end(offload.disk(staged.discard))


class _UntilCancelled:
    """Ends within a large file too, not only before the next one."""

    def __init__(self, stream: Readable, cancelled: threading.Event) -> None:
        self._stream = stream
        self._cancelled = cancelled

    def read(self, n: int, /) -> bytes:
        if self._cancelled.is_set():
            raise InterruptedError("unpacking was cancelled")
        return self._stream.read(n)
