"""x_tables: the packet filter before nf_tables, where `iptables-legacy` still writes. Only read.

What it drops is dropped whatever nf_tables says, and nothing of it is to be seen there. Names come
from <linux/netfilter_ipv4/ip_tables.h> and its IPv6 twin.
"""

from __future__ import annotations

import socket
import struct

from engine.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

IPT_SO_GET_INFO: Final = 64
IPT_SO_GET_ENTRIES: Final = 65
NF_DROP: Final = 0
NF_INET_FORWARD: Final = 2

_INFO = struct.Struct("=32sI5I5III")  # ipt_getinfo
_QUESTION = struct.Struct("=32sI4x")  # ipt_get_entries; the entries are aligned to eight
_TARGET_SIZE = 32  # xt_entry_target, the verdict behind it
# Protocol level, the file that names the tables, offset of target_offset in ip(6)t_entry.
_FAMILIES = {
    4: (socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140),
}


def drops_forwarded(version: int) -> bool:
    """Whether the FORWARD chain of the legacy table `filter` has policy DROP; OSError without root.

    To ask for a table would make one where there is none, so what there is is looked up first.
    """
    family, level, names, target_at = _FAMILIES[version]
    try:
        with open(f"/proc/thread-self/net/{names}", encoding="ascii") as file:
            if "filter" not in file.read().split():
                return False
    except FileNotFoundError:
        return False
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        name = b"filter"
        info = syscalls.getsockopt(sock.fileno(), level, IPT_SO_GET_INFO, name, _INFO.size)
        fields = _INFO.unpack(info)
        underflow, size = fields[7 + NF_INET_FORWARD], fields[-1]
        question = _QUESTION.pack(name, size)
        length = _QUESTION.size + size
        found = syscalls.getsockopt(sock.fileno(), level, IPT_SO_GET_ENTRIES, question, length)
    return policy(found[_QUESTION.size :], underflow, target_at) == NF_DROP


def policy(entries: bytes, underflow: int, target_at: int) -> int:
    """The verdict of the rule that ends a base chain; NF_DROP, NF_ACCEPT and so on."""
    (target,) = struct.unpack_from("=H", entries, underflow + target_at)
    (verdict,) = struct.unpack_from("=i", entries, underflow + target + _TARGET_SIZE)
    return -int(verdict) - 1
