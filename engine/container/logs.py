"""`docker logs`: what a container wrote, and what it goes on writing.

Batches come as `(stream, bytes)` with stream 1 or 2. Following is reading the files the monitor
writes, told by inotify when there is more; it crosses rotations by watching which file is which,
and ends when the container has ended and everything was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar
from urllib.parse import quote

from engine import offload, timestamp
from engine.container import logfile
from engine.container.model import WaitCondition
from engine.container.state import ALIVE, Event, next_status
from engine.errors import InvalidParameter, NotImplementedHere

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from engine.container.folders import Folders
    from engine.container.logfile import Chain, Part, Record
    from engine.container.model import LogsQuery, WaitResult
    from engine.container.store import Handle

    Batch = list[tuple[int, bytes]]

P = ParamSpec("P")
T = TypeVar("T")

_STREAMS = {"stdout": 1, "stderr": 2}


class NoLogs(NotImplementedHere):
    """The log driver only writes, or there is none."""

    def __init__(self) -> None:
        super().__init__("configured logging driver does not support reading")


def check(handle: Handle, query: LogsQuery) -> None:
    """Raise what has to be said before the first byte."""
    if not (query.stdout or query.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    next_status(handle.state.status, Event.LOGS, handle.id)
    if handle.container.host_config.log_config.type == "none":
        raise NoLogs


async def read(folders: Folders, handle: Handle, query: LogsQuery) -> AsyncGenerator[Batch, None]:
    """The log as `query` wants it; with `follow` until the container has ended."""
    path = handle.container.log_path
    if not query.follow:
        async for batch in _past(path, query):
            yield batch
        return
    follower = _Follower(path, query)
    # Watched before it is read: what is written between is not missed.
    with folders.watch(os.path.dirname(path)) as changed, follower.reading:
        async for batch in _past(path, query, follower):
            yield batch
        async for batch in _live(handle, follower, changed):
            yield batch


class _Reading:
    """What threads of the disk's pool read from.

    A caller who is cancelled leaves a read behind, which goes on; to close under it would let it
    read from whatever takes the descriptor's number next. So the last of the two closes.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            if self._is_busy:
                return
        self._close()

    async def disk(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in the pool; one at a time."""
        return await offload.disk(self._run, functools.partial(fn, *args, **kwargs))

    def _run(self, call: Callable[[], T]) -> T:
        with self._lock:
            if self._is_over:
                raise asyncio.CancelledError  # nobody hears it: who asked has gone
            self._is_busy = True
        try:
            return call()
        finally:
            with self._lock:
                self._is_busy = False
                is_over = self._is_over
            if is_over:
                self._close()


# What is there


async def _past(
    path: str, query: LogsQuery, follower: _Follower | None = None
) -> AsyncIterator[Batch]:
    parts = await offload.disk(logfile.open_all, path)
    with _Reading(lambda: _close(parts)) as reading:
        if follower is not None and parts:
            follower.begin(parts[-1], skip=query.tail is not None)
        pieces = _pieces(parts, query, follower)
        while (batch := await reading.disk(_next_batch, pieces, query)) is not None:
            if batch:
                yield batch


def _close(parts: list[Part]) -> None:
    for part in parts:
        part.close()


def _pieces(parts: list[Part], query: LogsQuery, follower: _Follower | None) -> Iterator[bytes]:
    """Whole lines, oldest first. Without a tail, the newest file is the follower's to read."""
    if query.tail is not None:
        return logfile.tail(parts, query.tail)
    return (
        piece
        for part in (parts if follower is None else parts[:-1])
        for piece in logfile.chunks(part)
    )


def _next_batch(pieces: Iterator[bytes], query: LogsQuery) -> Batch | None:
    """None at the end; an empty batch where nothing of a piece is wanted."""
    piece = next(pieces, None)
    if piece is None:
        return None
    return render(logfile.parse(piece), query)


def render(records: list[Record], query: LogsQuery) -> Batch:
    """The wanted records as bytes, with their prefix."""
    if query.since_ns is not None:
        since = fixed(timestamp.format_ns(query.since_ns))
        records = [r for r in records if fixed(r.time) >= since]
    if query.until_ns is not None:
        until = fixed(timestamp.format_ns(query.until_ns))
        records = [r for r in records if fixed(r.time) <= until]
    wanted = {name for name, on in (("stdout", query.stdout), ("stderr", query.stderr)) if on}
    if not query.timestamps and not query.details:
        return [(_STREAMS[r.stream], r.log.encode()) for r in records if r.stream in wanted]
    return [
        (_STREAMS[r.stream], (_prefix(r, query) + r.log).encode())
        for r in records
        if r.stream in wanted
    ]


def _prefix(record: Record, query: LogsQuery) -> str:
    stamp = f"{fixed(record.time)} " if query.timestamps else ""
    return stamp + (f"{_details(record.attrs)} " if query.details else "")


def _details(attrs: dict[str, str]) -> str:
    return ",".join(f"{quote(key)}={quote(value)}" for key, value in sorted(attrs.items()))


def fixed(text: str) -> str:
    """RFC 3339 in UTC with nine digits, so that it sorts as it reads."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}Z"


# What comes


class _Follower:
    """The place up to which the log was read, across rotations."""

    def __init__(self, path: str, query: LogsQuery) -> None:
        self.path = path
        self.query = query
        self._fd = -1
        self._rest = b""
        self.reading = _Reading(self._close)

    def begin(self, newest: Part, *, skip: bool) -> None:
        """Hold the newest file open: from its beginning, or behind what others read of it."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._fd = os.open(f"/proc/self/fd/{newest.file.fileno()}", flags)
        if skip:
            os.lseek(self._fd, newest.whole_bytes, os.SEEK_SET)

    def read(self) -> Batch | None:
        """What has come since; None if nothing has. Blocks for the disk alone."""
        data = self._read_bytes()
        if data is None:
            return None
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:]
        return render(logfile.parse(data[:cut]), self.query)

    def _read_bytes(self) -> bytes | None:
        while True:
            if self._fd >= 0:
                data = os.read(self._fd, logfile.CHUNK_BYTES)
                if data:
                    return data
            if not self._advance():
                return None

    def _advance(self) -> bool:
        """Move on to the file that came after this one; False if this is the newest."""
        for _ in range(logfile.ROTATION_ATTEMPTS):
            chain = logfile.chain(self.path)
            following = None if chain is None else self._following(chain)
            if following is None:
                time.sleep(logfile.ROTATION_PAUSE_S)  # under way just now; not the loop's thread
                continue
            if not following:
                return False
            part = logfile.open_part(*following[0])
            if part is not None:
                self._hold(part)
                return True
        return False

    def _following(self, chain: Chain) -> Chain | None:
        """The files behind the one held open; None where renames hide which they are."""
        unpacked = [place for place in chain if not place[1].endswith(".gz")]
        if self._fd < 0:
            return unpacked
        info = os.fstat(self._fd)
        inodes = [inode for inode, _ in unpacked]
        if info.st_ino in inodes:
            return unpacked[inodes.index(info.st_ino) + 1 :]
        # Rotated away altogether, or packed: what is not packed came later.
        return unpacked if info.st_nlink == 0 else None

    def _hold(self, part: Part) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._rest = os.dup(part.file.fileno()), b""
        part.close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _live(
    handle: Handle, follower: _Follower, changed: asyncio.Event
) -> AsyncIterator[Batch]:
    until_ns = follower.query.until_ns
    ended = asyncio.ensure_future(handle.waiters.register(WaitCondition.NOT_RUNNING, handle.state))
    try:
        while True:
            is_over = ended.done() or handle.state.status not in ALIVE
            changed.clear()
            while (batch := await follower.reading.disk(follower.read)) is not None:
                if batch:
                    yield batch
            if is_over or (until_ns is not None and time.time_ns() > until_ns):
                return
            await _either(changed, ended, until_ns)
    finally:
        ended.cancel()


async def _either(
    changed: asyncio.Event,
    ended: asyncio.Future[WaitResult],
    until_ns: int | None,
) -> None:
    """Until there is more to read, the container has ended, or the time is over."""
    change = asyncio.ensure_future(changed.wait())
    timeout_s = None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / 1e9)
    both: set[asyncio.Future[Any]] = {change, ended}
    try:
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await change
