"""Archives on disk, and clients that leave while threads work on them."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from engine.image import spool
from engine.image.failure import InvalidArchive
from engine.image.spool import Spool
from tests.support.images import file, tar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

DATA = os.urandom(3 << 20)


class Gate:
    """Stops the first call of something in its thread; `log` says what ended and what closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self._reached = threading.Event()
        self._opened = threading.Event()
        self._monkeypatch = monkeypatch
        close = Spool.close

        def noted_close(spool: Spool) -> None:
            is_loop = threading.current_thread() is threading.main_thread()
            self.log.append("closed on the loop" if is_loop else "closed")
            close(spool)

        monkeypatch.setattr(Spool, "close", noted_close)

    def stop_in(self, owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def stopped(*args: Any, **kwargs: Any) -> Any:
            if not self._reached.is_set():
                self._reached.set()
                self._opened.wait(10)
            try:
                return inner(*args, **kwargs)
            finally:
                self.log.append(name)

        self._monkeypatch.setattr(owner, name, stopped)

    def leave(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Cancel the work twice while its thread stands at the gate; only then let that go on."""

        async def scenario() -> None:
            task = asyncio.create_task(work())
            assert await asyncio.to_thread(self._reached.wait, 10)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.02)
            assert not task.done()
            self._opened.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        try:
            asyncio.run(scenario())
        finally:
            self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


def spooled(folder: Path, data: bytes) -> Spool:
    made = Spool(str(folder))
    made.write(data)
    return made


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_spool_stays_open_while_it_is_written(gate: Gate, tmp_path: Path) -> None:
    gate.stop_in(Spool, "write")
    gate.leave(lambda: spool.receive(chunks(DATA), str(tmp_path)))
    assert gate.log == ["write", "closed"]


def test_a_spool_that_comes_too_late_is_closed(gate: Gate, tmp_path: Path) -> None:
    gate.stop_in(spool.tempfile, "TemporaryFile")
    gate.leave(lambda: spool.receive(chunks(DATA), str(tmp_path)))
    assert gate.log == ["TemporaryFile", "closed"]


def test_unpacking_an_archive_ends_when_the_client_leaves(gate: Gate, tmp_path: Path) -> None:
    packed = spooled(tmp_path, gzip.compress(DATA))
    before = open_files()
    gate.stop_in(Spool, "write")
    gate.leave(lambda: spool.plain(packed, str(tmp_path)))
    assert gate.log == ["write", "closed", "closed"]  # one piece of three, the copy, the archive
    assert open_files() == before - 1


def test_a_plain_copy_that_nobody_waits_for_is_closed(gate: Gate, tmp_path: Path) -> None:
    packed = spooled(tmp_path, gzip.compress(b"little"))
    before = open_files()
    gate.stop_in(packed, "close")  # behind the last byte: the copy is whole
    gate.leave(lambda: spool.plain(packed, str(tmp_path)))
    assert gate.log == ["closed", "close", "closed"]
    assert open_files() == before - 1


def test_looking_into_an_archive_ends_when_the_client_leaves(gate: Gate, tmp_path: Path) -> None:
    received = spooled(tmp_path, tar({f"f{n}": file(b"") for n in range(100)}))
    gate.stop_in(Spool, "read_at")
    gate.leave(lambda: spool.open_archive(received))
    assert gate.log == ["read_at"]
    received.close()


def test_a_disk_that_fails_is_no_broken_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = spooled(tmp_path, gzip.compress(DATA))
    read = os.pread

    def pread(fd: int, n: int, offset: int) -> bytes:
        if offset > 100_000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, n, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="Input/output error"):
        asyncio.run(spool.plain(packed, str(tmp_path)))


def test_a_client_that_stays(tmp_path: Path) -> None:
    async def names() -> list[str]:
        received = await spool.receive(
            chunks(gzip.compress(tar({"a/b": file(DATA)}))), str(tmp_path)
        )
        plain = await spool.plain(received, str(tmp_path))
        try:
            opened = await spool.open_archive(plain)
            assert await asyncio.to_thread(opened.read, "a/b", largest_bytes=len(DATA)) == DATA
            return opened.names()
        finally:
            await spool.close(plain)

    assert "a/b" in asyncio.run(names())


def test_no_archive(tmp_path: Path) -> None:
    received = spooled(tmp_path, os.urandom(2000))
    with pytest.raises(InvalidArchive, match="invalid tar header"):
        asyncio.run(spool.open_archive(received))
    received.close()
