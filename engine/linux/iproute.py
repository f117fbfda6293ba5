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
import socket
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
RT_SCOPE_LINK: Final = 253
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


def add_bridge(name: str, *, mac: str) -> None:
    """A bridge, still down. Its own MAC keeps it from taking over that of its lowest port."""
    with _socket() as route:
        route.link("add", ifname=name, kind="bridge", address=mac)


def add_dummy(name: str, *, temporary: str, alias: str) -> None:
    """A link that leads nowhere, up. It bears `name` no moment earlier than `alias`."""
    with _socket() as route:
        route.link("add", ifname=temporary, kind="dummy")
        _name_and_raise(route, temporary, name, alias)


def add_vlan(name: str, *, link: str, vlan_id: int, temporary: str, alias: str) -> None:
    """What `link` receives with an 802.1Q tag, as a link of its own, up; named as `add_dummy`'s.

    Raises OSError, ENETDOWN where `link` is down.
    """
    with _socket() as route:
        parent = socket.if_nametoindex(link)
        route.link("add", ifname=temporary, kind="vlan", link=parent, vlan_id=vlan_id)
        _name_and_raise(route, temporary, name, alias)


def _name_and_raise(route: Any, temporary: str, name: str, alias: str) -> None:
    index = socket.if_nametoindex(temporary)
    try:
        route.link("set", index=index, ifalias=alias)
        route.link("set", index=index, ifname=name)
        route.link("set", index=index, state="up")
    except BaseException:
        route.link("del", index=index)
        raise


def delete_aliased(name: str, alias: str) -> None:
    """Delete the link of that name, if it has that alias."""
    with _socket() as route:
        indexes = {found: index for index, found in socket.if_nameindex()}
        if name in indexes:
            (found,) = route.get_links(indexes[name])
            if found.get("ifalias") == alias:
                route.link("del", index=indexes[name])


def links_upon(kind: str, parent: int) -> dict[int, set[Address]]:
    """The links of a kind on the link `parent` of another namespace: addresses by index."""
    with _socket() as route:
        found: dict[int, set[Address]] = {
            int(item["index"]): set()
            for item in route.get_links()
            if _kind(item) == kind and item.get("link") == parent and _is_elsewhere(item)
        }
        for item in route.get_addr():
            if item["index"] in found:
                found[item["index"]].add(ip_address(_address_of(item)))
    return found


def names_upon_elsewhere() -> list[str]:
    """The links on a link of another namespace that go with their namespace, but no pairs."""
    with _socket() as route:
        return [
            str(item.get("ifname"))
            for item in route.get_links()
            if _kind(item) in ("macvlan", "ipvlan") and _is_elsewhere(item)
        ]


def _kind(item: Any) -> str:
    info = item.get("linkinfo")
    return str(info.get("kind") or "") if info else ""


def _is_elsewhere(item: Any) -> bool:
    """Whether what the link is on is in another namespace."""
    return item.get("link_netnsid") is not None


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
    """Have the main table lead out by these gateways, one a family, and by no other.

    An address of this namespace's own in the place of a gateway is a route to the link that has it,
    by nobody.
    """
    with _socket() as route:
        own = {ip_address(_address_of(item)): int(item["index"]) for item in route.get_addr()}
        wanted = [
            (gateway.version, None, own[gateway])
            if gateway in own
            else (gateway.version, gateway, 0)
            for gateway in gateways
        ]
        for version, gateway, index in _default_routes(route):
            if (version, gateway, 0 if gateway else index) not in wanted:
                _change_default(route, "del", version, gateway, index)
        for version, gateway, index in wanted:
            _change_default(route, "replace", version, gateway, index)


def _change_default(
    route: Any, verb: str, version: int, gateway: Address | None, index: int
) -> None:
    more: dict[str, Any] = {}
    if gateway is not None:
        more["gateway"] = str(gateway)
    elif version == 4:
        more["scope"] = RT_SCOPE_LINK
    if index:
        more["oif"] = index
    family = AF_INET if version == 4 else AF_INET6
    route.route(verb, family=family, dst="default", **more)


def _default_routes(route: Any) -> list[tuple[int, Address | None, int]]:
    """Those of the main table: (version, gateway or None for the link alone, link index)."""
    return [
        (version, ip_address(gateway) if gateway else None, int(item.get("oif")))
        for version, family in ((4, AF_INET), (6, AF_INET6))
        for item in route.get_default_routes(family=family, table=RT_TABLE_MAIN)
        if item["type"] == RTN_UNICAST and item.get("oif")
        for gateway in (item.get("gateway"),)
    ]
