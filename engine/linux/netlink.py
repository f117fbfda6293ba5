"""rtnetlink(7): links, addresses and routes, spoken in the kernel's own messages.

Two modules speak it, and one rule parts them. Here stands what a container's start and stop wait
for, and the start of an engine that has its default network only: a bridge, a veth pair, an
address, a default route, and the socket that nf_tables and conntrack use too. All else is said
through pyroute2 (`engine.linux.iproute`): bridges of users' networks, what routes and addresses the
host has, changing those of what runs. That library knows every message and many keep it, but its
import takes 150 ms and 10 MB, and a message through it 0.5 ms; through here one takes 0.06, and a
container's start is eight of them. What no start waits for has no business here.

Verbs are data first: a function makes a `Message`, a `Socket` sends any number of them in one
system call and reads every answer. So what a container needs on the host's side is two sends.

Refuses: policy, names, and anything that waits. The kernel answers rtnetlink requests inside
`sendmsg`, so no call here blocks on more than the kernel's own locks.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
)
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

# <linux/netlink.h>
NETLINK_NETFILTER: Final = 12
NETLINK_ROUTE: Final = 0
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_EXT_ACK: Final = 11
SOL_NETLINK: Final = 270
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
NLM_F_ACK: Final = 0x4
NLM_F_APPEND: Final = 0x800
NLM_F_CREATE: Final = 0x400
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_REPLACE: Final = 0x100
NLM_F_REQUEST: Final = 0x1
NLMSG_DONE: Final = 3
NLMSG_ERROR: Final = 2

# <linux/rtnetlink.h>, <linux/socket.h>
AF_BRIDGE: Final = 7
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_NEWLINK: Final = 16
RTM_NEWROUTE: Final = 24
RTM_SETLINK: Final = 19
RTA_GATEWAY: Final = 5
RTA_OIF: Final = 4
RTN_UNICAST: Final = 1
RTPROT_BOOT: Final = 3
RT_SCOPE_LINK: Final = 253
RT_SCOPE_UNIVERSE: Final = 0
RT_TABLE_MAIN: Final = 254

# <linux/if_link.h>, <linux/if_addr.h>, <linux/if.h>, <linux/veth.h>, <linux/if_bridge.h>
IFA_ADDRESS: Final = 1
IFA_BROADCAST: Final = 4
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFA_LOCAL: Final = 2
IFF_UP: Final = 0x1
IFLA_ADDRESS: Final = 1
IFLA_AF_SPEC: Final = 26
IFLA_BRPORT_ISOLATED: Final = 33
IFLA_BRPORT_MODE: Final = 4
IFLA_BRPORT_STATE: Final = 1
IFLA_IFALIAS: Final = 20
IFLA_IFNAME: Final = 3
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IFLA_INFO_DATA: Final = 2
IFLA_INFO_KIND: Final = 1
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_IPVLAN_FLAGS: Final = 2
IFLA_IPVLAN_MODE: Final = 1
IFLA_LINK: Final = 5
IFLA_LINKINFO: Final = 18
IFLA_MACVLAN_MODE: Final = 1
IFLA_MASTER: Final = 10
IFLA_MTU: Final = 4
IFLA_NET_NS_FD: Final = 28
IFLA_OPERSTATE: Final = 16
IFLA_PROTINFO: Final = 12
IF_OPER_UP: Final = 6
BR_STATE_DISABLED: Final = 0
IN6_ADDR_GEN_MODE_NONE: Final = 1
VETH_INFO_PEER: Final = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # nlattr
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg
_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg
_RTMSG = struct.Struct("=BBBBBBBBI")  # rtmsg
_ERRNO = struct.Struct("=i")
_RECEIVE = 1 << 18


@dataclass(frozen=True, slots=True)
class Message:
    """One request. `body` is everything behind the header, `about` names its object in errors."""

    type: int
    flags: int
    body: bytes
    about: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    kind: str  # "bridge", "veth", …; "" for hardware
    is_operational: bool  # up, with carrier, and its queue ready


# Encoding


def attribute(type: int, payload: bytes) -> bytes:
    """One nlattr, padded to four bytes."""
    return _ATTRIBUTE.pack(len(payload) + 4, type) + payload + bytes(-len(payload) % 4)


def nested(type: int, *attributes: bytes) -> bytes:
    return attribute(type | NLA_F_NESTED, b"".join(attributes))


def text(type: int, value: str) -> bytes:
    """A string attribute, ended by NUL as the kernel wants it."""
    return attribute(type, value.encode() + b"\0")


def u8(type: int, value: int) -> bytes:
    return attribute(type, bytes((value,)))


def u16(type: int, value: int) -> bytes:
    return attribute(type, value.to_bytes(2, "little" if _IS_LITTLE else "big"))


def u32(type: int, value: int) -> bytes:
    return attribute(type, value.to_bytes(4, "little" if _IS_LITTLE else "big"))


_IS_LITTLE = struct.pack("=H", 1) == b"\1\0"


def attributes(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, types without their flag bits."""
    view = memoryview(data)
    offset = 0
    while offset + 4 <= len(view):
        length, type = _ATTRIBUTE.unpack_from(view, offset)
        if length < 4:
            return
        yield type & NLA_TYPE_MASK, bytes(view[offset + 4 : offset + length])
        offset += (length + 3) & ~3


# Links


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", "").replace("-", ""))


def add_bridge(name: str, *, mac: str) -> Message:
    """A bridge, still down. Its own MAC keeps it from taking over that of its lowest port."""
    body = b"".join(
        (
            _ifinfo(),
            text(IFLA_IFNAME, name),
            attribute(IFLA_ADDRESS, _mac(mac)),
            nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge")),
        )
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def add_veth(
    name: str, *, master: int, mtu: int, peer: str, peer_mac: str, peer_netns: int
) -> Message:
    """A veth pair, both ends down: `name` here as a port of `master`, `peer` in `peer_netns`.

    `peer_netns` is the descriptor of a network namespace.
    """
    peer_body = b"".join(
        (
            _ifinfo(),
            text(IFLA_IFNAME, peer),
            attribute(IFLA_ADDRESS, _mac(peer_mac)),
            u32(IFLA_MTU, mtu),
            u32(IFLA_NET_NS_FD, peer_netns),
        )
    )
    body = b"".join(
        (
            _ifinfo(),
            text(IFLA_IFNAME, name),
            u32(IFLA_MTU, mtu),
            u32(IFLA_MASTER, master),
            nested(
                IFLA_LINKINFO,
                text(IFLA_INFO_KIND, "veth"),
                nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer_body)),
            ),
        )
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def add_on_parent(
    name: str, kind: str, parent: int, *, mode: int, flags: int, mac: str, netns: int
) -> Message:
    """A macvlan or ipvlan link on the link of the index `parent`, down, in another namespace.

    `netns` is that namespace's descriptor. MTU and, where `mac` is "", the MAC are the parent's or
    the kernel's choice. `flags` are ipvlan's alone.
    """
    if kind == "macvlan":
        data = u32(IFLA_MACVLAN_MODE, mode)
    else:
        data = u16(IFLA_IPVLAN_MODE, mode) + u16(IFLA_IPVLAN_FLAGS, flags)
    body = b"".join(
        (
            _ifinfo(),
            text(IFLA_IFNAME, name),
            attribute(IFLA_ADDRESS, _mac(mac)) if mac else b"",
            u32(IFLA_LINK, parent),
            u32(IFLA_NET_NS_FD, netns),
            nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data)),
        )
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def without_ipv6_address(name: str) -> Message:
    """Keep a link that is down from getting a link-local address when it comes up."""
    inet6 = nested(socket.AF_INET6, u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE))
    body = _ifinfo() + text(IFLA_IFNAME, name) + nested(IFLA_AF_SPEC, inet6)
    return Message(RTM_NEWLINK, 0, body, name)


def raise_port(name: str, *, hairpin: bool, isolated: bool) -> Message:
    """Bring the bridge port `name` up.

    `hairpin` lets a frame leave by the port it came from; `isolated` ports do not hear each other.
    """
    port = nested(
        IFLA_INFO_SLAVE_DATA, u8(IFLA_BRPORT_MODE, hairpin), u8(IFLA_BRPORT_ISOLATED, isolated)
    )
    body = b"".join(
        (
            _ifinfo(flags=IFF_UP, change=IFF_UP),
            text(IFLA_IFNAME, name),
            nested(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), port),
        )
    )
    return Message(RTM_NEWLINK, 0, body, name)


def disable_port(index: int, about: str = "") -> Message:
    """Let the bridge forward nothing more from or to its port, at once.

    Taking the link down or away waits for a grace period of the kernel, tens of milliseconds. The
    state is heard only in a message of the bridge's own family.
    """
    header = _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0)
    state = nested(IFLA_PROTINFO, u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED))
    return Message(RTM_SETLINK, 0, header + state, about)


def set_up(index: int, about: str = "", *, mtu: int = 0) -> Message:
    """Bring a link up, with another MTU where one is given."""
    body = _ifinfo(index, IFF_UP, IFF_UP) + (u32(IFLA_MTU, mtu) if mtu else b"")
    return Message(RTM_NEWLINK, 0, body, about)


def set_mac(index: int, mac: str, about: str = "") -> Message:
    return Message(RTM_NEWLINK, 0, _ifinfo(index) + attribute(IFLA_ADDRESS, _mac(mac)), about)


def delete_link(name: str) -> Message:
    return Message(RTM_DELLINK, 0, _ifinfo() + text(IFLA_IFNAME, name), name)


def delete_link_by_index(index: int) -> Message:
    return Message(RTM_DELLINK, 0, _ifinfo(index), f"link {index}")


# Addresses and routes


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def add_address(index: int, interface: Interface) -> Message:
    """Give the link an address; having it already is not an error."""
    packed = interface.ip.packed
    parts = [
        _IFADDR.pack(_family(interface.ip), interface.network.prefixlen, 0, 0, index),
        attribute(IFA_LOCAL, packed),
        attribute(IFA_ADDRESS, packed),
    ]
    if interface.version == 4:
        parts.append(attribute(IFA_BROADCAST, interface.network.broadcast_address.packed))
    else:  # nobody else can have it: the pool is ours
        parts.append(u32(IFA_FLAGS, IFA_F_NODAD))
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Message(RTM_NEWADDR, flags, b"".join(parts), str(interface))


def add_default_route(index: int, gateway: Address, *, is_on_link: bool = False) -> Message:
    """The default route of the family of `gateway`, in the place of another.

    On the link itself `gateway` is nobody: whatever is sent is looked for there.
    """
    scope = RT_SCOPE_LINK if is_on_link and gateway.version == 4 else RT_SCOPE_UNIVERSE
    header = _RTMSG.pack(
        _family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0
    )
    via = b"" if is_on_link else attribute(RTA_GATEWAY, gateway.packed)
    flags = NLM_F_CREATE | NLM_F_REPLACE
    about = f"default dev {index}" if is_on_link else f"default via {gateway}"
    return Message(RTM_NEWROUTE, flags, header + via + u32(RTA_OIF, index), about)


# The socket


class Socket:
    """A netlink socket in the network namespace of the thread that opened it, good from any."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, groups: Sequence[int] = ()) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def port_id(self) -> int:
        """By what the kernel knows this socket; it marks our own changes in notifications."""
        return int(self._socket.getsockname()[0])

    def execute(self, *messages: Message) -> None:
        """Carry the messages out, in order, the later ones even where an earlier failed.

        Raises `OSError` for the first that failed, naming what it was about.
        """
        failed = [f for f in self.attempt(*messages) if f is not None]
        if failed:
            raise failed[0]

    def attempt(self, *messages: Message) -> list[OSError | None]:
        """As `execute`, giving what became of each."""
        if not messages:
            return []
        frames = [
            frame(m.type, m.flags | NLM_F_REQUEST | NLM_F_ACK, number, m.body)
            for number, m in enumerate(messages)
        ]
        self._socket.send(b"".join(frames))
        results: list[OSError | None] = [None] * len(messages)
        answered = 0
        while answered < len(messages):
            for type, _, number, payload in self._receive():
                if type == NLMSG_ERROR and number < len(messages):
                    results[number] = _error(payload, messages[number].about)
                    answered += 1
        return results

    def dump(self, type: int, body: bytes, *, flags: int = 0) -> Iterator[tuple[int, bytes]]:
        """All the objects that a dump request gives, as (message type, body)."""
        self._socket.send(frame(type, NLM_F_REQUEST | NLM_F_DUMP | flags, 0, body))
        while True:
            for kind, _, _, payload in self._receive():
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    error = _error(payload, "dump")
                    if error is not None:
                        raise error
                    return
                yield kind, bytes(payload)

    def send(self, data: bytes) -> None:
        """Send frames made elsewhere; make room first, because one send is all or nothing."""
        if len(data) > 1 << 17:
            so_sndbufforce = 32
            self._socket.setsockopt(socket.SOL_SOCKET, so_sndbufforce, 2 * len(data) + (1 << 16))
        self._socket.send(data)

    def pending(self) -> Iterator[tuple[int, int, memoryview]]:
        """What waits to be read now: (type, sequence number, body) each; never waits."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for type, _, number, payload in _frames(data):
                yield type, number, payload

    def notices(self) -> Iterator[tuple[int, int, memoryview]]:
        """The notifications that wait to be read: (type, port id of who caused it, body) each;
        never waits.

        Raises OSError (ENOBUFS) where some were lost.
        """
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            view = memoryview(data)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, type, _, _, port_id = _HEADER.unpack_from(data, offset)
                yield type, port_id, view[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        return _frames(self._socket.recv(_RECEIVE))


def frame(type: int, flags: int, number: int, body: bytes) -> bytes:
    """A whole nlmsghdr message, padded; `number` comes back in its answer."""
    padded = body + bytes(-len(body) % 4)
    return _HEADER.pack(16 + len(body), type, flags, number, 0) + padded


def _frames(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    view = memoryview(data)
    offset = 0
    while offset + 16 <= len(view):
        length, type, flags, number, _ = _HEADER.unpack_from(view, offset)
        yield type, flags, number, view[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _error(payload: memoryview, about: str) -> OSError | None:
    """What an NLMSG_ERROR says; None for an acknowledgement."""
    (code,) = _ERRNO.unpack_from(payload, 0)
    return OSError(-code, os.strerror(-code), about) if code else None


def error_number(payload: memoryview) -> int:
    """The errno in the body of an NLMSG_ERROR; 0 for an acknowledgement."""
    (code,) = _ERRNO.unpack_from(payload, 0)
    return -int(code)


# Reading


def _parse_link(body: bytes) -> Link:
    _, _, index, _, _ = _IFINFO.unpack_from(body)
    found = dict(attributes(body[_IFINFO.size :]))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        is_operational=found.get(IFLA_OPERSTATE) == bytes((IF_OPER_UP,)),
    )


def link(sock: Socket, name: str) -> Link | None:
    """The link of that name in the socket's namespace, if there is one.

    Asking has the kernel catch up with the link's carrier first (since Linux 6.6).
    """
    sock.send(frame(RTM_GETLINK, NLM_F_REQUEST, 0, _ifinfo() + text(IFLA_IFNAME, name)))
    found = [bytes(body) for type, _, body in sock.pending() if type == RTM_NEWLINK]
    return _parse_link(found[0]) if found else None


def names(sock: Socket) -> Iterator[tuple[str, str]]:
    """Name and alias of every link in the socket's namespace; "" for no alias."""
    for type, body in sock.dump(RTM_GETLINK, _ifinfo()):
        if type == RTM_NEWLINK:
            found = dict(attributes(body[_IFINFO.size :]))
            name, alias = found.get(IFLA_IFNAME, b""), found.get(IFLA_IFALIAS, b"")
            yield os.fsdecode(name.rstrip(b"\0")), os.fsdecode(alias.rstrip(b"\0"))


def is_missing(error: OSError) -> bool:
    """Whether `error` says that what was to be changed is not there."""
    return error.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)


def execute(messages: Iterable[Message]) -> None:
    """Carry messages out in this thread's network namespace."""
    with Socket() as sock:
        sock.execute(*messages)
