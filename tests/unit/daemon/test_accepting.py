"""How connections are let in: a burst of clients waits its turn, want of descriptors its time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from compat.daemon import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Exhausted(socket.socket):
    """A listener of a process whose table of descriptors is full."""

    def accept(self) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@contextlib.asynccontextmanager
async def _serving(path: str, kind: type[socket.socket]) -> AsyncIterator[None]:
    runner: Any = SimpleNamespace(server=asyncio.Protocol)
    with kind(socket.AF_UNIX) as listener:
        listener.bind(path)
        given: Any = SimpleNamespace(socket=listener, address=path)
        (server,) = await service._accept(runner, [given], None)
        try:
            yield
        finally:
            server.close()


def test_a_burst_of_clients_finds_room_to_wait(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")

    async def main() -> None:
        async with _serving(path, socket.socket):
            # While the loop has no turn nobody lets them in.
            with contextlib.ExitStack() as clients:
                for _ in range(4 * service._ACCEPTED_AT_ONCE):
                    client = clients.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(path)

    asyncio.run(main())


def test_want_of_descriptors_is_told_a_few_times_a_second(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with _serving(path, Exhausted):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(path)
                await asyncio.sleep(0.5)

    asyncio.run(main())
    assert 0 < len(told) <= 16
    assert all(context["exception"].errno == errno.EMFILE for context in told)
