"""Handlers about the engine as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from compat import params, streams
from compat.routes.route import Call, Route, reply
from compat.translate import events, system
from compat.translate import usage as disk_usage
from compat.wire import reading
from compat.wire import system as wire
from engine.errors import InvalidParameter, Unclassified

if TYPE_CHECKING:
    from engine.events import Event

_PING = {
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
    "Content-Type": "text/plain; charset=utf-8",
}
_USAGE_TYPES = frozenset({"container", "image", "volume", "build-cache"})

_encoder = msgspec.json.Encoder(order="deterministic")  # maps sorted, as Go writes them


async def ping(call: Call) -> web.Response:
    return web.Response(body=b"OK", headers=_PING)


async def ping_head(call: Call) -> web.Response:
    return web.Response(headers={**_PING, "Content-Length": "0"})


async def version(call: Call) -> web.Response:
    return reply(call, 200, system.version(await call.engine.system.version(), call.config))


async def info(call: Call) -> web.Response:
    facts = await call.engine.system.info()
    return reply(call, 200, system.info(facts, call.config, listeners=len(call.engine.events)))


async def auth(call: Call) -> web.Response:
    """Try the credentials; a registry may give a token to use instead of them."""
    data, fault = await params.read_all(call.request)
    try:
        sent = reading.read_first(data, wire.AuthRequest, fault)
    except InvalidParameter as exc:
        raise Unclassified(str(exc)) from exc
    token = await call.engine.registry.login(system.credentials(sent))
    return reply(call, 200, wire.AuthResponse(identity_token=token, status="Login Succeeded"))


async def df(call: Call) -> web.Response:
    wanted = frozenset(call.query.all("type")) or _USAGE_TYPES
    if unknown := wanted - _USAGE_TYPES:
        raise InvalidParameter(f"unknown object type: {min(unknown)}")
    facts = await call.engine.system.df(
        containers="container" in wanted, images="image" in wanted, volumes="volume" in wanted
    )
    return reply(call, 200, disk_usage.df(facts, wanted, params.now_ns()))


async def follow_events(call: Call) -> web.StreamResponse:
    """What happened since `since`, then what happens until `until`, each event as it comes."""
    since, until = call.query.time_ns("since"), call.query.time_ns("until")
    if since is not None and until is not None and until < since:
        raise InvalidParameter(
            f"`since` time ({call.query.text('since')}) cannot be after "
            f"`until` time ({call.query.text('until')})"
        )
    filters = call.query.filters()
    now = params.now_ns()
    bus = call.engine.events
    with bus.subscribe() as subscription:
        is_asked = since is not None or until is not None
        # Until 0 is until now: dockerd looks whether it was said, then takes it for none.
        past = bus.past(since_ns=since or 0, until_ns=until or None) if is_asked else []
        response = await streams.open_stream(call.request, "application/json")
        await response.write(b"".join(_lines(call, past, filters)))
        if until is None or until > now:
            left_s = None if until is None else (until - now) / 1e9
            async with streams.listening(call.request, left_s):
                async for event in subscription:
                    for line in _lines(call, [event], filters):
                        await response.write(line)
    return response


def _lines(call: Call, happened: list[Event], filters: dict[str, tuple[str, ...]]) -> list[bytes]:
    knows_image_create = call.has("events.image-create")
    return [
        _encoder.encode(system.event(event)) + b"\n"
        for event in happened
        if (knows_image_create or (event.type, event.action) != ("image", "create"))
        and events.matches(event, filters)
    ]


ROUTES = (
    Route("GET", "/_ping", "system.ping", ping),
    Route("HEAD", "/_ping", "system.ping", ping_head),
    Route("GET", "/events", "system.events", follow_events),
    Route("GET", "/info", "system.info", info),
    Route("GET", "/version", "system.version", version),
    Route("GET", "/system/df", "system.df", df),
    Route("POST", "/auth", "system.auth", auth),
)
