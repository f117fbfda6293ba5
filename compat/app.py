"""The application: one table of routes, and the way from a request to its handler.

Routing is dockerd's, not aiohttp's: paths with and without a version, variables that hold
slashes, "page not found" for an unknown path and a wrong method alike, a redirect for doubled
slashes. It is done in two dictionary look-ups for most requests.
"""

from __future__ import annotations

import logging
import posixpath
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from aiohttp import web

from compat import errors, middleware, params, requestid, streams, versions
from compat.connection import ClientGone, Connection, Runner
from compat.routes import ALL
from compat.routes.route import Call, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.config import EngineConfig
    from engine.engine import Engine

log = logging.getLogger(__name__)

_VERSIONED = re.compile(r"/v([0-9.]+)(/.*)")
_FORM_BYTES = 64 * 1024
_FORM = "application/x-www-form-urlencoded"


class Table:
    """All routes, found by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._static: dict[tuple[str, str], Route] = {}
        self._dynamic: dict[tuple[str, str], list[Route]] = {}
        for route in routes:
            if route.is_static:
                self._static[route.method, route.path] = route
            else:
                key = (route.method, route.path.split("/", 2)[1])
                self._dynamic.setdefault(key, []).append(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its variables. Raises PageNotFound."""
        if found := self._static.get((method, path)):
            return found, {}
        for route in self._dynamic.get((method, path.split("/", 2)[1]), ()):
            if match := route.pattern.fullmatch(path):
                return route, match.groupdict()
        raise errors.PageNotFound


class Dispatcher:
    """Takes each request to its handler and brings back an answer, whatever happens."""

    def __init__(self, engine: Engine, config: EngineConfig, routes: Iterable[Route]) -> None:
        self._engine = engine
        self._config = config
        self._table = Table(routes)
        self._headers = middleware.headers(config)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        requestid.begin()
        try:
            return await self._handle(request)
        except ClientGone:
            log.debug("%s %s: the client is gone", request.method, request.path)
            return streams.Taken()
        except Exception as exc:
            answer = middleware.failure(request, exc)
            # Cut off without its end, a body does not pass for whole.
            return streams.Taken() if streams.has_begun(request) else answer

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = _path(request.raw_path)
        log.debug("%s %s", request.method, request.raw_path)
        if "//" in path or "/." in path:
            clean = posixpath.normpath("/" + path.lstrip("/")) + ("/" if path[-1] == "/" else "")
            if clean != path:
                return _moved(request, clean)
        version_text = None
        if versioned := _VERSIONED.fullmatch(path):
            version_text, path = versioned[1], versioned[2]
        if request.method == "OPTIONS":
            return web.Response()
        route, variables = self._table.find(request.method, path)
        version = versions.NEWEST if version_text is None else versions.parse(version_text)
        query = params.Query(await _words(request), route.name, version)
        return await route.handler(
            Call(
                request=request,
                engine=self._engine,
                config=self._config,
                version=version,
                route=route,
                variables=variables,
                headers=self._headers,
                query=query,
            )
        )

    def may_take_over(self, method: str, target: str) -> bool:
        """Whether the handler of such a request may have the connection itself."""
        path = _path(target)
        versioned = _VERSIONED.fullmatch(path)
        try:
            return self._table.find(method, versioned[2] if versioned else path)[0].takes_over
        except errors.PageNotFound:
            return False

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)
        if isinstance(request.protocol, Connection) and request.protocol.is_last:
            response.headers["Connection"] = "close"
            response.force_close()


def _path(target: str) -> str:
    return unquote(target.partition("?")[0])


async def _words(request: web.Request) -> params.Words:
    """The words of the query and, before them, of a form: curl -d sends one."""
    form = b""
    if (
        request.method == "POST"
        and request.body_exists
        and request.content_type == _FORM
        and (request.content_length or 0) <= _FORM_BYTES
    ):
        form = await params.read_form(request)
    query = request.raw_path.partition("?")[2]
    return params.parse_query(form.decode(errors="replace"), query)


def _moved(request: web.Request, path: str) -> web.Response:
    query = f"?{request.query_string}" if request.query_string else ""
    return web.Response(status=301, headers={"Location": quote(path) + query})


_DISPATCHER = web.AppKey("dispatcher", Dispatcher)


def create_app(engine: Engine, config: EngineConfig) -> web.Application:
    """The API over an opened engine. Serve it with `create_runner`."""
    dispatcher = Dispatcher(engine, config, ALL)
    app = web.Application()
    app[_DISPATCHER] = dispatcher
    app.on_response_prepare.append(dispatcher.add_headers)
    app.router.add_route("*", r"/{path:[\s\S]*}", dispatcher.answer, expect_handler=_expect)
    return app


async def _expect(request: web.Request) -> None:
    """Who reads the body tells the client to send it (`connection.body`)."""


def create_runner(app: web.Application, **options: Any) -> web.AppRunner:
    """A runner whose connections attach and exec may take over; sites are the caller's.

    `options` are aiohttp's for a server.
    """
    return Runner(app, may_take_over=app[_DISPATCHER].may_take_over, **options)
