"""Handlers about containers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from compat import params, streams
from compat.routes import terminal
from compat.routes.route import Call, Route, done, later, reply
from compat.translate import requests, responses
from compat.wire import containers as wire
from compat.wire.base import UNSET
from engine import stdcopy
from engine.container import model
from engine.errors import InvalidParameter, NotImplementedHere, WharfError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from engine.container.logs import Batch

_encoder = msgspec.json.Encoder()


async def create(call: Call) -> web.Response:
    body = await params.required_body(call.request, wire.ContainerCreateRequest, call.version)
    request, warnings = requests.create(
        body,
        name=call.query.text("name"),
        platform=call.query.text("platform"),
        version=call.version,
    )
    created = await call.engine.containers.create(request)
    return reply(
        call,
        201,
        wire.ContainerCreateResponse(id=created.id, warnings=(*created.warnings, *warnings)),
    )


async def list_(call: Call) -> web.Response:
    limit = call.query.integer("limit") or 0
    views = await call.engine.containers.list(
        model.ListQuery(
            all=call.query.flag("all"),
            limit=max(limit, 0),
            with_size=call.query.flag("size"),
            filters=call.query.filters(),
        )
    )
    now = params.now_ns()
    return reply(call, 200, [responses.summary(view, now) for view in views])


async def inspect(call: Call) -> web.Response:
    view = await call.engine.containers.inspect(call.ref, with_size=call.query.flag("size"))
    body = responses.inspect(view, short_id_is_alias=not call.has("inspect.short-id-is-no-alias"))
    return reply(call, 200, body)


# Life


async def start(call: Call) -> web.Response:
    length = call.request.content_length
    if (length or 0) > 7 or (length is None and call.request.body_exists):
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    if call.query.text("checkpoint"):
        raise NotImplementedHere("checkpoints are not supported")
    await call.engine.containers.start(call.ref)
    return done()


async def stop(call: Call) -> web.Response:
    timeout_s = call.query.integer("t")
    await call.engine.containers.stop(
        call.ref, signal=call.query.text("signal") or None, timeout_s=timeout_s
    )
    return done()


async def restart(call: Call) -> web.Response:
    timeout_s = call.query.integer("t")
    await call.engine.containers.restart(
        call.ref, signal=call.query.text("signal") or None, timeout_s=timeout_s
    )
    return done()


async def kill(call: Call) -> web.Response:
    try:
        await call.engine.containers.kill(call.ref, call.query.text("signal"))
    except WharfError as exc:
        exc.args = (f"cannot kill container: {call.ref}: {exc}",)
        raise
    return done()


async def pause(call: Call) -> web.Response:
    await call.engine.containers.pause(call.ref)
    return done()


async def unpause(call: Call) -> web.Response:
    await call.engine.containers.unpause(call.ref)
    return done()


async def rename(call: Call) -> web.Response:
    await call.engine.containers.rename(call.ref, call.query.text("name"))
    return done()


async def resize(call: Call) -> web.Response:
    height, width = terminal.size(call)
    await call.engine.containers.resize(call.ref, height, width)
    return done(200)


async def update(call: Call) -> web.Response:
    """Limits and the restart policy; the rest of a HostConfig cannot change and is not read."""
    body = await call.body(wire.HostConfig)
    requests.check_kernel_memory(body, call.version)
    if not call.has("update.pids-limit"):
        body = msgspec.structs.replace(body, pids_limit=None)
    policy = requests.restart_policy(body.restart_policy) if body.restart_policy.name else None
    resources = requests.resources(body)
    if body.pids_limit is not None:  # here 0 says "no limit any more", and absence nothing
        resources = msgspec.structs.replace(resources, pids_limit=max(body.pids_limit, 0))
    warnings = await call.engine.containers.update(call.ref, resources, policy)
    return reply(call, 200, wire.ContainerUpdateResponse(warnings=warnings or None))


async def wait(call: Call) -> web.StreamResponse:
    """The head goes out once the waiter stands: clients start the container only then."""
    condition = _condition(call)
    outcome = asyncio.ensure_future(await call.engine.containers.waiter(call.ref, condition))
    result = model.WaitResult(exit_code=-1, error="context canceled")
    response = None
    try:
        if call.has("wait.headers-first"):
            response = await streams.open_stream(call.request, "application/json")
        async with streams.listening(call.request):
            result = await outcome
    finally:
        outcome.cancel()
    if response is None:
        return reply(call, 200, _wait_response(result))
    is_silent = condition is model.WaitCondition.REMOVED and not call.has(
        "wait.tells-failed-removal"
    )
    if not (result.error and is_silent):
        await response.write(_encoder.encode(_wait_response(result)) + b"\n")
    return response


def _condition(call: Call) -> model.WaitCondition:
    text = call.query.text("condition")
    try:
        return model.WaitCondition(text or "not-running")
    except ValueError:
        raise InvalidParameter(f'invalid condition: "{text}"') from None


def _wait_response(result: model.WaitResult) -> wire.ContainerWaitResponse:
    error = wire.WaitError(message=result.error) if result.error else UNSET
    return wire.ContainerWaitResponse(error=error, status_code=result.exit_code)


async def remove(call: Call) -> web.Response:
    await call.engine.containers.remove(
        call.ref,
        force=call.query.flag("force"),
        volumes=call.query.flag("v"),
        link=call.query.flag("link"),
    )
    return done()


async def prune(call: Call) -> web.Response:
    pruned = await call.engine.containers.prune(call.query.filters())
    return reply(
        call,
        200,
        wire.ContainerPruneResponse(
            containers_deleted=pruned.ids or None, space_reclaimed=pruned.reclaimed_bytes
        ),
    )


async def top(call: Call) -> web.Response:
    found = await call.engine.containers.top(call.ref, call.query.text("ps_args") or "-ef")
    return reply(call, 200, wire.ContainerTopResponse(processes=found.rows, titles=found.titles))


# Files


async def changes(call: Call) -> web.Response:
    found = await call.engine.containers.changes(call.ref)
    return reply(call, 200, [responses.change(each) for each in found] or None)


async def export(call: Call) -> web.StreamResponse:
    chunks = call.engine.containers.export(call.ref)
    async with aclosing(chunks):
        first = await anext(chunks)  # all that can be refused is refused by now
        response = await streams.open_stream(call.request, "application/octet-stream")
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    return response


# Streams


async def logs(call: Call) -> web.StreamResponse:
    stdout, stderr = call.query.flag("stdout"), call.query.flag("stderr")
    if not stdout and not stderr:
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    view = await call.engine.containers.inspect(call.ref)
    query = model.LogsQuery(
        stdout=stdout,
        stderr=stderr,
        follow=call.query.flag("follow"),
        timestamps=call.query.flag("timestamps"),
        details=call.query.flag("details"),
        since_ns=call.query.time_ns("since"),
        until_ns=call.query.time_ns("until") or None,
        tail=_tail(call.query.text("tail")),
    )
    tty = view.container.config.tty
    batches = await call.engine.containers.logs(call.ref, query)
    response = await streams.open_stream(call.request, terminal.stream_type(call, tty=tty))
    if query.follow:
        async with streams.listening(call.request):
            await streams.copy(response, _framed(batches, tty=tty))
    else:
        await streams.copy(response, _framed(batches, tty=tty))
    return response


async def _framed(
    batches: AsyncGenerator[Batch, None], *, tty: bool
) -> AsyncGenerator[bytes, None]:
    pack = stdcopy.unframed if tty else stdcopy.frames
    async with aclosing(batches):
        async for batch in batches:
            yield pack(batch)


def _tail(text: str) -> int | None:
    """Lines from the end; "all", nothing and what is no number mean all, as with dockerd."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or text.startswith("-"):
        return None
    return int(digits[:18])


async def attach(call: Call) -> web.StreamResponse:
    """Errors are plain text: by the time of most of them the connection is no longer HTTP."""
    options = model.AttachOptions(
        stdin=call.query.flag("stdin"),
        stdout=call.query.flag("stdout"),
        stderr=call.query.flag("stderr"),
        stream=call.query.flag("stream"),
        logs=call.query.flag("logs"),
        detach_keys=call.query.text("detachKeys"),
    )
    try:
        container = await call.engine.containers.check_attach(call.ref, options)
        await params.read_all(call.request)  # some clients send a document; it is not stdin
    except WharfError as exc:
        return _refused(exc)
    content_type = terminal.stream_type(call, tty=container.config.tty)
    async with await streams.hijack(call.request, content_type) as taken:
        await call.engine.containers.attach(call.ref, options, taken.fd, taken.prefix)
    return streams.Taken()


def _refused(exc: WharfError) -> web.Response:
    from compat import errors

    response = web.Response(
        status=errors.status(exc),
        body=f"{exc}\r\n".encode(errors="replace"),
        content_type=streams.RAW_STREAM,
    )
    response.force_close()
    return response


async def _exists(call: Call) -> None:
    await call.engine.containers.inspect(call.ref)


async def _has_path(call: Call) -> None:
    if not call.query.text("path"):
        raise InvalidParameter("bad parameter: pathcannot be empty")  # moby's, without a space
    await _exists(call)


ROUTES = (
    Route(
        "HEAD", "/containers/{ref}/archive", "containers.stat", later("copying files", _has_path)
    ),
    Route("GET", "/containers/json", "containers.list", list_),
    Route("GET", "/containers/{ref}/export", "containers.export", export),
    Route("GET", "/containers/{ref}/changes", "containers.changes", changes),
    Route("GET", "/containers/{ref}/json", "containers.inspect", inspect),
    Route("GET", "/containers/{ref}/top", "containers.top", top),
    Route("GET", "/containers/{ref}/logs", "containers.logs", logs),
    Route("GET", "/containers/{ref}/stats", "containers.stats", later("stats", _exists)),
    Route(
        "GET",
        "/containers/{ref}/attach/ws",
        "containers.attach-ws",
        later("attaching through a websocket", _exists),
    ),
    Route(
        "GET",
        "/containers/{ref}/archive",
        "containers.get-archive",
        later("copying files", _has_path),
    ),
    Route("POST", "/containers/create", "containers.create", create),
    Route("POST", "/containers/prune", "containers.prune", prune),
    Route("POST", "/containers/{ref}/kill", "containers.kill", kill),
    Route("POST", "/containers/{ref}/pause", "containers.pause", pause),
    Route("POST", "/containers/{ref}/unpause", "containers.unpause", unpause),
    Route("POST", "/containers/{ref}/restart", "containers.restart", restart),
    Route("POST", "/containers/{ref}/start", "containers.start", start),
    Route("POST", "/containers/{ref}/stop", "containers.stop", stop),
    Route("POST", "/containers/{ref}/wait", "containers.wait", wait),
    Route("POST", "/containers/{ref}/resize", "containers.resize", resize),
    Route("POST", "/containers/{ref}/attach", "containers.attach", attach, takes_over=True),
    Route("POST", "/containers/{ref}/rename", "containers.rename", rename),
    Route("POST", "/containers/{ref}/update", "containers.update", update),
    Route(
        "PUT",
        "/containers/{ref}/archive",
        "containers.put-archive",
        later("copying files", _has_path),
    ),
    Route("DELETE", "/containers/{ref}", "containers.remove", remove),
)
