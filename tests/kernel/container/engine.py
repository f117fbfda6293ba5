"""An engine of its own for a test, in the process: containers are real, the API is not there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import EngineConfig
from engine.container.model import (
    Config,
    CreateRequest,
    HostConfig,
    LogsQuery,
    WaitCondition,
)
from engine.engine import Engine
from tests.support import images
from tests.support import leftovers as on_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.container.model import ContainerView, WaitResult

TIMEOUT_S = 100.0


class House:
    """An engine that can be closed, killed and opened again on the same data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = EngineConfig(data_root=str(root / "data"), exec_root=str(root / "run"))
        self.engine: Engine

    async def open(self) -> None:
        self.engine = await Engine.open(self.config)
        if self.engine.images.find("busybox") is None:
            archive = images.docker_archive({"busybox:latest": images.busybox()})
            async for _ in self.engine.images.load(_one(archive)):
                pass

    async def create(
        self, *cmd: str, host: HostConfig | None = None, name: str = "", **config: Any
    ) -> str:
        request = CreateRequest(
            name=name,
            config=Config(image="busybox", cmd=cmd, **config),
            host_config=host or HostConfig(),
        )
        return (await self.engine.containers.create(request)).id

    async def start(self, *cmd: str, **facts: Any) -> str:
        container_id = await self.create(*cmd, **facts)
        await self.engine.containers.start(container_id)
        return container_id

    async def run(self, *cmd: str, **facts: Any) -> tuple[int, str]:
        """(exit code, both streams together) of a container that is removed again."""
        container_id = await self.create(*cmd, **facts)
        ended = await self.engine.containers.waiter(container_id, WaitCondition.NEXT_EXIT)
        await self.engine.containers.start(container_id)
        result = await self.within(ended)
        output = await self.output(container_id)
        await self.engine.containers.remove(container_id, volumes=True)
        return result.exit_code, output

    async def within(self, waiting: Any) -> WaitResult:
        return await asyncio.wait_for(asyncio.ensure_future(waiting), TIMEOUT_S)

    async def ended(self, ref: str) -> WaitResult:
        return await self.within(
            await self.engine.containers.waiter(ref, WaitCondition.NOT_RUNNING)
        )

    async def output(self, ref: str, query: LogsQuery | None = None) -> str:
        query = query or LogsQuery(stdout=True, stderr=True)
        pieces: list[bytes] = []
        async for batch in await self.engine.containers.logs(ref, query):
            pieces += [piece for _, piece in batch]
        return b"".join(pieces).decode()

    async def view(self, ref: str) -> ContainerView:
        return await self.engine.containers.inspect(ref)

    async def close(self) -> None:
        """End all containers, then the engine."""
        for handle in list(self.engine.containers._rooms.store.all()):
            await self.engine.containers.remove(handle.id, force=True, volumes=True)
        await self.engine.close()

    def remove(self) -> None:
        """The end, however it came to it: nothing of the engine stays on the host."""
        on_host.remove(self.root, self.config.instance)
        shutil.rmtree(self.root, ignore_errors=True)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    root = Path(tempfile.mkdtemp(prefix="wharf-kernel-"))
    made = House(root)
    try:
        await made.open()
        try:
            yield made
        finally:
            await made.close()
        # The kernel takes the links of a namespace away a moment after the namespace.
        for _ in range(60):
            if not (left := leftovers(made.config)):
                break
            await asyncio.sleep(0.05)
        assert not left, f"left behind: {left}"
    finally:
        made.remove()


def leftovers(config: EngineConfig) -> list[str]:
    """What an engine that was closed with nothing running must not leave on the host."""
    found = os.listdir(os.path.join(config.exec_root, "containers"))
    namespaces = Path(config.exec_root, "netns")
    if namespaces.exists():
        found += [n for n in os.listdir(namespaces) if n != "default"]
    mounts = Path("/proc/self/mountinfo").read_text()
    found += [line for line in mounts.splitlines() if config.data_root in line]
    found += [line for line in mounts.splitlines() if config.exec_root in line]
    looks = (on_host.links, on_host.cgroups, on_host.nft_tables, on_host.accepts)
    return found + [line for look in looks for line in look(config.instance)]


def in_house(body: Any) -> Any:
    """Run an async test with a House of its own."""

    def test() -> None:
        async def main() -> None:
            async with house() as made:
                await body(made)

        asyncio.run(main())

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


def socket_pair() -> tuple[socket.socket, int]:
    """(our end, not blocking; the descriptor to give away)."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs.detach()


async def read_all(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while piece := await asyncio.wait_for(loop.sock_recv(client, 1 << 16), TIMEOUT_S):
        data += piece
    client.close()
    return data
