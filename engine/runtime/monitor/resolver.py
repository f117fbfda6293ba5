"""The container's name server on 127.0.0.11: its neighbours' names, and other servers for the rest.

What it knows stands in files that the daemon replaces whole, one of the container's own and one a
network, and that are looked at with each query: names come and go without a word to this process,
and are answered while there is no daemon.

    the container's   {"networks": [{"path": …, "aliases": {alias: name}}],
                       "hosts": {name: [address, …]}, "netns": path,
                       "servers": [[address, is_of_host], …], "forwards": bool}
    a network's       {"name": …, "hosts": [[[name, …], [address, …]], …]}

Networks are asked in the order given; the first name of a host is the one its address has. Servers
are asked in order too, each query from a port and under an id of its own; the host's own from the
host's namespace, others from the container's. Where its networks lead nowhere, the host's are not
asked (N1 of tests/ATTACKS.md), and others are as reachable as anything else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import socket

from engine.linux import syscalls
from engine.runtime.monitor import dns
from engine.runtime.monitor.loop import EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from engine.runtime.monitor.loop import Loop, Timer

    Answer = Callable[[bytes], None]

PORT = 53
_QUERIES_A_ROUND = 64
_MOST_UNDER_WAY = 1024  # as dockerd's
_MOST_STREAMS = 64
_IDLE_S = 10.0
# As dockerd for the last; less where another can still be asked, as clients give up after five.
_PATIENCE_S = 4.0
_SHORT_PATIENCE_S = 1.5
_RETRY_S = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_HERE = (dns.A, dns.AAAA, dns.MX)
_FAILED = (dns.SERVFAIL, dns.REFUSED)


class _File:
    """A JSON document that others replace; `{}` while there is none."""

    __slots__ = ("_content", "_path", "_stamp")

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._content: Any = {}

    def read(self) -> Any:
        """The content now, the same object while nobody replaced it."""
        try:
            status = os.stat(self._path)
            # Clocks of file systems are coarse, and inodes are used again.
            stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if stamp != self._stamp:
                with open(self._path, "rb") as file:
                    self._content = json.loads(file.read())
                self._stamp = stamp
        except (OSError, ValueError):
            self._stamp, self._content = None, {}
        return self._content


class _Network:
    """The names on one network, read from its file when that is new."""

    __slots__ = ("_content", "_file", "by_address", "by_name", "name")

    def __init__(self, path: str) -> None:
        self._file = _File(path)
        self._content: Any = None
        self.refresh()

    def refresh(self) -> None:
        content = self._file.read()
        if content is self._content:
            return
        self._content = content
        self.name: str = content.get("name", "")
        self.by_name: dict[str, list[str]] = {}
        self.by_address: dict[str, str] = {}
        for names, addresses in content.get("hosts", ()):
            for name in names:
                self.by_name.setdefault(name.lower(), []).extend(addresses)
            for address in addresses:
                self.by_address[address] = names[0]

    def addresses(self, name: str, aliases: dict[str, str]) -> list[str] | None:
        """Those of the name, which may end in the network's; None where nobody has it."""
        suffix = f".{self.name.lower()}"
        for each in (name, name.removesuffix(suffix)):
            found = self.by_name.get(aliases.get(each, each).lower())
            if found is not None:
                return found
        return None


class Resolver:
    """Takes both sockets; `path` is the container's file. `on_fault` hears of a fault of ours: the
    container does not end by it.
    """

    __slots__ = (
        "_file",
        "_loop",
        "_most_under_way",
        "_networks",
        "_on_fault",
        "_streams",
        "_tcp",
        "_udp",
        "_under_way",
    )

    def __init__(
        self,
        loop: Loop,
        udp: socket.socket,
        tcp: socket.socket,
        path: str,
        on_fault: Callable[[], None],
    ) -> None:
        udp.setblocking(False)
        tcp.setblocking(False)
        self._loop = loop
        self._udp = udp
        self._tcp = tcp
        self._file = _File(path)
        self._on_fault = on_fault
        # Each has a descriptor, of which other work needs some too.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._most_under_way = min(_MOST_UNDER_WAY, most)
        self._networks: dict[str, _Network] = {}
        self._streams: set[_Stream] = set()
        self._under_way: set[_Forward] = set()
        loop.add(udp.fileno(), EPOLLIN, self._on_datagram)
        self._listen()

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            self._loop.remove(sock.fileno())
            sock.close()
        for stream in tuple(self._streams):
            stream.close()
        for forward in tuple(self._under_way):
            forward.close()

    def _listen(self) -> None:
        if self._tcp.fileno() >= 0:
            self._loop.add(self._tcp.fileno(), EPOLLIN, self._on_connection)

    def _on_datagram(self, _events: int) -> None:
        for _ in range(_QUERIES_A_ROUND):
            try:
                data, address = self._udp.recvfrom(dns.LARGEST)
            except OSError:
                return
            self._serve_datagram(data, address)

    def _serve_datagram(self, data: bytes, address: Any) -> None:
        try:
            query = dns.Query(data)
        except dns.Malformed:
            self._send(dns.failed_to_parse(data), address)
            return

        def answer(message: bytes) -> None:
            self._send(dns.fitted(message, query), address)

        self.serve(query, answer, is_stream=False)

    def _send(self, message: bytes, address: Any) -> None:
        if message:
            with contextlib.suppress(OSError):  # a datagram may be lost
                self._udp.sendto(message, address)

    def _on_connection(self, _events: int) -> None:
        try:
            sock, _ = self._tcp.accept()
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                # The connection stays queued; asking at once would only spin.
                self._loop.remove(self._tcp.fileno())
                self._loop.call_later(_RETRY_S, self._listen)
            return
        if len(self._streams) >= _MOST_STREAMS:
            sock.close()
            return
        self._streams.add(_Stream(self._loop, self, sock, self._streams))

    # Answers

    def serve(self, query: dns.Query, answer: Answer, *, is_stream: bool) -> None:
        """Answer now, or when a server has; never not at all."""
        try:
            self._serve(query, answer, is_stream=is_stream)
        except Exception:
            self._on_fault()
            answer(dns.failure(query, dns.SERVFAIL))

    def _serve(self, query: dns.Query, answer: Answer, *, is_stream: bool) -> None:
        own = self._file.read()
        found = self._local(query, own)
        if found is not None:
            answer(found)
            return
        servers = [(a, h) for a, h in own.get("servers", ()) if own.get("forwards") or not h]
        if not servers:
            answer(dns.failure(query, dns.SERVFAIL))
        elif len(self._under_way) >= self._most_under_way:
            answer(dns.failure(query, dns.REFUSED))
        else:
            forward = _Forward(
                self._loop,
                query,
                servers,
                own.get("netns", ""),
                answer,
                self._under_way,
                is_stream=is_stream,
            )
            self._under_way.add(forward)
            forward.begin()

    def _local(self, query: dns.Query, own: Any) -> bytes | None:
        if query.kind in _HERE:
            found = self._addresses(query, own)
            return None if found is None else dns.addresses(query, found)
        if query.kind == dns.PTR and (address := dns.address_of(query.name)) is not None:
            for network, _ in self._asked(own):
                if name := network.by_address.get(address):
                    return dns.names(query, [f"{name}.{network.name}"])
        return None

    def _addresses(self, query: dns.Query, own: Any) -> list[str] | None:
        """Begun anywhere, so that whoever takes the first takes another each time."""
        is_known = False
        for network, aliases in self._asked(own):
            found = network.addresses(query.name, aliases)
            if found is None:
                continue
            is_known = True
            if wanted := _of_kind(query.kind, found):
                first = int.from_bytes(os.urandom(2)) % len(wanted)
                return wanted[first:] + wanted[:first]
        found = own.get("hosts", {}).get(query.name)
        if found is not None and not is_known:
            return _of_kind(query.kind, found)
        return [] if is_known else None

    def _asked(self, own: Any) -> list[tuple[_Network, dict[str, str]]]:
        asked = own.get("networks", ())
        paths = {one["path"] for one in asked}
        for path in self._networks.keys() - paths:
            del self._networks[path]
        found: list[tuple[_Network, dict[str, str]]] = []
        for one in asked:
            network = self._networks.get(one["path"])
            if network is None:
                network = self._networks[one["path"]] = _Network(one["path"])
            else:
                network.refresh()
            found.append((network, one.get("aliases", {})))
        return found


def _of_kind(kind: int, addresses: list[str]) -> list[str]:
    if kind == dns.MX:
        return []
    return [address for address in addresses if (":" in address) == (kind == dns.AAAA)]


class _Forward:
    """A question put to one server after the other, until one has an answer.

    Who is slow is still listened to while the next is asked; the first answer counts.
    """

    __slots__ = (
        "_answer",
        "_best",
        "_is_stream",
        "_loop",
        "_netns",
        "_open",
        "_query",
        "_servers",
        "_timer",
        "_under_way",
    )

    def __init__(
        self,
        loop: Loop,
        query: dns.Query,
        servers: list[tuple[str, bool]],
        netns: str,
        answer: Answer,
        under_way: set[_Forward],
        *,
        is_stream: bool,
    ) -> None:
        self._loop = loop
        self._query = query
        self._answer = answer
        self._under_way = under_way
        self._is_stream = is_stream
        self._netns = netns
        self._servers = servers
        self._best = dns.failure(query, dns.SERVFAIL)
        self._open: list[_Question] = []  # in the order of asking
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Ask the next server; after the last, what the best of them said is the answer."""
        self._stop_timer()
        while self._servers:
            address, is_of_host = self._servers.pop(0)
            try:
                asked = _Question(
                    self._loop,
                    self,
                    self._query,
                    address,
                    "" if is_of_host else self._netns,
                    is_stream=self._is_stream,
                )
            except OSError:
                continue
            self._open.append(asked)
            break
        if not self._open:
            self._end(self._best)
            return
        patience = _SHORT_PATIENCE_S if self._servers else _PATIENCE_S
        self._timer = self._loop.call_later(patience, self._on_late)

    def _on_late(self) -> None:
        self._timer = None
        if self._servers:
            self.begin()
        else:
            self._end(self._best)

    # Of the questions

    def on_answer(self, question: _Question, message: bytes) -> None:
        if dns.code_of(message) in _FAILED:
            self._best = message
            self.on_failure(question)
        else:
            self._end(message)

    def on_failure(self, question: _Question) -> None:
        """Of the last one that was asked nobody waits for its time to end."""
        is_last = question is self._open[-1]
        self._open.remove(question)
        question.hang_up()
        if is_last:
            self.begin()

    def _end(self, message: bytes) -> None:
        self.close()
        self._answer(message)

    def close(self) -> None:
        """Without an answer."""
        self._stop_timer()
        for question in self._open:
            question.hang_up()
        self._open.clear()
        self._under_way.discard(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Question:
    """What one server is asked."""

    __slots__ = (
        "_forward",
        "_id",
        "_incoming",
        "_is_stream",
        "_loop",
        "_outgoing",
        "_query",
        "_sock",
    )

    def __init__(
        self,
        loop: Loop,
        forward: _Forward,
        query: dns.Query,
        address: str,
        netns: str,
        *,
        is_stream: bool,
    ) -> None:
        """Raises OSError, at once for a server that is known not to be there."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
        self._loop = loop
        self._forward = forward
        self._query = query
        self._is_stream = is_stream
        self._id = int.from_bytes(os.urandom(2))
        self._outgoing = b""
        self._incoming = bytearray()
        self._sock = _socket(family, kind | socket.SOCK_NONBLOCK, netns)
        try:
            self._ask(address)
        except OSError:
            self._sock.close()
            raise

    def _ask(self, address: str) -> None:
        sock = self._sock
        message = dns.renumbered(self._query.data, self._id)
        with contextlib.suppress(BlockingIOError):
            # Connected, a socket hears nobody else, and of a port that nobody listens on.
            sock.connect((address, PORT))
        if self._is_stream:
            self._outgoing = len(message).to_bytes(2) + message
            self._loop.add(sock.fileno(), EPOLLIN | EPOLLOUT, self._on_stream)
        else:
            sock.send(message)
            self._loop.add(sock.fileno(), EPOLLIN, self._on_message)

    def hang_up(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()

    def _on_message(self, _events: int) -> None:
        try:
            message = self._sock.recv(dns.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            self._forward.on_failure(self)
            return
        # A datagram of somebody else is no answer: the right one may still come.
        if dns.is_answer(message, self._query, self._id):
            self._take(message)

    def _on_stream(self, events: int) -> None:
        try:
            if events & EPOLLOUT and self._outgoing:
                self._outgoing = self._outgoing[self._sock.send(self._outgoing) :]
                if not self._outgoing:
                    self._loop.modify(self._sock.fileno(), EPOLLIN)
            data = self._sock.recv(dns.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._incoming += data
        size = int.from_bytes(self._incoming[:2])
        message = bytes(self._incoming[2 : 2 + size])
        is_whole = len(self._incoming) >= 2 and len(message) == size
        if is_whole and dns.is_answer(message, self._query, self._id):
            self._take(message)
        elif is_whole or not data:
            self._forward.on_failure(self)

    def _take(self, message: bytes) -> None:
        self._forward.on_answer(self, dns.renumbered(message, self._query.id))


def _socket(family: int, kind: int, netns: str) -> socket.socket:
    """A socket in the namespace that the file keeps, "" for this process's own."""
    if not netns:
        return socket.socket(family, kind)
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(there, syscalls.CLONE_NEWNET)
        finally:
            os.close(there)
        try:
            return socket.socket(family, kind)
        finally:
            syscalls.setns(here, syscalls.CLONE_NEWNET)
    finally:
        os.close(here)


class _Stream:
    """A client that asks by TCP, one question after the other."""

    __slots__ = (
        "_incoming",
        "_is_serving",
        "_is_waiting",
        "_loop",
        "_outgoing",
        "_resolver",
        "_sock",
        "_streams",
        "_timer",
    )

    def __init__(
        self, loop: Loop, resolver: Resolver, sock: socket.socket, streams: set[_Stream]
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._resolver = resolver
        self._sock = sock
        self._streams = streams
        self._incoming = bytearray()
        self._outgoing = b""
        self._is_waiting = False
        self._is_serving = False
        self._timer: Timer = loop.call_later(_IDLE_S, self.close)
        loop.add(sock.fileno(), EPOLLIN, self._on_event)

    def close(self) -> None:
        if self in self._streams:
            self._streams.discard(self)
            self._timer.cancel()
            self._loop.remove(self._sock.fileno())
            self._sock.close()

    def _on_event(self, events: int) -> None:
        try:
            if events & EPOLLOUT:
                self._flush()
                self._serve()
            if events & ~EPOLLOUT and not self._read():
                self.close()
            self._watch()
        except OSError:
            self.close()

    def _read(self) -> bool:
        try:
            data = self._sock.recv(dns.LARGEST)
        except BlockingIOError:
            return True
        self._incoming += data
        self._serve()
        return bool(data)

    def _serve(self) -> None:
        """One question after the other; while one waits for its answer, nothing is read."""
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while not self._is_waiting and not self._outgoing and self._serve_one():
                continue
        finally:
            self._is_serving = False

    def _serve_one(self) -> bool:
        size = int.from_bytes(self._incoming[:2])
        if len(self._incoming) < 2 or len(self._incoming) < 2 + size:
            return False
        data = bytes(self._incoming[2 : 2 + size])
        del self._incoming[: 2 + size]
        self._is_waiting = True
        try:
            query = dns.Query(data)
        except dns.Malformed:
            if said := dns.failed_to_parse(data):
                self._answer(said)
            else:
                self.close()
                return False
        else:
            self._resolver.serve(query, self._answer, is_stream=True)
        return True

    def _answer(self, message: bytes) -> None:
        if self not in self._streams:
            return
        self._is_waiting = False
        self._outgoing = len(message).to_bytes(2) + message
        self._timer.cancel()
        self._timer = self._loop.call_later(_IDLE_S, self.close)
        try:
            self._flush()
        except OSError:
            self.close()
            return
        self._serve()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._outgoing = self._outgoing[self._sock.send(self._outgoing) :]
        self._watch()

    def _watch(self) -> None:
        if self in self._streams:
            events = EPOLLOUT if self._outgoing else 0 if self._is_waiting else EPOLLIN
            self._loop.modify(self._sock.fileno(), events)
