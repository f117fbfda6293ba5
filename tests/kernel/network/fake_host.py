"""A host of our own to make a mess of: network and mount namespaces of a forked child.

    @in_fake_host
    async def test_something(host: FakeHost) -> None: ...

The child has `lo`, and an uplink `eth0` 192.0.2.2/24 to a neighbour at 192.0.2.1 that is a network
namespace of its own. All of it ends with the child, whatever the test does.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import tempfile
import traceback
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, TypeVar

import pytest

from engine import offload
from engine.config import EngineConfig
from engine.events import EventBus
from engine.ids import ContainerId, generate
from engine.linux import netlink, netns, syscalls
from engine.network.manager import Networks
from engine.network.model import SandboxRequest
from engine.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

UPLINK = "192.0.2.2"
NEIGHBOUR = "192.0.2.1"


class FakeHost:
    """Made inside the child; `folder` is thrown away with it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.neighbour = f"{folder}/neighbour"
        with netlink.Socket() as sock:
            sock.execute(netlink.set_up(1, "lo"))
            sock.execute(netlink.add_bridge("uplink", mac="02:00:00:00:00:fe", mtu=1500))
            uplink = netlink.link(sock, "uplink")
            assert uplink is not None
            sock.execute(
                netlink.add_address(uplink.index, ip_interface(f"{UPLINK}/24")),
                netlink.set_up(uplink.index),
            )
            netns.create(self.neighbour, functools.partial(self._plug, sock, uplink.index))

    @staticmethod
    def _plug(host: netlink.Socket, master: int, fd: int) -> None:
        host.execute(
            netlink.add_veth(
                "cable",
                master=master,
                mtu=1500,
                peer="eth0",
                peer_mac="02:00:00:00:00:01",
                peer_netns=fd,
            )
        )
        with netlink.Socket() as inside:
            index = socket.if_nametoindex("eth0")
            inside.execute(
                netlink.set_up(1, "lo"),
                netlink.add_address(index, ip_interface(f"{NEIGHBOUR}/24")),
                netlink.set_up(index),
                netlink.add_default_route(index, ip_address(UPLINK)),
            )
        host.execute(netlink.raise_port("cable", hairpin=False, isolated=False))

    def config(self, **changes: object) -> EngineConfig:
        paths = {"data_root": f"{self.folder}/data", "exec_root": f"{self.folder}/run"}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        return EngineConfig(**{**paths, **changes})  # type: ignore[arg-type]

    async def networks(self, **changes: object) -> Networks:
        """A started engine's networks; several in turn are restarts of one engine."""
        config = self.config(**changes)
        found = Networks(config, Database(f"{config.data_root}/engine.db"), EventBus())
        await found.open_engine()
        return found

    def request(self, name: str = "one", **changes: object) -> SandboxRequest:
        folder = f"{self.folder}/{name}"
        os.makedirs(folder, exist_ok=True)
        facts: dict[str, object] = {
            "container_id": ContainerId(generate()),
            "name": name,
            "hostname": name,
            "hosts_path": f"{folder}/hosts",
            "resolv_conf_path": f"{folder}/resolv.conf",
            "hostname_path": f"{folder}/hostname",
        }
        return SandboxRequest(**{**facts, **changes})  # type: ignore[arg-type]

    def within(self, path: str | None, action: Callable[[], T]) -> T:
        """Call something in a network namespace; None is the host's own."""
        return action() if path is None else netns.enter(path, lambda _: action())

    def serve(self, path: str | None, port: int, text: str, *, kind: str = "tcp") -> None:
        """Answer `text` and the asker's address on a port, until the end of the test."""
        sock = self.within(path, functools.partial(_server, port, kind))
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, _answer, sock, text, kind)

    async def ask(
        self, path: str | None, address: str, port: int, *, kind: str = "tcp", source: str = ""
    ) -> str | None:
        """What a server answers; None where none does within a moment."""
        return await asyncio.to_thread(
            self.within, path, functools.partial(_ask, address, port, kind, source)
        )


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _server(port: int, kind: str) -> socket.socket:
    stream = kind == "tcp"
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    if stream:
        sock.listen()
    return sock


def _answer(sock: socket.socket, text: str, kind: str) -> None:
    if kind == "tcp":
        client, (host, *_) = sock.accept()
        with client:
            client.sendall(f"{text} {host.removeprefix('::ffff:')}".encode())
        return
    _, peer = sock.recvfrom(100)
    sock.sendto(f"{text} {peer[0].removeprefix('::ffff:')}".encode(), peer)


def _ask(address: str, port: int, kind: str, source: str) -> str | None:
    stream = kind == "tcp"
    family = _family(address)
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.7)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            if not stream:
                sock.send(b"?")
            return sock.recv(100).decode() or None
        except OSError:
            return None


def in_fake_host(test: Callable[[FakeHost], Awaitable[None]]) -> Callable[[], None]:
    """Run the test in a child that has namespaces of its own."""

    @functools.wraps(test)
    def run() -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os._exit(_child(test, writing))
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as file:
            said = file.read()
        _, status = os.waitpid(child, 0)
        if status:
            pytest.fail(said or f"the child ended with status {status}", pytrace=False)

    run.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    return run


def _child(test: Callable[[FakeHost], Awaitable[None]], writing: int) -> int:
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
        private = syscalls.MS_REC | syscalls.MS_PRIVATE
        syscalls.mount(None, "/", None, private, None)
        with tempfile.TemporaryDirectory(prefix="wharf-network-") as folder:
            try:
                asyncio.run(_whole(test, folder))
            finally:
                for root, _, names in os.walk(folder):
                    for name in names:
                        path = os.path.join(root, name)
                        if os.stat(path).st_dev != os.stat(root).st_dev:
                            netns.remove(path)
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
        return 1
    return 0


async def _whole(test: Callable[[FakeHost], Awaitable[None]], folder: str) -> None:
    try:
        await test(FakeHost(folder))
    finally:
        offload.close()
