"""What a route is, and what a handler gets: the request, seen as its version sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from compat import params, versions
from engine.errors import NotImplementedHere

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from compat.versions import Version
    from engine.config import EngineConfig
    from engine.engine import Engine

T = TypeVar("T")

_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: who is asked, by which version, for what."""

    request: web.Request
    engine: Engine
    config: EngineConfig
    version: Version
    route: Route
    variables: Mapping[str, str]
    headers: Mapping[str, str]  # those on every answer
    query: params.Query

    @property
    def ref(self) -> str:
        """What the path names: a name, an id or a prefix of one."""
        return self.variables["ref"]

    async def body(self, cls: type[T]) -> T:
        """The document sent; without one, a document without fields."""
        return await params.body(self.request, cls, self.version)

    def has(self, behaviour: str) -> bool:
        return versions.has(self.version, behaviour)


Handler: TypeAlias = "Callable[[Call], Awaitable[web.StreamResponse]]"
Check: TypeAlias = "Callable[[Call], Awaitable[object]]"


@dataclass(frozen=True, slots=True)
class Route:
    """`path` may hold {variables}; each takes any line of text, slashes too, as with dockerd.

    `takes_over`: the connection may stop being HTTP, and a client that says no more still listens.
    """

    method: str
    path: str
    name: str
    handler: Handler
    takes_over: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        literal = "".join(
            f"(?P<{part}>.*)" if index % 2 else re.escape(part)
            for index, part in enumerate(_VARIABLE.split(self.path))
        )
        object.__setattr__(self, "pattern", re.compile(literal))

    @property
    def is_static(self) -> bool:
        return "{" not in self.path


# Answers

_encoder = msgspec.json.Encoder(order="deterministic")  # maps sorted, as Go writes them


def reply(call: Call, status: int, body: object) -> web.Response:
    """The body as JSON, in the shape that the client's version knows."""
    return web.Response(
        status=status,
        body=_encoder.encode(versions.shape(body, call.version)) + b"\n",
        content_type="application/json",
    )


def done(status: int = 204) -> web.Response:
    """Success with nothing to say."""
    return web.Response(status=status)


def later(what: str, check: Check | None = None) -> Handler:
    """A handler for what this engine does not do yet: it says so, after what it can check."""

    async def refuse(call: Call) -> web.StreamResponse:
        if check is not None:
            await check(call)
        raise NotImplementedHere(f"{what} is not supported by this engine yet")

    return refuse
