"""Asking across network namespaces: servers that say whom they saw, and clients that ask them.

A namespace is a path that names one (a file that keeps it, `/proc/PID/ns/net`); None is the host's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from engine.linux import netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

WAIT_S = 0.8
"""For an answer: what is dropped is known by silence."""

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class Question:
    """`scope` is a link's name, where the address is of one link alone."""

    namespace: str | None
    address: str
    port: int
    protocol: str = "tcp"
    scope: str = ""


def within(namespace: str | None, action: Callable[[], T]) -> T:
    return action() if namespace is None else netns.enter(namespace, lambda _: action())


@contextlib.contextmanager
def serving(namespace: str | None, ports: Iterable[int]) -> Iterator[None]:
    """Answer TCP and UDP of both families on these ports with the asker's address."""
    opened = within(namespace, lambda: [_server(k, p) for p in ports for k in _KINDS])
    quit_reader, quit_writer = socket.socketpair()
    selector = selectors.DefaultSelector()
    for sock in (*opened, quit_reader):
        selector.register(sock, selectors.EVENT_READ)

    def run() -> None:
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is quit_reader:
                    return
                with contextlib.suppress(OSError):
                    _answer(sock)

    thread = threading.Thread(target=run, name="serving")
    thread.start()
    try:
        yield
    finally:
        quit_writer.send(b"x")
        thread.join()
        selector.close()
        for sock in (*opened, quit_reader, quit_writer):
            sock.close()


def _server(protocol: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, _KINDS[protocol])
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # An answer has to leave from the address that was asked.
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.bind(("::", port))
    sock.setblocking(False)
    if protocol == "tcp":
        sock.listen(64)
    return sock


def _answer(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        peer, (address, *_) = sock.accept()
        with peer:
            peer.sendall(_plain(address))
        return
    _, ancillary, _, asker = sock.recvmsg(100, 200)
    sock.sendmsg([_plain(asker[0])], ancillary, 0, asker)


def _plain(address: str) -> bytes:
    return address.removeprefix("::ffff:").partition("%")[0].encode()


def ask_all(questions: Sequence[Question]) -> list[str | None]:
    """All at once; for each the address that the server saw, or None for no answer."""
    with ThreadPoolExecutor(max_workers=len(questions) or 1) as pool:
        return list(pool.map(ask, questions))


def ask(question: Question) -> str | None:
    family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
    try:
        sock = within(question.namespace, lambda: socket.socket(family, _KINDS[question.protocol]))
    except OSError:
        return None
    with sock:
        sock.settimeout(WAIT_S)
        try:
            sock.connect(_peer(question))
            sock.send(b"?")
            return str(ip_address(sock.recv(100).decode()))
        except (OSError, ValueError):  # without a route, whoever else is asked is no server of ours
            return None


def _peer(question: Question) -> tuple[str | int, ...]:
    if not question.scope:
        return question.address, question.port
    index = within(question.namespace, lambda: socket.if_nametoindex(question.scope))
    return question.address, question.port, 0, index
