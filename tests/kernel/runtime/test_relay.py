"""What a relay does with connections that end in the middle."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from engine.runtime.monitor.loop import Loop
from engine.runtime.monitor.relay import Relay
from engine.runtime.protocol import ListenerOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self.relay = Relay(self.loop, held, options)
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
