"""Handlers about images."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from compat import connection, errors, middleware, params, streams
from compat.connection import ClientGone
from compat.routes.route import Call, Route, done, reply
from compat.translate import images
from compat.wire import images as wire
from engine import filters as filtering
from engine.errors import EngineError, InvalidParameter, WharfError
from engine.image import model
from engine.oci import platform as platforms
from engine.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web


_encoder = msgspec.json.Encoder()
_FULL_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
# What Go writes of them, wherever they are: programs compare lines.
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))


async def list_(call: Call) -> web.Response:
    filters = call.query.filters()
    if name := call.query.text("filter"):
        filters["reference"] = (*filters.get("reference", ()), name)
    query = model.ImageQuery(
        all=call.query.flag("all"), shared_size=call.query.flag("shared-size"), filters=filters
    )
    listed = await call.engine.images.list(query)
    return reply(call, 200, [images.summary(i) for i in listed])


async def inspect(call: Call) -> web.Response:
    platform = call.query.platform("platform")
    if call.query.flag("manifests") and platform is not None:
        raise InvalidParameter(
            "conflicting options: manifests and platform options cannot both be set"
        )
    view = await call.engine.images.inspect(call.ref, platform)
    body = images.inspect(
        view, with_runtime_fields=not call.has("images.config-omits-runtime-fields")
    )
    return reply(call, 200, body)


async def history(call: Call) -> web.Response:
    platform = call.query.platform("platform")
    items = await call.engine.images.history(call.ref, platform)
    return reply(call, 200, [images.history(i) for i in items])


async def tag(call: Call) -> web.Response:
    repo = call.query.text("repo")
    if not repo:
        return done(200)  # nothing to do, and dockerd does not look for the image either
    await call.engine.images.tag(call.ref, repo, call.query.text("tag"))
    return done(201)


async def remove(call: Call) -> web.Response:
    if not call.ref.strip():
        raise InvalidParameter("image name cannot be blank")
    items = await call.engine.images.remove(
        call.ref,
        force=call.query.flag("force"),
        prune=not call.query.flag("noprune"),
        platforms=call.query.platforms("platforms"),
    )
    return reply(call, 200, images.removed(items))


async def prune(call: Call) -> web.Response:
    pruned = await call.engine.images.prune(call.query.filters())
    body = wire.ImagePruneResponse(
        images_deleted=images.removed(pruned.removed) or None,
        space_reclaimed=pruned.reclaimed_bytes,
    )
    return reply(call, 200, body)


# Streams


async def create(call: Call) -> web.StreamResponse:
    """Pull, or import what the body or a URL holds."""
    spelled = call.query.text("platform")
    platform = platforms.parse(spelled) if spelled else None
    if name := call.query.text("fromImage"):
        ref = images.to_pull(name, call.query.text("tag"))
        steps = call.engine.images.pull(
            ref, auth=params.registry_auth(call.request), platform=platform
        )
        return await _progress(call, steps)
    source = call.query.text("fromSrc")
    ref_ = references.from_repo_and_tag(call.query.text("repo"), call.query.text("tag"))
    message = call.query.text("message") or f"Imported from {source}"
    changes = call.query.all("changes")
    if source == "-":
        steps = call.engine.images.import_(
            connection.body(call.request), ref_, message, changes, platform
        )
        return await _progress(call, steps)
    async with call.engine.registry.download(source) as download:
        steps = call.engine.images.import_from(download, ref_, message, changes, platform)
        return await _progress(call, steps)


async def push(call: Call) -> web.StreamResponse:
    platform = call.query.platform("platform")
    ref = images.to_push(call.ref, call.query.text("tag"))
    auth = await params.any_registry_auth(call.request)
    return await _progress(call, call.engine.images.push(ref, auth=auth, platform=platform))


async def load(call: Call) -> web.StreamResponse:
    """Failures are told in the stream, even the first: clients read nothing else."""
    platform = call.query.platform("platform", is_single=True)
    quiet = call.query.flag("quiet", default=True)
    steps = call.engine.images.load(connection.body(call.request), quiet=quiet, platform=platform)
    return await _progress(call, steps, tells_first=True)


async def save(call: Call) -> web.StreamResponse:
    names = (call.ref,) if "ref" in call.variables else call.query.all("names")
    chunks = call.engine.images.save(
        names, platform=call.query.platform("platform", is_single=True)
    )
    async with aclosing(chunks):
        first = await anext(chunks, b"")  # all that can be refused is refused by now
        response = await streams.open_stream(call.request, "application/x-tar")
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    return response


async def _progress(
    call: Call, steps: AsyncGenerator[model.Progress, None], *, tells_first: bool = False
) -> web.StreamResponse:
    """A line a step. What fails before the first is a status, after it a line."""
    async with aclosing(steps):
        try:
            first = await anext(steps, None)
        except WharfError as exc:
            if not tells_first:
                raise
            first = model.Progress(error=str(exc))
        response = await streams.open_stream(call.request, "application/json")
        if first is not None:
            await response.write(_line(first))
        try:
            async for step in steps:
                await response.write(_line(step))
        except ClientGone:
            raise
        except Exception as exc:
            middleware.note(call.request, exc)
            await response.write(_line(model.Progress(error=errors.sentence(exc))))
    return response


def _line(step: model.Progress) -> bytes:
    line = _encoder.encode(images.progress(step))
    for char, escaped in _ESCAPES:
        line = line.replace(char, escaped)
    return line + b"\r\n"


# Registries and builds


async def distribution(call: Call) -> web.Response:
    if _FULL_ID.fullmatch(call.ref):
        raise EngineError("no manifest found for full image ID")
    ref = references.parse(call.ref).with_default_tag()
    found = await call.engine.registry.inspect(ref, params.registry_auth(call.request))
    body = wire.DistributionInspectResponse(
        descriptor=images.descriptor(found.descriptor),
        platforms=tuple(images.platform(p) for p in found.platforms) or None,
    )
    return reply(call, 200, body)


async def search(call: Call) -> web.Response:
    """Unreadable credentials count as none, as everywhere."""
    try:
        limit = call.query.integer("limit") or 0
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid limit specified: {exc}") from None
    if limit < 0:
        return done(200)  # dockerd means to refuse it, and has no error to do so with
    found = await call.engine.registry.search(
        call.query.text("term"),
        limit=limit,
        filters=call.query.filters(),
        auth=params.registry_auth(call.request),
    )
    return reply(call, 200, [images.search_result(one) for one in found])


# moby builder/builder-next/builder.go, and its label filters
_CACHE_FILTERS = frozenset(
    {
        "description",
        "id",
        "inuse",
        "label",
        "label!",
        "parent",
        "private",
        "shared",
        "type",
        "until",
        "unused-for",
    }
)


async def build_prune(call: Call) -> web.Response:
    """There is no build cache, so there is nothing to remove: `docker system prune` asks."""
    try:
        filtering.check(call.query.filters(), _CACHE_FILTERS)
    except InvalidParameter as exc:
        raise InvalidParameter(f"failed to prune build cache: {exc}") from exc
    return reply(call, 200, wire.BuildPruneResponse(caches_deleted=None, space_reclaimed=0))


ROUTES = (
    Route("GET", "/images/json", "images.list", list_),
    Route("GET", "/images/search", "images.search", search),
    Route("GET", "/images/get", "images.save", save),
    Route("GET", "/images/{ref}/get", "images.save", save),
    Route("GET", "/images/{ref}/history", "images.history", history),
    Route("GET", "/images/{ref}/json", "images.inspect", inspect),
    Route("POST", "/images/load", "images.load", load),
    Route("POST", "/images/create", "images.create", create),
    Route("POST", "/images/prune", "images.prune", prune),
    Route("POST", "/images/{ref}/push", "images.push", push),
    Route("POST", "/images/{ref}/tag", "images.tag", tag),
    Route("DELETE", "/images/{ref}", "images.remove", remove),
    Route("GET", "/distribution/{ref}/json", "images.distribution", distribution),
    Route("POST", "/build/prune", "images.build-prune", build_prune),
)
