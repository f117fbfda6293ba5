"""Legacy links: other containers on the default bridge by a name of one's own.

`--link zed:al` of yin is the name yin/al of zed: zed is found and listed by it, yin has it in
/etc/hosts, and zed's ports and environment in variables of its own (moby daemon/links). On networks
of one's own a link is an alias only, which is the network room's affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import modes, validate
from engine.container.model import Link
from engine.container.state import ACTIVE, ALIVE
from engine.errors import EngineError, InvalidParameter, NoSuchContainer
from engine.network import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.container.model import Container, Endpoint, HostConfig
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

_NETWORK = "bridge"
# Every image has them; they say nothing about whom is linked to.
_NOT_TOLD = frozenset({"HOME", "PATH"})


class CannotLink(EngineError):
    def __init__(self, target: str, holder: str, alias: str) -> None:
        super().__init__(f"Cannot link to a non running container: /{target} AS /{holder}/{alias}")


def resolve(rooms: Rooms, host_config: HostConfig) -> tuple[Link, ...]:
    """Whom the links of a new container mean, for good; the first of two with one alias counts.

    Raises InvalidParameter: not found would read as if the image were missing.
    """
    if modes.is_user_defined_network(host_config.network_mode):
        return ()
    found: dict[str, Link] = {}
    for text in host_config.links or ():
        ref, alias = validate.parse_link(text)
        target = _with_own_network(rooms, _find(rooms, ref))
        if target.host_config.network_mode == "host":
            raise InvalidParameter(modes.HOST_NETWORK_AND_LINKS)
        found.setdefault(alias, Link(container_id=target.id, name=target.name, alias=alias))
    return tuple(found.values())


def _with_own_network(rooms: Rooms, target: Container) -> Container:
    while (donor := modes.other(target.host_config.network_mode)) is not None:
        target = _find(rooms, donor)
    return target


def _find(rooms: Rooms, ref: str) -> Container:
    try:
        return rooms.store.find(ref).container
    except (InvalidParameter, NoSuchContainer) as exc:
        raise InvalidParameter(f"could not get container for {ref}: {exc}") from exc


# What is shown


def shown(rooms: Rooms, container: Container) -> tuple[tuple[str, str], ...]:
    """(name, alias) of each link; one whose target is gone still stands there."""
    return tuple((_name(rooms, link), link.alias) for link in container.links)


def _name(rooms: Rooms, link: Link) -> str:
    handle = rooms.store.get(link.container_id)
    return handle.container.name if handle is not None else link.name


def names(handles: Iterable[Handle]) -> Mapping[str, Sequence[str]]:
    """The "holder/alias" that containers have from others' links, by id."""
    found: dict[str, list[str]] = {}
    for handle in handles:
        for link in handle.container.links:
            name = f"{handle.container.name}/{link.alias}"
            found.setdefault(link.container_id, []).append(name)
    return found


# What the holder is told


def environment(rooms: Rooms, container: Container) -> tuple[str, ...]:
    """Variables about all that is linked to; raises CannotLink if one of them does not run."""
    if not container.links or _endpoint(container) is None:
        return ()
    variables: list[str] = []
    for link in container.links:
        handle = rooms.store.get(link.container_id)
        if handle is None or handle.state.status not in ALIVE:
            raise CannotLink(_name(rooms, link), container.name, link.alias)
        endpoint = _endpoint(handle.container)
        if endpoint is None:
            raise EngineError(f"container {handle.id} not attached to default bridge network")
        name = f"/{container.name}/{link.alias}"
        variables += _variables(name, link.alias, handle.container, endpoint.ipv4_address)
    return tuple(variables)


def _endpoint(container: Container) -> Endpoint | None:
    """Where the container stands on the default bridge."""
    return next((e for e in container.endpoints if e.network_name == _NETWORK), None)


def _variables(name: str, alias: str, target: Container, address: str) -> list[str]:
    prefix = alias.upper().replace("-", "_")
    ports = _ports(target.config.exposed_ports)
    found: list[str] = []
    if ports:
        protocol, number = ports[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{number}")
    for protocol, number in ports:
        port = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [
            f"{port}={protocol}://{address}:{number}",
            f"{port}_ADDR={address}",
            f"{port}_PORT={number}",
            f"{port}_PROTO={protocol}",
        ]
    for protocol, first, last in _ranges(ports):
        port = f"{prefix}_PORT_{first}_{protocol.upper()}"
        found += [
            f"{port}_START={protocol}://{address}:{first}",
            f"{port}_PORT_START={first}",
            f"{port}_END={protocol}://{address}:{last}",
            f"{port}_PORT_END={last}",
        ]
    found.append(f"{prefix}_NAME={name}")
    pairs = (entry.partition("=") for entry in target.config.env)
    found += [
        f"{prefix}_ENV_{key}={value}" for key, eq, value in pairs if eq and key not in _NOT_TOLD
    ]
    return found


def _ports(exposed: Iterable[str]) -> list[tuple[str, int]]:
    """(protocol, number) in order, TCP first."""
    pairs = (text.partition("/") for text in exposed)
    ports = {
        (protocol or "tcp", int(number)) for number, _, protocol in pairs if number.isdecimal()
    }
    return sorted(ports, key=lambda port: (port[0] != "tcp", *port))


def _ranges(ports: Sequence[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(protocol, first, last) of ports that follow one another."""
    runs: list[tuple[str, int, int]] = []
    for protocol, number in ports:
        if runs and runs[-1][0] == protocol and runs[-1][2] == number - 1:
            runs[-1] = (protocol, runs[-1][1], number)
        else:
            runs.append((protocol, number, number))
    return [run for run in runs if run[1] != run[2]]


def hosts(rooms: Rooms, container: Container) -> tuple[tuple[str, str], ...]:
    """Lines for /etc/hosts: an address, and all names that lead to it."""
    if _endpoint(container) is None:
        return ()
    lines: list[tuple[str, str]] = []
    for link in container.links:
        handle = rooms.store.get(link.container_id)
        if handle is None or handle.state.status not in ALIVE:
            continue
        target = handle.container
        words = [link.alias, target.config.hostname]
        words += [target.name] if link.alias != target.name else []
        lines += [(address, " ".join(words)) for address in _addresses(target)]
    return tuple(lines)


def _addresses(target: Container) -> list[str]:
    endpoint = _endpoint(target)
    return endpoint.addresses if endpoint else []


async def tell_holders(rooms: Rooms, target: Container) -> None:
    """A container that started may have another address: those that link to it hear of it."""
    addresses = _addresses(target)
    for handle in rooms.store.all():
        aliases = [x.alias for x in handle.container.links if x.container_id == target.id]
        if aliases and addresses and _has_hosts(handle.container):
            path = handle.container.hosts_path
            await offload.disk(files.move_names, path, aliases, addresses)


def _has_hosts(holder: Container) -> bool:
    """It runs, or will go on with the same file, and has lines about its links."""
    is_active = holder.state.status in ACTIVE
    return is_active and bool(holder.hosts_path) and _endpoint(holder) is not None


# Removal


async def remove(rooms: Rooms, name: str) -> None:
    """Take the link that "holder/alias" is away; raises NoSuchContainer."""
    holder, _, alias = name.removeprefix("/").partition("/")
    handle = rooms.store.named(holder)
    if handle is None:
        raise NoSuchContainer(name)
    async with handle.lock:
        container = handle.container
        kept = tuple(link for link in container.links if link.alias != alias)
        if handle.is_gone or len(kept) == len(container.links):
            raise NoSuchContainer(name)
        await rooms.store.save(handle, msgspec.structs.replace(container, links=kept))
        if _has_hosts(container):
            await offload.disk(files.drop_name, container.hosts_path, alias)
