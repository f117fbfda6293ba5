"""An archive from a client, kept on disk while it is looked into.

The archive is written as it comes, in the folder of the store, to a file without a name: whatever
happens, it is gone when it is closed. Members are ranges of that file: nothing is unpacked by its
name, so no name can lead anywhere.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import tempfile
from typing import TYPE_CHECKING, TypeVar

from engine import offload
from engine.image.failure import InvalidArchive
from engine.storage import compression, tar
from engine.storage.compression import CorruptStream, SourceFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")

WRITE_BYTES = 1 << 20
COPY_BYTES = 1 << 20
MOST_MEMBERS = 100_000
DEEPEST_LINK = 16


class Range(io.RawIOBase):
    """A part of a spool as a stream of its own; several may be read at once, each by one thread."""

    def __init__(self, spool: Spool, offset: int, length: int) -> None:
        super().__init__()
        self._spool = spool
        self._offset = offset
        self._left = length
        self.consumed = 0

    def read(self, n: int = -1, /) -> bytes:
        wanted = self._left if n < 0 else min(n, self._left)
        data = self._spool.read_at(self._offset, wanted) if wanted else b""
        self._offset += len(data)
        self._left -= len(data)
        self.consumed += len(data)
        return data

    def skip(self, n: int) -> int:
        """Pass over as many bytes as there are, at most n."""
        passed = min(n, self._left)
        self._offset += passed
        self._left -= passed
        return passed


class Spool:
    """A file that nobody else can name; `close` ends it, when no thread works on it any more."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (see `close`)
        self._is_stopped = False
        self.bytes = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.bytes += len(data)

    def reader(self, offset: int = 0, length: int | None = None) -> Range:
        return Range(self, offset, self.bytes - offset if length is None else length)

    def read_at(self, offset: int, n: int) -> bytes:
        """Raises InterruptedError once stopped."""
        if self._is_stopped:
            raise InterruptedError("reading the archive was cancelled")
        return os.pread(self._file.fileno(), n, offset)

    def stop(self) -> None:
        """End whoever reads in a thread, at the next piece."""
        self._is_stopped = True

    def close(self) -> None:
        """Frees the file's pages, which takes a second for ten gigabytes."""
        self._file.close()


async def close(spool: Spool) -> None:
    """Close it in a thread."""
    await offload.to_the_end(offload.disk(spool.close))


async def receive(chunks: AsyncIterator[bytes], folder: str) -> Spool:
    """Write all that comes; the caller closes the spool."""
    spool = await offload.to_the_end(offload.disk(Spool, folder), undo=close)
    try:
        pending: list[bytes] = []
        size = 0
        async for chunk in chunks:
            pending.append(chunk)
            size += len(chunk)
            if size >= WRITE_BYTES:
                await offload.to_the_end(offload.disk(spool.write, b"".join(pending)))
                pending, size = [], 0
        if pending:
            await offload.to_the_end(offload.disk(spool.write, b"".join(pending)))
    except BaseException:
        await close(spool)
        raise
    return spool


async def reading(
    spool: Spool, call: Awaitable[T], undo: Callable[[T], Awaitable[object]] | None = None
) -> T:
    """Await what reads the spool in a thread; cancelled, stop all reading and wait for its end."""
    return await offload.to_the_end(call, undo, stop=spool.stop)


class Archive:
    """The members of a tar in a spool, by name. Links within it are followed, by name too."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._index()

    def _index(self) -> None:
        stream = self.spool.reader()
        reader = tar.Reader(stream, _ignore, skip=stream.skip)
        while (header := reader.next()) is not None:
            if _leads_out(header.name):
                raise InvalidArchive(f"invalid entry name {_quoted(header.name)}")
            name = _clean(header.name)
            self._files.pop(name, None)
            self._links.pop(name, None)
            if header.type in (tar.REGULAR, tar.CONTIGUOUS) and header.sparse is None:
                self._files[name] = (reader.position, header.stored)
            elif header.type == tar.SYMLINK:
                target = os.fsdecode(header.linkname)
                self._links[name] = _clean_text(posixpath.join(posixpath.dirname(name), target))
            elif header.type == tar.HARD_LINK:
                if _leads_out(header.linkname):
                    raise InvalidArchive(f"invalid hardlink target {_quoted(header.linkname)}")
                self._links[name] = _clean(header.linkname)
            if len(self._files) + len(self._links) > MOST_MEMBERS:
                raise InvalidArchive(f"archive has more than {MOST_MEMBERS} members")

    def names(self) -> list[str]:
        return [*self._files, *self._links]

    def folders(self) -> list[str]:
        """The first components of names that have more than one, sorted."""
        return sorted({name.partition("/")[0] for name in self.names() if "/" in name})

    def find(self, name: str) -> str | None:
        """The file that a name means, links followed, None if there is none."""
        name = _clean_text(name)
        for _ in range(DEEPEST_LINK):
            if name in self._files:
                return name
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def _range(self, name: str) -> tuple[int, int]:
        found = self.find(name)
        if found is None:
            raise InvalidArchive(f"open {name}: no such file or directory")
        return self._files[found]

    def size(self, name: str) -> int:
        return self._range(name)[1]

    def open(self, name: str) -> Range:
        """A reader of the member; raises InvalidArchive if there is none."""
        return self.spool.reader(*self._range(name))

    def read(self, name: str, *, largest_bytes: int) -> bytes:
        """The whole of a document."""
        offset, size = self._range(name)
        if size > largest_bytes:
            raise InvalidArchive(f"{name} is larger than {largest_bytes} bytes")
        return self.spool.reader(offset, size).read()


def _ignore(_: bytes) -> None:
    pass


def _leads_out(name: bytes) -> bool:
    """Members are ranges, so it would lead nowhere; but whoever wrote it meant no good."""
    return posixpath.normpath(name.lstrip(b"/")).split(b"/")[0] == b".."


def _quoted(name: bytes) -> str:
    return json.dumps(name.decode(errors="replace"), ensure_ascii=False)


def _clean(name: bytes) -> str:
    return _clean_text(os.fsdecode(name))


def _clean_text(name: str) -> str:
    """Relative to the archive's root; `..` stops there."""
    return posixpath.normpath("/" + name).lstrip("/")


async def plain(spool: Spool, folder: str) -> Spool:
    """The spool itself if it is not compressed, else a plain copy; the former is closed then.

    Raises CorruptStream.
    """
    return await reading(spool, offload.unpack(_plain, spool, folder), undo=close)


def _plain(spool: Spool, folder: str) -> Spool:
    if compression.detect(spool.reader(0, min(10, spool.bytes)).read()) is (
        compression.Compression.NONE
    ):
        return spool
    copy = Spool(folder)
    try:
        stream = compression.plain(spool.reader())
        while data := stream.read(COPY_BYTES):
            copy.write(data)
    except BaseException as exc:
        copy.close()
        if isinstance(exc, SourceFailed):
            raise exc.__cause__ or exc from None
        raise
    finally:
        spool.close()
    return copy


async def open_archive(spool: Spool) -> Archive:
    """Look into a plain spool; raises InvalidArchive with Go's sentence."""
    return await reading(spool, offload.disk(_open_archive, spool))


def _open_archive(spool: Spool) -> Archive:
    try:
        return Archive(spool)
    except (tar.CorruptTar, CorruptStream) as exc:
        raise InvalidArchive(str(exc)) from exc
