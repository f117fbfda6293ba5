"""rtnetlink(7) by pyroute2: every verb that no start waits for. The one door to that library.

Each verb works in the network namespace of the thread that calls it, blocks, and raises OSError; a
thread with a running event loop is refused by the library. Which messages are spoken here and which
in `engine.linux.netlink`, that module says, with numbers. The import comes with the first verb, so
that an engine without networks of its users' never pays for it. The library is given no namespace
to enter: to open a socket in one it would fork the daemon.
"""

from __future__ import annotations

import contextlib
import os
from ipaddress import ip_address, ip_interface, ip_network
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Network, IPv6Network
    from types import ModuleType

    from engine.linux.netlink import Address, Interface

    Network = IPv4Network | IPv6Network

# <linux/if_addr.h>, <linux/rtnetlink.h>
IFA_F_NODAD: Final = 0x02
RTN_UNICAST: Final = 1
RT_TABLE_MAIN: Final = 254


@contextlib.contextmanager
def _socket() -> Iterator[Any]:
    """An IPRoute, whose errors are OSErrors."""
    import pyroute2  # type: ignore[import-untyped]

    library = cast("ModuleType", pyroute2)
    try:
        with library.IPRoute() as route:
            yield route
    except library.NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


def add_bridge(name: str, *, mac: str, mtu: int) -> None:
    """A bridge, still down. Its own MAC keeps it from taking over that of its lowest port."""
    with _socket() as route:
        route.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu)


def replace_addresses(index: int, wanted: Iterable[Interface]) -> None:
    """Have a link bear these addresses and, but for link-local ones, no other."""
    with _socket() as route:
        found = {
            ip_interface(f"{_address_of(item)}/{item['prefixlen']}")
            for item in route.get_addr(index=index)
        }
        present = {interface for interface in found if not interface.is_link_local}
        for interface in present.difference(wanted):
            _change_address(route, "del", index, interface)
        for interface in set(wanted) - present:
            _change_address(route, "add", index, interface)


def _change_address(route: Any, verb: str, index: int, interface: Interface) -> None:
    network = interface.network
    # Nobody else can have the address: the pool is ours.
    more = (
        {"broadcast": str(network.broadcast_address)}
        if interface.version == 4
        else {"flags": IFA_F_NODAD}
    )
    prefix = network.prefixlen
    route.addr(verb, index=index, address=str(interface.ip), prefixlen=prefix, **more)


def _address_of(item: Any) -> str:
    """Of a point-to-point link the address is the peer's, and the local one its own."""
    return str(item.get("local") or item.get("address"))


def networks_in_use() -> list[Network]:
    """What the host's addresses and its unicast routes, of every table, lead to."""
    with _socket() as route:
        routed = [
            ip_network((destination, item["dst_len"]), strict=False)
            for item in route.get_routes()
            if item["family"] in (AF_INET, AF_INET6)
            and item["type"] == RTN_UNICAST
            and (destination := item.get("dst"))
        ]
        own = [
            ip_interface(f"{_address_of(item)}/{item['prefixlen']}").network
            for item in route.get_addr()
        ]
    return list(dict.fromkeys(routed + own))


def addresses() -> list[Interface]:
    """What every link bears that others can reach it by."""
    with _socket() as route:
        found = [
            ip_interface(f"{_address_of(item)}/{item['prefixlen']}") for item in route.get_addr()
        ]
    return [each for each in found if not each.is_loopback and not each.is_link_local]


def replace_default_routes(gateways: Iterable[Address]) -> None:
    """Have the main table lead out by these gateways, one a family, and by no other."""
    wanted = list(gateways)
    with _socket() as route:
        for index, gateway in _default_routes(route):
            if gateway not in wanted:
                _change_default(route, "del", gateway, oif=index)
        for gateway in wanted:
            _change_default(route, "replace", gateway)


def _change_default(route: Any, verb: str, gateway: Address, **more: int) -> None:
    family = AF_INET if gateway.version == 4 else AF_INET6
    route.route(verb, family=family, dst="default", gateway=str(gateway), **more)


def _default_routes(route: Any) -> list[tuple[int, Address]]:
    """Those of the main table that have a gateway: (link index, gateway)."""
    return [
        (int(item.get("oif")), ip_address(gateway))
        for family in (AF_INET, AF_INET6)
        for item in route.get_default_routes(family=family, table=RT_TABLE_MAIN)
        if (gateway := item.get("gateway"))
    ]
