"""Memory that runs out, ports that are held, logs that are long, and monitors that are small."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from engine.linux import cgroup
from engine.runtime.client import Listener, RuntimeFailure
from tests.kernel.runtime.harness import Box, attach, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

    InBox = Callable[[Any], Any]


def test_memory_that_runs_out_is_told_and_recorded(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
        limit = 32 << 20
        bundle.spec["linux"]["resources"]["memory"] = {"limit": limit, "swap": limit}
        await box.start(bundle)
        exit = await asyncio.wait_for(box.events.exit_of(bundle.id), 20)
        assert (exit.code, exit.signal, exit.oom) == (137, 9, True)
        assert box.events.ooms == [bundle.id]

    in_box(scenario)


def test_a_limit_that_cannot_be_leaves_nothing(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true")
        bundle.spec["linux"]["resources"]["cpu"] = {"cpus": "4000"}
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert failure.value.step == "cgroup"
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def _listener(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    sock.bind(("::1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def test_a_held_port_is_relayed_and_freed(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        held = _listener(socket.SOCK_STREAM)
        port = held.getsockname()[1]
        listener = Listener(
            held.detach(),
            protocol="tcp",
            host_ip="::1",
            host_port=port,
            target_ip="127.0.0.1",
            target_port=server.getsockname()[1],
        )
        bundle = box.bundle("sleep", "100")
        task = await box.runtime.create(bundle, listeners=[listener])
        await task.start()
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("::1", port)
        inner, _ = await loop.sock_accept(server)
        payload = bytes(range(256)) * 4096
        writer.write(payload)
        writer.write_eof()
        assert await read_all(inner) == payload
        await loop.sock_sendall(inner, payload[::-1])
        inner.close()
        assert await reader.read() == payload[::-1]
        writer.close()
        await writer.wait_closed()
        server.close()
        await task.signal(9)
        await box.events.exit_of(bundle.id)
        with socket.socket(socket.AF_INET6) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("::1", port))

    in_box(scenario)


def test_datagrams_find_their_way_back(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        held = _listener(socket.SOCK_DGRAM)
        port = held.getsockname()[1]
        listener = Listener(
            held.detach(),
            protocol="udp",
            host_ip="::1",
            host_port=port,
            target_ip="127.0.0.1",
            target_port=server.getsockname()[1],
        )
        bundle = box.bundle("sleep", "100")
        task = await box.runtime.create(bundle, listeners=[listener])
        await task.start()
        loop = asyncio.get_running_loop()
        clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
        for number, client in enumerate(clients):
            client.setblocking(False)
            client.connect(("::1", port))
            client.send(b"%d" % number)
            data, address = await asyncio.wait_for(loop.sock_recvfrom(server, 100), 5)
            await loop.sock_sendto(server, b"re:" + data, address)
        for number, client in enumerate(clients):
            assert await asyncio.wait_for(loop.sock_recv(client, 100), 5) == b"re:%d" % number
            client.close()
        server.close()
        await task.signal(9)
        await box.events.exit_of(bundle.id)

    in_box(scenario)


def test_binary_output_without_a_newline(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("dd", "if=/dev/zero", "bs=1M", "count=4")
        attachment, client = attach(stdin=False, stderr=False)
        await box.start(bundle, attachment)
        assert await read_all(client) == bytes(4 << 20)
        client.close()
        await box.events.exit_of(bundle.id)
        assert box.output(bundle).count("\0") == 4 << 20

    in_box(scenario)


def test_a_waiting_monitor_is_small(in_box: InBox) -> None:
    """It shares what it can; the rest is what CPython writes to by looking at it."""

    async def scenario(box: Box) -> None:
        bundles = [box.bundle("sleep", "100") for _ in range(10)]
        tasks = [await box.start(bundle) for bundle in bundles]
        sizes = sorted(_private_kb(task.monitor_pid) for task in tasks)
        for bundle, task in zip(bundles, tasks, strict=True):
            await task.signal(9)
            await box.events.exit_of(bundle.id)
        assert sizes[5] < 1150

    in_box(scenario)


def _private_kb(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))
