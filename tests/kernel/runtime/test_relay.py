"""What a relay does with connections that end in the middle."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from engine.linux import listening
from engine.runtime.monitor.loop import Loop
from engine.runtime.monitor.relay import Relay, key_of
from engine.runtime.protocol import ListenerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = b"x" * (64 << 10)


class Relayed:
    """A relay between a client and a server, whose loop runs when a test says so."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held = socket.create_server(("127.0.0.1", 0))
        self.address = held.getsockname()
        self.loop = Loop()
        ip, port = self.server.getsockname()
        options = ListenerOptions(
            protocol="tcp", host_ip=ip, host_port=0, target_ip=ip, target_port=port
        )
        self.relay = Relay(self.loop, held.detach(), [options])
        self.client = socket.create_connection(self.address)
        self.run(0.05)
        self.inner, _ = self.server.accept()

    def run(self, seconds: float) -> int:
        """For so long; how many events there were."""
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            for fd, events in self.loop._epoll.poll(left):
                count += 1
                handler = self.loop._handlers.get(fd)
                if handler is not None:
                    handler(events)
        return count

    def close(self) -> None:
        self.relay.close()
        self.loop._epoll.close()
        for sock in (self.server, self.client, self.inner):
            sock.close()


@pytest.fixture
def relayed() -> Iterator[Relayed]:
    relayed = Relayed()
    yield relayed
    relayed.close()


def _fill(relayed: Relayed) -> int:
    """Send until the relay takes no more, because the server does not read; how much it was."""
    relayed.client.setblocking(False)
    sent = 0
    while True:
        sent += relayed.client.send(CHUNK)
        if relayed.run(0.05) == 0:
            return sent


def test_a_client_that_ends_while_the_server_does_not_read(relayed: Relayed) -> None:
    """Both directions are over for the client, so the kernel tells of it without end."""
    sent = _fill(relayed)
    relayed.inner.shutdown(socket.SHUT_WR)
    relayed.run(0.05)
    relayed.client.shutdown(socket.SHUT_WR)
    relayed.run(0.05)
    assert relayed.run(0.2) < 10
    received = bytearray()

    def read() -> None:
        while data := relayed.inner.recv(1 << 16):
            received.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 10
    while reader.is_alive() and time.monotonic() < deadline:
        relayed.run(0.05)
    reader.join(1)
    assert len(received) == sent
    assert not relayed.relay._streams


def test_a_client_that_breaks_off_while_the_server_does_not_read(relayed: Relayed) -> None:
    _fill(relayed)
    relayed.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    relayed.client.close()
    relayed.run(0.05)
    assert relayed.run(0.2) < 10


class Dual:
    """A socket for any address of both families; a server for what comes by each."""

    def __init__(self, protocol: str) -> None:
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        self.loop = Loop()
        self.servers: list[socket.socket] = []
        self.leads: list[ListenerOptions] = []
        fd = listening.bind(protocol, "::", 0, is_dual=True)
        self.port = _port_of(fd)
        for host, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
            server = socket.socket(family, kind)
            server.bind((host, 0))
            server.settimeout(5)
            if kind == socket.SOCK_STREAM:
                server.listen()
            self.servers.append(server)
            self.leads.append(
                ListenerOptions(
                    protocol=protocol,
                    host_ip=host,
                    host_port=self.port,
                    target_ip="::1" if ":" in host else "127.0.0.1",
                    target_port=server.getsockname()[1],
                )
            )
        self.relay = Relay(self.loop, fd, self.leads[:1])
        self.relay.share(self.leads[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.loop.is_running:
            for fd, events in self.loop._epoll.poll(0.02):
                handler = self.loop._handlers.get(fd)
                if handler is not None:
                    handler(events)

    def stop(self) -> None:
        """From here on the relay is the test's."""
        self.loop.is_running = False
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self.relay.close()
        self.loop._epoll.close()
        for server in self.servers:
            server.close()


def _port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        number: int = sock.getsockname()[1]
        return number


@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
def test_one_socket_leads_each_family_to_its_target(number: int) -> None:
    dual = Dual("tcp")
    try:
        with socket.create_connection((("127.0.0.1", "::1")[number], dual.port), 5) as client:
            inner, _ = dual.servers[number].accept()
            with inner:
                client.sendall(b"there")
                assert inner.recv(9) == b"there"
    finally:
        dual.close()


@pytest.mark.parametrize(
    ("number", "address"), [(0, "127.0.0.1"), (0, "127.0.0.2"), (1, "::1")], ids=str
)
def test_one_socket_answers_datagrams_from_where_they_were_asked(number: int, address: str) -> None:
    dual = Dual("udp")
    try:
        with socket.socket((socket.AF_INET, socket.AF_INET6)[number], socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(b"there", (address, dual.port))
            data, peer = dual.servers[number].recvfrom(9)
            dual.servers[number].sendto(data + b" back", peer)
            answer, source = client.recvfrom(99)
            assert (answer, source[0]) == (b"there back", address)
    finally:
        dual.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("gone", [0, 1], ids=["IPv4", "IPv6"])
def test_one_family_of_a_socket_is_given_up(gone: int, protocol: str) -> None:
    dual = Dual(protocol)
    try:
        dual.stop()
        dual.relay.drop({key_of(dual.leads[gone])})
        assert dual.relay.keys == [key_of(dual.leads[1 - gone])]
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        for number, family in ((0, socket.AF_INET), (1, socket.AF_INET6)):
            with socket.socket(family, kind) as other:
                if family == socket.AF_INET6:
                    other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if number == gone:
                    other.bind((dual.leads[number].host_ip, dual.port))
                else:
                    with pytest.raises(OSError, match="in use"):
                        other.bind((dual.leads[number].host_ip, dual.port))
    finally:
        dual.close()


def test_much_arrives_as_it_was_sent_in_both_directions() -> None:
    """So much that it goes through a pipe of the kernel's; the readers are slower than that."""
    dual = Dual("tcp")
    payload = os.urandom(1 << 20) * 24
    try:
        with socket.create_connection(("127.0.0.1", dual.port), 20) as client:
            inner, _ = dual.servers[0].accept()
            with inner:
                inner.settimeout(20)
                for source, target in ((client, inner), (inner, client)):
                    sender = threading.Thread(target=_send_all, args=(source, payload))
                    sender.start()
                    assert _read_slowly(target, len(payload)) == payload
                    sender.join(20)
                client.shutdown(socket.SHUT_WR)
                assert inner.recv(9) == b""
                inner.sendall(b"late")
                inner.shutdown(socket.SHUT_WR)
                assert client.recv(9) == b"late"
                assert client.recv(9) == b""
        _await(lambda: not dual.relay._streams)
    finally:
        dual.close()


def test_a_reader_that_breaks_off_in_the_middle_of_much() -> None:
    dual = Dual("tcp")
    try:
        with socket.create_connection(("127.0.0.1", dual.port), 20) as client:
            inner, _ = dual.servers[0].accept()
            sender = threading.Thread(target=_send_all, args=(client, bytes(64 << 20)))
            sender.start()
            _read_slowly(inner, 8 << 20)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            inner.close()
            sender.join(20)
            assert not sender.is_alive()
        _await(lambda: not dual.relay._streams)
        with socket.create_connection(("127.0.0.1", dual.port), 20):
            dual.servers[0].accept()[0].close()
    finally:
        dual.close()


def _send_all(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def _read_slowly(sock: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        found += sock.recv(min(100_000, count - len(found)))
        if len(found) % 7 == 0:
            time.sleep(0.001)
    return bytes(found)


def _await(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
