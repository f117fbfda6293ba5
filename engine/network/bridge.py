"""The bridge driver: a network is a bridge on the host, a container a port of it."""

from __future__ import annotations

import logging
import os
import socket
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Final

from engine.errors import EngineError, Forbidden, InvalidParameter
from engine.linux import iproute, netlink, oserror, sysctl
from engine.network import bridge_options, driver, firewall, sandbox
from engine.network.bridge_options import Mode
from engine.network.model import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Interface, IPv6Interface

    from engine.network.model import Network

    Interface = IPv4Interface | IPv6Interface

log = logging.getLogger(__name__)

NAME: Final = "bridge"
DEFAULT_LINK: Final = "docker0"
_LINK_LOCAL: Final = ip_network("fe80::/64")


class NotIsolated(EngineError):
    def __init__(self) -> None:
        super().__init__("gateway mode 'isolated' can only be used for an internal network")


class NotABridge(EngineError):
    def __init__(self, link: str) -> None:
        super().__init__(f"existing interface {link} is not a bridge")


def gateways(network: Network) -> list[Interface]:
    """The bridge's own addresses."""
    options = bridge_options.parse(network.options)
    return [
        ip_interface(f"{subnet.gateway}/{ip_network(subnet.subnet).prefixlen}")
        for subnet in network.subnets
        if subnet.gateway and options.has_address(ip_network(subnet.subnet).version)
    ]


def rules(network: Network) -> firewall.Bridge:
    """What the firewall is to know of the network."""
    options = bridge_options.parse(network.options)
    return firewall.Bridge(
        link=network.link,
        subnets=tuple(s.subnet for s in network.subnets),
        is_internal=network.is_internal,
        has_icc=options.has_icc,
        has_masquerade=options.has_masquerade,
        routed=options.versions(Mode.ROUTED),
        unprotected=options.versions(Mode.NAT_UNPROTECTED),
        sources=options.sources,
        trusted=options.trusted,
    )


def setup(network: Network) -> int:
    """Make the bridge as it should be, whatever is there; its link index.

    Running containers stay connected: a bridge that exists is only corrected. Raises NotABridge.
    """
    options = bridge_options.parse(network.options)
    with netlink.Socket() as sock:
        found = netlink.link(sock, network.link)
        if found is None:
            mac = driver.random_mac()
            if network.name == DEFAULT:  # the engine's start does not wait for a library
                sock.execute(netlink.add_bridge(network.link, mac=mac))
            else:
                iproute.add_bridge(network.link, mac=mac)
            _correct(f"net/ipv6/conf/{network.link}/accept_ra", "0")
            # The host asks for neighbours by its link-local address, and not while that is
            # checked for a duplicate: a second or two from the first container on.
            _correct(f"net/ipv6/conf/{network.link}/accept_dad", "0")
        elif found.kind != "bridge":
            raise NotABridge(network.link)
        if network.enable_ipv6:
            is_isolated = options.mode_ipv6 is Mode.ISOLATED  # then not even a link-local address
            _correct(f"net/ipv6/conf/{network.link}/disable_ipv6", str(int(is_isolated)))
        index = socket.if_nametoindex(network.link)
        # Changed behind its making, so that it stays when the bridge has no port: one that a bridge
        # is made with is the kernel's to adjust.
        mtu = 0 if network.is_link_foreign else options.mtu
        sock.execute(
            *(netlink.add_address(index, a) for a in gateways(network)),
            netlink.set_up(index, network.link, mtu=mtu),
        )
    return index


def route_loopback(network: Network, is_guarded: bool) -> None:
    """Have 127.0.0.1:port lead into the bridge, if a firewall keeps the links from using that.

    A container needs a raw socket, no more, to ask for the host's own loopback.
    """
    if is_guarded or not network.is_link_foreign:
        _correct(f"net/ipv4/conf/{network.link}/route_localnet", str(int(is_guarded)))


def _check_address(address: Interface) -> None:
    """What a bridge cannot have. Raises InvalidParameter."""
    if address.version == 4:
        return
    if address.network.prefixlen == 0:
        raise InvalidParameter("ipv6 pool is empty")
    if address.network.is_multicast:
        raise InvalidParameter(f"multicast subnet '{address}' is not allowed")
    if address.network != _LINK_LOCAL and address.network.overlaps(_LINK_LOCAL):
        raise InvalidParameter(f"'{address}' clashes with the Link-Local prefix '{_LINK_LOCAL}'")


def readdress(network: Network) -> None:
    """Take the addresses of another configuration from the bridge, where there is one."""
    indexes = {name: index for index, name in socket.if_nameindex()}
    if network.link in indexes:
        iproute.replace_addresses(indexes[network.link], gateways(network))


def teardown(network: Network) -> None:
    """Remove the bridge that was made; one that is gone is no error."""
    if network.is_link_foreign:
        return
    with netlink.Socket() as sock:
        for error in sock.attempt(netlink.delete_link(network.link)):
            if error is not None and not netlink.is_missing(error):
                raise error


def has_ports(network: Network) -> bool:
    """Whether anything hangs on the bridge; one that is gone has nothing."""
    try:
        return bool(os.listdir(f"/sys/class/net/{network.link}/brif"))
    except FileNotFoundError:
        return False


def _correct(name: str, value: str) -> None:
    """A host without IPv6 needs it not; one that shows /proc/sys read-only keeps what it has."""
    try:
        sysctl.put(name, value)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot set %s to %s: %s", name, value, error)


class Driver(driver.Driver):
    """Containers are ports of the bridge, by a pair of links each."""

    name = NAME
    has_link = True
    has_ports = True
    is_host_gateway = True

    def check(self, options: Mapping[str, str]) -> None:
        bridge_options.parse(options)

    def check_made(self, network: Network, others: Iterable[Network]) -> None:
        if not network.is_internal and bridge_options.parse(network.options).versions(
            Mode.ISOLATED
        ):
            raise NotIsolated
        if not network.enable_ipv4 and not network.enable_ipv6:
            raise InvalidParameter("IPv4 or IPv6 must be enabled")
        driver.check_pools(network)
        versions = [ip_network(s.subnet).version for s in network.subnets]
        if len(set(versions)) < len(versions):
            raise Forbidden("bridge driver doesn't support multiple subnets")
        for address in gateways(network):
            _check_address(address)
        for other in others:
            if other.driver == NAME and (fault := _conflict(network, other)):
                raise Forbidden(
                    f"cannot create network {network.id} ({network.link}): conflicts with network "
                    f"{other.id} ({other.link}): {fault}"
                )

    def link(self, options: Mapping[str, str], network_id: str, instance: str) -> str:
        return bridge_options.parse(options).link or sandbox.link_name(instance, network_id)

    def needs_gateway(self, network: Network, version: int) -> bool:
        options = bridge_options.parse(network.options)
        return options.needs_gateway(version, is_internal=network.is_internal)

    def leads_out(self, network: Network) -> bool:
        return not network.is_internal

    def setup(self, network: Network, instance: str, *, is_new: bool) -> int:
        del instance, is_new
        try:
            return setup(network)
        except OSError as error:
            reason = oserror.reason(error)
            raise EngineError(f"cannot make the bridge {network.link}: {reason}") from error

    def teardown(self, network: Network, instance: str) -> None:
        del instance
        teardown(network)

    def rules(self, network: Network) -> firewall.Bridge:
        return rules(network)

    def mac(self, asked: str) -> str:
        return asked or driver.random_mac()

    def via(self, network: Network, index: int) -> sandbox.Bridged:
        options = bridge_options.parse(network.options)
        return sandbox.Bridged(
            bridge=network.link, master=index, mtu=options.mtu, has_icc=options.has_icc
        )

    def interface_prefix(self, network: Network) -> str:
        return bridge_options.parse(network.options).prefix

    def is_announced(self, network: Network) -> bool:
        return bridge_options.parse(network.options).is_announced

    def routed(self, network: Network) -> frozenset[int]:
        return bridge_options.parse(network.options).versions(Mode.ROUTED)

    def is_trusting(self, network: Network) -> bool:
        return bool(bridge_options.parse(network.options).trusted)

    def binding(self, network: Network) -> str:
        return bridge_options.parse(network.options).binding


def _conflict(network: Network, other: Network) -> str:
    """What two bridges may not have in common (moby drivers/bridge)."""
    if network.link == other.link:
        return "networks have same bridge name"
    for mine in map(ip_network, (s.subnet for s in network.subnets)):
        for theirs in map(ip_network, (s.subnet for s in other.subnets)):
            if mine.version == theirs.version and mine.overlaps(theirs):
                return f"networks have overlapping IPv{mine.version}"
    return ""
