"""Handlers about volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.routes.route import Call, Route, done, reply
from compat.routes.swarm import NotAManager
from compat.translate import volumes
from compat.wire import volumes as wire
from compat.wire.base import UNSET
from engine.errors import InvalidParameter, NotFound, Unavailable

if TYPE_CHECKING:
    from aiohttp import web


async def list_(call: Call) -> web.Response:
    try:
        filters = call.query.filters()
    except InvalidParameter as exc:
        raise InvalidParameter(f"error reading volume filters: {exc}") from None
    kept = await call.engine.volumes.list(filters)
    body = wire.VolumeListResponse(volumes=tuple(volumes.volume(v) for v in kept), warnings=None)
    return reply(call, 200, body)


async def inspect(call: Call) -> web.Response:
    if not call.ref:
        raise NotFound("get: no such volume")
    return reply(call, 200, volumes.volume(await call.engine.volumes.get(call.ref)))


async def create(call: Call) -> web.Response:
    body = await call.body(wire.VolumeCreateRequest)
    if body.cluster_volume_spec is not UNSET:
        raise NotAManager
    made = await call.engine.volumes.create(body.name, body.driver, body.driver_opts, body.labels)
    return reply(call, 201, volumes.volume(made))


async def update(call: Call) -> web.Response:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(call: Call) -> web.Response:
    await call.engine.volumes.remove(call.ref, force=call.query.flag("force"))
    return done()


async def prune(call: Call) -> web.Response:
    filters = call.query.filters()
    if not call.has("volumes.prune-anonymous-only"):
        filters["all"] = tuple(dict.fromkeys((*filters.get("all", ()), "true")))
    pruned = await call.engine.volumes.prune(filters)
    body = wire.VolumePruneResponse(
        volumes_deleted=pruned.names, space_reclaimed=pruned.reclaimed_bytes
    )
    return reply(call, 200, body)


ROUTES = (
    Route("GET", "/volumes", "volumes.list", list_),
    Route("GET", "/volumes/{ref}", "volumes.inspect", inspect),
    Route("POST", "/volumes/create", "volumes.create", create),
    Route("POST", "/volumes/prune", "volumes.prune", prune),
    Route("PUT", "/volumes/{ref}", "volumes.update", update),
    Route("DELETE", "/volumes/{ref}", "volumes.remove", remove),
)
