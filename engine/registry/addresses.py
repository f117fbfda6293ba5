"""Which addresses are out there, and which only this host and its link know."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from engine import offload
from engine.errors import WharfError

LOOK_UP_TIMEOUT_S = 30.0

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


async def look_up(
    name: str, port: int | None = None, family: int = socket.AF_UNSPEC
) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host's name with their families (getaddrinfo(3)). Raises OSError.

    A name server may never answer: neither other names nor other work waits for it.
    """
    try:
        async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
            found = await offload.alone(
                socket.getaddrinfo, name, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
            )
    except TimeoutError as exc:
        raise OSError(socket.EAI_AGAIN, "Temporary failure in name resolution") from exc
    except UnicodeError as exc:  # a name that IDNA cannot spell
        raise OSError(socket.EAI_NONAME, "Name or service not known") from exc
    return [(each[0], _with_scope(each[4])) for each in found]


def _with_scope(address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    host = str(address[0])
    scope = address[3] if len(address) == 4 else 0
    return f"{host}%{scope}" if scope else host


async def addresses_of(name: str) -> list[str]:
    """The addresses of a host's name; none where it cannot be resolved."""
    try:
        return [address for _, address in await look_up(name)]
    except (OSError, WharfError):
        return []
