"""Asking a name server for names, from within a container's network namespace; and being one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.linux import netns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KINDS = {"A": 1, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
RESOLVER = "127.0.0.11"


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` is the RCODE; `values` are the addresses or names, in order."""

    code: int
    values: tuple[str, ...]


def question(name: str, kind: str, number: int = 0x1234) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    header = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0)
    return header + encoded + struct.pack("!2H", KINDS[kind], 1)


def ask(pid: int, name: str, kind: str = "A", *, tcp: bool = False) -> Answer:
    """What the resolver of the container with that process says."""
    asked = question(name, kind)

    def inside(_fd: int) -> bytes:
        how = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, how) as sock:
            sock.settimeout(15)
            sock.connect((RESOLVER, 53))
            sock.sendall(len(asked).to_bytes(2) + asked if tcp else asked)
            if not tcp:
                return sock.recv(65535)
            size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL))
            return sock.recv(size, socket.MSG_WAITALL)

    return read(netns.enter(f"/proc/{pid}/ns/net", inside))


def asker(pid: int) -> socket.socket:
    """A socket that asks the resolver of the container with that process by UDP."""

    def inside(_fd: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(15)
        sock.connect((RESOLVER, 53))
        return sock

    return netns.enter(f"/proc/{pid}/ns/net", inside)


def throw(pid: int, messages: Sequence[bytes]) -> None:
    """Send all of it to the container's resolver, by UDP and by TCP, and hear nothing."""

    def inside(_fd: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((RESOLVER, 53))
            for message in messages:
                sock.send(message)
        for message in (messages[0], bytes(65535), b"\xff" * 65535):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((RESOLVER, 53), timeout=5) as sock,
            ):
                sock.sendall(len(message).to_bytes(2) + message)

    netns.enter(f"/proc/{pid}/ns/net", inside)


def read(message: bytes) -> Answer:
    _, flags, _, count, _, _ = struct.unpack_from("!6H", message)
    _, at = _name(message, 12)
    at += 4
    values: list[str] = []
    for _ in range(count):
        _, at = _name(message, at)
        kind, _, _, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        data = message[at : at + length]
        match kind:
            case 1:
                values.append(socket.inet_ntop(socket.AF_INET, data))
            case 28:
                values.append(socket.inet_ntop(socket.AF_INET6, data))
            case 12:
                values.append(_name(message, at)[0])
            case _:
                values.append(data.hex())
        at += length
    return Answer(flags & 15, tuple(values))


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    end = 0
    while length := message[at]:
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | message[at + 1]
            continue
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), end or at + 1


@contextlib.contextmanager
def server(address: str, answers: Sequence[str], code: int = NOERROR) -> Iterator[list[str]]:
    """One on port 53 of an address of the host, which says the same to all; yields who was asked
    for, by name.
    """
    seen: list[str] = []

    def answer(data: bytes) -> bytes:
        name, end = _name(data, 12)
        seen.append(name)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(one)
            for one in answers
        )
        header = struct.pack("!6H", int.from_bytes(data[:2]), 0x8180 | code, 1, len(answers), 0, 0)
        return header + data[12 : end + 4] + records

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server((address, 53)) as tcp,
    ):
        udp.bind((address, 53))

        def datagrams() -> None:
            while True:
                data, client = udp.recvfrom(65535)
                if len(data) < 12:
                    return
                udp.sendto(answer(data), client)

        def streams() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = tcp.accept()
                    with sock:
                        size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL))
                        made = answer(sock.recv(size, socket.MSG_WAITALL))
                        sock.sendall(len(made).to_bytes(2) + made)

        threads = [threading.Thread(target=one, daemon=True) for one in (datagrams, streams)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"end", (address, 53))
            tcp.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)
