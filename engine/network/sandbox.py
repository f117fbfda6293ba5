"""A container's network namespace: made, entered, connected, disconnected, let go.

All of it blocks for a few milliseconds at most and is called through offload. A sandbox is a file
that keeps a namespace (`engine.linux.netns`), named after its container, so that a sweep finds it;
a link on the host is named after its endpoint, which is new with each start: the kernel takes links
of a dead namespace away in its own time, and a container that starts again does not wait for that.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from engine.errors import EngineError
from engine.linux import iproute, netlink, netns, oserror, sysctl

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface

T = TypeVar("T")

FOLDER: Final = "netns"
_PREFIX: Final = "eth"
# Until the kernel's own workers have seen a carrier and joined groups, mostly within a millisecond.
_TRIES = 100
_PAUSE_S = 0.0005


class LinkFailed(EngineError):
    """The kernel makes no such link on that parent."""

    def __init__(self, kind: str, error: OSError) -> None:
        super().__init__(f"failed to create the {kind} port: {oserror.reason(error)}")


class InterfaceFailed(EngineError):
    """What was asked of an interface cannot be; `link` is its end on the host."""

    def __init__(self, link: str, reason: str) -> None:
        super().__init__(f"failed to add interface {link} to sandbox: {reason}")


class _NotRenamed(InterfaceFailed):
    def __init__(self, port: Port, name: str, error: OSError) -> None:
        reason = oserror.reason(error)
        super().__init__(port.link, f'error renaming interface "{port.link}" to "{name}": {reason}')


class _MacRefused(InterfaceFailed):
    """It is a group's, or none (rtnetlink: EADDRNOTAVAIL)."""

    def __init__(self, port: Port, error: OSError) -> None:
        what = f'error setting interface "{port.link}" MAC to "{port.mac}"'
        super().__init__(port.link, f"{what}: {oserror.reason(error)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridged:
    """A pair of links, whose end on the host is a port of a bridge."""

    bridge: str
    master: int  # the bridge's index
    mtu: int
    has_icc: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OnParent:
    """A link of the container's that takes what is its own from a link of the host."""

    kind: str  # "macvlan" or "ipvlan", ip-link(8)
    parent: str
    index: int  # the parent's
    mode: int
    flags: int = 0
    has_mac: bool = True
    """Whether it has a MAC address of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A container's end of one network: what to make on both sides of the namespace."""

    link: str
    """Of its end on the host, if it has one there; nobody else's in any case."""
    mac: str
    addresses: tuple[Interface, ...]
    via: Bridged | OnParent
    name: str = ""
    """What the container calls it; "" for a prefix and the next number."""
    prefix: str = ""
    """Of such a name; "" for eth."""
    sysctls: tuple[str, ...] = ()
    is_announced: bool = True

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
    """Those that were chosen, and prefixes with the numbers that are free for all others."""
    taken = {port.name for port in ports}
    names: list[str] = []
    for port in ports:
        name = port.name or _free_name(port, taken)
        taken.add(name)
        names.append(name)
    return names


def _plug(host: netlink.Socket, inside: netlink.Socket, fd: int, name: str, port: Port) -> None:
    """`fd` is the namespace, which the calling thread is in."""
    match port.via:
        case Bridged() as via:
            _plug_in_bridge(host, inside, fd, name, port, via)
        case OnParent() as via:
            _plug_on_parent(host, inside, fd, name, port, via)


def _plug_in_bridge(
    host: netlink.Socket, inside: netlink.Socket, fd: int, name: str, port: Port, via: Bridged
) -> None:
    try:
        host.execute(
            netlink.add_veth(
                port.link,
                master=via.master,
                mtu=via.mtu,
                peer=name,
                peer_mac=port.mac,
                peer_netns=fd,
            )
        )
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise _MacRefused(port, error) from error
        if not port.name and not port.prefix:
            raise
        raise _NotRenamed(port, name, error) from error
    # A host without IPv6 refuses that, and needs it not.
    host.attempt(netlink.without_ipv6_address(port.link))
    index = _furnish_link(inside, name, port)
    inside.execute(netlink.set_up(index, name))
    host.execute(netlink.raise_port(port.link, hairpin=True, isolated=_is_isolated(via)))
    _await_carrier(host, port.link)
    _await_carrier(host, via.bridge)
    _await_carrier(inside, name)
    _await_groups(name, [a for a in port.addresses if a.version == 6])
    if port.is_announced:
        _announce(inside, index, name, port)


def _plug_on_parent(
    host: netlink.Socket, inside: netlink.Socket, fd: int, name: str, port: Port, via: OnParent
) -> None:
    """Made in the namespace at once, so nothing of it is ever on the host."""
    mac = port.mac if via.has_mac else ""
    try:
        host.execute(
            netlink.add_on_parent(
                name, via.kind, via.index, mode=via.mode, flags=via.flags, mac=mac, netns=fd
            )
        )
    except OSError as error:
        if error.errno == errno.EEXIST and port.name:
            raise _NotRenamed(port, name, error) from error
        if netlink.is_missing(error):
            raise  # another link is the parent by now
        raise LinkFailed(via.kind, error) from error
    index = _furnish_link(inside, name, port)
    if mac:  # that of one that has its parent to itself is the parent's until now
        inside.execute(netlink.set_mac(index, mac, name))
    with _announced(name, port):
        inside.execute(netlink.set_up(index, name))
        _await_carrier(inside, name)
        _await_groups(name, [a for a in port.addresses if a.version == 6])


def _furnish_link(inside: netlink.Socket, name: str, port: Port) -> int:
    """Give the container's end its addresses and its knobs; its index."""
    if not port.has_ipv6:
        # No address means no IPv6 at all, not a link-local one.
        _try_to_set(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    for text in port.sysctls:
        _set_own(text, name, port.link)
    index = socket.if_nametoindex(name)
    inside.execute(*(netlink.add_address(index, a) for a in port.addresses))
    return index


def _is_isolated(via: Bridged) -> bool:
    """Without icc the bridge parts its ports, unless the firewall sees what it forwards.

    Where br_netfilter hands the bridge's own packets to the firewall, that drops them, and the
    ports may not be parted: a published port of a neighbour is then reached through the bridge.
    """
    if via.has_icc:
        return False
    try:
        return sysctl.get("net/bridge/bridge-nf-call-iptables") != "1"
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
    with _announced(name, port):
        inside.attempt(netlink.set_mac(index, port.mac, name))


@contextlib.contextmanager
def _announced(name: str, port: Port) -> Iterator[None]:
    """Who comes up or sets his MAC meanwhile has the kernel tell the neighbours."""
    knobs = [f"net/ipv4/conf/{name}/arp_notify"]
    if port.has_ipv6:
        knobs.append(f"net/ipv6/conf/{name}/ndisc_notify")
    for knob in knobs:
        _try_to_set(knob, "1")
    yield
    for knob in knobs:
        _try_to_set(knob, "0")


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


def _try_to_set(name: str, value: str) -> None:
    with contextlib.suppress(OSError):
        sysctl.put(name, value)


def _routes(
    named: Iterable[tuple[str, Port]], gateways: Iterable[Address]
) -> list[netlink.Message]:
    """One default route a gateway, through the port whose subnet it is in.

    A port's own address in the place of a gateway is a route to that port's link, by nobody.
    """
    messages: list[netlink.Message] = []
    ports = tuple(named)
    for gateway in gateways:
        for name, port in ports:
            if any(gateway in a.network for a in port.addresses):
                index = socket.if_nametoindex(name)
                is_own = any(gateway == a.ip for a in port.addresses)
                messages.append(netlink.add_default_route(index, gateway, is_on_link=is_own))
                break
    return messages


def connect(where: str, port: Port, gateways: Sequence[Address]) -> None:
    """Give a living sandbox one more port, and these default routes in the place of its own."""
    with netlink.Socket() as host:

        def body(fd: int) -> None:
            name = port.name or _free_name(port, {name for _, name in socket.if_nameindex()})
            with netlink.Socket() as inside:
                _plug(host, inside, fd, name, port)
                try:
                    iproute.replace_default_routes(gateways)
                except BaseException:
                    inside.attempt(netlink.delete_link(name))
                    raise

        try:
            netns.enter(where, body)
        except BaseException:
            host.attempt(netlink.delete_link(port.link))
            raise


def _free_name(port: Port, taken: Container[str]) -> str:
    counted = (f"{port.prefix or _PREFIX}{number}" for number in itertools.count())
    return next(name for name in counted if name not in taken)


def disconnect(where: str, link: str, port: Port | None, gateways: Sequence[Address]) -> None:
    """Take a port from a living sandbox; the default routes become these.

    `link` is the end on the host, if there is one; of a network that is gone the port is not known.
    """
    with netlink.Socket() as host:
        for error in host.attempt(netlink.delete_link(link)):
            if error is not None and not netlink.is_missing(error):
                raise error

    def body(_: int) -> None:
        if port is not None and isinstance(port.via, OnParent):
            _pull_off_parent(port, port.via)
        iproute.replace_default_routes(gateways)

    netns.enter(where, body)


def _pull_off_parent(port: Port, via: OnParent) -> None:
    """Delete the link, whatever the container calls it: what it hangs on is not its to change.

    Of several on one parent it is that with an address of the port's.
    """
    found = iproute.links_upon(via.kind, via.index)
    if len(found) > 1:
        own = {a.ip for a in port.addresses}
        found = {index: bears for index, bears in found.items() if own & bears}
    with netlink.Socket() as inside:
        for error in inside.attempt(*map(netlink.delete_link_by_index, found)):
            if error is not None and not netlink.is_missing(error):
                raise error


def _pull_all_off_parents(where: str) -> None:
    """Before its namespace goes, which takes the kernel a while: the parent may be wanted at once,
    and nobody is to answer for these addresses. One that is gone is no error.
    """
    try:
        netns.enter(where, lambda _: _delete(iproute.names_upon_elsewhere()))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise


def addresses(where: str) -> list[Interface]:
    """What a living sandbox has; nothing if there is none."""
    try:
        return netns.enter(where, lambda _: iproute.addresses())
    except OSError:
        return []


def remove(where: str, ports: Sequence[Port], links: Sequence[str] = ()) -> None:
    """Let the sandbox go: silent at once, its links gone when the kernel gets to it.

    `links` are ends on the host besides those of `ports`.
    """
    indexes: list[int] = []
    for link in {*links, *(port.link for port in ports)}:
        with contextlib.suppress(OSError):
            indexes.append(socket.if_nametoindex(link))
    with netlink.Socket() as host:
        host.attempt(*map(netlink.disable_port, indexes))
    try:
        if any(isinstance(port.via, OnParent) for port in ports):
            _pull_all_off_parents(where)
    finally:
        netns.remove(where)


def reap(links: Iterable[str]) -> None:
    """Remove links that outlived their sandbox, because a process still holds the namespace."""
    wanted = set(links)
    _delete(name for _, name in socket.if_nameindex() if name in wanted)


def mark(instance: str) -> str:
    """The alias (ip-link(8)) of a link that this engine made under a name of Docker's."""
    return f"wharf-{instance}"


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
    prefix, alias = link_prefix(instance), mark(instance)
    with netlink.Socket() as host:
        found = list(netlink.names(host))
    own = (name for name, marked in found if name.startswith(prefix) or marked == alias)
    _delete(name for name in own if name not in keep_links)


def _delete(links: Iterable[str]) -> None:
    with netlink.Socket() as host:
        host.attempt(*map(netlink.delete_link, links))
