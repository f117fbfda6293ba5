"""Followers of logs: what they share, and what they leave when they go."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from engine import offload
from engine.container import logs
from engine.container.folders import Folders
from engine.linux import inotify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _pools() -> Iterator[None]:
    yield
    offload.close()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_all_who_follow_share_one_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(inotify.Inotify):
        def __init__(self) -> None:
            super().__init__()
            made.append(self.fileno())

    monkeypatch.setattr(inotify, "Inotify", Counted)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async def scenario() -> None:
        folders = Folders()
        with folders.watch(str(tmp_path / "a")) as a, folders.watch(str(tmp_path / "b")) as b:
            with folders.watch(str(tmp_path / "a")) as also:
                (tmp_path / "a/x").touch()
                await asyncio.wait_for(asyncio.gather(a.wait(), also.wait()), 5)
                assert not b.is_set()
            a.clear()
            (tmp_path / "a/y").touch()
            await asyncio.wait_for(a.wait(), 5)
            with pytest.raises(FileNotFoundError), folders.watch(str(tmp_path / "none")):
                pass
        assert len(made) == 1
        assert not _is_open(made[0])
        with folders.watch(str(tmp_path / "a")) as a:
            os.rmdir(tmp_path / "b")
        assert len(made) == 2

    asyncio.run(scenario())


def test_what_is_being_read_is_closed_afterwards() -> None:
    """A read that a cancelled follower leaves behind keeps its descriptor's number."""
    fd, other = os.pipe()
    began, go_on = threading.Event(), threading.Event()
    closed = threading.Event()

    def read() -> None:
        began.set()
        go_on.wait(5)
        assert _is_open(fd)

    def close() -> None:
        os.close(fd)
        closed.set()

    async def scenario() -> None:
        with logs._Reading(close) as reading:
            waiting = asyncio.ensure_future(reading.disk(read))
            await offload.kernel(began.wait, 5)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not closed.is_set()
        go_on.set()
        assert await offload.kernel(closed.wait, 5)
        with pytest.raises(asyncio.CancelledError):
            await reading.disk(read)

    asyncio.run(scenario())
    os.close(other)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)
