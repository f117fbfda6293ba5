"""Address management: pools out of an address space, addresses out of a pool. Pure.

What is handed out is what the database and the containers' rows say; after a restart the same
values are taken again. The lowest free address is given, and a released one is free at once,
as in Docker's default allocator. Sentences are Docker's (libnetwork/ipamapi/contract.go).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from engine.errors import Forbidden, InvalidParameter, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from engine.network.model import IPAM, Subnet

    Address = IPv4Address | IPv6Address

Prefix = IPv4Network | IPv6Network


class NoSuchPlugin(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f'plugin "{name}" not found')


class NoAddressLeft(Unavailable):
    def __init__(self) -> None:
        super().__init__("no available addresses on this pool")


class AddressInUse(Forbidden):
    def __init__(self) -> None:
        super().__init__("Address already in use")


class AddressOutOfRange(InvalidParameter):
    def __init__(self) -> None:
        super().__init__("requested address is out of range")


class PoolOverlap(Forbidden):
    def __init__(self) -> None:
        super().__init__("invalid pool request: Pool overlaps with other one on this address space")


class NoPoolLeft(InvalidParameter):
    def __init__(self) -> None:
        super().__init__("all predefined address pools have been fully subnetted")


class InvalidIPAM(InvalidParameter):
    """`faults` is one sentence for each thing that is wrong with the request."""

    def __init__(self, faults: Sequence[str]) -> None:
        listed = faults[0] if len(faults) == 1 else "\n".join(f"* {f}" for f in faults)
        super().__init__(f"invalid network config:\n{listed}")


class Pool:
    """The addresses of one subnet, given out from `ip_range` where there is one.

    `beside` is another pool of that very subnet: no address is given out by both.
    """

    def __init__(
        self, subnet: Prefix, ip_range: Prefix | None = None, *, beside: Pool | None = None
    ) -> None:
        self.subnet = subnet
        self.ip_range = ip_range
        self._first, self._last = _usable(subnet, ip_range or subnet)
        self._taken: set[int] = beside._taken if beside else set()
        self._own: set[int] = set()
        self._sharing: list[Pool] = beside._sharing if beside else []
        self._sharing.append(self)
        # Nothing below it is free: a full pool of 65,536 is not searched from the start each time.
        self._cursor = self._first

    def allocate(self) -> Address:
        """The lowest free address, taken. Raises NoAddressLeft."""
        while self._cursor in self._taken:
            self._cursor += 1
        if self._cursor > self._last:
            raise NoAddressLeft
        self._keep(self._cursor)
        return self.subnet.network_address + (self._cursor - int(self.subnet.network_address))

    def take(self, address: Address) -> None:
        """That very address. Raises AddressInUse, AddressOutOfRange."""
        if address not in self.subnet:
            raise AddressOutOfRange
        first, last = _usable(self.subnet, self.subnet)
        if not first <= int(address) <= last or int(address) in self._taken:
            raise AddressInUse
        self._keep(int(address))

    def _keep(self, number: int) -> None:
        self._taken.add(number)
        self._own.add(number)

    def release(self, address: Address) -> None:
        """Give it back; one that nobody has is no error."""
        self._give_back(int(address))

    def close(self) -> None:
        """Give all back that this very pool gave out."""
        for number in list(self._own):
            self._give_back(number)
        self._sharing.remove(self)

    def _give_back(self, number: int) -> None:
        self._taken.discard(number)
        self._own.discard(number)
        for pool in self._sharing:
            if pool._first <= number < pool._cursor:
                pool._cursor = number

    def __contains__(self, address: Address) -> bool:
        return int(address) in self._taken


def _usable(subnet: Prefix, within: Prefix) -> tuple[int, int]:
    """First and last address of `within` that a host may have.

    The first of a subnet is the network's own (IPv6: the routers' anycast, RFC 4291 §2.6.1), the
    last of an IPv4 subnet is for broadcasts; a /31 has neither (RFC 3021).
    """
    first, last = int(within.network_address), int(within.broadcast_address)
    host_bits = subnet.max_prefixlen - subnet.prefixlen
    reserved = subnet.version == 6 or host_bits > 1
    if reserved and first == int(subnet.network_address):
        first += 1
    if subnet.version == 4 and reserved and last == int(subnet.broadcast_address):
        last -= 1
    return first, last


@dataclass(frozen=True, slots=True)
class Predefined:
    """Pools of `size` bits are cut out of `base`."""

    base: Prefix
    size: int

    def pools(self) -> Iterator[Prefix]:
        return iter(self.base.subnets(new_prefix=self.size))


PREDEFINED_IPV4: Final = tuple(
    Predefined(IPv4Network(base), size)
    for base, size in (
        ("172.17.0.0/16", 16),
        ("172.18.0.0/16", 16),
        ("172.19.0.0/16", 16),
        ("172.20.0.0/14", 16),
        ("172.24.0.0/14", 16),
        ("172.28.0.0/14", 16),
        ("192.168.0.0/16", 20),
    )
)
"""moby libnetwork/ipamutils"""


def predefined_ipv6(seed: str) -> Predefined:
    """A unique local /48 (RFC 4193) made from `seed`, in /64 pools."""
    global_id = hashlib.sha256(seed.encode()).digest()[:5]
    base = bytes((0xFD,)) + global_id + bytes(10)
    return Predefined(IPv6Network((base, 48)), 64)


class AddressSpace:
    """Which subnets are ours, so that no two overlap.

    Unless that is wanted: pools that give out a range only, as of a network that others hand out
    addresses of as well, may be of subnets that overlap (moby libnetwork/ipams/defaultipam).
    """

    def __init__(self, predefined: Sequence[Predefined]) -> None:
        self._predefined = tuple(_apart(predefined))
        self._pools: dict[Prefix, list[Pool]] = {}

    def free(self, version: int, reserved: Iterable[Prefix]) -> Prefix:
        """The first predefined subnet that overlaps neither one of ours nor one of `reserved`."""
        busy = [p for p in (*self._pools, *reserved) if p.version == version]
        for source in self._predefined:
            if source.base.version != version:
                continue
            for subnet in source.pools():
                if not any(subnet.overlaps(b) for b in busy):
                    return subnet
        raise NoPoolLeft

    def take(self, subnet: Prefix, ip_range: Prefix | None = None) -> Pool:
        """That very subnet, to give out `ip_range`. Raises PoolOverlap."""
        same = self._pools.get(subnet, [])
        if ip_range is None:
            if any(subnet.overlaps(t) for t in self._pools if t.version == subnet.version):
                raise PoolOverlap
        elif any(pool.ip_range == ip_range for pool in same):
            raise PoolOverlap
        pool = Pool(subnet, ip_range, beside=same[0] if same else None)
        self._pools.setdefault(subnet, []).append(pool)
        return pool

    def release(self, pool: Pool) -> None:
        same = self._pools[pool.subnet]
        same.remove(pool)
        pool.close()
        if not same:
            del self._pools[pool.subnet]


def _apart(given: Iterable[Predefined]) -> list[Predefined]:
    """In order, and without those that are within another."""
    found: list[Predefined] = []
    for each in sorted(given, key=lambda p: (p.base.version, p.base)):
        last = found[-1].base if found else None
        if last is None or last.version != each.base.version or not last.overlaps(each.base):
            found.append(each)
    return found


# What a client may ask for


def check(ipam: IPAM | None, *, enable_ipv6: bool) -> None:
    """Raises InvalidIPAM with all that is wrong (moby api/types/network/ipam.go)."""
    if ipam is None:
        return
    faults = [fault for entry in ipam.config for fault in _faults(entry, enable_ipv6)]
    if faults:
        raise InvalidIPAM(faults)


DEFAULT_DRIVER: Final = "default"
NULL_DRIVER: Final = "null"


def check_driver(ipam: IPAM) -> None:
    """Raises NoSuchPlugin."""
    if ipam.driver not in ("", DEFAULT_DRIVER, NULL_DRIVER):
        raise NoSuchPlugin(ipam.driver)


def _faults(entry: Subnet, enable_ipv6: bool) -> Iterator[str]:
    subnet = _parse_prefix(entry.subnet)
    if subnet is None:
        yield f"invalid subnet {entry.subnet}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not enable_ipv6:
        return
    address = _written_address(entry.subnet)
    if address != subnet.network_address:
        yield f"invalid subnet {address}/{subnet.prefixlen}: it should be {subnet}"
    if entry.ip_range:
        yield from _range_faults(entry.ip_range, subnet)
    if entry.gateway and (fault := _address_fault(entry.gateway, subnet)):
        yield f"invalid gateway {entry.gateway}: {fault}"
    for name, text in entry.aux_addresses.items():
        if text and (fault := _address_fault(text, subnet)):
            yield f"invalid auxiliary address {name}: {fault}"


def _range_faults(text: str, subnet: Prefix) -> Iterator[str]:
    found = _parse_prefix(text)
    if found is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if found.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
        return
    if found.prefixlen < subnet.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
    address = _written_address(text)
    if address != found.network_address:
        yield f"invalid ip-range {address}/{found.prefixlen}: it should be {found}"
    if not found.overlaps(subnet):
        yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"


def _address_fault(text: str, subnet: Prefix) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    if address not in subnet:
        return f"parent subnet {subnet} doesn't contain this address"
    return ""


def _parse_prefix(text: str) -> Prefix | None:
    """A CIDR block, with or without host bits; None for anything else."""
    address, slash, bits = text.partition("/")
    if not slash or not bits.isascii() or not bits.isdigit():
        return None
    try:
        return ip_network(f"{address}/{bits}", strict=False)
    except ValueError:
        return None


def _written_address(text: str) -> Address:
    return ip_address(text.partition("/")[0])
