"""Connection tracking over nfnetlink: finding and deleting flows. Names from the kernel's headers.

The kernel filters the dump itself (CTA_FILTER, since Linux 5.8), so a table of a million flows
costs no more than the few that are asked for. An older kernel refuses the filter with an OSError.
"""

from __future__ import annotations

import struct

from engine.linux import netlink
from engine.linux.netlink import Message, attribute, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.linux.netlink import Address

# <linux/netfilter/nfnetlink_conntrack.h>
NFNL_SUBSYS_CTNETLINK: Final = 1
IPCTNL_MSG_CT_GET: Final = 1
IPCTNL_MSG_CT_DELETE: Final = 2
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_ID: Final = 12
CTA_FILTER: Final = 25
CTA_FILTER_ORIG_FLAGS: Final = 1
CTA_FILTER_REPLY_FLAGS: Final = 2
CTA_FILTER_FLAG_IP_SRC: Final = 1 << 0
CTA_FILTER_FLAG_PROTO_NUM: Final = 1 << 3
CTA_IP_V4_SRC: Final = 1
CTA_IP_V6_SRC: Final = 3
CTA_PROTO_NUM: Final = 1
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10

_NFGENMSG = struct.Struct(">BBH")


def _u32(type: int, value: int) -> bytes:
    """The filter's flags travel in the host's order, unlike most of nfnetlink."""
    return attribute(type, struct.pack("=I", value))


def delete(replier: Address, protocol: int) -> int:
    """Delete all flows of the protocol that are answered from an address; how many there were."""
    is_ipv4 = replier.version == 4
    family = NFPROTO_IPV4 if is_ipv4 else NFPROTO_IPV6
    header = _NFGENMSG.pack(family, 0, 0)
    source = attribute(CTA_IP_V4_SRC if is_ipv4 else CTA_IP_V6_SRC, replier.packed)
    flags = CTA_FILTER_FLAG_IP_SRC | CTA_FILTER_FLAG_PROTO_NUM
    body = header + b"".join(
        (
            nested(
                CTA_TUPLE_REPLY,
                nested(CTA_TUPLE_IP, source),
                nested(CTA_TUPLE_PROTO, netlink.u8(CTA_PROTO_NUM, protocol)),
            ),
            nested(CTA_FILTER, _u32(CTA_FILTER_ORIG_FLAGS, 0), _u32(CTA_FILTER_REPLY_FLAGS, flags)),
        )
    )
    kind = NFNL_SUBSYS_CTNETLINK << 8
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        found = [
            dict(netlink.attributes(data[4:]))
            for _, data in sock.dump(kind | IPCTNL_MSG_CT_GET, body)
        ]
        # One that ended meanwhile is as good as deleted.
        sock.attempt(
            *(
                Message(
                    kind | IPCTNL_MSG_CT_DELETE,
                    0,
                    header
                    + attribute(CTA_TUPLE_ORIG | netlink.NLA_F_NESTED, flow[CTA_TUPLE_ORIG])
                    + attribute(CTA_ID, flow[CTA_ID]),
                )
                for flow in found
            )
        )
    return len(found)
