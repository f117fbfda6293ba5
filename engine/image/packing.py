"""A layer on its way out: its tar made again, compressed and hashed, a piece at a time.

All of it happens in threads, never more than two pieces ahead of whoever takes them, so that a
layer of any size needs a few megabytes and no disk.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from engine import offload
from engine.oci import digest as digests
from engine.oci.digest import DiffId, Digest
from engine.registry.meter import REPORT_EVERY_S
from engine.storage import compression
from engine.storage.recipe import DamagedLayer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

PIECE_BYTES = 256 << 10
"""Of compressed bytes: one hop to a thread each."""
INPUT_BYTES = 4 << 20
"""Most of the tar that is read in one hop, however well it compresses."""


class Packed:
    """An iterator of the blob's bytes; `digest` and `size` are known when it has ended.

    `report` hears how much of the tar has been read. Close it whether or not it came to its end.
    """

    def __init__(
        self, tar: Iterator[bytes], diff_id: DiffId, report: Callable[[int], None]
    ) -> None:
        self._pieces = self._pack(tar, diff_id)
        self._report = report
        self._hop: asyncio.Future[bytes | None] | None = None
        self._reported_at = 0.0
        self._read = 0
        self._is_closed = False
        self.digest = Digest("")
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begin_hop()
        while self._hop is not None:
            # Whoever reads may be cancelled: the thread goes on, and `close` waits for it.
            piece = await asyncio.shield(self._hop)
            self.size += len(piece or b"")
            self._tell(is_last=piece is None)
            if piece is None:
                return
            self._begin_hop()
            if piece:
                yield piece

    def _begin_hop(self) -> None:
        if self._is_closed:
            self._hop = None
        else:
            self._hop = asyncio.ensure_future(offload.pack(next, self._pieces, None))

    def _tell(self, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._report(self._read)

    def _pack(self, tar: Iterator[bytes], diff_id: DiffId) -> Generator[bytes]:
        """The pieces, some of them empty. Runs in threads.

        What is not the layer of that name must not pass for it.
        """
        gzip, plain, packed = compression.Gzip(), digests.hasher(diff_id), digests.hasher()
        ready: list[bytes] = []
        ready_bytes = read_bytes = 0
        for data in tar:
            plain.update(data)
            self._read += len(data)
            read_bytes += len(data)
            if piece := gzip.write(data):
                packed.update(piece)
                ready.append(piece)
                ready_bytes += len(piece)
            if ready_bytes >= PIECE_BYTES or read_bytes >= INPUT_BYTES:
                yield b"".join(ready)
                ready = []
                ready_bytes = read_bytes = 0
        if plain.hexdigest() != digests.encoded(diff_id):
            raise DamagedLayer(f"layer {diff_id} is not what it was when it was unpacked")
        ready.append(gzip.finish())
        packed.update(ready[-1])
        self.digest = Digest(f"{digests.CANONICAL}:{packed.hexdigest()}")
        yield b"".join(ready)

    async def close(self) -> None:
        """Let go of the layer's files, once no thread reads them any more."""
        self._is_closed = True
        await offload.to_the_end(self._close())

    async def _close(self) -> None:
        if self._hop is not None:
            await asyncio.wait((self._hop,))
            if not self._hop.cancelled():
                self._hop.exception()  # seen by whoever iterated, or wanted by nobody
        await offload.disk(self._pieces.close)
