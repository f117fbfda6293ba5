"""Routes of an engine that is in no swarm, and has no plugins: as dockerd answers then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat.routes.route import Call, Route, reply
from engine import filters
from engine.errors import NotFound, NotImplementedHere, Unavailable

if TYPE_CHECKING:
    from aiohttp import web

_PLUGIN_FILTERS = frozenset({"capability", "enabled"})
_NOT_A_MEMBER = "This node is not part of a swarm"


class NotAManager(Unavailable):
    def __init__(self) -> None:
        super().__init__(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
            "to connect this node to swarm and try again."
        )


async def not_a_manager(call: Call) -> web.Response:
    raise NotAManager


async def not_a_member(call: Call) -> web.Response:
    raise Unavailable(_NOT_A_MEMBER)


async def no_swarm(call: Call) -> web.Response:
    raise NotImplementedHere("swarm mode is not supported by this engine")


async def no_plugins(call: Call) -> web.Response:
    asked = call.query.filters()
    filters.check(asked, _PLUGIN_FILTERS)
    filters.truth(asked, "enabled")
    return reply(call, 200, [])


async def no_such_plugin(call: Call) -> web.Response:
    raise NotFound(f'plugin "{call.ref}" not found')


async def plugins_unsupported(call: Call) -> web.Response:
    raise NotImplementedHere("plugins are not supported by this engine")


def _collection(noun: str) -> tuple[Route, ...]:
    """The routes that nodes, services, secrets and configs have alike."""
    routes: tuple[tuple[str, str, str], ...] = (
        ("GET", f"/{noun}", "list"),
        ("POST", f"/{noun}/create", "create"),
        ("GET", f"/{noun}/{{ref}}", "inspect"),
        ("POST", f"/{noun}/{{ref}}/update", "update"),
        ("DELETE", f"/{noun}/{{ref}}", "remove"),
    )
    return tuple(
        Route(method, path, f"{noun}.{verb}", not_a_manager) for method, path, verb in routes
    )


def _plugin(method: str, verb: str, handler: Any = no_such_plugin) -> Route:
    return Route(method, f"/plugins/{{ref}}/{verb}", f"plugins.{verb}", handler)


ROUTES = (
    Route("GET", "/swarm", "swarm.inspect", not_a_manager),
    Route("GET", "/swarm/unlockkey", "swarm.unlock-key", not_a_manager),
    Route("POST", "/swarm/init", "swarm.init", no_swarm),
    Route("POST", "/swarm/join", "swarm.join", no_swarm),
    Route("POST", "/swarm/leave", "swarm.leave", not_a_member),
    Route("POST", "/swarm/update", "swarm.update", not_a_manager),
    Route("POST", "/swarm/unlock", "swarm.unlock", not_a_manager),
    *_collection("services"),
    Route("GET", "/services/{ref}/logs", "services.logs", not_a_manager),
    *(r for r in _collection("nodes") if r.name != "nodes.create"),
    *_collection("secrets"),
    *_collection("configs"),
    Route("GET", "/tasks", "tasks.list", not_a_manager),
    Route("GET", "/tasks/{ref}", "tasks.inspect", not_a_manager),
    Route("GET", "/tasks/{ref}/logs", "tasks.logs", not_a_manager),
    Route("GET", "/plugins", "plugins.list", no_plugins),
    Route("GET", "/plugins/privileges", "plugins.privileges", plugins_unsupported),
    _plugin("GET", "json"),
    Route("POST", "/plugins/pull", "plugins.pull", plugins_unsupported),
    Route("POST", "/plugins/create", "plugins.create", plugins_unsupported),
    _plugin("POST", "enable"),
    _plugin("POST", "disable"),
    _plugin("POST", "push"),
    _plugin("POST", "upgrade", plugins_unsupported),
    _plugin("POST", "set"),
    Route("DELETE", "/plugins/{ref}", "plugins.remove", no_such_plugin),
)
