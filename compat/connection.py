"""A client's connection, read as Go's server reads it.

`Connection` takes requests (`http1`) one after the other: what comes behind one is held back until
its answer is out, and then read as the next. aiohttp gets each as a whole, and does what lies
between a request and the bytes of its answer.

    client                     Connection                        aiohttp
    GET …, GET … ────────────▶ first head ─────────────────────▶ request → handler → answer
                               second held back                            │
                               second head ◀───────────────────────────────┘

Attach and exec take the connection over (`streams.hijack`). What a client sends right behind such
a request, not waiting for the answer, is held back like any other, and a half-close that arrives
before the handler has taken over leaves the transport open.

    POST …/attach, Upgrade ──▶ head ───────────────────────────▶ request → handler → hijack()
    stdin bytes ─────────────▶ held back                              │
    FIN ─────────────────────▶ noted, transport kept                  │
                               take() = held back ◀───────────────────┘
"""

from __future__ import annotations

import asyncio
import logging
import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from compat import http1
from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    MayTakeOver = Callable[[str, str], bool]

HELD_BYTES = 256 * 1024  # behind a request not yet answered; then the client has to wait
_BODY_BYTES = 64 * 1024  # that no handler has taken yet; the same, at twice as many

_LINE_ENDS_AFTER_POST = 4  # that Go's server overlooks: old browsers sent some

# Clients that say nothing are let be for as long as they like between two requests, but a head
# once begun, and the first of all, has to come to its end (moby: ReadHeaderTimeout).
HEAD_TIMEOUT_S = 300.0

_LINGER_S = 10.0

log = logging.getLogger(__name__)


class ClientGone(ConnectionError):
    """The client left before its answer was out; nobody's fault, and nobody to tell."""

    def __init__(self) -> None:
        super().__init__("the client is gone")


class BrokenBody(EngineError):
    """A body that is malformed or ends too early; says what Go's server says of it."""


class Connection(RequestHandler):
    """A client's connection: aiohttp's from a request to its answer, ours up to the request."""

    def __init__(self, manager: web.Server, *, may_take_over: MayTakeOver, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._may_take_over = may_take_over
        self._head = bytearray()  # as far as it is there
        self._ignorable = 0  # line ends before it
        self._body: http1.Body = http1.LengthBody(0)
        self._payload = EMPTY_PAYLOAD
        self._request: tuple[RawRequestMessage, StreamReader] | None = None  # to be answered
        self._held = bytearray()
        self._is_answering = False
        self._is_continue_due = False
        self._asked = ("", "")  # method and target, of the request under way
        self._is_upgrade = False
        self._is_taken = False
        self._has_ended = False  # the client says no more
        self._wait: asyncio.Timeout | None = None  # that ends with what the client says
        self._is_over = False  # no request can follow the one that was answered
        self._deadline: asyncio.TimerHandle | None = None  # of a head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._end_in(HEAD_TIMEOUT_S)

    # What comes in

    def data_received(self, data: bytes) -> None:
        while data and not self._force_close:
            if not self._body.is_complete:
                data = self._receive_body(data)
            elif self._is_over:
                return
            elif self._is_answering:
                self._held += data
                self._adjust_reading()
                return
            else:
                data = self._receive_head(data)

    def _receive_body(self, data: bytes) -> bytes:
        """Pass on what belongs to the body; what lies behind it."""
        body = self._body
        if body.fault:
            return b""
        content, behind = body.feed(data)
        if content:
            self._payload.feed_data(content)
        if body.is_complete or body.fault:
            self._end_payload()
        if body.fault and not self._is_answering:
            self.force_close()
        return behind

    def _end_payload(self) -> None:
        """What is there of the body is all that there will be."""
        if self._body.fault:
            log.debug("a request's body is broken: %s", self._body.fault)
        if not self._payload.is_eof():
            self._payload.feed_eof()

    def _receive_head(self, data: bytes) -> bytes:
        """Collect the head and pass it on once it is complete; what of `data` lies behind it."""
        if self._ignorable:
            ignored = http1.line_ends(data, self._ignorable)
            self._ignorable = self._ignorable - ignored if ignored == len(data) else 0
            data = data[ignored:]
            if not data:
                return data
        searched = len(self._head)
        self._head += data
        end = http1.end_of_head(self._head, searched)
        if (end if end >= 0 else len(self._head)) > http1.MAX_HEAD_BYTES:
            self._refuse(http1.TooLarge())
            return b""
        if end < 0:
            self._await_head(searched)
            return b""
        self._need_not_end()
        received, behind = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        try:
            self._begin(http1.read_head(received))
        except http1.Refused as exc:
            self._refuse(exc)
        return behind

    def _await_head(self, searched: int) -> None:
        """The rest has its time to come, unless the first line says that it is no request."""
        line_end = self._head.find(b"\n")
        if line_end >= searched:
            try:
                http1.check_request_line(bytes(self._head[:line_end]))
            except http1.Malformed as exc:
                self._refuse(exc)
                return
        if self._deadline is None:
            self._end_in(HEAD_TIMEOUT_S)

    def _begin(self, head: http1.Head) -> None:
        """Have that answered (`start`)."""
        self._ignorable = _LINE_ENDS_AFTER_POST if head.method == b"POST" else 0
        self._body = head.body()
        self._payload = EMPTY_PAYLOAD
        if not self._body.is_complete:
            self._payload = StreamReader(self, limit=_BODY_BYTES, loop=self._loop)
        self._is_answering = True
        self._is_continue_due = head.expects_continue
        self._asked = (head.method.decode(), head.target.decode())
        self._is_upgrade = head.is_upgrade
        self._request = (_message(head), self._payload)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _refuse(self, refusal: http1.Refused) -> None:
        """Answer that, and end. All that came before is answered by now."""
        log.debug("refused what is no request: %s", refusal)
        self._need_not_end()
        if self.transport is not None:
            self.transport.write(refusal.answer)
        self.force_close()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client says no more: it waits for its answers, or is gone.

        Then nobody tells. dockerd takes it for gone, as far as it would only have waited for
        something to happen; an answer it gets all the same.
        """
        if self.ssl_context is not None:
            return None  # such a transport is not to be kept
        self._has_ended = True
        if self._is_answering:
            if not self._may_take_over(*self._asked) and self._has_left():
                return None
            if not self._body.is_complete:
                self._body.end()
                self._end_payload()
            self._end_wait()
            return True
        if self._head:
            self._refuse(http1.Malformed())
        return None

    @contextmanager
    def listening(self, wait: asyncio.Timeout) -> Iterator[None]:
        """Has `wait` expire in here once the client says no more."""
        self._wait = wait
        if self._has_ended:
            self._end_wait()
        try:
            yield
        finally:
            self._wait = None

    def _end_wait(self) -> None:
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(self._loop.time())

    def _has_left(self) -> bool:
        """Whether it is certain, as on a Unix socket, that nobody reads the answer either."""
        if self.transport is None:
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def pause_reading(self) -> None:
        """The handler does not keep up with the body."""
        self._reading_paused = True
        self._adjust_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        if self.transport is None:
            return
        if self._reading_paused or len(self._held) >= HELD_BYTES:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _end_in(self, seconds: float) -> None:
        self._need_not_end()
        self._deadline = self._loop.call_later(seconds, self._end)

    def _need_not_end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        log.debug("the client says nothing any more")
        if self.transport is not None:
            self.transport.abort()
        self.force_close()

    # What goes out

    def ask_for_body(self) -> None:
        """The handler is about to read: a client that waits for that is told to go on."""
        if self._is_continue_due and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._is_continue_due = False

    @property
    def fault(self) -> str:
        """What is wrong with the body of the request that is being answered."""
        return self._body.fault

    @property
    def is_last(self) -> bool:
        """Whether no request can follow: nobody could tell where it begins."""
        return bool(self._body.fault) or self._is_continue_due

    async def _answer(self, message: RawRequestMessage, payload: StreamReader) -> None:
        manager, task = self._manager, self._task_handler
        if manager is None or task is None:
            raise ClientGone
        manager.requests_count += 1
        writer = StreamWriter(self, self._loop)
        request = manager.request_factory(message, payload, self, writer, task)
        response, is_lost = await self._handle_request(request, None, manager.request_handler)
        if is_lost or not response.keep_alive:
            self._close = True
        if not payload.is_eof() and not self._force_close:
            await self._linger(payload)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    async def _linger(self, payload: StreamReader) -> None:
        """Read what nobody wanted: closing on it would take the answer from the client, too."""
        try:
            async with asyncio.timeout(_LINGER_S):
                while not payload.is_eof():
                    await payload.readany()
        except TimeoutError:
            self._close = True

    async def finish_response(self, *args: Any, **kwargs: Any) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(*args, **kwargs)
        finally:
            if not self._is_taken:
                self._go_on()

    def _go_on(self) -> None:
        """One more request is answered; the next may be there already."""
        self._is_answering = False
        self._is_over = self.is_last
        if self._is_continue_due and self.transport is not None and self.transport.can_write_eof():
            # Who waited for that need not send the body any more; who does is read a little longer.
            self.transport.write_eof()
        if self._body.is_complete:
            self._reading_paused = False  # by a body that nobody will read to its end
        held = bytes(self._held)
        self._held.clear()
        self._adjust_reading()
        self._need_not_end()
        self.data_received(held)
        if not self._has_ended or self._is_answering:
            return
        if self._head:
            self._refuse(http1.Malformed())
        else:
            self._close = True

    # Taking over

    @property
    def is_upgrade(self) -> bool:
        return self._is_upgrade

    async def drain(self) -> None:
        """Wait until all is out that was written, or the client is gone."""
        if self.transport is not None:
            # asyncio's TLS takes an empty buffer for a full one where the limit is 0.
            self.transport.set_write_buffer_limits(0 if self.ssl_context is None else 1, 0)
            await self._drain_helper()
        if self.transport is None or self.transport.is_closing():
            raise ClientGone
        self.transport.set_write_buffer_limits()

    def take(self) -> bytes:
        """End HTTP on this connection; what came behind the request is the caller's."""
        self._is_taken = True
        self._need_not_end()
        return bytes(self._held)

    async def start(self) -> None:
        """As aiohttp's, but without a task, and two turns of the loop, for each request."""
        try:
            while not self._close and not self._force_close:
                if self._request is None:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                if self._request is not None:
                    message, payload = self._request
                    self._request = None
                    await self._answer(message, payload)
        except ConnectionError:
            self.force_close()
        except asyncio.CancelledError:
            self.force_close()
            # A task keeps what cancelled it, and with it the frames that know the task: a circle
            # that holds all they had in hand, for each client that leaves, until a collection.
            if self.transport is not None:
                raise
        except BaseException:
            self.force_close()
            raise
        finally:
            if not self._force_close and self.transport is not None:
                self.transport.close()
            if self._is_taken:
                # The transport has another protocol by now, so nobody else tells the server.
                super().connection_lost(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._need_not_end()
        if not self._is_taken:
            super().connection_lost(exc)


def _message(head: http1.Head) -> RawRequestMessage:
    """The head as aiohttp's own parser would pass it on. No body is decompressed here."""
    target = head.target.decode()
    path, _, query = target.partition("?")
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in head.fields:
        headers.add(name.decode(), value.decode(errors="surrogateescape"))
    return RawRequestMessage(
        method=head.method.decode(),
        path=target,
        version=HttpVersion11 if head.minor else HttpVersion10,
        headers=CIMultiDictProxy(headers),
        raw_headers=head.fields,
        should_close=head.is_last,
        compression=None,
        upgrade=False,
        chunked=head.is_chunked,
        url=URL.build(path=path, query_string=query, encoded=True),
    )


async def body(request: web.Request) -> AsyncGenerator[bytes, None]:
    """What the client sends with its request, as it comes. Raises BrokenBody after the rest."""
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.ask_for_body()
    async for chunk in request.content.iter_any():
        yield chunk
    if isinstance(connection, Connection) and connection.fault:
        raise BrokenBody(connection.fault)


class Server(web.Server):
    """Makes a `Connection` of each connection."""

    may_take_over: MayTakeOver

    def __call__(self) -> RequestHandler:
        return Connection(self, may_take_over=self.may_take_over, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """An AppRunner with `Connection`s, whose handlers end with their client.

    `may_take_over` tells of which requests, by method and target, the handler may have the
    connection itself.
    """

    def __init__(self, app: web.Application, *, may_take_over: MayTakeOver, **kwargs: Any) -> None:
        super().__init__(app, handler_cancellation=True, access_log=None, **kwargs)
        self._may_take_over = may_take_over

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        made.__class__ = Server  # the one thing aiohttp has no door for
        assert isinstance(made, Server)
        made.may_take_over = self._may_take_over
        return made
