"""The sockets of a container's resolver, and what leads its questions there.

A container asks 127.0.0.11, port 53, which stays free for a name server of its own: questions are
redirected to ports that the kernel has chosen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from engine.linux import netlink, netns, nftables
from engine.linux.nftables import (
    NF_INET_LOCAL_OUT,
    NFPROTO_IPV4,
    NFT_META_L4PROTO,
    NFT_PAYLOAD_NETWORK_HEADER,
    NFT_PAYLOAD_TRANSPORT_HEADER,
    Chain,
)

if TYPE_CHECKING:
    from engine.linux.netlink import Message

ADDRESS: Final = "127.0.0.11"
PORT: Final = 53
_TABLE: Final = "wharf-resolver"
_CHAIN: Final = "output"
_PRIORITY: Final = -100  # NF_IP_PRI_NAT_DST
_BACKLOG: Final = 64
_DESTINATION_ADDRESS: Final = 16  # in an IPv4 header
_DESTINATION_PORT: Final = 2  # in the headers of both


def open_here() -> tuple[int, int]:
    """UDP and listening TCP socket in the namespace of this thread, with the way there.

    The descriptors are the caller's. Raises OSError.
    """
    with contextlib.ExitStack() as undo:
        found: list[socket.socket] = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = undo.enter_context(socket.socket(socket.AF_INET, kind))
            sock.bind((ADDRESS, 0))
            found.append(sock)
        udp, tcp = found
        tcp.listen(_BACKLOG)
        ports = ((socket.IPPROTO_UDP, udp), (socket.IPPROTO_TCP, tcp))
        with netlink.Socket(netlink.NETLINK_NETFILTER) as kernel:
            nftables.commit(kernel, _ruleset([(p, s.getsockname()[1]) for p, s in ports]))
        return udp.detach(), tcp.detach()


def open_in(path: str) -> tuple[int, int]:
    """As `open_here`, in the namespace that the file keeps."""
    return netns.enter(path, lambda _: open_here())


def _ruleset(ports: list[tuple[int, int]]) -> list[Message]:
    """The table whole, in the place of one that an earlier resolver had."""
    chain = Chain(_CHAIN, type="nat", hook=NF_INET_LOCAL_OUT, priority=_PRIORITY)
    table = nftables.add_table(NFPROTO_IPV4, _TABLE)
    return [
        table,
        nftables.delete_table(NFPROTO_IPV4, _TABLE),
        table,
        nftables.add_chain(NFPROTO_IPV4, _TABLE, chain),
        *(_redirect(protocol, port) for protocol, port in ports),
    ]


def _redirect(protocol: int, port: int) -> Message:
    expressions = [
        nftables.payload(NFT_PAYLOAD_NETWORK_HEADER, _DESTINATION_ADDRESS, 4),
        nftables.compare(ip_address(ADDRESS).packed),
        nftables.meta(NFT_META_L4PROTO),
        nftables.compare(bytes((protocol,))),
        nftables.payload(NFT_PAYLOAD_TRANSPORT_HEADER, _DESTINATION_PORT, 2),
        nftables.compare(struct.pack(">H", PORT)),
        nftables.immediate(ip_address(ADDRESS).packed, 0),
        nftables.immediate(struct.pack(">H", port), 1),
        nftables.dnat(NFPROTO_IPV4, address=0, port=1),
    ]
    return nftables.add_rule(NFPROTO_IPV4, _TABLE, _CHAIN, expressions)


def close(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)
