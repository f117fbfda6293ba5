"""The daemon's side of the launcher when that is busy, or ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from engine.runtime.client import Attachment, Bundle, Runtime
from engine.runtime.forkserver import Launcher as ForkServer

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Busy:
    """A launcher whose socket is full, and its other end."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x")
        process: Any = None
        self.launcher = ForkServer(process, ours)
        self.waiting = [
            asyncio.ensure_future(self.launcher.launch(f"{number:064}", 0)) for number in range(5)
        ]

    async def all_done(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self.waiting), 10)

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.theirs.recv(100):
                continue


def play(scenario: Awaitable[None]) -> None:
    async def main() -> None:
        await scenario

    asyncio.run(main())


def test_all_who_wait_for_a_busy_launcher_get_their_turn() -> None:
    async def scenario() -> None:
        busy = Busy()
        await asyncio.sleep(0)
        busy.take()
        await busy.all_done()
        busy.launcher._let_go()
        busy.theirs.close()

    play(scenario())


def test_who_waits_for_a_launcher_that_ends_is_not_left_waiting() -> None:
    async def scenario() -> None:
        busy = Busy()
        await asyncio.sleep(0)
        busy.theirs.close()
        await busy.all_done()
        assert not busy.launcher.is_alive

    play(scenario())


def test_a_start_without_descriptors_leaves_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        runtime = Runtime(str(tmp_path), events=None)  # type: ignore[arg-type]

        class Launcher:
            is_alive = True

            async def launch(self, container_id: str, fd: int) -> None:
                return

        monkeypatch.setattr(runtime, "_launcher", Launcher())
        given, other = socket.socketpair()
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", _no_descriptors)
            with pytest.raises(OSError, match="Too many"):
                await runtime.create(
                    Bundle(id="x", spec={}), attachments=[Attachment(given.detach())]
                )
        assert not runtime._tasks
        other.close()

    play(scenario())


def _no_descriptors(_fd: int) -> int:
    raise OSError(24, os.strerror(24))
