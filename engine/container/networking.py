"""A container and its networks: what it asks of them, and joining or leaving one later."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from engine.container import links, modes
from engine.container.model import Status
from engine.container.state import ALIVE
from engine.errors import Conflict, EngineError, NoSuchNetwork, WharfError
from engine.network import names, ports
from engine.network.model import PREDEFINED, SandboxRequest
from engine.runtime.client import Listener, Resolver, RuntimeFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.container.model import Container, Endpoint, EndpointConfig, HostConfig
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.network import model
    from engine.network.model import MovedPorts, Network

log = logging.getLogger(__name__)


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
        endpoints={}
        if config.network_disabled
        else {_reference(each): each.config for each in container.endpoints},
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


def _reference(endpoint: Endpoint) -> str:
    """A network of ones own that was joined once is that one and no other of its name."""
    is_own = endpoint.network_name not in PREDEFINED
    return endpoint.network_id if is_own and endpoint.network_id else endpoint.network_name


def main(rooms: Rooms, host_config: HostConfig) -> Network | None:
    """The network of ones own that the mode means, if there is one."""
    mode = host_config.network_mode
    if mode in PREDEFINED or modes.other(mode) is not None:
        return None
    try:
        return rooms.networks.find(mode)
    except WharfError:
        return None


def listeners(made: Iterable[model.Listener]) -> list[Listener]:
    """What the network room bound, as the runtime takes it."""
    return [
        Listener(
            each.fd,
            protocol=each.protocol,
            host_ip=each.host_ip,
            host_port=each.host_port,
            target_ip=each.target_ip,
            target_port=each.target_port,
        )
        for each in made
    ]


def resolver(made: model.Resolver | None) -> Resolver | None:
    """What the network room made, as the runtime takes it."""
    return Resolver(made.fds, made.path) if made else None


async def connect(rooms: Rooms, handle: Handle, ref: str, config: EndpointConfig) -> None:
    """A container that does not run is only noted, as it was asked for first."""
    async with handle.lock:
        _refuse_gone(handle)
        container = handle.container
        asked = request(rooms, container)
        if _stands(container):
            await _join(rooms, handle, ref, config, asked)
        else:
            endpoint = rooms.networks.resolve(ref, config, asked, container.endpoints)
            if endpoint.network_name not in {e.network_name for e in container.endpoints}:
                await rooms.store.save(handle, _with(container, endpoint))


def _stands(container: Container) -> bool:
    """It has a network namespace, which stays while it waits to be started again."""
    status = container.state.status
    return status in ALIVE or (status is Status.RESTARTING and bool(container.sandbox_id))


async def _join(
    rooms: Rooms, handle: Handle, ref: str, config: EndpointConfig, asked: SandboxRequest
) -> None:
    """As `store.change`, but what is about to be is known only on the way; and where the last row
    cannot be written, the container leaves again.
    """
    before = handle.container

    async def note(endpoint: Endpoint) -> None:
        joining = _with(before, endpoint)
        await rooms.store.save(
            handle, msgspec.structs.replace(joining, unsettled_endpoint=endpoint.endpoint_id)
        )

    joined: Endpoint | None = None
    try:
        made = await rooms.networks.connect(ref, config, asked, note)
        joined = made.endpoint
        await _hand_over_ports(rooms, handle, made.ports)
        await _hand_over(rooms, handle, asked, resolver(made.resolver))
        await rooms.store.save(handle, _published(_with(before, joined), made.ports))
    except Exception:
        if joined is not None:
            await _unplug(rooms, handle, joined)
        if handle.container is not before:
            await rooms.store.note(handle, before)
        raise


def _published(container: Container, moved: MovedPorts | None) -> Container:
    if moved is None:
        return container
    return msgspec.structs.replace(container, ports=moved.published)


async def _hand_over_ports(rooms: Rooms, handle: Handle, moved: MovedPorts | None) -> None:
    """To the monitor, which holds them. The kernel leads most packets by itself: without a monitor
    that understands, all that is missing is what it would relay.
    """
    if moved is None:
        return
    try:
        if handle.task is not None:
            await handle.task.publish(listeners(moved.listeners))
        else:
            ports.close(moved.listeners)
    except RuntimeFailure as exc:
        log.warning("the monitor of container %s holds other ports: %s", handle.id, exc)
    rooms.networks.released(moved)


async def _hand_over(
    rooms: Rooms, handle: Handle, asked: SandboxRequest, made: Resolver | None
) -> None:
    """To the monitor, which answers from now on. One of an earlier version cannot: its container
    goes on asking whom it asked before, until it is started again.
    """
    if made is None:
        return
    if handle.task is None:
        for fd in made.fds:
            os.close(fd)
        raise EngineError(f"container {handle.id} has no monitor to answer for names")
    try:
        await handle.task.resolve(made)
    except RuntimeFailure as exc:
        log.warning("container %s has no names of its networks: %s", handle.id, exc)
    else:
        await rooms.networks.answered(asked)


async def disconnect(rooms: Rooms, handle: Handle, ref: str, *, force: bool) -> None:
    async with handle.lock:
        _refuse_gone(handle)
        before = handle.container
        is_alive = _stands(before)
        network = _to_leave(rooms, ref, may_be_gone=force or not is_alive)
        name = network.name if network else ref
        # Nor is one kept that was left at boot, which could not be written then.
        unsettled = before.unsettled_endpoint
        kept = tuple(
            e
            for e in before.endpoints
            if e.network_name != name and (not unsettled or e.endpoint_id != unsettled)
        )
        without = msgspec.structs.replace(before, endpoints=kept, unsettled_endpoint="")
        left = next((e for e in before.endpoints if e.network_name == name), None)
        # Another network may have the name of one that is gone, and that one be left by force.
        by_row = left.network_id if left and (force or network is None) else ""
        network_id = by_row or (network.id if network else "")
        if is_alive and network_id:
            await _leave(rooms, handle, network_id, left, without, force=force)
        elif left is None:
            raise EngineError(f"container {before.id} is not connected to the network {name}")
        else:
            await rooms.store.save(handle, without)


def _to_leave(rooms: Rooms, ref: str, *, may_be_gone: bool) -> Network | None:
    """As in dockerd, what does not run or is made to leaves also a network that is gone (None)."""
    try:
        return rooms.networks.find(ref)
    except NoSuchNetwork:
        if not may_be_gone:
            raise
        return None


async def _leave(
    rooms: Rooms,
    handle: Handle,
    network_id: str,
    left: Endpoint | None,
    without: Container,
    *,
    force: bool,
) -> None:
    during = before = handle.container
    if left is not None:
        during = msgspec.structs.replace(before, unsettled_endpoint=left.endpoint_id)
    moved: MovedPorts | None = None
    async with rooms.store.change(handle, during, lambda: _published(without, moved)):
        moved = await rooms.networks.disconnect(
            network_id,
            request(rooms, before),
            functools.partial(_hand_over_ports, rooms, handle),
            force=force,
        )


async def settle(rooms: Rooms, handle: Handle) -> None:
    """At boot: a network that was being joined or left when the engine ended is left."""
    container = handle.container
    if not container.unsettled_endpoint:
        return
    moved: MovedPorts | None = None
    for endpoint in container.endpoints:
        if endpoint.endpoint_id == container.unsettled_endpoint:
            log.info("container %s leaves network %s", container.id, endpoint.network_name)
            moved = await _unplug(rooms, handle, endpoint)
    kept = [e for e in container.endpoints if e.endpoint_id != container.unsettled_endpoint]
    settled = msgspec.structs.replace(container, endpoints=tuple(kept), unsettled_endpoint="")
    await rooms.store.save(handle, _published(settled, moved))


async def _unplug(rooms: Rooms, handle: Handle, endpoint: Endpoint) -> MovedPorts | None:
    container = handle.container
    try:
        return await rooms.networks.disconnect(
            endpoint.network_id,
            request(rooms, container),
            functools.partial(_hand_over_ports, rooms, handle),
            force=True,
        )
    except WharfError as exc:
        log.warning(
            "container %s did not leave network %s: %s", container.id, endpoint.network_name, exc
        )
        return None


def renamed(container: Container, name: str) -> Container:
    """The container under another name, which its neighbours find it by."""
    return msgspec.structs.replace(
        container,
        name=name,
        endpoints=tuple(
            names.renamed(each, name, container.id, container.config.hostname)
            for each in container.endpoints
        ),
    )


def _with(container: Container, endpoint: Endpoint) -> Container:
    others = [e for e in container.endpoints if e.network_name != endpoint.network_name]
    return msgspec.structs.replace(container, endpoints=(*others, endpoint))


def _refuse_gone(handle: Handle) -> None:
    if handle.is_gone or handle.state.status in ("removing", "dead"):
        raise Conflict(
            f"container {handle.id} is marked for removal and cannot be connected to a network"
        )
