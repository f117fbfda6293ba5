"""Connections that stop being HTTP, and bodies that go on and on.

Attach and exec take the client's connection over: after the answer's head it carries raw bytes
both ways, and is handed to the engine as a file descriptor. Two things get lost on the way if
aiohttp is left to itself: bytes that a client sends right behind its request, not waiting for the
answer (the parser drops them or takes them for a second request), and a half-close that arrives
before the handler has taken over (the transport closes itself). `Connection` therefore reads the
head of each request before the parser does, and refuses what is none (`http1`). A request that may
take over is fed to the parser alone, up to the end of its body, as a plain POST; whatever follows
is held back.

    client                     Connection                        aiohttp's parser
    POST …/attach, Upgrade ──▶ head, without Upgrade ──────────▶ request → handler → hijack()
    stdin bytes ─────────────▶ held back                              │
    FIN ─────────────────────▶ noted, transport kept                  │
                               prefix = held back ◀───────────────────┘
                               release(): parser again, if nobody took over

Also here: stdcopy frames, JSON lines. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from compat import http1

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

HELD_BYTES = 256 * 1024  # behind a request not yet taken over; then the client has to wait
_COPY_BYTES = 64 * 1024
_MAX_CHUNK_LINE = 4096
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}(?=[ \t]*(?:;|$))")

# What aiohttp's parser takes for no request at all, so that it comes to `handle_error`.
_NO_REQUEST = b"\0"

_MAY_TAKE_OVER = re.compile(
    rb"/(?:v[0-9.]+/)?(?:containers/[^ ?]*/attach|exec/[^ ?]*/start|grpc)(?:\?.*)?", re.DOTALL
)

# Clients that say nothing are let be for as long as they like between two requests, but a head
# once begun, and the first of all, has to come to its end (moby: ReadHeaderTimeout).
HEAD_TIMEOUT_S = 300.0

log = logging.getLogger(__name__)


class ClientGone(ConnectionError):
    """The client left before its answer was out; nobody's fault, and nobody to tell."""

    def __init__(self) -> None:
        super().__init__("the client is gone")


# Where a request ends


class LengthBody:
    """A body of a known length. `feed` says how many of the bytes belong to it."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def is_complete(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        return taken


class ChunkedBody:
    """A body in chunks (RFC 9112 §7.1), followed only to find its end. Raises Malformed."""

    def __init__(self) -> None:
        self._left = 0  # of the current chunk and its line end
        self._line = bytearray()
        self._is_trailer = False
        self.is_complete = False

    def feed(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.is_complete:
            at = self._skip(data, at) if self._left else self._read_line(data, at)
        return at

    def _skip(self, data: bytes, at: int) -> int:
        taken = min(len(data) - at, self._left)
        self._left -= taken
        return at + taken

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        if len(self._line) + (end if end >= 0 else len(data)) - at > _MAX_CHUNK_LINE:
            raise http1.Malformed
        if end < 0:
            self._line += data[at:]
            return len(data)
        line = bytes(self._line + data[at:end]).strip()
        self._line.clear()
        if self._is_trailer:
            self.is_complete = not line
        else:
            self._start_chunk(line)
        return end + 1

    def _start_chunk(self, line: bytes) -> None:
        found = _CHUNK_SIZE.match(line)
        if found is None:
            raise http1.Malformed
        size = int(found[0], 16)
        self._is_trailer = size == 0
        self._left = size + 2 if size else 0


class _Takeover:
    """A request that may take the connection over, and what came behind it."""

    def __init__(self, head: http1.Head, number: int) -> None:
        self.is_upgrade = head.has(b"upgrade")
        self.number = number  # of the request on its connection, from 1
        self.behind = bytearray()
        self.has_ended = False


class Connection(RequestHandler):
    """A client's connection: aiohttp's, but for heads, and requests that may take it over."""

    def __init__(self, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._head = bytearray()
        self._body: LengthBody | ChunkedBody = LengthBody(0)
        self._requests = 0
        self._answers = 0
        self._takeover: _Takeover | None = None
        self._is_taken = False
        self._refusal: http1.Refused | None = None
        self._lateness: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if not data:
            super().data_received(data)  # aiohttp, telling itself to go on
        while data and self._refusal is None:
            if not self._body.is_complete:
                data = self._receive_body(data)
            elif self._takeover is not None:
                self._hold(self._takeover, data)
                return
            else:
                data = self._receive_head(data)

    def _receive_body(self, data: bytes) -> bytes:
        """Pass on what belongs to the body; what lies behind it."""
        try:
            taken = self._body.feed(data)
        except http1.Malformed:
            self._give_up()
            return b""
        super().data_received(data[:taken])
        if self._messages and not hasattr(self._messages[-1][0], "method"):
            self._give_up()
            return b""
        return data[taken:]

    def _give_up(self) -> None:
        """A body that is none: an answer may be on its way already, so there is no other word."""
        log.debug("a request's body is malformed")
        self.force_close()

    def _receive_head(self, data: bytes) -> bytes:
        """Collect the head and pass it on once it is complete; what of `data` lies behind it."""
        searched = len(self._head)
        self._head += data
        end = http1.end_of_head(self._head, searched)
        if (end if end >= 0 else len(self._head)) > http1.MAX_HEAD_BYTES:
            self._refuse(http1.TooLarge())
            return b""
        if end < 0:
            self._expect_head()
            return b""
        self._expect_no_head()
        received, behind = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        try:
            self._begin(http1.read_head(received))
        except http1.Refused as exc:
            self._refuse(exc)
        return behind

    def _begin(self, head: http1.Head) -> None:
        self._requests += 1
        self._body = ChunkedBody() if head.is_chunked else LengthBody(head.length)
        if head.method == b"POST" and _MAY_TAKE_OVER.fullmatch(head.target):
            self._takeover = _Takeover(head, self._requests)
            head = replace(head, fields=tuple(f for f in head.fields if not _asks_upgrade(f)))
        super().data_received(head.encode())

    def _refuse(self, refusal: http1.Refused) -> None:
        """Answer that, after all that is still to be answered, and end."""
        self._refusal = refusal
        self._expect_no_head()
        super().data_received(_NO_REQUEST)

    def _expect_head(self) -> None:
        """The head under way has its time from now on, unless it is running already."""
        if self._lateness is None:
            self._lateness = self._loop.call_later(HEAD_TIMEOUT_S, self.force_close)

    def _expect_no_head(self) -> None:
        if self._lateness is not None:
            self._lateness.cancel()
            self._lateness = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What no handler has seen. aiohttp would log it as an error, and quote the request."""
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        refusal = self._refusal or http1.Malformed()
        log.debug("refused what is no request: %s", refusal)
        if self.transport is not None:
            self.transport.write(refusal.answer)
        return Taken()

    def _hold(self, takeover: _Takeover, data: bytes) -> None:
        takeover.behind += data
        if len(takeover.behind) >= HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self._takeover is None:
            return super().eof_received()
        self._takeover.has_ended = True
        return True  # a half-close: the other direction goes on

    @property
    def is_upgrade(self) -> bool:
        return self._takeover is not None and self._takeover.is_upgrade

    def take(self) -> bytes:
        """End HTTP on this connection; what came behind the request is the caller's."""
        takeover = self._takeover
        self._is_taken = True
        return bytes(takeover.behind) if takeover is not None else b""

    def release(self) -> None:
        """One more request is answered, in the order in which they came."""
        self._answers += 1
        takeover = self._takeover
        if self._is_taken or takeover is None or self._answers < takeover.number:
            return
        self._takeover = None
        if takeover.has_ended:
            self.close()
        elif takeover.behind:
            self.data_received(bytes(takeover.behind))
            if len(takeover.behind) >= HELD_BYTES and self.transport is not None:
                self.transport.resume_reading()

    async def start(self) -> None:
        try:
            await super().start()
        finally:
            if self._is_taken:
                # The transport has another protocol by now, so nobody else tells the server.
                super().connection_lost(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect_no_head()
        if not self._is_taken:
            super().connection_lost(exc)


def _asks_upgrade(field: http1.Field) -> bool:
    name, value = field[0].lower(), field[1].lower()
    return name == b"upgrade" or (name == b"connection" and b"upgrade" in value)


class Server(web.Server):
    """Makes a `Connection` of each connection."""

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An AppRunner whose connections can be taken over, and whose handlers end with their client.

    The limits of heads are those of `http1`: X-Registry-Config holds credentials of many
    registries, and filters make long URLs.
    """

    def __init__(self, app: web.Application, **kwargs: Any) -> None:
        limits: dict[str, Any] = {
            "max_line_size": http1.MAX_HEAD_BYTES,
            "max_field_size": http1.MAX_HEAD_BYTES,
            "max_headers": http1.MAX_FIELDS + 1,
        }
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,
            **limits,
            **kwargs,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        made.__class__ = Server  # the one thing aiohttp has no door for
        return made


# Taking over


class Taken(web.StreamResponse):
    """Stands for an answer that is no HTTP response: nothing is left to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


@dataclass(frozen=True, slots=True)
class Hijacked:
    """The connection as a descriptor, owned by whoever gets it, and what was read of it before.

    `finish` has to be awaited before the handler returns: behind TLS the descriptor is one end
    of a pair, and the handler's task carries the bytes between.
    """

    fd: int
    prefix: bytes
    pump: _Pump | None = None

    async def finish(self) -> None:
        if self.pump is not None:
            await self.pump.run()


def wants_upgrade(request: web.Request) -> bool:
    protocol = request.protocol
    return isinstance(protocol, Connection) and protocol.is_upgrade


def head(request: web.Request, content_type: str, protocol: str = "tcp") -> bytes:
    """What a hijacked connection is answered with before its raw bytes."""
    if wants_upgrade(request):
        told = f"Content-Type: {content_type}\r\n" if content_type else ""
        return (
            f"HTTP/1.1 101 UPGRADED\r\n{told}Connection: Upgrade\r\nUpgrade: {protocol}\r\n"
        ).encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n".encode()


async def hijack(
    request: web.Request,
    content_type: str = "",
    headers: Mapping[str, str] | None = None,
    *,
    protocol: str = "tcp",
) -> Hijacked:
    """Answer with a head and take the connection from the server.

    Raises ClientGone. After this the handler returns `Taken()`.
    """
    connection = request.protocol
    transport = request.transport
    if not isinstance(connection, Connection) or transport is None or transport.is_closing():
        raise ClientGone
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    answer = head(request, content_type, protocol) + more.encode() + b"\r\n"
    with suppress(RuntimeError):  # already paused
        transport.pause_reading()
    # An earlier answer on the same connection may still be on its way; nobody tells when it is out.
    while transport.get_write_buffer_size():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    if transport.get_extra_info("sslcontext") is not None:
        return _hijack_tls(connection, transport, answer)
    return await _hijack_socket(connection, transport, answer)


async def _hijack_socket(
    protocol: Connection, transport: asyncio.Transport, answer: bytes
) -> Hijacked:
    duplicate = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    prefix = protocol.take()
    # The transport gives up its own descriptor only; the connection lives on in the duplicate.
    transport.set_protocol(asyncio.Protocol())
    transport.abort()
    try:
        duplicate.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(duplicate, answer)
    except OSError as exc:
        duplicate.close()
        raise ClientGone from exc
    except BaseException:
        duplicate.close()
        raise
    return Hijacked(duplicate.detach(), prefix)


def _hijack_tls(protocol: Connection, transport: asyncio.Transport, answer: bytes) -> Hijacked:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    prefix = protocol.take()
    pump = _Pump(transport, ours)
    transport.write(answer)
    return Hijacked(theirs.detach(), prefix, pump)


class _Pump:
    """Carries bytes between an encrypted connection and one end of a socket pair."""

    def __init__(self, transport: asyncio.Transport, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(limit=_COPY_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        self._ours = ours
        transport.resume_reading()

    async def run(self) -> None:
        """Until the engine's end is closed; the client's end of stream is passed on."""
        inward = asyncio.ensure_future(self._inward())
        try:
            await self._outward()
        finally:
            inward.cancel()
            await asyncio.wait([inward])
            self._ours.close()
            self._writer.close()

    async def _inward(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await self._reader.read(_COPY_BYTES):
                await loop.sock_sendall(self._ours, data)
            self._ours.shutdown(socket.SHUT_WR)

    async def _outward(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._ours, _COPY_BYTES):
                self._writer.write(data)
                await self._writer.drain()


# Framing

_FRAME = struct.Struct(">BxxxL")
STDOUT, STDERR = 1, 2


def frame(stream: int, data: bytes) -> bytes:
    """One stdcopy frame: stream, three zero bytes, length, the bytes themselves."""
    return _FRAME.pack(stream, len(data)) + data


def frames(batch: Iterable[tuple[int, bytes]]) -> bytes:
    pack = _FRAME.pack
    parts: list[bytes] = []
    for stream, data in batch:
        parts += (pack(stream, len(data)), data)
    return b"".join(parts)


def lines(batch: Iterable[tuple[int, bytes]]) -> bytes:
    """The same without frames, as a terminal's output goes."""
    return b"".join([data for _, data in batch])


# Long bodies


class Stream(web.StreamResponse):
    """A body that goes on and on; writing raises ClientGone once nobody reads it any more."""

    async def open(self, request: web.Request) -> None:
        try:
            await self.prepare(request)
            await flush_head(self)
        except ConnectionError as exc:
            raise ClientGone from exc

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await super().write(data)
        except ConnectionError as exc:
            raise ClientGone from exc


async def open_stream(
    request: web.Request, content_type: str, headers: dict[str, str] | None = None
) -> Stream:
    """A response whose head is on its way when this returns. Raises ClientGone."""
    response = Stream(headers=headers)
    response.content_type = content_type
    await response.open(request)
    return response


async def flush_head(response: web.StreamResponse) -> None:
    """aiohttp keeps the head back until there is a body; clients wait for it before they go on."""
    writer = response._payload_writer  # pyright: ignore[reportPrivateUsage]
    send = getattr(writer, "send_headers", None)  # since aiohttp 3.12; before, it never waits
    if send is not None:
        send()


async def copy(response: web.StreamResponse, chunks: AsyncGenerator[bytes, None]) -> None:
    """Write all chunks, at the client's pace, and close their source whatever happens."""
    async with aclosing(chunks):
        async for chunk in chunks:
            await response.write(chunk)


async def tell(fd: int, data: bytes) -> None:
    """Say something on a connection that is no longer the server's, if it can still be said."""
    duplicate = socket.socket(fileno=os.dup(fd))
    try:
        duplicate.setblocking(False)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_sendall(duplicate, data)
    finally:
        duplicate.close()
