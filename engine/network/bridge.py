"""The bridge driver: a network is a bridge on the host, a container a port of it.

Options are Docker's names with Docker's meaning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Final

from engine import literals
from engine.errors import EngineError, Forbidden, InvalidParameter
from engine.linux import iproute, netlink, oserror
from engine.network import driver, firewall, sandbox
from engine.network.model import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Interface, IPv6Interface

    from engine.network.model import Network

    Interface = IPv4Interface | IPv6Interface

log = logging.getLogger(__name__)

NAME: Final = "bridge"
DEFAULT_MTU: Final = 1500
DEFAULT_LINK: Final = "docker0"
IFNAMSIZ: Final = 16

BRIDGE_NAME: Final = "com.docker.network.bridge.name"
DEFAULT_BRIDGE: Final = "com.docker.network.bridge.default_bridge"
ENABLE_ICC: Final = "com.docker.network.bridge.enable_icc"
ENABLE_MASQUERADE: Final = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING: Final = "com.docker.network.bridge.host_binding_ipv4"
MTU: Final = "com.docker.network.driver.mtu"
INHIBIT_IPV4: Final = "com.docker.network.bridge.inhibit_ipv4"
GATEWAY_MODES: Final = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
SOURCES: Final = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
TRUSTED: Final = "com.docker.network.bridge.trusted_host_interfaces"
ANNOUNCEMENTS: Final = "com.docker.network.advertise_addr_nmsgs"
ANNOUNCEMENT_PAUSE: Final = "com.docker.network.advertise_addr_ms"
INTERFACE_PREFIX: Final = "com.docker.network.container_iface_prefix"
_LINK_LOCAL: Final = ip_network("fe80::/64")


class BadOption(InvalidParameter):
    """`reason` in the words of Go's strconv, which clients have always read here."""

    def __init__(self, name: str, value: str, reason: str) -> None:
        super().__init__(f"failed to parse {name} value: {value} ({reason})")


class NotIsolated(EngineError):
    def __init__(self) -> None:
        super().__init__("gateway mode 'isolated' can only be used for an internal network")


class NotABridge(EngineError):
    def __init__(self, link: str) -> None:
        super().__init__(f"existing interface {link} is not a bridge")


class Mode(StrEnum):
    """How a network leads out, of one family: "Gateway modes" of Docker's "Port publishing"."""

    NAT = "nat"
    NAT_UNPROTECTED = "nat-unprotected"
    """The same, and other hosts may ask for any port at a container's own address."""
    ROUTED = "routed"
    """No translation: published ports are those that others may ask for there."""
    ISOLATED = "isolated"
    """The host itself has no address on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    link: str = ""
    has_icc: bool = True
    has_masquerade: bool = True
    binding: str = ""  # where ports are published; "" is the daemon's choice
    mtu: int = DEFAULT_MTU
    mode_ipv4: Mode = Mode.NAT
    mode_ipv6: Mode = Mode.NAT
    inhibits_ipv4: bool = False  # the bridge bears no IPv4 address, its gateway is elsewhere
    sources: tuple[str, ...] = ()  # what packets that leave come from, at most one a family
    trusted: tuple[str, ...] = ()  # links behind which published ports are asked for directly
    prefix: str = ""  # of the interface's name in a container
    is_announced: bool = True  # whether neighbours are told of a container's addresses

    def mode(self, version: int) -> Mode:
        return self.mode_ipv4 if version == 4 else self.mode_ipv6

    def versions(self, mode: Mode) -> frozenset[int]:
        """The families in this mode."""
        return frozenset(version for version in GATEWAY_MODES if self.mode(version) is mode)

    def has_address(self, version: int) -> bool:
        """Whether the bridge bears one."""
        is_inhibited = version == 4 and self.inhibits_ipv4
        return self.mode(version) is not Mode.ISOLATED and not is_inhibited

    def needs_gateway(self, version: int, *, is_internal: bool) -> bool:
        """Whether an address is set apart for one, though nobody named it."""
        is_inhibited = version == 4 and self.inhibits_ipv4 and is_internal
        return self.mode(version) is not Mode.ISOLATED and not is_inhibited


def parse(options: Mapping[str, str]) -> Options:
    """Raises InvalidParameter. Names that mean nothing here are let be."""
    _boolean(options, DEFAULT_BRIDGE, False)
    link = options.get(BRIDGE_NAME, "")
    # The kernel would put a number in the place of "%d".
    if len(link.encode()) >= IFNAMSIZ or set(link) & set("/: \t\n\0%") or link in (".", ".."):
        raise InvalidParameter(f"invalid bridge name: {link!r}")
    return Options(
        link=link,
        has_icc=_boolean(options, ENABLE_ICC, True),
        has_masquerade=_boolean(options, ENABLE_MASQUERADE, True),
        binding=_address(options, HOST_BINDING),
        mtu=_mtu(options),
        mode_ipv4=_mode(options, 4),
        mode_ipv6=_mode(options, 6),
        inhibits_ipv4=_boolean(options, INHIBIT_IPV4, False),
        sources=tuple(s for version in SOURCES if (s := _source(options, version))),
        trusted=_links(options.get(TRUSTED, "")),
        prefix=options.get(INTERFACE_PREFIX, ""),
        is_announced=_announcements(options) > 0,
    )


def _announcements(options: Mapping[str, str]) -> int:
    """How many are asked for; the kernel sends one, so that this says whether."""
    _bounded(options, ANNOUNCEMENT_PAUSE, 100, 2000, "integer milliseconds")
    return _bounded(options, ANNOUNCEMENTS, 0, 3, "an integer")


def _bounded(options: Mapping[str, str], name: str, least: int, most: int, what: str) -> int:
    text = options.get(name)
    if text is None:
        return most
    try:
        number = literals.integer(text)
    except ValueError:
        raise InvalidParameter(f'value for option {name} "{text}" must be {what}') from None
    if not least <= number <= most:
        raise InvalidParameter(f"{name} must be in the range {least} to {most}")
    return number


def _mode(options: Mapping[str, str], version: int) -> Mode:
    name = GATEWAY_MODES[version]
    value = options.get(name, Mode.NAT)
    try:
        return Mode(value)
    except ValueError:
        raise BadOption(name, value, f"unknown gateway mode {value}") from None


def _source(options: Mapping[str, str], version: int) -> str:
    name = SOURCES[version]
    text = _address(options, name)
    if text and ip_address(text).version != version:
        raise BadOption(name, text, f"not an IPv{version} address")
    return text


def _links(text: str) -> tuple[str, ...]:
    """Those of a list with colons that a link can be called; no packet comes from another."""
    return tuple(dict.fromkeys(n for n in text.split(":") if 0 < len(n.encode()) < IFNAMSIZ))


def _boolean(options: Mapping[str, str], name: str, default: bool) -> bool:
    value = options.get(name)
    if value is None:
        return default
    try:
        return literals.boolean(value)
    except ValueError as exc:
        raise BadOption(name, value, str(exc)) from None


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU)
    if value is None:
        return DEFAULT_MTU
    digits = value[1:] if value[:1] in "+-" else value
    if not digits.isascii() or not digits.isdigit():
        raise BadOption(MTU, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    if int(value) < 0:
        raise InvalidParameter(f"invalid MTU number: {value}")
    return int(value) or DEFAULT_MTU


def _address(options: Mapping[str, str], name: str) -> str:
    value = options.get(name)
    if value is None:
        return ""
    try:
        return str(ip_address(value))
    except ValueError:
        raise BadOption(name, value, "nil ip") from None


def gateways(network: Network) -> list[Interface]:
    """The bridge's own addresses."""
    options = parse(network.options)
    return [
        ip_interface(f"{subnet.gateway}/{ip_network(subnet.subnet).prefixlen}")
        for subnet in network.subnets
        if subnet.gateway and options.has_address(ip_network(subnet.subnet).version)
    ]


def rules(network: Network) -> firewall.Bridge:
    """What the firewall is to know of the network."""
    options = parse(network.options)
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
    options = parse(network.options)
    with netlink.Socket() as sock:
        found = netlink.link(sock, network.link)
        if found is None:
            mac = driver.random_mac()
            if network.name == DEFAULT:  # the engine's start does not wait for a library
                sock.execute(netlink.add_bridge(network.link, mac=mac))
            else:
                iproute.add_bridge(network.link, mac=mac)
            _set(f"net/ipv6/conf/{network.link}/accept_ra", "0")
            # The host asks for neighbours by its link-local address, and not while that is
            # checked for a duplicate: a second or two from the first container on.
            _set(f"net/ipv6/conf/{network.link}/accept_dad", "0")
        elif found.kind != "bridge":
            raise NotABridge(network.link)
        if network.enable_ipv6:
            is_isolated = options.mode_ipv6 is Mode.ISOLATED  # then not even a link-local address
            _set(f"net/ipv6/conf/{network.link}/disable_ipv6", str(int(is_isolated)))
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
        _set(f"net/ipv4/conf/{network.link}/route_localnet", str(int(is_guarded)))


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


def forward(*, ipv6: bool) -> bool:
    """Have the host forward packets; True where it did not forward IPv4 before."""
    was_off = _get("net/ipv4/ip_forward") == "0"
    if was_off:
        _set("net/ipv4/ip_forward", "1")
    if ipv6:
        for scope in ("default", "all"):
            if _get(f"net/ipv6/conf/{scope}/forwarding") == "0":
                _set(f"net/ipv6/conf/{scope}/forwarding", "1")
    return was_off


def _get(name: str) -> str:
    with (
        contextlib.suppress(OSError),
        open(f"/proc/sys/{name}", encoding="ascii") as file,
    ):
        return file.read().strip()
    return ""


def _set(name: str, value: str) -> None:
    """A host without IPv6 needs it not; one that shows /proc/sys read-only keeps what it has."""
    try:
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)
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
        parse(options)

    def check_made(self, network: Network, others: Iterable[Network]) -> None:
        if not network.is_internal and parse(network.options).versions(Mode.ISOLATED):
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
        return parse(options).link or sandbox.link_name(instance, network_id)

    def needs_gateway(self, network: Network, version: int) -> bool:
        options = parse(network.options)
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
        options = parse(network.options)
        return sandbox.Bridged(
            bridge=network.link, master=index, mtu=options.mtu, has_icc=options.has_icc
        )

    def interface_prefix(self, network: Network) -> str:
        return parse(network.options).prefix

    def is_announced(self, network: Network) -> bool:
        return parse(network.options).is_announced

    def routed(self, network: Network) -> frozenset[int]:
        return parse(network.options).versions(Mode.ROUTED)

    def is_trusting(self, network: Network) -> bool:
        return bool(parse(network.options).trusted)

    def binding(self, network: Network) -> str:
        return parse(network.options).binding


def _conflict(network: Network, other: Network) -> str:
    """What two bridges may not have in common (moby drivers/bridge)."""
    if network.link == other.link:
        return "networks have same bridge name"
    for mine in map(ip_network, (s.subnet for s in network.subnets)):
        for theirs in map(ip_network, (s.subnet for s in other.subnets)):
            if mine.version == theirs.version and mine.overlaps(theirs):
                return f"networks have overlapping IPv{mine.version}"
    return ""
