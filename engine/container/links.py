"""Legacy links: other containers on the default bridge by a name of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.container import validate
from engine.container.state import ALIVE
from engine.errors import InvalidParameter, NoSuchContainer

if TYPE_CHECKING:
    from engine.container.model import Container
    from engine.container.rooms import Rooms


def hosts(rooms: Rooms, container: Container) -> tuple[str, ...]:
    """Lines for /etc/hosts as `name:address`; raises if what is linked to does not run."""
    entries: list[str] = []
    for link in container.host_config.links or ():
        ref, alias = validate.parse_link(link)
        target = _target(rooms, container, ref)
        address = next((e.ipv4_address for e in target.endpoints if e.ipv4_address), "")
        if address:
            names = dict.fromkeys([alias, target.config.hostname, target.name])
            entries += [f"{name}:{address}" for name in names]
    return tuple(entries)


def _target(rooms: Rooms, container: Container, ref: str) -> Container:
    try:
        target = rooms.store.find(ref).container
    except NoSuchContainer as exc:
        raise InvalidParameter(f"could not get container for {ref}: {exc}") from exc
    if target.state.status not in ALIVE:
        raise InvalidParameter(
            f"Cannot link to a non running container: /{target.name} AS "
            f"/{container.name}/{validate.parse_link(ref)[1]}"
        )
    return target
