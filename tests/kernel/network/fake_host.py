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
import struct
import subprocess
import tempfile
import time
import traceback
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, TypeVar

import pytest
from pyroute2 import IPRoute

from engine import offload
from engine.config import EngineConfig
from engine.events import EventBus
from engine.ids import ContainerId, generate
from engine.linux import netlink, netns, syscalls
from engine.network.manager import Networks
from engine.network.model import DEFAULT, EndpointConfig, SandboxRequest
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
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write("0")  # a new namespace begins with what the machine has
        with netlink.Socket() as sock:
            sock.execute(netlink.set_up(1, "lo"))
            sock.execute(netlink.add_bridge("uplink", mac="02:00:00:00:00:fe"))
            uplink = netlink.link(sock, "uplink")
            assert uplink is not None
            sock.execute(
                netlink.add_address(uplink.index, ip_interface(f"{UPLINK}/24")),
                netlink.set_up(uplink.index),
            )
        self.plug("uplink", self.neighbour, NEIGHBOUR, UPLINK)

    @staticmethod
    def plug(bridge: str, path: str, address: str, gateway: str) -> None:
        """A machine of its own at the end of a cable: a namespace with a /24 address."""
        with netlink.Socket() as host:
            master = netlink.link(host, bridge)
            assert master is not None
            cable = f"c-{bridge}"

            def furnish(fd: int) -> None:
                mac = f"02:00:00:00:{len(bridge):02x}:01"
                add = netlink.add_veth(
                    cable, master=master.index, mtu=1500, peer="eth0", peer_mac=mac, peer_netns=fd
                )
                host.execute(add)
                index = socket.if_nametoindex("eth0")
                netlink.execute(
                    [
                        netlink.set_up(1, "lo"),
                        netlink.add_address(index, ip_interface(f"{address}/24")),
                        netlink.set_up(index),
                        netlink.add_default_route(index, ip_address(gateway)),
                    ]
                )

            netns.create(path, furnish)
            host.execute(netlink.raise_port(cable, hairpin=False, isolated=False))

            def is_ready() -> bool:
                with netlink.Socket() as inside:
                    found = netlink.link(inside, "eth0")
                return found is not None and found.is_operational

            while not netns.enter(path, lambda _: is_ready()):
                time.sleep(0.001)

    def config(self, **changes: object) -> EngineConfig:
        paths = {"data_root": f"{self.folder}/data", "exec_root": f"{self.folder}/run"}
        for path in paths.values():
            os.makedirs(path, exist_ok=True)
        return EngineConfig(**{**paths, **changes})  # type: ignore[arg-type]

    async def networks(self, *, settle: bool = True, **changes: object) -> Networks:
        """A started engine's networks; several in turn are restarts of one engine."""
        config = self.config(**changes)
        self.events = EventBus()
        found = Networks(config, Database(f"{config.data_root}/engine.db"), self.events)
        await found.open_engine()
        if settle:
            await found.settle()
        return found

    def happened(self) -> list[tuple[str, str]]:
        """(action, network name) of every network event of the engine started last."""
        events = self.events.past(since_ns=0)
        named = (e for e in events if e.type == "network")
        return [(e.action, e.attributes.get("name", "")) for e in named]

    @staticmethod
    def ip(*commands: str) -> None:
        """Run ip(8) of busybox in the namespace of this thread."""
        for command in commands:
            subprocess.run(["busybox", "ip", *command.split()], check=True)

    @staticmethod
    def read(path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()

    def sandboxes(self) -> list[str]:
        """Files that keep a namespace."""
        folder = f"{self.folder}/run/netns"
        return os.listdir(folder) if os.path.isdir(folder) else []

    def links(self) -> set[str]:
        """Names of the host's links that are an engine's."""
        return {name for _, name in socket.if_nameindex() if name.startswith("wh")}

    @staticmethod
    async def link(name: str) -> tuple[int, set[str]]:
        """The MTU and the addresses of a link, link-local ones apart, as pyroute2 reads them."""

        def read() -> tuple[int, set[str]]:
            with IPRoute() as route:
                index = socket.if_nametoindex(name)
                (found,) = route.get_links(index)
                addresses = route.get_addr(index=index)
            texts = {f"{a.get('address')}/{a['prefixlen']}" for a in addresses}
            return found.get("mtu"), {t for t in texts if not ip_interface(t).is_link_local}

        return await asyncio.to_thread(read)

    async def becomes(self, wanted: T, look: Callable[[], T]) -> bool:
        """Whether something is so within a few seconds."""
        for _ in range(200):
            if look() == wanted:
                return True
            await asyncio.sleep(0.02)
        return False

    def send_raw(self, path: str, destination: str, port: int) -> None:
        """A UDP datagram from the neighbour's link that no honest routing would send."""
        self.within(path, functools.partial(_send_raw, destination, port))

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
            "endpoints": {str(changes.get("mode", DEFAULT)): EndpointConfig()},
        }
        if isinstance(bindings := changes.get("port_bindings"), dict):
            facts["exposed_ports"] = tuple(bindings)
        return SandboxRequest(**{**facts, **changes})  # type: ignore[arg-type]

    def within(self, path: str | None, action: Callable[[], T]) -> T:
        """Call something in a network namespace; None is the host's own."""
        return action() if path is None else netns.enter(path, lambda _: action())

    def serve(self, path: str | None, port: int, text: str, *, kind: str = "tcp") -> list[str]:
        """Answer `text` and the asker's address on a port; who asked is added to the list."""
        sock = self.within(path, functools.partial(_server, port, kind))
        loop = asyncio.get_running_loop()
        askers: list[str] = []
        loop.add_reader(sock, _answer, sock, text, kind, askers)
        return askers

    async def ask(
        self, path: str | None, address: str, port: int, *, kind: str = "tcp", source: str = ""
    ) -> str | None:
        """What a server answers; None where none does within a moment."""
        return await asyncio.to_thread(
            self.within, path, functools.partial(_ask, address, port, kind, source)
        )


def _send_raw(destination: str, port: int) -> None:
    text = b"forged"
    udp = struct.pack(">HHHH", 4000, port, 8 + len(text), 0) + text
    length, ttl = 20 + len(udp), 64
    addresses = socket.inet_aton(NEIGHBOUR) + socket.inet_aton(destination)
    header = struct.pack(">BBHHHBBH", 0x45, 0, length, 1, 0, ttl, 17, 0) + addresses
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack(">H", checksum) + header[12:]
    ethernet = bytes.fromhex("0200000000fe020000000601") + b"\x08\x00"
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind(("eth0", 0))
        sock.send(ethernet + header + udp)


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


def _answer(sock: socket.socket, text: str, kind: str, askers: list[str]) -> None:
    if kind == "tcp":
        client, (host, *_) = sock.accept()
        askers.append(host.removeprefix("::ffff:"))
        with client:
            client.sendall(f"{text} {askers[-1]}".encode())
        return
    _, peer = sock.recvfrom(100)
    askers.append(peer[0].removeprefix("::ffff:"))
    sock.sendto(f"{text} {askers[-1]}".encode(), peer)


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
        # Threads of tests before this one would not be there in the child, but their pools would.
        offload.close()
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
