"""Handlers about processes that are added to a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat import streams
from compat.routes import terminal
from compat.routes.route import Route, done, reply
from compat.translate import requests, responses
from compat.wire import containers as wire
from engine import stdcopy
from engine.errors import WharfError

if TYPE_CHECKING:
    from aiohttp import web

    from compat.routes.route import Call


async def create(call: Call) -> web.Response:
    config = requests.exec_config(await call.body(wire.ExecCreateRequest))
    exec_id = await call.engine.containers.exec_create(call.ref, config)
    return reply(call, 201, wire.ExecCreateResponse(id=exec_id))


async def start(call: Call) -> web.StreamResponse:
    body = await call.body(wire.ExecStartRequest)
    await call.engine.containers.exec_check(call.ref)
    size = body.console_size if body.tty else None
    if body.detach:
        await call.engine.containers.exec_start(
            call.ref, detach=True, tty=body.tty, console_size=size, fd=None, prefix=b""
        )
        return done(200)
    content_type = terminal.stream_type(call, tty=body.tty)
    # A failure to start is told on the stream, whoever owns it by then.
    taking = streams.hijack(call.request, content_type, call.headers, has_spare=True)
    async with await taking as taken:
        try:
            await call.engine.containers.exec_start(
                call.ref,
                detach=False,
                tty=body.tty,
                console_size=size,
                fd=taken.fd,
                prefix=taken.prefix,
            )
        except WharfError as exc:
            await streams.tell(taken.spare, _told(exc, tty=body.tty))
    return streams.Taken()


def _told(exc: WharfError, *, tty: bool) -> bytes:
    text = f"{exc}\r\n".encode(errors="replace")
    return text if tty else stdcopy.frame(stdcopy.STDOUT, text)


async def resize(call: Call) -> web.Response:
    height, width = terminal.size(call)
    await call.engine.containers.exec_resize(call.ref, height, width)
    return done(200)


async def inspect(call: Call) -> web.Response:
    found = await call.engine.containers.exec_inspect(call.ref)
    return reply(call, 200, responses.exec_inspect(found))


ROUTES = (
    Route("GET", "/exec/{ref}/json", "execs.inspect", inspect),
    Route("POST", "/containers/{ref}/exec", "execs.create", create),
    Route("POST", "/exec/{ref}/start", "execs.start", start, takes_over=True),
    Route("POST", "/exec/{ref}/resize", "execs.resize", resize),
)
