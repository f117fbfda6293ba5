"""Connections that stop being HTTP, and bodies that go on and on.

Attach and exec take the client's connection over: after the answer's head it carries raw bytes
both ways, and is handed to the engine as a file descriptor, with what the client has said already.

Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from aiohttp import web

from compat.connection import ClientGone, Connection
from engine.linux.fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

_COPY_BYTES = 64 * 1024

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
    """The connection as a descriptor, for whoever takes it, and what was read of it before.

    Leaving the context closes what nobody took, and the spare one, on which something can still be
    said whoever has the connection by then.

    Behind TLS the descriptor is one end of a pair, and the bytes between it and the client are
    carried from the beginning on: leaving the context waits until whoever has it closes it. A
    handler that fails, or is cancelled, cuts the client off.
    """

    fd: OwnedFd
    prefix: bytes
    spare: OwnedFd
    pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.spare.close()
        self.fd.close()
        if self.pump is None:
            return
        if kind is not None:
            self.pump.cancel()
            await asyncio.wait([self.pump])
        else:
            await self.pump


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
    has_spare: bool = False,
) -> Hijacked:
    """Answer with a head and take the connection from the server.

    Raises ClientGone, and OSError for want of descriptors, while that can still be answered. What
    comes back is entered at once; after it the handler returns `Taken()`.
    """
    connection = request.protocol
    transport = request.transport
    if not isinstance(connection, Connection) or transport is None or transport.is_closing():
        raise ClientGone
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    answer = head(request, content_type, protocol) + more.encode() + b"\r\n"
    await connection.drain()  # of an earlier answer
    if transport.get_extra_info("sslcontext") is not None:
        return _hijack_tls(connection, transport, answer, has_spare=has_spare)
    return await _hijack_socket(connection, transport, answer, has_spare=has_spare)


async def _hijack_socket(
    protocol: Connection, transport: asyncio.Transport, answer: bytes, *, has_spare: bool
) -> Hijacked:
    with ExitStack() as undo:
        fd = OwnedFd(os.dup(transport.get_extra_info("socket").fileno()))
        undo.callback(fd.close)
        spare = OwnedFd(os.dup(fd.fileno()) if has_spare else -1)
        undo.callback(spare.close)
        prefix = protocol.take()
        # The transport gives up its own descriptor only; the connection lives on in the duplicate.
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        with borrowed(fd) as connection:
            try:
                await asyncio.get_running_loop().sock_sendall(connection, answer)
            except OSError as exc:
                raise ClientGone from exc
        undo.pop_all()
    return Hijacked(fd, prefix, spare)


def _hijack_tls(
    protocol: Connection, transport: asyncio.Transport, answer: bytes, *, has_spare: bool
) -> Hijacked:
    with ExitStack() as undo:
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair())
        ours.setblocking(False)
        theirs.setblocking(False)
        spare = OwnedFd(os.dup(theirs.fileno()) if has_spare else -1)
        undo.pop_all()
    prefix = protocol.take()
    pump = _Pump(transport, ours)
    transport.write(answer)
    running = asyncio.ensure_future(pump.run())
    running.add_done_callback(lambda _: pump.close())  # also if it is cancelled before it begins
    return Hijacked(OwnedFd(theirs.detach()), prefix, spare, running)


@contextmanager
def borrowed(fd: OwnedFd) -> Iterator[socket.socket]:
    """To speak on a connection that stays whose it is; takes no descriptor."""
    connection = socket.socket(fileno=fd.fileno())
    try:
        connection.setblocking(False)
        yield connection
    finally:
        connection.detach()


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

    def close(self) -> None:
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


def has_begun(request: web.Request) -> bool:
    """Whether there is an answer on its way, so that another one would be part of its body."""
    return request.writer.output_size > 0


async def open_stream(
    request: web.Request, content_type: str, headers: dict[str, str] | None = None
) -> Stream:
    """A response whose head is on its way when this returns. Raises ClientGone."""
    response = Stream(headers=headers)
    response.content_type = content_type
    await response.open(request)
    return response


@asynccontextmanager
async def listening(request: web.Request, left_s: float | None = None) -> AsyncGenerator[None]:
    """For what only waits: cut short, without a word, when time is up or the client half-closes.

    The answer goes out all the same, with its end.
    """
    wait = asyncio.timeout(left_s)
    connection = request.protocol
    try:
        async with wait:
            if isinstance(connection, Connection):
                with connection.listening(wait):
                    yield
            else:
                yield
    except TimeoutError:
        if not wait.expired():
            raise


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


async def tell(fd: OwnedFd, data: bytes) -> None:
    """Say something on a connection that is no longer the server's, if it can still be said."""
    with suppress(OSError, TimeoutError), borrowed(fd) as connection:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(connection, data)
