"""Handlers about networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat import params
from compat.routes.route import Call, Route, done, reply
from compat.translate import networks, requests
from compat.wire import networks as wire
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from aiohttp import web


async def list_(call: Call) -> web.Response:
    views = await call.engine.networks.list(call.query.filters())
    with_containers = not call.has("networks.list-without-containers")
    return reply(call, 200, [networks.network(v, with_containers=with_containers) for v in views])


async def inspect(call: Call) -> web.Response:
    verbose = call.query.text("verbose")
    try:
        is_verbose = bool(verbose) and params.parse_bool(verbose)
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid value for verbose: {verbose}: {exc}") from None
    view = await call.engine.networks.inspect(
        call.ref, verbose=is_verbose, scope=call.query.text("scope")
    )
    return reply(call, 200, networks.network(view, with_containers=True))


async def create(call: Call) -> web.Response:
    body = await call.body(wire.NetworkCreateRequest)
    network_id, warning = await call.engine.networks.create(networks.request(body))
    return reply(call, 201, wire.NetworkCreateResponse(id=network_id, warning=warning))


async def remove(call: Call) -> web.Response:
    await call.engine.networks.remove(call.ref)
    return done()


async def prune(call: Call) -> web.Response:
    names = await call.engine.networks.prune(call.query.filters())
    return reply(call, 200, wire.NetworkPruneResponse(networks_deleted=tuple(names) or None))


async def connect(call: Call) -> web.Response:
    body = await call.body(wire.NetworkConnectRequest)
    config = requests.endpoint(body.endpoint_config)
    await call.engine.containers.connect(body.container, call.ref, config)
    return done(200)


async def disconnect(call: Call) -> web.Response:
    body = await call.body(wire.NetworkDisconnectRequest)
    await call.engine.containers.disconnect(body.container, call.ref, force=body.force)
    return done(200)


ROUTES = (
    Route("GET", "/networks", "networks.list", list_),
    Route("GET", "/networks/", "networks.list", list_),
    Route("GET", "/networks/{ref}", "networks.inspect", inspect),
    Route("POST", "/networks/create", "networks.create", create),
    Route("POST", "/networks/prune", "networks.prune", prune),
    Route(
        "POST",
        "/networks/{ref}/connect",
        "networks.connect",
        connect,
    ),
    Route(
        "POST",
        "/networks/{ref}/disconnect",
        "networks.disconnect",
        disconnect,
    ),
    Route("DELETE", "/networks/{ref}", "networks.remove", remove),
)
