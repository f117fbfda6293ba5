"""Which addresses are out there, and which only this host and its link know."""

from __future__ import annotations

import asyncio
import ipaddress

# The metadata service of one big cloud on IPv6; all others are link-local.
_METADATA = ipaddress.ip_address("fd00:ec2::254")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def is_inside(host: str) -> bool:
    """Whether the address is one that only this host and its link know."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address == _METADATA
    )


async def addresses_of(name: str) -> list[str]:
    """The addresses of a host's name; none where it cannot be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]
