"""What may be asked of a container's place on a network, and what may not. Pure.

Sentences are Docker's (daemon/container_operations.go, runconfig/errors.go); several faults come
as a list.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from engine.errors import InvalidParameter
from engine.network import bridge, host, none
from engine.network.model import DEFAULT, HOST, NONE, PREDEFINED, Endpoint, EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from engine.network.model import EndpointIPAM, Network

    Address = IPv4Address | IPv6Address

CONTAINER: Final = "container:"
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}")


class InvalidEndpoint(InvalidParameter):
    """`network` is "" where the network is plain from the request."""

    def __init__(self, faults: Sequence[str], network: str = "") -> None:
        listed = faults[0] if len(faults) == 1 else "\n".join(f"* {f}" for f in faults)
        where = f"invalid config for network {network}: " if network else ""
        super().__init__(f"{where}invalid endpoint settings:\n{listed}")


class InvalidMac(InvalidParameter):
    def __init__(self, address: str, network: str = "") -> None:
        where = f"invalid config for network {network}: " if network else ""
        super().__init__(f"{where}invalid MAC address {address}")


class SharedNamespace(InvalidParameter):
    def __init__(self) -> None:
        super().__init__(
            "container sharing network namespace with another container or host cannot be "
            "connected to any other network"
        )


def network_name(mode: str) -> str:
    """The network that a network mode means."""
    return DEFAULT if mode in ("", "default") else mode


def joined(mode: str) -> str | None:
    """The container whose namespace is shared, where one is."""
    return mode.removeprefix(CONTAINER) if mode.startswith(CONTAINER) else None


def wanted(mode: str, endpoints: Mapping[str, EndpointConfig]) -> dict[str, EndpointConfig]:
    """The networks to stand on, eth0's first: that of the mode, then by name."""
    first = network_name(mode)
    found = dict(endpoints) or {first: EndpointConfig()}
    return {name: found[name] for name in sorted(found, key=lambda n: (n != first, n))}


def check(name: str, network: Network | None, config: EndpointConfig, *, at_create: bool) -> None:
    """Raises InvalidParameter. `network` is None where there is none of that name yet."""
    where = name if at_create else ""
    faults = list(_faults(name, network, config))
    if config.mac_address and not _MAC.fullmatch(config.mac_address):
        raise InvalidMac(config.mac_address, where)
    if faults:
        raise InvalidEndpoint(faults, where)


def _faults(name: str, network: Network | None, config: EndpointConfig) -> Iterator[str]:
    asked = config.ipam
    if (network.name if network else network_name(name)) in PREDEFINED:
        if asked and (asked.ipv4_address or asked.ipv6_address):
            yield "user specified IP address is supported on user defined networks only"
        if config.aliases:
            yield ("network-scoped alias is supported only for containers in user defined networks")
    if asked is None:
        return
    yield from _syntax_faults(asked)
    if network is not None:
        for text, version in ((asked.ipv4_address, 4), (asked.ipv6_address, 6)):
            yield from _range_faults(text, network, version)


def _syntax_faults(asked: EndpointIPAM) -> Iterator[str]:
    for text, version in ((asked.ipv4_address, 4), (asked.ipv6_address, 6)):
        address = _parse(text)
        if text and (address is None or address.version != version or address.is_unspecified):
            yield f"invalid IPv{version} address: {text}"
    for text in asked.link_local_ips or ():
        address = _parse(text)
        if address is None or address.is_unspecified:
            yield f"invalid link-local IP address: {text}"


def _range_faults(text: str, network: Network, version: int) -> Iterator[str]:
    if not text:
        return
    address = _parse(text)
    # Those of the default bridge are its configuration, whoever chose them.
    given = network.subnets if network.name == DEFAULT else network.ipam.config
    subnets = [ip_network(s.subnet) for s in given if s.subnet]
    static = [s for s in subnets if s.version == version]
    if not static:
        yield (
            "user specified IP address is supported only when connecting to networks with user "
            "configured subnets"
        )
    elif address is None or not any(address in s for s in static):
        yield f"no configured subnet or ip-range contain the IP address {text}"


def _parse(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def check_together(networks: Sequence[Network]) -> None:
    """Some networks bear no other beside them."""
    if len(networks) < 2:
        return
    if networks[0].driver == host.NAME:
        raise SharedNamespace
    if any(n.driver == host.NAME for n in networks):
        raise host.CannotConnect
    if any(n.driver == none.NAME for n in networks):
        raise none.OnlyNetwork


def check_connect(mode: str, network: Network, current: Sequence[Endpoint]) -> None:
    """Whether a container that stands on `current` may have `network` as well."""
    if joined(mode) is not None:
        raise SharedNamespace
    if network.driver == host.NAME and network_name(mode) != HOST:
        raise host.CannotConnect
    names = {e.network_name for e in current}
    if HOST in names and network.name != HOST:
        raise SharedNamespace
    if names - {network.name} and (NONE in names or network.name == NONE):
        raise none.OnlyNetwork


def gateway_order(network: Network, config: EndpointConfig) -> tuple[int, bool, str]:
    """The least of a container's networks gives it its default routes and its published ports."""
    return -config.gw_priority, network.is_internal, network.name


def has_gateway(network: Network) -> bool:
    return network.driver == bridge.NAME and not network.is_internal
