"""A published port held open: who connects to it is relayed to the container.

Most packets never come here, because the kernel translates their destination; what arrives is what
that cannot reach, such as ::1. Holding the socket also reserves the port.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from _weakref import ref  # weakref itself is heavier than what it is for

from engine.linux import listening
from engine.runtime.monitor.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from engine.runtime.monitor.loop import Loop, Timer
    from engine.runtime.protocol import ListenerOptions

    Address = tuple[Any, ...]
    Control = tuple[int, int, bytes]
    Key = tuple[str, str, int]

_BUFFER_BYTES = 1 << 18
_READS_A_ROUND = 8
_READS_TO_SPLICE = 4
_PIPE_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size
_DATAGRAM_BYTES = 1 << 16
# As dockerd's proxy: a peer that said nothing for so long is forgotten.
_UDP_IDLE_S = 90.0
_MAX_FLOWS = 1024
_ACCEPTS_A_ROUND = 64
_RETRY_S = 0.1
_BROKEN = EPOLLHUP | EPOLLERR
# ip(7), ipv6(7): in_pktinfo is index, local address, destination; in6_pktinfo destination, index.
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50
_CONTROL_BYTES = socket.CMSG_SPACE(20)


def key_of(options: ListenerOptions) -> Key:
    """Where on the host it is: no two are at one place."""
    return options.protocol, options.host_ip, options.host_port


class Relay:
    """Takes the socket's descriptor; `close` frees the port and ends what is under way.

    `leads` are one, or two where the socket is for any address of both families.
    """

    __slots__ = ("_flows", "_leads", "_loop", "_sock", "_streams")

    def __init__(self, loop: Loop, fd: int, leads: list[ListenerOptions]) -> None:
        self._loop = loop
        self._take(fd)
        self._leads = leads
        self._streams: set[_Stream] = set()
        self._flows: dict[tuple[Address, bytes], _Flow] = {}
        if leads[0].target_ip:
            self._listen()

    @property
    def keys(self) -> list[Key]:
        return [key_of(each) for each in self._leads]

    def share(self, options: ListenerOptions) -> None:
        """The socket is for the addresses of this one as well."""
        self._leads.append(options)

    def lead_to(self, options: ListenerOptions) -> None:
        """What begins from now on goes there; of datagrams nobody knows what is under way."""
        key = key_of(options)
        self._leads = [options if key_of(each) == key else each for each in self._leads]
        self._end_flows()

    def drop(self, keys: Container[Key]) -> None:
        """Those are free again. Where a port of the other family stays, it is bound anew: the
        kernel lets no socket give up half of what it is bound to.
        """
        rest = [each for each in self._leads if key_of(each) not in keys]
        if not rest:
            self.close()
            return
        self._leads = rest
        self._stop_listening()
        self._end_flows()
        with contextlib.suppress(OSError):  # somebody may have been quicker
            self._take(listening.bind(rest[0].protocol, rest[0].host_ip, rest[0].host_port))
            self._listen()

    def close(self) -> None:
        self._stop_listening()
        for stream in tuple(self._streams):
            stream.close()
        self._end_flows()

    def _end_flows(self) -> None:
        for flow in tuple(self._flows.values()):
            flow.close()

    def _target(self, peer: Address) -> tuple[str, int]:
        """Where who has that address is led."""
        lead = self._leads[0]
        if len(self._leads) > 1:
            is_ipv4 = ":" not in peer[0] or peer[0].startswith("::ffff:")
            lead = next(each for each in self._leads if (":" in each.host_ip) != is_ipv4)
        return lead.target_ip, lead.target_port

    def _take(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)

    def _stop_listening(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            is_udp = self._leads[0].protocol == "udp"
            handler = self._on_datagram if is_udp else self._on_accept
            # A retry may come when another socket is watched already, bound meanwhile.
            self._loop.remove(self._sock.fileno())
            self._loop.add(self._sock.fileno(), EPOLLIN, handler)

    def _on_accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_A_ROUND):
            try:
                peer, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The connection stays queued; asking at once would only spin.
                    self._loop.remove(self._sock.fileno())
                    self._loop.call_later(_RETRY_S, self._listen)
                    return
                continue
            self._begin(peer, address)

    def _begin(self, peer: socket.socket, address: Address) -> None:
        try:
            inner = _connect(self._target(address), socket.SOCK_STREAM)
        except OSError:
            peer.close()
            return
        peer.setblocking(False)
        self._streams.add(_Stream(self._loop, peer, inner, self._streams))

    def _on_datagram(self, _events: int) -> None:
        for _ in range(_ACCEPTS_A_ROUND):
            try:
                data, control, _, address = self._sock.recvmsg(_DATAGRAM_BYTES, _CONTROL_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer
            asked = _asked(control)
            key = address, asked[2] if asked else b""
            flow = self._flows.get(key)
            if flow is None:
                flow = self._new_flow(key, asked)
            if flow is not None:
                flow.send(data)

    def _new_flow(self, key: tuple[Address, bytes], asked: Control | None) -> _Flow | None:
        if len(self._flows) >= _MAX_FLOWS:
            return None
        try:
            inner = _connect(self._target(key[0]), socket.SOCK_DGRAM)
        except OSError:
            return None
        flow = _Flow(self._loop, self._sock, key, asked, inner, self._flows)
        self._flows[key] = flow
        return flow


def _asked(control: list[Control]) -> Control | None:
    """What sends an answer from the address that was asked, by whichever link leads back."""
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return level, kind, bytes(4) + data[4:8] + bytes(4)
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            is_link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return level, kind, data if is_link_local else data[:16] + bytes(4)
    return None


def _connect(target: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        try:
            sock.connect(target)
        except BlockingIOError:
            raise
        except OSError:
            sock.close()
            raise
    return sock


class _Stream:
    """Two connected sockets: what one says the other hears, half-closes included."""

    __slots__ = ("_buffer", "_loop", "_pipes", "_streams")

    def __init__(
        self, loop: Loop, outer: socket.socket, inner: socket.socket, streams: set[_Stream]
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._buffer = _buffer()
        there, back = _Pipe(outer, inner, self._buffer), _Pipe(inner, outer, self._buffer)
        self._pipes = (there, back)
        loop.add(outer.fileno(), EPOLLIN, lambda events: self._on_event(events, there, back))
        loop.add(inner.fileno(), EPOLLIN | EPOLLOUT, lambda e: self._on_event(e, back, there))

    def _on_event(self, events: int, reads: _Pipe, writes: _Pipe) -> None:
        """An event on the socket that `reads` comes from and `writes` goes to."""
        try:
            if events & _BROKEN and not reads.is_open and not reads.pending:
                self.close()
                return
            if events & EPOLLOUT:
                writes.flush()
                if writes.is_unwatched:
                    # Nothing will tell of the other socket any more, and it holds no more than
                    # what came before its end.
                    while writes.wants_more:
                        writes.fill()
            if events & (EPOLLIN | _BROKEN):
                for _ in range(_READS_A_ROUND):
                    if not reads.wants_more or not reads.fill():
                        break
            if events & _BROKEN and reads.pending:
                self._unwatch(reads)
        except OSError:
            self.close()
            return
        if not reads.is_open and not writes.is_open and not reads.pending and not writes.pending:
            self.close()
            return
        self._watch(reads, writes)
        self._watch(writes, reads)

    def _unwatch(self, reads: _Pipe) -> None:
        """A broken socket whose last bytes cannot be passed on yet would be told of in every round,
        whatever is asked for: go on by the other one.
        """
        reads.is_unwatched = True
        self._loop.remove(reads.source.fileno())

    def _watch(self, reads: _Pipe, writes: _Pipe) -> None:
        if reads.is_unwatched:
            return
        events = EPOLLIN if reads.wants_more else 0
        if writes.pending:
            events |= EPOLLOUT
        if events != reads.watched:
            reads.watched = events
            self._loop.modify(reads.source.fileno(), events)

    def close(self) -> None:
        self._streams.discard(self)
        for pipe in self._pipes:
            self._loop.remove(pipe.source.fileno())
            pipe.close()


def _buffer() -> memoryview:
    """Through which all goes that is on its way; of what a target does not take at once a copy is
    kept. It goes with the last stream: a monitor that relays nothing is not to have it.
    """
    global _shared
    found = _shared()
    if found is None:
        found = memoryview(bytearray(_BUFFER_BYTES))
        _shared = ref(found)
    return found


def _no_buffer() -> memoryview | None:
    return None


_shared: Callable[[], memoryview | None] = _no_buffer


def _open_pipe() -> tuple[int, int] | None:
    """None where there is no room for one: then what comes is copied, as before."""
    try:
        fds = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a smaller one does as well
        fcntl.fcntl(fds[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return fds


class _Pipe:
    """One direction, with at most one read's worth on its way.

    What goes on filling whole buffers is led through a pipe of the kernel's from then on, which
    copies nothing (splice(2)).
    """

    __slots__ = (
        "_buffer",
        "_full_reads",
        "_in_pipe",
        "_pipe",
        "_rest",
        "is_open",
        "is_unwatched",
        "source",
        "target",
        "watched",
    )

    def __init__(self, source: socket.socket, target: socket.socket, buffer: memoryview) -> None:
        self._buffer = buffer
        self._full_reads = 0
        self._pipe: tuple[int, int] | None = None  # to read from, to write to
        self._in_pipe = 0
        self._rest = memoryview(b"")
        self.source = source
        self.target = target
        self.is_open = True
        self.is_unwatched = False
        self.watched = -1  # the events of the source that are asked for

    @property
    def pending(self) -> int:
        """Bytes that the target has not taken yet."""
        return self._in_pipe or len(self._rest)

    @property
    def wants_more(self) -> bool:
        return self.is_open and not self.pending

    def fill(self) -> bool:
        """Pass on what is there; whether there may be more."""
        try:
            if self._pipe is None:
                count = self.source.recv_into(self._buffer)
            else:
                count = os.splice(
                    self.source.fileno(), self._pipe[1], _PIPE_BYTES, flags=os.SPLICE_F_NONBLOCK
                )
        except BlockingIOError:
            return False
        if not count:
            self.is_open = False
            self._end()
            return False
        if self._pipe is not None:
            self._in_pipe = count
            self._drain()
            return not self._in_pipe
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self.target.send(self._buffer[:count], socket.MSG_NOSIGNAL)
        if sent < count:
            self._rest = memoryview(bytes(self._buffer[sent:count]))
        is_full = count == len(self._buffer)
        self._full_reads += is_full
        if self._full_reads == _READS_TO_SPLICE:
            self._pipe = _open_pipe()
        return is_full

    def _drain(self) -> None:
        """Out of the pipe. Python has SIGPIPE ignored, which splice(2) knows no flag against."""
        with contextlib.suppress(BlockingIOError):
            while self._in_pipe and self._pipe is not None:
                self._in_pipe -= os.splice(
                    self._pipe[0], self.target.fileno(), self._in_pipe, flags=os.SPLICE_F_NONBLOCK
                )

    def flush(self) -> None:
        if self._rest:
            with contextlib.suppress(BlockingIOError):
                self._rest = self._rest[self.target.send(self._rest, socket.MSG_NOSIGNAL) :]
        elif self._in_pipe:
            self._drain()
        if not self.is_open and not self.pending:
            self._end()

    def close(self) -> None:
        self.source.close()
        for fd in self._pipe or ():
            os.close(fd)
        self._pipe = None

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self.target.shutdown(socket.SHUT_WR)


class _Flow:
    """A UDP peer: a socket of its own towards the container, so that answers find the way back."""

    __slots__ = ("_asked", "_flows", "_inner", "_is_active", "_key", "_loop", "_outer", "_timer")

    def __init__(
        self,
        loop: Loop,
        outer: socket.socket,
        key: tuple[Address, bytes],
        asked: Control | None,
        inner: socket.socket,
        flows: dict[tuple[Address, bytes], _Flow],
    ) -> None:
        self._loop = loop
        self._outer = outer
        self._key = key
        self._asked = asked
        self._inner = inner
        self._flows = flows
        self._is_active = True
        self._timer: Timer = loop.call_later(_UDP_IDLE_S, self._expire)
        loop.add(inner.fileno(), EPOLLIN, self._on_answer)

    def send(self, data: bytes) -> None:
        self._is_active = True
        with contextlib.suppress(OSError):  # a datagram may be lost
            self._inner.send(data)

    def _on_answer(self, _events: int) -> None:
        self._is_active = True
        try:
            data = self._inner.recv(_DATAGRAM_BYTES)
            self._outer.sendmsg([data], [self._asked] if self._asked else [], 0, self._key[0])
        except OSError:
            return

    def _expire(self) -> None:
        if self._is_active:
            self._is_active = False
            self._timer = self._loop.call_later(_UDP_IDLE_S, self._expire)
        else:
            self.close()

    def close(self) -> None:
        self._timer.cancel()
        self._flows.pop(self._key, None)
        self._loop.remove(self._inner.fileno())
        self._inner.close()
