"""nf_tables over nfnetlink: expressions, objects and atomic batches, in the kernel's own words.

Everything is a `Message`; a batch of them is carried out whole or not at all (`commit`). What a
ruleset means is decided elsewhere (`engine.network.firewall`). Numbers of nf_tables travel in
network byte order. Names come from <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from engine.linux import netlink
from engine.linux.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, Message, attribute, nested

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# <linux/netfilter.h>, <linux/netfilter/nfnetlink.h>
NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17
NFNL_SUBSYS_CTNETLINK: Final = 1
NFNL_SUBSYS_NFTABLES: Final = 10
NFNLGRP_NFTABLES: Final = 7
NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10
NF_ACCEPT: Final = 1
NF_DROP: Final = 0
NF_INET_FORWARD: Final = 2
NF_INET_LOCAL_OUT: Final = 3
NF_INET_POST_ROUTING: Final = 4
NF_INET_PRE_ROUTING: Final = 0
NFT_JUMP: Final = -3
NFT_RETURN: Final = -5

# Messages
NFT_MSG_NEWTABLE: Final = 0
NFT_MSG_GETTABLE: Final = 1
NFT_MSG_DELTABLE: Final = 2
NFT_MSG_NEWCHAIN: Final = 3
NFT_MSG_GETCHAIN: Final = 4
NFT_MSG_NEWRULE: Final = 6
NFT_MSG_GETRULE: Final = 7
NFT_MSG_DELRULE: Final = 8
NFT_MSG_NEWSET: Final = 9
NFT_MSG_NEWSETELEM: Final = 12
NFT_MSG_GETSETELEM: Final = 13
NFT_MSG_DELSETELEM: Final = 14
NFT_MSG_NEWGEN: Final = 15

# Attributes
NFTA_LIST_ELEM: Final = 1
NFTA_TABLE_NAME: Final = 1
NFTA_CHAIN_HOOK: Final = 4
NFTA_CHAIN_NAME: Final = 3
NFTA_CHAIN_POLICY: Final = 5
NFTA_CHAIN_TABLE: Final = 1
NFTA_CHAIN_TYPE: Final = 7
NFTA_HOOK_HOOKNUM: Final = 1
NFTA_HOOK_PRIORITY: Final = 2
NFTA_RULE_CHAIN: Final = 2
NFTA_RULE_EXPRESSIONS: Final = 4
NFTA_RULE_HANDLE: Final = 3
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_USERDATA: Final = 7
NFTA_EXPR_DATA: Final = 2
NFTA_EXPR_NAME: Final = 1
NFTA_DATA_VALUE: Final = 1
NFTA_DATA_VERDICT: Final = 2
NFTA_VERDICT_CHAIN: Final = 2
NFTA_VERDICT_CODE: Final = 1
NFTA_SET_DATA_LEN: Final = 7
NFTA_SET_DATA_TYPE: Final = 6
NFTA_SET_DESC: Final = 9
NFTA_SET_DESC_CONCAT: Final = 2
NFTA_SET_FIELD_LEN: Final = 1
NFTA_SET_FLAGS: Final = 3
NFTA_SET_ID: Final = 10
NFTA_SET_KEY_LEN: Final = 5
NFTA_SET_KEY_TYPE: Final = 4
NFTA_SET_NAME: Final = 2
NFTA_SET_TABLE: Final = 1
NFTA_SET_ELEM_DATA: Final = 2
NFTA_SET_ELEM_FLAGS: Final = 3
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_KEY_END: Final = 10
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFT_SET_CONCAT: Final = 0x80
NFT_SET_ELEM_INTERVAL_END: Final = 0x1
NFT_SET_INTERVAL: Final = 0x4
NFT_SET_MAP: Final = 0x8

# Expressions
NFT_CMP_EQ: Final = 0
NFT_CMP_NEQ: Final = 1
NFT_CT_STATE: Final = 0
NFT_CT_STATUS: Final = 2
NFT_FIB_RESULT_ADDRTYPE: Final = 3
NFTA_FIB_F_DADDR: Final = 1 << 1
NFT_LOOKUP_F_INV: Final = 1
NFT_META_IIFNAME: Final = 6
NFT_META_L4PROTO: Final = 16
NFT_META_NFPROTO: Final = 15
NFT_META_OIFNAME: Final = 7
NFT_NAT_DNAT: Final = 1
NFT_NAT_SNAT: Final = 0
NFT_PAYLOAD_NETWORK_HEADER: Final = 1
NFT_PAYLOAD_TRANSPORT_HEADER: Final = 2
NFT_REG_VERDICT: Final = 0
NFT_REG32_00: Final = 8
IFNAMSIZ: Final = 16
IPS_DST_NAT: Final = 1 << 5
CT_ESTABLISHED_RELATED: Final = 0b110
RTN_LOCAL: Final = 2

_NFGENMSG = struct.Struct(">BBH")
_BE32 = struct.Struct(">I")
_BE32_SIGNED = struct.Struct(">i")
# The attribute that lists elements has 16 bits for its length.
_ELEMENTS_PER_MESSAGE = 400


class Type(IntEnum):
    """Data types as `nft list ruleset` knows them; the kernel stores and ignores the number."""

    IPV4_ADDR = 7
    IPV6_ADDR = 8
    INET_PROTO = 12
    INET_SERVICE = 13
    IFNAME = 41


SIZES: Final = {
    Type.IPV4_ADDR: 4,
    Type.IPV6_ADDR: 16,
    Type.INET_PROTO: 1,
    Type.INET_SERVICE: 2,
    Type.IFNAME: IFNAMSIZ,
}


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or with `data` a map. Every field of a concatenation is padded to four bytes."""

    name: str
    key: tuple[Type, ...]
    data: tuple[Type, ...] = ()
    is_interval: bool = False


@dataclass(frozen=True, slots=True)
class Element:
    """`end` is the last key of a range in a concatenation, None for a single key.

    In a set of one field with intervals, a range is two elements: its first key, and the key
    behind its last with `is_interval_end`.
    """

    key: bytes
    data: bytes = b""
    end: bytes | None = None
    is_interval_end: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a base chain has a type ("filter", "nat"), a hook, a priority and a policy."""

    name: str
    type: str = ""
    hook: int = 0
    priority: int = 0
    policy: int = NF_ACCEPT


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain as the kernel lists it, of whatever table."""

    family: int
    table: str
    chain: str
    hook: int
    policy: int


@dataclass(frozen=True, slots=True)
class ForeignRule:
    """A rule as the kernel lists it; `comment` is "" where it has none."""

    handle: int
    comment: str


def _be32(type: int, value: int) -> bytes:
    return attribute(type, _BE32.pack(value & 0xFFFFFFFF))


def _message(kind: int, family: int, body: bytes, *, flags: int = 0, about: str = "") -> Message:
    header = _NFGENMSG.pack(family, 0, 0)
    return Message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, header + body, about)


# Expressions. `reg` counts the 32-bit registers.


def _register(reg: int) -> int:
    return NFT_REG32_00 + reg


def _expression(name: str, *data: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, netlink.text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *data))


def meta(key: int, reg: int = 0) -> bytes:
    nfta_meta_dreg, nfta_meta_key = 1, 2
    return _expression("meta", _be32(nfta_meta_key, key), _be32(nfta_meta_dreg, _register(reg)))


def payload(base: int, offset: int, length: int, reg: int = 0) -> bytes:
    dreg, base_attr, offset_attr, length_attr = 1, 2, 3, 4
    return _expression(
        "payload",
        _be32(dreg, _register(reg)),
        _be32(base_attr, base),
        _be32(offset_attr, offset),
        _be32(length_attr, length),
    )


def compare(data: bytes, reg: int = 0, *, op: int = NFT_CMP_EQ) -> bytes:
    nfta_cmp_sreg, nfta_cmp_op, nfta_cmp_data = 1, 2, 3
    return _expression(
        "cmp",
        _be32(nfta_cmp_sreg, _register(reg)),
        _be32(nfta_cmp_op, op),
        nested(nfta_cmp_data, attribute(NFTA_DATA_VALUE, data)),
    )


def mask(bits: bytes, reg: int = 0) -> bytes:
    """AND the register with `bits`."""
    sreg, dreg, length, mask_attr, xor = 1, 2, 3, 4, 5
    return _expression(
        "bitwise",
        _be32(sreg, _register(reg)),
        _be32(dreg, _register(reg)),
        _be32(length, len(bits)),
        nested(mask_attr, attribute(NFTA_DATA_VALUE, bits)),
        nested(xor, attribute(NFTA_DATA_VALUE, bytes(len(bits)))),
    )


def lookup(name: str, reg: int = 0, *, to: int | None = None, invert: bool = False) -> bytes:
    """Match members of a set; with `to`, load what a map has for the key."""
    nfta_set, nfta_sreg, nfta_dreg, nfta_flags = 1, 2, 3, 5
    data = [netlink.text(nfta_set, name), _be32(nfta_sreg, _register(reg))]
    if to is not None:
        data.append(_be32(nfta_dreg, _register(to)))
    if invert:
        data.append(_be32(nfta_flags, NFT_LOOKUP_F_INV))
    return _expression("lookup", *data)


def ct(key: int, reg: int = 0) -> bytes:
    nfta_ct_dreg, nfta_ct_key = 1, 2
    return _expression("ct", _be32(nfta_ct_dreg, _register(reg)), _be32(nfta_ct_key, key))


def fib_address_type(reg: int = 0) -> bytes:
    """Load the type (RTN_…) of the route to the packet's destination."""
    nfta_fib_dreg, nfta_fib_result, nfta_fib_flags = 1, 2, 3
    return _expression(
        "fib",
        _be32(nfta_fib_dreg, _register(reg)),
        _be32(nfta_fib_result, NFT_FIB_RESULT_ADDRTYPE),
        _be32(nfta_fib_flags, NFTA_FIB_F_DADDR),
    )


def verdict(code: int, chain: str = "") -> bytes:
    nfta_immediate_dreg, nfta_immediate_data = 1, 2
    parts = [attribute(NFTA_VERDICT_CODE, _BE32_SIGNED.pack(code))]
    if chain:
        parts.append(netlink.text(NFTA_VERDICT_CHAIN, chain))
    return _expression(
        "immediate",
        _be32(nfta_immediate_dreg, NFT_REG_VERDICT),
        nested(nfta_immediate_data, nested(NFTA_DATA_VERDICT, *parts)),
    )


def immediate(data: bytes, reg: int = 0) -> bytes:
    """Load a value."""
    nfta_immediate_dreg, nfta_immediate_data = 1, 2
    return _expression(
        "immediate",
        _be32(nfta_immediate_dreg, _register(reg)),
        nested(nfta_immediate_data, attribute(NFTA_DATA_VALUE, data)),
    )


def dnat(family: int, *, address: int, port: int | None = None) -> bytes:
    """Rewrite the destination from registers; without `port` the port stays."""
    nfta_type, nfta_family, nfta_address, nfta_port = 1, 2, 3, 5
    data = [
        _be32(nfta_type, NFT_NAT_DNAT),
        _be32(nfta_family, family),
        _be32(nfta_address, _register(address)),
    ]
    if port is not None:
        data.append(_be32(nfta_port, _register(port)))
    return _expression("nat", *data)


def snat(family: int, *, address: int) -> bytes:
    """Rewrite the source from a register; the port stays where it can."""
    nfta_type, nfta_family, nfta_address = 1, 2, 3
    return _expression(
        "nat",
        _be32(nfta_type, NFT_NAT_SNAT),
        _be32(nfta_family, family),
        _be32(nfta_address, _register(address)),
    )


def masquerade() -> bytes:
    return _expression("masq")


# Values


def field(data: bytes) -> bytes:
    """One field of a concatenation: padded to whole registers."""
    return data + bytes(-len(data) % 4)


def interface(name: str) -> bytes:
    return name.encode().ljust(IFNAMSIZ, b"\0")


def native(value: int) -> bytes:
    """A number as expressions load it: 32 bits in the host's byte order."""
    return struct.pack("=I", value)


# Objects


def add_table(family: int, table: str) -> Message:
    body = netlink.text(NFTA_TABLE_NAME, table)
    return _message(NFT_MSG_NEWTABLE, family, body, flags=NLM_F_CREATE, about=f"table {table}")


def delete_table(family: int, table: str) -> Message:
    body = netlink.text(NFTA_TABLE_NAME, table)
    return _message(NFT_MSG_DELTABLE, family, body, about=f"table {table}")


def add_chain(family: int, table: str, chain: Chain) -> Message:
    body = netlink.text(NFTA_CHAIN_TABLE, table) + netlink.text(NFTA_CHAIN_NAME, chain.name)
    if chain.type:
        priority = attribute(NFTA_HOOK_PRIORITY, _BE32_SIGNED.pack(chain.priority))
        body += nested(NFTA_CHAIN_HOOK, _be32(NFTA_HOOK_HOOKNUM, chain.hook), priority)
        body += _be32(NFTA_CHAIN_POLICY, chain.policy)
        body += netlink.text(NFTA_CHAIN_TYPE, chain.type)
    return _message(NFT_MSG_NEWCHAIN, family, body, flags=NLM_F_CREATE, about=f"chain {chain.name}")


def _comment(comment: str) -> bytes:
    """User data as nft(8) writes a comment: type 0, length, text and NUL."""
    data = comment.encode() + b"\0"
    return attribute(NFTA_RULE_USERDATA, bytes((0, len(data))) + data)


def add_rule(
    family: int,
    table: str,
    chain: str,
    expressions: Iterable[bytes],
    *,
    comment: str = "",
    at_head: bool = False,
) -> Message:
    body = b"".join(
        (
            netlink.text(NFTA_RULE_TABLE, table),
            netlink.text(NFTA_RULE_CHAIN, chain),
            nested(NFTA_RULE_EXPRESSIONS, *expressions),
            _comment(comment) if comment else b"",
        )
    )
    flags = NLM_F_CREATE | (0 if at_head else netlink.NLM_F_APPEND)
    return _message(NFT_MSG_NEWRULE, family, body, flags=flags, about=f"rule in {chain}")


def delete_rule(family: int, table: str, chain: str, handle: int) -> Message:
    body = netlink.text(NFTA_RULE_TABLE, table) + netlink.text(NFTA_RULE_CHAIN, chain)
    body += attribute(NFTA_RULE_HANDLE, struct.pack(">Q", handle))
    return _message(NFT_MSG_DELRULE, family, body, about=f"rule {handle} in {chain}")


def _concatenated(types: Sequence[Type]) -> tuple[int, int]:
    """The number and the length in bytes of a type made of `types`."""
    number = 0
    for type in types:
        number = number << 6 | type
    length = sum((SIZES[t] + 3) & ~3 for t in types) if len(types) > 1 else SIZES[types[0]]
    return number, length


def add_set(family: int, table: str, item: Set, identifier: int) -> Message:
    """`identifier` tells the sets of one batch apart."""
    is_concatenation = len(item.key) > 1
    flags = NFT_SET_INTERVAL if item.is_interval else 0
    if item.is_interval and is_concatenation:
        flags |= NFT_SET_CONCAT
    if item.data:
        flags |= NFT_SET_MAP
    key_type, key_length = _concatenated(item.key)
    parts = [
        netlink.text(NFTA_SET_TABLE, table),
        netlink.text(NFTA_SET_NAME, item.name),
        _be32(NFTA_SET_FLAGS, flags),
        _be32(NFTA_SET_KEY_TYPE, key_type),
        _be32(NFTA_SET_KEY_LEN, key_length),
        _be32(NFTA_SET_ID, identifier),
    ]
    if item.data:
        data_type, data_length = _concatenated(item.data)
        parts += [_be32(NFTA_SET_DATA_TYPE, data_type), _be32(NFTA_SET_DATA_LEN, data_length)]
    if item.is_interval and is_concatenation:
        fields = (nested(NFTA_LIST_ELEM, _be32(NFTA_SET_FIELD_LEN, SIZES[t])) for t in item.key)
        parts.append(nested(NFTA_SET_DESC, nested(NFTA_SET_DESC_CONCAT, *fields)))
    return _message(
        NFT_MSG_NEWSET, family, b"".join(parts), flags=NLM_F_CREATE, about=f"set {item.name}"
    )


def _element(element: Element) -> bytes:
    parts = [nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, element.key))]
    if element.end is not None:
        parts.append(nested(NFTA_SET_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, element.end)))
    if element.data:
        parts.append(nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, element.data)))
    if element.is_interval_end:
        parts.append(_be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END))
    return nested(NFTA_LIST_ELEM, *parts)


def _elements(
    kind: int, family: int, table: str, name: str, elements: Sequence[Element], flags: int
) -> list[Message]:
    head = netlink.text(NFTA_SET_ELEM_LIST_TABLE, table)
    head += netlink.text(NFTA_SET_ELEM_LIST_SET, name)
    return [
        _message(
            kind,
            family,
            head
            + nested(
                NFTA_SET_ELEM_LIST_ELEMENTS,
                *map(_element, elements[start : start + _ELEMENTS_PER_MESSAGE]),
            ),
            flags=flags,
            about=f"elements of {name}",
        )
        for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE)
    ]


def add_elements(family: int, table: str, name: str, elements: Sequence[Element]) -> list[Message]:
    return _elements(NFT_MSG_NEWSETELEM, family, table, name, elements, NLM_F_CREATE)


def delete_elements(
    family: int, table: str, name: str, elements: Sequence[Element]
) -> list[Message]:
    """Data is no part of an element's identity and is left out."""
    bare = [Element(e.key, b"", e.end, e.is_interval_end) for e in elements]
    return _elements(NFT_MSG_DELSETELEM, family, table, name, bare, 0)


# Doing it


def commit(sock: netlink.Socket, messages: Sequence[Message]) -> None:
    """Carry all messages out as one transaction, or none: then OSError for the first refused."""
    if not messages:
        return
    marker = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    last = len(messages)
    frames = [netlink.frame(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, marker)]
    for number, message in enumerate(messages, 1):
        flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if number == last else 0)
        frames.append(netlink.frame(message.type, flags, number, message.body))
    frames.append(netlink.frame(NFNL_MSG_BATCH_END, NLM_F_REQUEST, last + 1, marker))
    sock.send(b"".join(frames))
    # The kernel has finished with the batch when send returns, so its answers are here already.
    for type, number, payload in sock.pending():
        code = netlink.error_number(payload) if type == netlink.NLMSG_ERROR else 0
        if code:
            about = messages[number - 1].about if 0 < number <= last else "nf_tables commit"
            raise OSError(code, os.strerror(code), about)


def changed_table(type: int, body: memoryview) -> tuple[int, str]:
    """Family and name of the table that a notification is about; name "" where it is of none."""
    if type >> 8 != NFNL_SUBSYS_NFTABLES or type & 0xFF >= NFT_MSG_NEWGEN:
        return 0, ""
    # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on are one number.
    values = dict(netlink.attributes(body[4:]))
    return body[0], _string(values[NFTA_TABLE_NAME]) if NFTA_TABLE_NAME in values else ""


def base_chains(sock: netlink.Socket, family: int = 0) -> list[ForeignChain]:
    """All base chains of all tables; family 0 is every family."""
    found: list[ForeignChain] = []
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN
    for _, body in sock.dump(kind, _NFGENMSG.pack(family, 0, 0)):
        values = dict(netlink.attributes(body[4:]))
        hook = dict(netlink.attributes(values.get(NFTA_CHAIN_HOOK, b"")))
        if NFTA_HOOK_HOOKNUM in hook:
            found.append(
                ForeignChain(
                    family=body[0],
                    table=_string(values[NFTA_CHAIN_TABLE]),
                    chain=_string(values[NFTA_CHAIN_NAME]),
                    hook=_BE32.unpack(hook[NFTA_HOOK_HOOKNUM])[0],
                    policy=_BE32.unpack(values.get(NFTA_CHAIN_POLICY, b"\0\0\0\1"))[0],
                )
            )
    return found


def rules(sock: netlink.Socket, family: int, table: str, chain: str) -> list[ForeignRule]:
    body = netlink.text(NFTA_RULE_TABLE, table) + netlink.text(NFTA_RULE_CHAIN, chain)
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE
    found: list[ForeignRule] = []
    for _, data in sock.dump(kind, _NFGENMSG.pack(family, 0, 0) + body):
        values = dict(netlink.attributes(data[4:]))
        if _string(values[NFTA_RULE_CHAIN]) != chain or _string(values[NFTA_RULE_TABLE]) != table:
            continue
        (handle,) = struct.unpack(">Q", values[NFTA_RULE_HANDLE])
        found.append(ForeignRule(handle, _read_comment(values.get(NFTA_RULE_USERDATA, b""))))
    return found


def tables(sock: netlink.Socket, family: int) -> list[str]:
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE
    found: list[str] = []
    for _, body in sock.dump(kind, _NFGENMSG.pack(family, 0, 0)):
        values = dict(netlink.attributes(body[4:]))
        found.append(_string(values[NFTA_TABLE_NAME]))
    return found


def elements(sock: netlink.Socket, family: int, table: str, name: str) -> list[Element]:
    """What a set or map holds now."""
    body = netlink.text(NFTA_SET_ELEM_LIST_TABLE, table)
    body += netlink.text(NFTA_SET_ELEM_LIST_SET, name)
    kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM
    found: list[Element] = []
    for _, data in sock.dump(kind, _NFGENMSG.pack(family, 0, 0) + body):
        values = dict(netlink.attributes(data[4:]))
        for _, item in netlink.attributes(values.get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            found.append(_read_element(dict(netlink.attributes(item))))
    return found


def _read_element(item: dict[int, bytes]) -> Element:
    def value(type: int) -> bytes | None:
        return dict(netlink.attributes(item[type])).get(NFTA_DATA_VALUE) if type in item else None

    flags = _BE32.unpack(item[NFTA_SET_ELEM_FLAGS])[0] if NFTA_SET_ELEM_FLAGS in item else 0
    return Element(
        key=value(NFTA_SET_ELEM_KEY) or b"",
        data=value(NFTA_SET_ELEM_DATA) or b"",
        end=value(NFTA_SET_ELEM_KEY_END),
        is_interval_end=bool(flags & NFT_SET_ELEM_INTERVAL_END),
    )


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


def _read_comment(userdata: bytes) -> str:
    if len(userdata) < 2 or userdata[0] != 0:
        return ""
    return _string(userdata[2 : 2 + userdata[1]])
