"""A container and its networks: what it asks of them, and joining or leaving one later."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from engine.container import links, modes
from engine.container.state import ALIVE
from engine.errors import Conflict, EngineError
from engine.network.model import SandboxRequest

if TYPE_CHECKING:
    from engine.container.model import Container, Endpoint, EndpointConfig
    from engine.container.rooms import Rooms
    from engine.container.store import Handle


def request(rooms: Rooms, container: Container) -> SandboxRequest:
    """All that the network room has to know to open this container's sandbox."""
    host_config, config = container.host_config, container.config
    folder = rooms.folder(container.id)
    shares = modes.other(host_config.network_mode) is not None
    return SandboxRequest(
        container_id=container.id,
        name=container.name,
        hostname=config.hostname,
        domainname=config.domainname,
        mode="none" if config.network_disabled else host_config.network_mode,
        endpoints={each.network_name: each.config for each in container.endpoints},
        exposed_ports=config.exposed_ports,
        port_bindings=host_config.port_bindings or {},
        publish_all=host_config.publish_all_ports,
        dns=host_config.dns or (),
        dns_search=host_config.dns_search or (),
        dns_options=host_config.dns_options or (),
        extra_hosts=host_config.extra_hosts or (),
        linked_hosts=links.hosts(rooms, container),
        mac_address=config.mac_address,
        hosts_path="" if shares else os.path.join(folder, "hosts"),
        resolv_conf_path="" if shares else os.path.join(folder, "resolv.conf"),
        hostname_path="" if shares else os.path.join(folder, "hostname"),
    )


async def connect(rooms: Rooms, handle: Handle, ref: str, config: EndpointConfig) -> None:
    """The network first, then the row; a container that does not run is only noted."""
    async with handle.lock:
        _refuse_gone(handle)
        container = handle.container
        asked = request(rooms, container)
        if container.state.status in ALIVE:
            endpoint = await rooms.networks.connect(ref, config, asked)
        else:
            endpoint = rooms.networks.resolve(ref, config, asked, container.endpoints)
        others = [e for e in container.endpoints if e.network_name != endpoint.network_name]
        await _save(rooms, handle, (*others, endpoint))


async def disconnect(rooms: Rooms, handle: Handle, ref: str, *, force: bool) -> None:
    async with handle.lock:
        _refuse_gone(handle)
        container = handle.container
        if container.state.status in ALIVE:
            path = os.path.join(rooms.folder(container.id), "hosts")
            network = await rooms.networks.disconnect(
                ref, container.id, force=force, hosts_path=path
            )
        else:
            network = rooms.networks.find(ref)
        kept = tuple(e for e in container.endpoints if e.network_name != network.name)
        if len(kept) == len(container.endpoints):
            raise EngineError(
                f"container {container.id} is not connected to the network {network.name}"
            )
        await _save(rooms, handle, kept)


def _refuse_gone(handle: Handle) -> None:
    if handle.is_gone or handle.state.status in ("removing", "dead"):
        raise Conflict(
            f"container {handle.id} is marked for removal and cannot be connected to a network"
        )


async def _save(rooms: Rooms, handle: Handle, endpoints: tuple[Endpoint, ...]) -> None:
    await rooms.store.save(handle, msgspec.structs.replace(handle.container, endpoints=endpoints))
