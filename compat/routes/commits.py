"""The handler that makes an image of a container: a verb of neither noun alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.routes.route import Route, reply
from compat.translate import requests
from compat.wire import containers as wire
from engine.container import model
from engine.oci import reference as references

if TYPE_CHECKING:
    from aiohttp import web

    from compat.routes.route import Call


async def commit(call: Call) -> web.Response:
    body = await call.body(wire.Config)
    ref = references.from_repo_and_tag(call.query.text("repo"), call.query.text("tag"))
    request = model.CommitRequest(
        ref=ref,
        config=None if body == wire.Config() else requests.config(body),
        changes=tuple(call.query.all("changes")),
        author=call.query.text("author"),
        comment=call.query.text("comment"),
        pause=call.query.flag("pause", default=True),
    )
    image_id = await call.engine.containers.commit(call.query.text("container"), request)
    return reply(call, 201, wire.CommitResponse(id=image_id))


ROUTES = (Route("POST", "/commit", "images.commit", commit),)
