"""An engine of the API's own size: remembers what it was asked, answers what it was told to."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from compat.app import create_app, create_runner
from engine.config import EngineConfig
from engine.container import model
from engine.errors import NoSuchContainer, NoSuchExec
from engine.events import EventBus
from engine.ids import ContainerId

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable

    from engine.linux.fd import OwnedFd

ID = "4f" * 32
EXEC_ID = "ab" * 32


def container(**changes: Any) -> model.Container:
    given: dict[str, Any] = {
        "id": ContainerId(ID),
        "name": "web",
        "created_ns": 1_700_000_000_123_456_789,
        "config": model.Config(image="busybox", cmd=("sh",)),
        "host_config": model.HostConfig(network_mode="bridge"),
        "image_id": "sha256:" + "00" * 32,
        "path": "sh",
    }
    return model.Container(**{**given, **changes})


class Containers:
    """Knows one container, "web", and one exec; both talk back what they hear."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.container = container()
        self.outcome: asyncio.Future[model.WaitResult] | None = None
        self.attached = asyncio.Event()
        self.ends: list[str] = []

    def _find(self, ref: str) -> None:
        if ref not in {"web", ID}:
            raise NoSuchContainer(ref)

    async def create(self, request: model.CreateRequest) -> model.Created:
        self.asked.append(("create", request))
        return model.Created(id=ContainerId(ID))

    async def inspect(self, ref: str, with_size: bool = False) -> model.ContainerView:
        self._find(ref)
        return model.ContainerView(container=self.container)

    async def list(self, query: model.ListQuery) -> list[model.ContainerView]:
        self.asked.append(("list", query))
        return [model.ContainerView(container=self.container, image_name="busybox")]

    async def start(self, ref: str) -> None:
        self._find(ref)
        self.asked.append(("start", ref))

    async def stop(self, ref: str, *, signal: str | None, timeout_s: int | None) -> None:
        self._find(ref)
        self.asked.append(("stop", ref, signal, timeout_s))

    async def kill(self, ref: str, signal: str) -> None:
        self._find(ref)
        self.asked.append(("kill", ref, signal))

    async def update(
        self, ref: str, resources: model.Resources, policy: model.RestartPolicy | None
    ) -> tuple[str, ...]:
        self.asked.append(("update", resources, policy))
        return ()

    async def connect(self, ref: str, network: str, config: model.EndpointConfig) -> None:
        self.asked.append(("connect", ref, network, config))

    async def disconnect(self, ref: str, network: str, *, force: bool) -> None:
        self.asked.append(("disconnect", ref, network, force))

    async def resize(self, ref: str, height: int, width: int) -> None:
        self.asked.append(("resize", ref, height, width))

    async def waiter(self, ref: str, condition: model.WaitCondition) -> Awaitable[model.WaitResult]:
        self._find(ref)
        self.asked.append(("wait", condition))
        self.outcome = asyncio.get_running_loop().create_future()
        return self._wait(self.outcome)

    async def _wait(self, outcome: asyncio.Future[model.WaitResult]) -> model.WaitResult:
        try:
            return await outcome
        finally:
            self.ends.append("wait")

    async def logs(
        self, ref: str, query: model.LogsQuery
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        self._find(ref)
        self.asked.append(("logs", query))
        return self._lines(query)

    async def _lines(self, query: model.LogsQuery) -> AsyncIterator[list[tuple[int, bytes]]]:
        try:
            yield [(1, b"out\n"), (2, b"err\n")]
            while query.follow:
                await asyncio.sleep(0.01)
                yield [(1, b"more\n")]
        finally:
            self.ends.append("logs")

    async def check_attach(self, ref: str, options: model.AttachOptions) -> model.Container:
        self._find(ref)
        return self.container

    async def attach(
        self, ref: str, options: model.AttachOptions, fd: OwnedFd, prefix: bytes
    ) -> None:
        self.asked.append(("attach", options))
        self._talk_back(fd.take(), prefix)

    def _talk_back(self, fd: int, prefix: bytes) -> None:
        self._task = asyncio.ensure_future(_talk_back(fd, prefix))
        self.attached.set()

    async def exec_create(self, ref: str, config: model.ExecConfig) -> str:
        self._find(ref)
        self.asked.append(("exec_create", config))
        return EXEC_ID

    async def exec_check(self, ref: str) -> None:
        if ref != EXEC_ID:
            raise NoSuchExec(ref)

    async def exec_start(
        self, ref: str, *, fd: OwnedFd | None, prefix: bytes, **asked: Any
    ) -> None:
        self.asked.append(("exec_start", asked))
        if fd is not None:
            self._talk_back(fd.take(), prefix)

    async def exec_inspect(self, ref: str) -> model.Exec:
        await self.exec_check(ref)
        config = model.ExecConfig(cmd=("ls", "-l"), detach_keys="ctrl-a,b")
        return model.Exec(id=EXEC_ID, container_id=ContainerId(ID), config=config)


async def _talk_back(fd: int, prefix: bytes) -> None:
    """Everything heard until the client half-closes, then an epilogue after a while, as `cat`."""
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=fd) as sock, suppress(ConnectionError):
        sock.setblocking(False)
        heard = prefix
        while data := await loop.sock_recv(sock, 65536):
            heard += data
        await asyncio.sleep(0.05)
        await loop.sock_sendall(sock, b"heard " + heard)


def engine() -> SimpleNamespace:
    async def version() -> SimpleNamespace:
        return SimpleNamespace(
            arch="amd64",
            kernel_version="6.1",
            build_time="",
            git_commit="abc",
            language="python",
            components=(),
        )

    return SimpleNamespace(
        events=EventBus(), containers=Containers(), system=SimpleNamespace(version=version)
    )


@asynccontextmanager
async def serving(
    fake: SimpleNamespace, path: str, *, tls: ssl.SSLContext | None = None, **config: Any
) -> AsyncIterator[web.AppRunner]:
    """The API over `fake` on the Unix socket `path`."""
    app = create_app(fake, EngineConfig(**config))  # type: ignore[arg-type]
    runner = create_runner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, path, ssl_context=tls).start()
    try:
        yield runner
    finally:
        await runner.cleanup()
        os.unlink(path)
