"""What may be asked of a container's place on a network, and what may not. Pure.

Sentences are Docker's (daemon/container_operations.go, runconfig/errors.go); several faults come
as a list.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Final

from engine.errors import Forbidden, InvalidParameter
from engine.network import drivers, host, none
from engine.network.model import DEFAULT, HOST, NONE, PREDEFINED, Endpoint, EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from engine.network.model import EndpointIPAM, Network

    Address = IPv4Address | IPv6Address

CONTAINER: Final = "container:"
INTERFACE: Final = "com.docker.network.endpoint.ifname"
"""What a container calls its end of a network, in the place of eth and a number."""
SYSCTLS: Final = "com.docker.network.endpoint.sysctls"
"""Of that interface: net.X.Y.IFNAME.Z=V, with commas between them."""
_MAC: Final = re.compile(
    r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.I
)


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
    yield from _sysctl_faults(sysctls(config))
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


def sysctls(config: EndpointConfig) -> tuple[str, ...]:
    """Those that were asked for, as they were written."""
    text = config.driver_opts.get(SYSCTLS)
    return tuple(text.split(",")) if text is not None else ()


def _sysctl_faults(asked: Iterable[str]) -> Iterator[str]:
    for text in asked:
        match text.split(".", 4):
            # The CLI writes it in lower case.
            case [_, "ipv4" | "ipv6" | "mpls", _, "IFNAME" | "ifname", _]:
                pass
            case _:
                yield (
                    f"unrecognised network interface sysctl '{text}'; represent "
                    "'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
                    "'X' must be 'ipv4', 'ipv6' or 'mpls'"
                )


def mac(text: str) -> str:
    """00:11:22:33:44:55 out of any of the forms that `check` lets pass; "" stays."""
    digits = re.sub(r"[^0-9a-f]", "", text.lower())
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))


def link_local(config: EndpointConfig) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses of the link alone that were asked for, on the network that all such are on."""
    given = (config.ipam.link_local_ips if config.ipam else None) or ()
    parsed = [ip_address(text) for text in given]
    return tuple(ip_interface(f"{a}/{16 if a.version == 4 else 64}") for a in parsed)


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


def check_together(mode: str, networks: Sequence[Network]) -> None:
    """Some networks bear no other beside them; that of the host is for those of its mode alone."""
    for network in networks:
        check_joinable(network)
    is_host = network_name(mode) == HOST
    if is_host and any(n.driver != host.NAME for n in networks):
        raise SharedNamespace
    if not is_host and any(n.driver == host.NAME for n in networks):
        raise host.CannotConnect
    if len(networks) > 1 and any(n.driver == none.NAME for n in networks):
        raise none.OnlyNetwork


def check_joinable(network: Network) -> None:
    """Raises Forbidden of one that is there to be copied from."""
    if network.is_config_only:
        raise Forbidden("cannot create endpoint on configuration-only network")


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


def leads_out(network: Network) -> bool:
    """Whether a container may have its default route there."""
    return drivers.of(network).leads_out(network)


def gives_gateway(network: Network) -> bool:
    """Whether its containers lead out by the gateway of its subnet."""
    return leads_out(network) and drivers.of(network).has_gateway(network)
