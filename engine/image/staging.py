"""Unpacking a layer in a thread. Nobody sees a layer that was only unpacked."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from engine import offload

if TYPE_CHECKING:
    from engine.oci.digest import DiffId
    from engine.storage.compression import Readable
    from engine.storage.snapshots import Snapshots, StagedLayer

T = TypeVar("T")


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
    return await offload.to_the_end(unpacking, undo=discard, stop=cancelled.set)


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
