"""Which network drivers there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.errors import Forbidden
from engine.network import bridge, host, ipvlan, macvlan, none
from engine.network.ipam import NoSuchPlugin

if TYPE_CHECKING:
    from engine.network.driver import Driver
    from engine.network.model import Network

ALL: Final[dict[str, Driver]] = {
    each.name: each
    for each in (bridge.Driver(), host.Driver(), ipvlan.Driver(), macvlan.Driver(), none.Driver())
}
"""By name, in dockerd's order."""
DEFAULT: Final = bridge.NAME

_SWARM: Final = frozenset(("overlay",))


class NoSwarm(Forbidden):
    def __init__(self) -> None:
        super().__init__(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again."
        )


def of(network: Network) -> Driver:
    return ALL[network.driver]


def named(name: str) -> Driver:
    """The driver that a request means. Raises NoSuchPlugin."""
    if (found := ALL.get(name)) is None:
        raise NoSuchPlugin(name)
    return found


def check_swarm(name: str) -> None:
    """Raises where a driver is a cluster's, and this is none."""
    if name in _SWARM:
        raise NoSwarm
