"""Building images, which is not served yet: each way to ask for it ends in the same sentence."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from compat import http2, streams
from compat.errors import PageNotFound
from compat.routes.route import Route, later

if TYPE_CHECKING:
    from aiohttp import web

    from compat.routes.route import Call
    from engine.linux.fd import OwnedFd

_SENTENCE = "building images is not supported by this engine yet"
_SILENCE_S = 60
_READ_BYTES = 16 * 1024


async def grpc(call: Call) -> web.StreamResponse:
    """BuildKit's connection: taken, so that buildx does not look for a builder elsewhere."""
    if not streams.wants_upgrade(call.request):
        raise PageNotFound
    async with await streams.hijack(call.request, protocol="h2c") as taken:
        await _refuse(taken.fd, taken.prefix)
    return streams.Taken()


async def _refuse(fd: OwnedFd, data: bytes) -> None:
    """Until the client has heard enough, or is silent for long."""
    loop = asyncio.get_running_loop()
    refusal = http2.Refusal(_SENTENCE)
    with (
        streams.borrowed(fd) as connection,
        suppress(OSError, TimeoutError, http2.NotHttp2),
    ):
        while True:
            if answer := refusal.feed(data):
                await asyncio.wait_for(loop.sock_sendall(connection, answer), _SILENCE_S)
            data = await asyncio.wait_for(loop.sock_recv(connection, _READ_BYTES), _SILENCE_S)
            if not data:
                return


ROUTES = (
    Route("POST", "/build", "images.build", later("building images")),
    Route("POST", "/grpc", "builds.grpc", grpc, takes_over=True),
)
