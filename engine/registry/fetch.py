"""Bringing a blob here, over a wire that breaks.

A blob is asked for from where the last attempt ended; attempts wait 5, 10, 15 … seconds as
dockerd's do. What ends an attempt: an error, no byte for a minute, or a trickle so thin that it is
an attack or as good as dead. A download that moves on is given new attempts, so
that a large blob over a poor line arrives in the end.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine import offload
from engine.errors import EngineError, WharfError
from engine.oci import digest as digests
from engine.registry import failure
from engine.registry.meter import Meter
from engine.registry.retry import count_down, may_retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.oci.descriptor import Descriptor
    from engine.registry.client import Repository
    from engine.registry.meter import Report
    from engine.registry.retry import Policy
    from engine.registry.transport import Response


T = TypeVar("T")

BATCH_BYTES = 1 << 20
BATCH_S = 0.1
"""Who unpacks what was written so far waits no longer than this for what has arrived."""
LAYER = "filesystem layer"
_NO_RANGES = frozenset({400, 405, 412, 416, 501})

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Sink(Protocol):
    """Where the bytes go. Its methods block and run in a thread."""

    @property
    def offset(self) -> int: ...
    def write(self, data: bytes, /) -> None: ...
    def verify(self) -> None: ...
    def abort(self) -> None: ...


class RangeRefused(EngineError):
    """The registry would have none of a request for the rest; `cause` is what it said."""

    def __init__(self, cause: WharfError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Stalled(EngineError):
    """Bytes trickle in, too few to ever make the whole."""

    def __init__(self, digest: str, received_bytes: int, window_s: float) -> None:
        super().__init__(
            f"download of {digest} stalled: {received_bytes} bytes in {window_s:g} seconds"
        )


class BrokenRange(EngineError):
    """The registry's answer to a range request is not the range."""

    def __init__(self, content_range: str) -> None:
        super().__init__(f"could not parse Content-Range header: {content_range}")


class _Pace:
    """Raises Stalled where a window of time brought almost nothing."""

    def __init__(self, policy: Policy, digest: str) -> None:
        self._policy = policy
        self._digest = digest
        self._since = time.monotonic()
        self._received = 0

    def count(self, received: int) -> None:
        self._received += received
        now = time.monotonic()
        if now - self._since < self._policy.window_s:
            return
        if self._received < self._policy.floor_bytes:
            raise Stalled(self._digest, self._received, self._policy.window_s)
        self._since, self._received = now, 0


class _Batch:
    """Gathers chunks, so that a crossing to the disk's threads is worth it, but not for long."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._due = 0.0

    async def next(self, response: Response) -> bytes:
        """The chunk that comes next; what has waited for its time is written meanwhile."""
        if self._chunks:
            try:
                async with asyncio.timeout_at(self._due):
                    return await response.read_some()
            except TimeoutError:
                await self.write()
        return await response.read_some()

    async def add(self, chunk: bytes) -> None:
        """Keep the chunk, or write it with those before it."""
        if not chunk:
            return
        if not self._chunks:
            self._due = asyncio.get_running_loop().time() + BATCH_S
        self._chunks.append(chunk)
        self._waiting += len(chunk)
        if self._waiting >= BATCH_BYTES:
            await self.write()

    @property
    def arrived(self) -> int:
        """How many bytes have come, written or not."""
        return self._sink.offset + self._waiting

    async def write(self) -> None:
        """Write what waits, if any does."""
        if not self._chunks:
            return
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._waiting = 0
        await offload.to_the_end(offload.disk(self._sink.write, data))


class Fetch:
    """One download of one blob into sinks made by `open_sink`."""

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        open_sink: Callable[[], Sink],
        *,
        policy: Policy,
        report: Report,
    ) -> None:
        self._repository = repository
        self._digest = digests.parse(descriptor.digest)
        self._size = descriptor.size
        self._open_sink = open_sink
        self._policy = policy
        self._report = report
        self._sink: Sink | None = None

    async def run(self) -> Sink:
        """The sink with the whole, verified blob; on failure or cancellation nothing is left."""
        try:
            return await self._run()
        except BaseException:
            if self._sink is not None:
                await offload.to_the_end(offload.disk(self._sink.abort))
            raise

    async def _run(self) -> Sink:
        sink = await self._new_sink()
        attempt, arrived, was_resumed, was_begun_anew = 1, 0, False, False
        has_ranges = True
        while True:
            try:
                await self._attempt(sink)
                return sink
            except failure.VerificationFailed:
                # Two halves of different blobs: only the whole in one piece tells.
                # Only once: who lies so each time would keep this going for ever.
                if not was_resumed or was_begun_anew:
                    raise
                await offload.to_the_end(offload.disk(sink.abort))
                sink = await self._new_sink()
                was_resumed, arrived, was_begun_anew = False, 0, True
            except RangeRefused as exc:
                if attempt >= self._policy.attempts:
                    raise exc.cause from exc
                await offload.to_the_end(offload.disk(sink.abort))
                sink = await self._new_sink()
                arrived, was_resumed, has_ranges = 0, False, False
                attempt += 1
            except WharfError as exc:
                # What is never taken up again is no progress, however much came.
                if has_ranges and sink.offset - arrived >= self._policy.progress_bytes:
                    attempt = 1
                if not may_retry(exc) or attempt >= self._policy.attempts:
                    raise
                arrived, was_resumed = sink.offset, sink.offset > 0
                await count_down(self._policy, attempt, exc, self._report)
                attempt += 1

    async def _new_sink(self) -> Sink:
        """A sink that `run` knows from the instant it exists, though cancelled meanwhile."""

        def make() -> Sink:
            self._sink = self._open_sink()
            return self._sink

        return await offload.to_the_end(offload.disk(make))

    async def _attempt(self, sink: Sink) -> None:
        if sink.offset < self._size:
            async with self._repository.open_blob(self._digest, sink.offset) as response:
                skip = await self._check(response, sink.offset)
                await self._copy(response, sink, skip)
        if sink.offset != self._size:
            raise failure.VerificationFailed(LAYER, self._digest)
        self._report("Verifying Checksum", 0, 0)
        await offload.to_the_end(offload.disk(self._verify, sink))
        self._report("Download complete", 0, 0)

    def _verify(self, sink: Sink) -> None:
        try:
            sink.verify()
        except WharfError as exc:
            raise failure.VerificationFailed(LAYER, self._digest) from exc

    async def _check(self, response: Response, offset: int) -> int:
        """How many bytes to skip: a server may answer a range with the whole."""
        if response.status == 404:
            raise failure.UnknownBlob
        if not response.is_success:
            said = await response.failure()
            if offset and response.status in _NO_RANGES:
                raise RangeRefused(said)
            raise said
        if response.status != 206:
            return offset
        content_range = response.header("Content-Range")
        found = _CONTENT_RANGE.fullmatch(content_range)
        if found is None or int(found[1]) != offset:
            raise BrokenRange(content_range)
        return 0

    async def _copy(self, response: Response, sink: Sink, skip: int) -> None:
        """Move the body into the sink, a batch at a time, hashing in the sink's thread."""
        meter = Meter(self._report, "Downloading", self._size)
        pace = _Pace(self._policy, self._digest)
        batch = _Batch(sink)
        try:
            while chunk := await batch.next(response):
                pace.count(len(chunk))
                skipped = min(skip, len(chunk))
                skip -= skipped
                if batch.arrived + len(chunk) - skipped > self._size:
                    raise failure.VerificationFailed(LAYER, self._digest)
                await batch.add(chunk[skipped:])
                meter.at(batch.arrived)
        except (failure.Unreachable, Stalled):
            # What came before a break is kept: the next attempt goes on behind it.
            await batch.write()
            raise
        await batch.write()
