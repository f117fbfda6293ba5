"""Which subnets and addresses are given out: one address space, and pools by network."""

from __future__ import annotations

import contextlib
import logging
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

import msgspec

from engine.errors import EngineError, InvalidParameter, WharfError
from engine.linux import iproute
from engine.network import drivers, files, ipam, names, settings
from engine.network.model import Subnet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from engine.config import EngineConfig
    from engine.network.model import Endpoint, Network

    Address = IPv4Address | IPv6Address
    Prefix = IPv4Network | IPv6Network

log = logging.getLogger(__name__)

DEFAULT_GATEWAY_AUX: Final = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Auxiliary addresses of these names are what the containers' default routes lead to."""


class NoAddressOnNetwork(EngineError):
    def __init__(self, version: int, network: Network) -> None:
        super().__init__(
            f"no available IPv{version} addresses on this network's address pools: "
            f"{network.name} ({network.id})"
        )


class Subnets:
    """Nothing here waits; a failure takes nothing."""

    def __init__(self, config: EngineConfig) -> None:
        self._space = ipam.AddressSpace(_predefined(config))
        self._pools: dict[str, list[ipam.Pool]] = {}

    # Of a network

    def allocate(self, network: Network, reserved: Sequence[Prefix]) -> tuple[Subnet, ...]:
        """What was asked for, and a pool for each family that nothing was said about."""
        enabled = [v for v, on in ((4, network.enable_ipv4), (6, network.enable_ipv6)) if on]
        try:
            return tuple(
                entry for version in enabled for entry in self._of(network, version, reserved)
            )
        except BaseException:
            self.release(network.id)
            raise

    def _of(self, network: Network, version: int, reserved: Sequence[Prefix]) -> Iterator[Subnet]:
        asked = [s for s in network.ipam.config if version_of(s.subnet) == version]
        if network.ipam.driver == ipam.NULL_DRIVER:
            if asked:
                raise InvalidParameter(
                    "null ipam driver does not handle specific address pool requests"
                )
            return
        needs_gateway = drivers.of(network).needs_gateway(network, version)
        for entry in asked or [Subnet(subnet=str(self.free_pool(version, reserved)))]:
            yield self.take(network.id, entry, needs_gateway=needs_gateway)

    def free_pool(self, version: int, reserved: Sequence[Prefix]) -> Prefix:
        """A subnet that nobody has, not taken yet. Raises NoPoolLeft."""
        return self._space.free(version, reserved)

    def take(self, network_id: str, entry: Subnet, *, needs_gateway: bool = True) -> Subnet:
        """Take the subnet, its gateway, chosen where none was named, and auxiliary addresses."""
        subnet = ip_network(entry.subnet)
        pool = self._space.take(subnet, ip_network(entry.ip_range) if entry.ip_range else None)
        self._pools.setdefault(network_id, []).append(pool)
        if entry.gateway or needs_gateway:
            entry = msgspec.structs.replace(entry, gateway=_gateway(pool, entry.gateway))
        for name, text in entry.aux_addresses.items():
            try:
                pool.take(ip_address(text))
            except WharfError as error:
                raise EngineError(
                    f"failed to allocate secondary ip address ({name}:{text}): {error}"
                ) from error
        return entry

    def take_again(self, network: Network) -> None:
        """At boot: what the row says. Where that clashes, the network goes without."""
        for entry in network.subnets:
            try:
                self.take(network.id, entry, needs_gateway=False)
            except WharfError as error:
                log.warning("subnet %s of %s: %s", entry.subnet, network.name, error)

    def release(self, network_id: str) -> None:
        for pool in self._pools.pop(network_id, []):
            self._space.release(pool)

    # Of an endpoint

    def place(self, endpoint: Endpoint, network: Network) -> Endpoint:
        """The endpoint with an address of each family, asked for or the lowest free."""
        asked = endpoint.config.ipam
        texts = {4: asked.ipv4_address, 6: asked.ipv6_address} if asked else {}
        pools = self._pools.get(network.id, [])
        for version in sorted({pool.subnet.version for pool in pools}):
            same = [pool for pool in pools if pool.subnet.version == version]
            try:
                address = _address(same, texts.get(version, ""), network)
            except WharfError:
                self.withdraw(endpoint)
                raise
            endpoint = _placed(endpoint, network, address)
        return endpoint

    def place_again(self, endpoint: Endpoint) -> None:
        """At boot: the addresses of a container that runs. Taken twice they stay as they are."""
        for address, pool in self._held(endpoint):
            if address not in pool:
                pool.take(address)

    def withdraw(self, endpoint: Endpoint) -> None:
        """Give an endpoint's addresses back."""
        for address, pool in self._held(endpoint):
            pool.release(address)

    def _held(self, endpoint: Endpoint) -> Iterator[tuple[Address, ipam.Pool]]:
        for address in map(ip_address, endpoint.addresses):
            for pool in self._pools.get(endpoint.network_id, []):
                if address in pool.subnet:
                    yield address, pool
                    break


def _gateway(pool: ipam.Pool, asked: str) -> str:
    """The gateway's address, taken; "" asks for any. Raises EngineError."""
    try:
        if not asked:
            return str(pool.allocate())
        pool.take(ip_address(asked))
    except WharfError as error:
        raise EngineError(f"failed to allocate gateway ({asked}): {error}") from error
    return asked


def _predefined(config: EngineConfig) -> list[ipam.Predefined]:
    given = [
        ipam.Predefined(ip_network(p.base, strict=False), p.size)
        for p in config.default_address_pools
    ]
    found = [p for p in given if p.base.version == 4] or list(ipam.PREDEFINED_IPV4)
    found += [p for p in given if p.base.version == 6] or [ipam.predefined_ipv6(config.instance)]
    return found


def _address(pools: Sequence[ipam.Pool], asked: str, network: Network) -> Address:
    """From the first pool that has the address asked for, or any. `pools` are of one family."""
    for pool in pools:
        if asked:
            address = ip_address(asked)
            if address in pool.subnet:
                pool.take(address)
                return address
        else:
            with contextlib.suppress(ipam.NoAddressLeft):
                return pool.allocate()
    if asked:
        raise InvalidParameter(
            f"invalid address {asked}: It does not belong to any of this network's subnets"
        )
    raise NoAddressOnNetwork(pools[0].subnet.version, network)


def _placed(endpoint: Endpoint, network: Network, address: Address) -> Endpoint:
    """The endpoint with one more address and, where the network leads out, its gateway."""
    version = address.version
    subnet = next(s for s in network.subnets if address in ip_network(s.subnet))
    chosen = subnet.aux_addresses.get(DEFAULT_GATEWAY_AUX[version], "") or subnet.gateway
    gateway = chosen if settings.gives_gateway(network) else ""
    prefix = ip_network(subnet.subnet).prefixlen
    if version == 4:
        return msgspec.structs.replace(
            endpoint, ipv4_address=str(address), ipv4_prefix=prefix, gateway=gateway
        )
    return msgspec.structs.replace(
        endpoint, ipv6_address=str(address), ipv6_prefix=prefix, ipv6_gateway=gateway
    )


def version_of(text: str) -> int:
    """4 or 6, of an address or a subnet."""
    return 6 if ":" in text else 4


def overlaps(text: str, others: Iterable[Prefix]) -> bool:
    subnet = ip_network(text)
    return any(subnet.overlaps(o) for o in others if o.version == subnet.version)


# What others use. A route for half of all addresses, as some VPNs have it, says nothing about that.

_WIDEST: Final = 7
_RTF_REJECT: Final = 0x200  # <linux/route.h>
_RTF_OWN: Final = 0x80100000  # RTF_LOCAL, RTF_ANYCAST of <linux/ipv6_route.h>


def in_use_on_host() -> list[Prefix]:
    """What the host's routes, addresses and name servers say is in use; blocks."""
    return _relevant(iproute.networks_in_use()) + _name_servers()


def in_use_at_start(except_link: str) -> list[Prefix]:
    """The same for the default network, from what the kernel tells as text; blocks.

    Every start of the engine asks, so that no library is to be waited for; the main routing table
    has to do for that. What leads to `except_link` is our own.
    """
    found = routes_of_text(files.read("/proc/net/route"), files.read("/proc/net/ipv6_route"))
    return _relevant(prefix for prefix, link in found if link != except_link) + _name_servers()


def _relevant(found: Iterable[Prefix]) -> list[Prefix]:
    return [p for p in found if p.prefixlen > _WIDEST and not p.is_link_local]


def _name_servers() -> list[Prefix]:
    servers = names.parse_resolv_conf(files.read(files.RESOLV_CONF)).nameservers
    return [ip_network(s) for s in servers if not ip_address(s).is_loopback]


def routes_of_text(ipv4: str, ipv6: str) -> list[tuple[Prefix, str]]:
    """(destination, link) of each route in proc(5)'s net/route and in net/ipv6_route."""
    found: list[tuple[Prefix, str]] = []
    for line in ipv4.splitlines()[1:]:
        link, destination, _, flags, _, _, _, mask, *_ = line.split()
        if not int(flags, 16) & _RTF_REJECT:
            # Addresses stand there as the numbers that this machine reads them as.
            packed = int(destination, 16).to_bytes(4, sys.byteorder)
            found.append((ip_network((packed, int(mask, 16).bit_count())), link))
    for line in ipv6.splitlines():
        destination, length, _, _, _, _, _, _, flags, link = line.split()
        if not int(flags, 16) & (_RTF_REJECT | _RTF_OWN):
            found.append((ip_network((bytes.fromhex(destination), int(length, 16))), link))
    return found
