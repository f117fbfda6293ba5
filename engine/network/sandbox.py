"""A container's network namespace: made, entered, connected, disconnected, let go.

All of it blocks for a few milliseconds at most and is called through offload. A sandbox is a file
that keeps a namespace (`engine.linux.netns`), named after its container, so that a sweep finds it;
a link on the host is named after its endpoint, which is new with each start: the kernel takes links
of a dead namespace away in its own time, and a container that starts again does not wait for that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from engine.errors import EngineError
from engine.linux import iproute, netlink, netns, oserror

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface

T = TypeVar("T")

FOLDER: Final = "netns"
_PREFIX: Final = "eth"
# Until the kernel's own workers have seen a carrier and joined groups, mostly within a millisecond.
_TRIES = 100
_PAUSE_S = 0.0005


class InterfaceFailed(EngineError):
    """What was asked of an interface cannot be; `link` is its end on the host."""

    def __init__(self, link: str, reason: str) -> None:
        super().__init__(f"failed to add interface {link} to sandbox: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A container's end of one network: what to make on both sides of the namespace."""

    link: str
    bridge: str
    master: int  # the bridge's index
    mac: str
    mtu: int
    addresses: tuple[Interface, ...]
    has_icc: bool = True
    name: str = ""
    """What the container calls it; "" for eth and the next number."""
    sysctls: tuple[str, ...] = ()

    @property
    def has_ipv6(self) -> bool:
        return any(a.version == 6 for a in self.addresses)


def path(exec_root: str, container_id: str) -> str:
    return f"{exec_root}/{FOLDER}/{container_id[:12]}"


def link_prefix(instance: str) -> str:
    """With what all links of an engine begin; names have 15 characters."""
    return f"wh{instance[:4]}"


def link_name(instance: str, identifier: str) -> str:
    """The link of an endpoint or of a network, from its id."""
    return f"{link_prefix(instance)}{identifier[:9]}"


def create(
    where: str, ports: Sequence[Port], gateways: Sequence[Address], last: Callable[[], T]
) -> T:
    """Make the sandbox of a container with its ports, eth0 first, and its default routes; what
    `last` makes in it is returned.

    Whatever fails, nothing is left: the links go with the namespace.
    """
    os.makedirs(os.path.dirname(where), mode=0o711, exist_ok=True)
    with netlink.Socket() as host:

        def body(fd: int) -> T:
            _furnish(host, fd, ports, gateways)
            return last()

        return netns.create(where, body)


def _furnish(
    host: netlink.Socket, fd: int, ports: Sequence[Port], gateways: Sequence[Address]
) -> None:
    with netlink.Socket() as inside:
        loopback = 1
        inside.execute(netlink.set_up(loopback, "lo"))
        names = _names(ports)
        for name, port in zip(names, ports, strict=True):
            _plug(host, inside, fd, name, port)
        inside.execute(*_routes(zip(names, ports, strict=True), gateways))


def _names(ports: Sequence[Port]) -> list[str]:
    """Those that were chosen, and eth with the numbers that are free for all others."""
    chosen = {port.name for port in ports}
    counted = (name for n in itertools.count() if (name := f"{_PREFIX}{n}") not in chosen)
    return [port.name or next(counted) for port in ports]


def _plug(host: netlink.Socket, inside: netlink.Socket, fd: int, name: str, port: Port) -> None:
    try:
        host.execute(
            netlink.add_veth(
                port.link,
                master=port.master,
                mtu=port.mtu,
                peer=name,
                peer_mac=port.mac,
                peer_netns=fd,
            )
        )
    except OSError as error:
        if not port.name:
            raise
        reason = f'error renaming interface "{port.link}" to "{name}": {oserror.reason(error)}'
        raise InterfaceFailed(port.link, reason) from error
    # A host without IPv6 refuses that, and needs it not.
    host.attempt(netlink.without_ipv6_address(port.link))
    if not port.has_ipv6:
        # No address means no IPv6 at all, not a link-local one.
        _set(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
    for text in port.sysctls:
        _set_own(text, name, port.link)
    index = socket.if_nametoindex(name)
    inside.execute(
        *(netlink.add_address(index, a) for a in port.addresses), netlink.set_up(index, name)
    )
    host.execute(netlink.raise_port(port.link, hairpin=True, isolated=_is_isolated(port)))
    _await_carrier(host, port.link)
    _await_carrier(host, port.bridge)
    _await_carrier(inside, name)
    _await_groups(name, [a for a in port.addresses if a.version == 6])
    _announce(inside, index, name, port)


def _is_isolated(port: Port) -> bool:
    """Without icc the bridge parts its ports, unless the firewall sees what it forwards.

    Where br_netfilter hands the bridge's own packets to the firewall, that drops them, and the
    ports may not be parted: a published port of a neighbour is then reached through the bridge.
    """
    if port.has_icc:
        return False
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-iptables", encoding="ascii") as file:
            return file.read().strip() != "1"
    except OSError:
        return True


def _await_carrier(sock: netlink.Socket, name: str) -> None:
    """Before that, a bridge port forwards nothing and a link's queue drops what is sent.

    A first ARP or neighbour solicitation that is lost costs a second.
    """
    for _ in range(_TRIES):
        link = netlink.link(sock, name)
        if link is None or link.is_operational:
            return
        time.sleep(_PAUSE_S)


def _await_groups(name: str, addresses: Sequence[Interface]) -> None:
    """The kernel takes an IPv6 address into use in a worker of its own, a little later.

    Before the link is a member of the address's solicited-node group (RFC 4291, 2.7.1), nobody can
    find it, and what `_announce` has the kernel tell is not sent.
    """
    wanted = [f"ff02{'0' * 19}1ff{a.ip.packed[-3:].hex()}" for a in addresses]
    for _ in range(_TRIES if wanted else 0):
        with open("/proc/thread-self/net/igmp6", encoding="ascii") as file:
            joined = {group for _, link, group, *_ in map(str.split, file) if link == name}
        if joined.issuperset(wanted):
            return
        time.sleep(_PAUSE_S)


def _announce(inside: netlink.Socket, index: int, name: str, port: Port) -> None:
    """Tell the neighbours, who may remember who had the addresses before.

    With `arp_notify` (ip-sysctl) the kernel does that for who sets his MAC, even to what it is. A
    packet socket would do it too, but waits for a grace period of the kernel when it is closed.
    """
    knobs = [f"/proc/sys/net/ipv4/conf/{name}/arp_notify"]
    if port.has_ipv6:
        knobs.append(f"/proc/sys/net/ipv6/conf/{name}/ndisc_notify")
    for knob in knobs:
        _set(knob, "1")
    inside.attempt(netlink.set_mac(index, port.mac, name))
    for knob in knobs:
        _set(knob, "0")


def _set_own(text: str, name: str, link: str) -> None:
    """One of the interface's own knobs, which the container asked for: `net.X.Y.IFNAME.Z=V`."""
    knob, equals, value = text.partition("=")
    if not equals:
        raise InterfaceFailed(link, f"expected sysctl '{text}' to have format name=value")
    parts = knob.split(".", 4)
    parts[3] = name
    path = "/".join(("/proc/sys", *parts))
    try:
        # Of a name with ".." in it the kernel's files are left.
        if not os.path.realpath(path).startswith(f"/proc/sys/net/{parts[1]}/"):
            raise FileNotFoundError
        with open(path, "r+", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        raise InterfaceFailed(link, f"{path} is not a sysctl file") from None
    except (OSError, UnicodeError) as error:
        raise InterfaceFailed(link, f"unable to set sysctl {path}: {error}") from error


def _set(knob: str, value: str) -> None:
    with contextlib.suppress(OSError), open(knob, "w", encoding="ascii") as file:
        file.write(value)


def _routes(
    named: Iterable[tuple[str, Port]], gateways: Iterable[Address]
) -> list[netlink.Message]:
    """One default route a gateway, through the port whose subnet it is in."""
    messages: list[netlink.Message] = []
    ports = tuple(named)
    for gateway in gateways:
        for name, port in ports:
            if any(gateway in a.network for a in port.addresses):
                index = socket.if_nametoindex(name)
                messages.append(netlink.add_default_route(index, gateway))
                break
    return messages


def connect(where: str, port: Port, gateways: Sequence[Address]) -> None:
    """Give a living sandbox one more port, and these default routes in the place of its own."""
    with netlink.Socket() as host:

        def body(fd: int) -> None:
            with netlink.Socket() as inside:
                _plug(host, inside, fd, port.name or _free_name(), port)
            iproute.replace_default_routes(gateways)

        try:
            netns.enter(where, body)
        except BaseException:
            host.attempt(netlink.delete_link(port.link))
            raise


def _free_name() -> str:
    names = {name for _, name in socket.if_nameindex()}
    number = 0
    while f"{_PREFIX}{number}" in names:
        number += 1
    return f"{_PREFIX}{number}"


def disconnect(where: str, link: str, gateways: Sequence[Address]) -> None:
    """Take a port from a living sandbox; the default routes become these."""
    with netlink.Socket() as host:
        for error in host.attempt(netlink.delete_link(link)):
            if error is not None and not netlink.is_missing(error):
                raise error
    netns.enter(where, lambda _: iproute.replace_default_routes(gateways))


def addresses(where: str) -> list[Interface]:
    """What a living sandbox has; nothing if there is none."""
    try:
        return netns.enter(where, lambda _: iproute.addresses())
    except OSError:
        return []


def remove(where: str, links: Sequence[str]) -> None:
    """Let the sandbox go: silent at once, its links gone when the kernel gets to it."""
    indexes: list[int] = []
    for link in links:
        with contextlib.suppress(OSError):
            indexes.append(socket.if_nametoindex(link))
    with netlink.Socket() as host:
        host.attempt(*map(netlink.disable_port, indexes))
    netns.remove(where)


def reap(links: Iterable[str]) -> None:
    """Remove links that outlived their sandbox, because a process still holds the namespace."""
    wanted = set(links)
    _delete(name for _, name in socket.if_nameindex() if name in wanted)


def sweep(
    exec_root: str, instance: str, *, keep_ids: set[str], keep_links: set[str] | None
) -> None:
    """Remove every namespace and link of this engine but those to keep; None keeps every link."""
    folder = f"{exec_root}/{FOLDER}"
    kept = {identifier[:12] for identifier in keep_ids}
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            if name not in kept:
                netns.remove(f"{folder}/{name}")
    if keep_links is None:
        return
    own = (name for _, name in socket.if_nameindex() if name.startswith(link_prefix(instance)))
    _delete(name for name in own if name not in keep_links)


def _delete(links: Iterable[str]) -> None:
    with netlink.Socket() as host:
        host.attempt(*map(netlink.delete_link, links))
