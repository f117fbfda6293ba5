"""Unpacking a stream as a layer that nobody sees yet, with a caller who may be cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from engine import offload
from engine.errors import WharfError

if TYPE_CHECKING:
    from engine.storage.compression import Readable
    from engine.storage.snapshots import Snapshots, StagedLayer


async def stage(snapshots: Snapshots, stream: Readable, *, is_plain: bool = False) -> StagedLayer:
    """As Snapshots.stage_layer, in a thread; cancelled, it waits for that to end, and discards."""
    cancelled = threading.Event()
    unpacking = offload.unpack(
        snapshots.stage_layer,
        _UntilCancelled(stream, cancelled),
        is_plain=is_plain,
        is_cancelled=cancelled.is_set,
    )
    task = asyncio.ensure_future(unpacking)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        with suppress(WharfError, OSError):
            (await task).discard()
        raise


class _UntilCancelled:
    """Ends within a large file too, not only before the next one."""

    def __init__(self, stream: Readable, cancelled: threading.Event) -> None:
        self._stream = stream
        self._cancelled = cancelled

    def read(self, n: int, /) -> bytes:
        if self._cancelled.is_set():
            raise InterruptedError("unpacking was cancelled")
        return self._stream.read(n)
