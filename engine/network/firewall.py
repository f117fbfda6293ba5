"""The one nf_tables table of this engine, `inet wharf-<instance>`, as a whole and in parts.

    ingress      prerouting  raw      nothing from a link may claim 127.0.0.0/8
    prerouting   prerouting  dstnat   to an address of the host → published
    output       output      dstnat   the host itself, to an address of its own → published
    published                         four maps a family: (host address ·) protocol · port → target
    forward      forward     filter   what may enter and leave a bridge of ours
    postrouting  postrouting srcnat   masquerade what leaves, and what turns round

One element a published port, one a range. The table is made anew in one transaction at start and
whenever a network comes or goes, which also mends it; a container adds and removes its elements.

A packet that our table accepts is still dropped where another table has a forward chain with
policy drop (another engine, ufw). There, and only there, a rule of ours is put at the head of that
chain, marked by a comment, and taken out again at the end. Nothing that is not ours is changed.
"""

from __future__ import annotations

import functools
import logging
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import groupby
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6
from typing import TYPE_CHECKING, Final

import msgspec

from engine.linux import nftables as nft
from engine.linux import xtables
from engine.linux.netlink import NETLINK_NETFILTER, Message, Socket
from engine.network.ports import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.network.model import Listener, PublishedPort

    Address = IPv4Address | IPv6Address
    Verb = Callable[[int, str, str, Sequence[nft.Element]], list[Message]]

log = logging.getLogger(__name__)

# Ports in a row that make a range worth its while: the kernel rebuilds the whole set of ranges
# with every change, where a single port costs one insertion.
RANGE_AT_LEAST: Final = 16

BOTH: Final = frozenset((4, 6))
"""The families of addresses."""

_TYPES = nft.Type
_ADDRESS: Final = {4: _TYPES.IPV4_ADDR, 6: _TYPES.IPV6_ADDR}
_PROTOCOLS: Final = {4: nft.NFPROTO_IPV4, 6: nft.NFPROTO_IPV6}
_LOOPBACK: Final = (b"\xff\0\0\0", b"\x7f\0\0\0")
_LINK_LOCAL: Final = (b"\xff\xc0".ljust(16, b"\0"), b"\xfe\x80".ljust(16, b"\0"))
# Offset and length of source and destination in the header.
_SOURCE: Final = {4: (12, 4), 6: (8, 16)}
_DESTINATION: Final = {4: (16, 4), 6: (24, 16)}
_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge of ours as the firewall sees it; subnets as CIDR blocks."""

    link: str
    subnets: tuple[str, ...]
    is_internal: bool = False
    has_icc: bool = True
    has_masquerade: bool = True
    routed: frozenset[int] = frozenset()
    unprotected: frozenset[int] = frozenset()
    sources: tuple[str, ...] = ()
    """What packets that leave come from, instead of what the host chooses; one a family."""
    trusted: tuple[str, ...] = ()
    """Links behind which published ports may be asked for at the container's own address."""


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the host that leads to a port of a container, both of one family.

    `is_direct` says that it may be asked for at the container's own address, by those who are
    allowed to; with `host_port` 0 only there.
    """

    protocol: str
    host_ip: Address
    host_port: int
    target_ip: Address
    target_port: int
    is_direct: bool = False


def publications(
    listeners: Iterable[Listener], *, direct: frozenset[int] = frozenset()
) -> tuple[Publication, ...]:
    """Those that the kernel can do; the rest (IPv6 to IPv4, ::1) is the relay's.

    `direct` are the families in which somebody may ask for them at the container's own address.
    """
    found = (
        Publication(
            protocol=item.protocol,
            host_ip=_parsed(item.host_ip),
            host_port=item.host_port,
            target_ip=(target := _parsed(item.target_ip)),
            target_port=item.target_port,
            is_direct=target.version in direct,
        )
        for item in listeners
    )
    return tuple(p for p in found if _is_for_kernel(p))


def adopted(
    ports: Iterable[PublishedPort],
    targets: Sequence[str],
    *,
    direct: frozenset[int] = frozenset(),
) -> tuple[Publication, ...]:
    """The same from what a running container's row says; `targets` are its addresses."""
    by_version = {a.version: a for a in map(ip_address, targets)}
    found: list[Publication] = []
    for port in ports:
        host = _parsed(port.host_ip)
        if (target := by_version.get(host.version)) is not None:
            found.append(
                Publication(
                    protocol=port.protocol,
                    host_ip=host,
                    host_port=port.host_port,
                    target_ip=target,
                    target_port=port.container_port,
                    is_direct=not port.host_port or target.version in direct,
                )
            )
    return tuple(p for p in found if _is_for_kernel(p))


# A range has the same two addresses a thousand times.
_parsed = functools.lru_cache(256)(ip_address)


def _is_for_kernel(item: Publication) -> bool:
    is_local_ipv6 = item.host_ip.version == 6 and item.host_ip.is_loopback
    return item.host_ip.version == item.target_ip.version and not is_local_ipv6


# Elements


def elements(found: Iterable[Publication]) -> dict[str, list[nft.Element]]:
    """What stands in which map for these publications."""
    result: dict[str, list[nft.Element]] = {}
    known = tuple(found)
    # The same port of a container may be published twice.
    for name, key in dict.fromkeys(map(_direct, (p for p in known if p.is_direct))):
        result.setdefault(name, []).append(nft.Element(key))
    for run in _runs(p for p in known if p.host_port):
        first = run[0]
        is_range = len(run) >= RANGE_AT_LEAST and first.host_port == first.target_port
        for item in (first,) if is_range else run:
            name, element = _element(item, run[-1].host_port if is_range else None)
            result.setdefault(name, []).append(element)
    return result


def _runs(found: Iterable[Publication]) -> list[list[Publication]]:
    """Publications grouped where ports follow each other one by one on both sides."""

    def stream(p: Publication) -> tuple[str, int, int, int, int, int, int]:
        host, target = p.host_ip, p.target_ip
        offset = p.target_port - p.host_port
        return p.protocol, host.version, int(host), int(target), offset, p.host_port, p.target_port

    runs: list[list[Publication]] = []
    ordered = sorted(found, key=stream)
    for _, group in groupby(ordered, key=lambda p: stream(p)[:5]):
        members = list(group)
        runs.append([members[0]])
        for item in members[1:]:
            if item.host_port == runs[-1][-1].host_port + 1:
                runs[-1].append(item)
            else:
                runs.append([item])
    return runs


def _element(item: Publication, last_port: int | None) -> tuple[str, nft.Element]:
    version = item.host_ip.version
    is_any = item.host_ip.is_unspecified
    head = b"" if is_any else item.host_ip.packed
    head += nft.field(bytes((NUMBERS[item.protocol],)))
    key = head + nft.field(item.host_port.to_bytes(2, "big"))
    target = item.target_ip.packed
    if last_port is None:
        port = nft.field(item.target_port.to_bytes(2, "big"))
        return _map_name(version, is_any, False), nft.Element(key, target + port)
    end = head + nft.field(last_port.to_bytes(2, "big"))
    return _map_name(version, is_any, True), nft.Element(key, target, end)


def _direct(item: Publication) -> tuple[str, bytes]:
    """The set, and what stands in it."""
    protocol = nft.field(bytes((NUMBERS[item.protocol],)))
    port = nft.field(item.target_port.to_bytes(2, "big"))
    return f"direct{item.target_ip.version}", item.target_ip.packed + protocol + port


def _map_name(version: int, is_any: bool, is_range: bool) -> str:
    return f"{'ranges' if is_range else 'ports'}{version}{'' if is_any else '-at'}"


def _intervals(subnets: Iterable[str], version: int, data: bytes = b"") -> list[nft.Element]:
    """Subnets as the pairs of elements that a set of intervals is made of."""
    found: list[nft.Element] = []
    for text in subnets:
        subnet = ip_network(text)
        if subnet.version != version:
            continue
        found.append(nft.Element(subnet.network_address.packed, data))
        behind = int(subnet.broadcast_address) + 1
        if behind < 1 << subnet.max_prefixlen:
            end = behind.to_bytes(subnet.max_prefixlen // 8, "big")
            found.append(nft.Element(end, is_interval_end=True))
    return found


def _elements(verb: Verb, table: str, found: Iterable[Publication]) -> list[Message]:
    return [
        message
        for set_name, content in elements(found).items()
        for message in verb(nft.NFPROTO_INET, table, set_name, content)
    ]


# The table


def _sets() -> list[nft.Set]:
    result = [
        nft.Set("bridges", (_TYPES.IFNAME,)),
        nft.Set("internal", (_TYPES.IFNAME,)),
        nft.Set("icc", (_TYPES.IFNAME, _TYPES.IFNAME)),
        nft.Set("parted", (_TYPES.IFNAME, _TYPES.IFNAME)),
        nft.Set("trusted", (_TYPES.IFNAME, _TYPES.IFNAME)),
    ]
    port = (_TYPES.INET_PROTO, _TYPES.INET_SERVICE)
    for version, address in _ADDRESS.items():
        result.append(nft.Set(f"subnets{version}", (address,), is_interval=True))
        result.append(nft.Set(f"masquerade{version}", (address,), is_interval=True))
        result.append(nft.Set(f"sources{version}", (address,), (address,), is_interval=True))
        result.append(nft.Set(f"routed{version}", (_TYPES.IFNAME,)))
        result.append(nft.Set(f"unprotected{version}", (_TYPES.IFNAME,)))
        result.append(nft.Set(f"direct{version}", (address, *port)))
        for is_any in (True, False):
            key = port if is_any else (address, *port)
            single = _map_name(version, is_any, False)
            ranges = _map_name(version, is_any, True)
            result.append(nft.Set(single, key, (address, _TYPES.INET_SERVICE)))
            result.append(nft.Set(ranges, key, (address,), is_interval=True))
    return result


_CHAINS: Final = (
    nft.Chain("published"),
    nft.Chain("ingress", "filter", nft.NF_INET_PRE_ROUTING, _RAW),
    nft.Chain("prerouting", "nat", nft.NF_INET_PRE_ROUTING, _DSTNAT),
    nft.Chain("output", "nat", nft.NF_INET_LOCAL_OUT, _DSTNAT),
    nft.Chain("forward", "filter", nft.NF_INET_FORWARD, _FILTER),
    nft.Chain("postrouting", "nat", nft.NF_INET_POST_ROUTING, _SRCNAT),
)


def _family(version: int) -> list[bytes]:
    return [nft.meta(nft.NFT_META_NFPROTO), nft.compare(bytes((_PROTOCOLS[version],)))]


def _header(where: tuple[int, int], reg: int = 0) -> bytes:
    return nft.payload(nft.NFT_PAYLOAD_NETWORK_HEADER, where[0], where[1], reg)


def _from(name: str, *, invert: bool = False) -> list[bytes]:
    return [nft.meta(nft.NFT_META_IIFNAME), nft.lookup(name, invert=invert)]


def _to(name: str, *, invert: bool = False) -> list[bytes]:
    return [nft.meta(nft.NFT_META_OIFNAME), nft.lookup(name, invert=invert)]


def _is_loopback(where: tuple[int, int]) -> list[bytes]:
    return [_header(where), nft.mask(_LOOPBACK[0]), nft.compare(_LOOPBACK[1])]


def _has(key: int, bits: int) -> list[bytes]:
    zero = nft.native(0)
    return [nft.ct(key), nft.mask(nft.native(bits)), nft.compare(zero, op=nft.NFT_CMP_NEQ)]


_ACCEPT = nft.verdict(nft.NF_ACCEPT)
_DROP = nft.verdict(nft.NF_DROP)


def _only(versions: frozenset[int]) -> list[bytes]:
    """What keeps a rule to these families; both need nothing."""
    return _family(min(versions)) if len(versions) == 1 else []


def _published_rules(version: int) -> list[list[bytes]]:
    """The exact address first, single ports before ranges."""
    words = 1 if version == 4 else 4
    result: list[list[bytes]] = []
    for is_any in (False, True):
        key = _port(0) if is_any else [_header(_DESTINATION[version]), *_port(words)]
        for is_range in (False, True):
            found = nft.lookup(_map_name(version, is_any, is_range), to=0)
            port = None if is_range else words
            change = nft.dnat(_PROTOCOLS[version], address=0, port=port)
            result.append([*_family(version), *key, found, change])
    return result


def _port(reg: int) -> list[bytes]:
    """Load protocol and destination port, which TCP, UDP and SCTP have in one place."""
    return [
        nft.meta(nft.NFT_META_L4PROTO, reg),
        nft.payload(nft.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg + 1),
    ]


def _jump_if_local() -> list[bytes]:
    local = nft.compare(nft.native(nft.RTN_LOCAL))
    return [nft.fib_address_type(), local, nft.verdict(nft.NFT_JUMP, "published")]


def _ingress_rules() -> list[list[bytes]]:
    """The bridges route 127.0.0.0/8 for the sake of published ports, so nobody else may."""
    not_lo = nft.compare(nft.interface("lo"), op=nft.NFT_CMP_NEQ)
    return [
        [
            *_family(4),
            nft.meta(nft.NFT_META_IIFNAME),
            not_lo,
            *_is_loopback(_DESTINATION[4]),
            _DROP,
        ],
        [*_family(4), *_from("bridges"), *_is_loopback(_SOURCE[4]), _DROP],
    ]


def _between(name: str) -> list[bytes]:
    """From one link to another, as a set has them."""
    return [
        nft.meta(nft.NFT_META_IIFNAME),
        nft.meta(nft.NFT_META_OIFNAME, nft.IFNAMSIZ // 4),
        nft.lookup(name),
    ]


def _direct_rules(version: int, is_for_all: bool) -> list[list[bytes]]:
    """Who may come to a container's own address over a bridge that is not closed to others."""
    words = 1 if version == 4 else 4
    family = _family(version)
    is_published = [_header(_DESTINATION[version]), *_port(words), nft.lookup(f"direct{version}")]
    ping = [
        nft.meta(nft.NFT_META_L4PROTO),
        nft.compare(bytes((IPPROTO_ICMP if version == 4 else IPPROTO_ICMPV6,))),
    ]
    who = _to("bridges") if is_for_all else _between("trusted")
    return [
        [*family, *_to(f"routed{version}"), *ping, _ACCEPT],
        [*family, *_to(f"routed{version}"), *is_published, _ACCEPT],
        [*family, *who, *is_published, _ACCEPT],
        [*family, *_to(f"unprotected{version}"), *_from("bridges", invert=True), _ACCEPT],
    ]


def _forward_rules(guard: bool, versions: frozenset[int], allows_direct: bool) -> list[list[bytes]]:
    result = [
        [*_has(nft.NFT_CT_STATE, nft.CT_ESTABLISHED_RELATED), _ACCEPT],
        [*_between("icc"), _ACCEPT],
        [*_from("internal"), _DROP],
        [*_to("internal"), _DROP],
        # Published ports, whoever asks; anything else into a bridge is nobody's business:
        # other hosts that route to a container, other networks, containers without icc.
        [*_to("bridges"), *_has(nft.NFT_CT_STATUS, nft.IPS_DST_NAT), _ACCEPT],
        [*_between("parted"), _DROP],
    ]
    result += [rule for v in sorted(versions) for rule in _direct_rules(v, allows_direct)]
    result += [
        [*_to("bridges"), _DROP],
        [*_from("bridges"), _ACCEPT],
    ]
    if guard:
        # Forwarding is on because of us: the host is to become no router for its neighbours.
        result += [
            [nft.meta(key), nft.compare(name), _ACCEPT]
            for key in (nft.NFT_META_IIFNAME, nft.NFT_META_OIFNAME)
            for name in (b"wh", nft.interface("docker0"))
        ]
        result.append([_DROP])
    return result


def _postrouting_rules(version: int) -> list[list[bytes]]:
    source = [*_family(version), _header(_SOURCE[version])]
    turned = _has(nft.NFT_CT_STATUS, nft.IPS_DST_NAT)
    change = nft.masquerade()
    chosen = [nft.lookup(f"sources{version}", to=0), nft.snat(_PROTOCOLS[version], address=0)]
    result = [
        # A container that asks for a published port must get its answer from the same address.
        [*turned, *source, nft.lookup(f"subnets{version}"), *_to("bridges"), change],
        # What is routed to other containers leaves just as what goes to other hosts.
        *(
            [*_to(name, invert=invert), *source, *action]
            for name, invert in (("bridges", True), (f"routed{version}", False))
            for action in (chosen, [nft.lookup(f"masquerade{version}"), change])
        ),
    ]
    if version == 4:
        result.insert(0, [*_family(4), *_is_loopback(_SOURCE[4]), *_to("bridges"), change])
    return result


def _rules(
    guard: bool, versions: frozenset[int], allows_direct: bool
) -> list[tuple[str, list[bytes]]]:
    only = _only(versions)
    chosen = sorted(versions)
    local_ipv6 = [_header(_DESTINATION[6]), nft.compare(IPv6Address("::1").packed)]
    # The kernel does not route from ::1: those are the relay's.
    skip = [*_family(6), *local_ipv6, nft.verdict(nft.NFT_RETURN)]
    jump = [*only, *_jump_if_local()]
    # Nor does it forward what comes from a link-local address.
    link_local = [_header(_SOURCE[6]), nft.mask(_LINK_LOCAL[0]), nft.compare(_LINK_LOCAL[1])]
    skip_link_local = [*_family(6), *link_local, nft.verdict(nft.NFT_RETURN)]
    result = [("published", rule) for version in chosen for rule in _published_rules(version)]
    result += [("ingress", rule) for rule in (_ingress_rules() if 4 in versions else ())]
    result += [("prerouting", skip_link_local), ("prerouting", jump)]
    result += [("output", skip), ("output", skip_link_local), ("output", jump)]
    forward = _forward_rules(guard, versions, allows_direct)
    result += [("forward", [*only, *rule]) for rule in forward]
    result += [("postrouting", r) for version in chosen for r in _postrouting_rules(version)]
    return result


def table(
    name: str,
    bridges: Sequence[Bridge],
    found: Iterable[Publication],
    *,
    guard: bool,
    versions: frozenset[int] = BOTH,
    allows_direct: bool = False,
) -> list[Message]:
    """The whole table in place of the one there is, for one transaction.

    Its rules are about the families in `versions`; what is of the other passes as if we were not.
    With `allows_direct` published ports may be asked for at containers' addresses from everywhere.
    """
    inet = nft.NFPROTO_INET
    messages = [
        nft.add_table(inet, name),
        nft.delete_table(inet, name),
        nft.add_table(inet, name),
    ]
    messages += [nft.add_set(inet, name, item, n) for n, item in enumerate(_sets(), 1)]
    messages += [nft.add_chain(inet, name, chain) for chain in _CHAINS]
    rules = _rules(guard, versions, allows_direct)
    messages += [nft.add_rule(inet, name, chain, rule) for chain, rule in rules]
    for set_name, content in {**_bridge_elements(bridges), **elements(found)}.items():
        messages += nft.add_elements(inet, name, set_name, content)
    return messages


def _bridge_elements(bridges: Sequence[Bridge]) -> dict[str, list[nft.Element]]:
    links = {b.link: nft.interface(b.link) for b in bridges}
    result = {
        "bridges": [nft.Element(link) for link in links.values()],
        "internal": [nft.Element(links[b.link]) for b in bridges if b.is_internal],
        "icc": [nft.Element(links[b.link] * 2) for b in bridges if b.has_icc],
        "parted": [nft.Element(links[b.link] * 2) for b in bridges if not b.has_icc],
        "trusted": [
            nft.Element(nft.interface(other) + links[b.link])
            for b in bridges
            for other in b.trusted
        ],
    }
    for version in (4, 6):
        outgoing = [
            b for b in bridges if b.has_masquerade and not b.is_internal and version not in b.routed
        ]
        result[f"subnets{version}"] = _intervals((s for b in bridges for s in b.subnets), version)
        result[f"masquerade{version}"] = _intervals(
            (s for b in outgoing for s in b.subnets), version
        )
        result[f"sources{version}"] = [
            element
            for b in outgoing
            for source in map(ip_address, b.sources)
            if source.version == version
            for element in _intervals(b.subnets, version, source.packed)
        ]
        result[f"routed{version}"] = [
            nft.Element(links[b.link]) for b in bridges if version in b.routed
        ]
        result[f"unprotected{version}"] = [
            nft.Element(links[b.link]) for b in bridges if version in b.unprotected
        ]
    return result


# Kept in the kernel


class Firewall:
    """The table as it should be, and the kernel's. Every verb blocks; safe from any thread.

    One socket for all time: a change takes some ten microseconds, but closing a socket of
    nf_tables waits for a grace period of the kernel (10 to 20 ms).
    """

    def __init__(self, instance: str, *, link_prefix: str, versions: frozenset[int] = BOTH) -> None:
        self.versions = versions
        self.name = f"wharf-{instance}"
        self._prefix = link_prefix
        self._lock = threading.Lock()
        self._socket: Socket | None = None
        self._bridges: dict[str, Bridge] = {}
        self._published: dict[str, tuple[Publication, ...]] = {}
        self._guard = False
        self.allows_direct = False
        """Whether published ports may be asked for at containers' addresses from everywhere."""

    def _kernel(self) -> Socket:
        if self._socket is None:
            self._socket = Socket(NETLINK_NETFILTER)
        return self._socket

    def close(self) -> None:
        """Let go of the socket; what is in the kernel stays."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def know(self, owner: str, found: tuple[Publication, ...]) -> None:
        """Remember what a running container has; the next `rebuild` writes it."""
        with self._lock:
            if found:
                self._published[owner] = found

    def rebuild(
        self, bridges: Iterable[Bridge] | None = None, *, guard: bool | None = None
    ) -> None:
        """Write the whole table, with these bridges from now on where they are given."""
        with self._lock:
            if bridges is not None:
                self._bridges = {b.link: b for b in bridges}
            if guard is not None:
                self._guard = guard
            self._write()

    def _write(self) -> None:
        found = [p for items in self._published.values() for p in items]
        bridges = tuple(self._bridges.values())
        plan = table(
            self.name,
            bridges,
            found,
            guard=self._guard,
            versions=self.versions,
            allows_direct=self.allows_direct,
        )
        nft.commit(self._kernel(), plan)
        self._accept_elsewhere(self._patterns())

    def publish(self, owner: str, found: tuple[Publication, ...]) -> None:
        """Open the ports of one container."""
        if not found:
            return
        with self._lock:
            self._published[owner] = found
            try:
                self._change(nft.add_elements, found)
            except BaseException:
                del self._published[owner]
                raise

    def republish(self, owner: str, found: tuple[Publication, ...]) -> None:
        """Have the ports of one container lead elsewhere, in one transaction."""
        with self._lock:
            before = self._published.pop(owner, ())
            if found:
                self._published[owner] = found
            self._commit(
                [
                    *_elements(nft.delete_elements, self.name, before),
                    *_elements(nft.add_elements, self.name, found),
                ]
            )

    def withdraw(self, owner: str) -> None:
        """Close the ports of one container; none is not an error."""
        with self._lock:
            found = self._published.pop(owner, ())
            if found:
                self._change(nft.delete_elements, found)

    def _change(self, verb: Verb, found: tuple[Publication, ...]) -> None:
        self._commit(_elements(verb, self.name, found))

    def _commit(self, messages: Sequence[Message]) -> None:
        """Where the kernel has another table than we do, all of it."""
        if not messages:
            return
        try:
            nft.commit(self._kernel(), messages)
        except OSError as error:
            log.warning("the firewall was changed from outside, writing it anew: %s", error)
            self._write()

    def warn_of_what_is_in_the_way(self) -> None:
        """What drops our packets where we cannot say otherwise; at the start; blocks."""
        for version in sorted(self.versions):
            try:
                drops = xtables.drops_forwarded(version)
            except OSError as error:
                log.debug("cannot read the legacy packet filter: %s", error)
                continue
            if drops:
                log.warning(
                    "the legacy iptables filter drops what is forwarded over IPv%d (its FORWARD "
                    "policy is DROP): containers reach nothing, and are not reached, until it "
                    "accepts them",
                    version,
                )

    def port_id(self) -> int:
        """What marks our own changes in the kernel's notifications."""
        with self._lock:
            return self._kernel().port_id

    def mend(self, *, is_touched: bool = False) -> None:
        """After somebody changed a ruleset: have our table again, and our accepts elsewhere.

        `is_touched` says that it was ours, of which anything may be missing then.
        """
        with self._lock:
            if not self._bridges:
                return
            if is_touched or self.name not in nft.tables(self._kernel(), nft.NFPROTO_INET):
                log.warning("the firewall was changed from outside, writing it anew")
                self._write()
            else:
                self._accept_elsewhere(self._patterns())

    def remove(self) -> None:
        """Take out all that is ours in the kernel."""
        inet = nft.NFPROTO_INET
        with self._lock:
            # Adding first makes deleting succeed whether it was there or not.
            both = [nft.add_table(inet, self.name), nft.delete_table(inet, self.name)]
            nft.commit(self._kernel(), both)
            self._accept_elsewhere(frozenset())

    def _patterns(self) -> frozenset[str]:
        if not self._bridges:
            return frozenset()
        others = {link for link in self._bridges if not link.startswith(self._prefix)}
        return frozenset({f"{self._prefix}*", *others})

    def _accept_elsewhere(self, patterns: frozenset[str]) -> None:
        """Have a rule for each pattern of link names in each foreign forward chain that drops."""
        for chain in nft.base_chains(self._kernel()):
            if not _is_foreign_forward(chain):
                continue
            is_in_the_way = chain.policy == nft.NF_DROP and self.versions & _versions(chain)
            here = patterns if is_in_the_way else frozenset[str]()
            try:
                nft.commit(self._kernel(), self._foreign_plan(chain, here))
            except OSError as error:
                log.warning(
                    "forwarding stays blocked by %s %s: %s", chain.table, chain.chain, error
                )

    def _foreign_plan(self, chain: nft.ForeignChain, patterns: frozenset[str]) -> list[Message]:
        """Rules to add at the head of a chain that is not ours, and those of ours to take out."""
        where = chain.family, chain.table, chain.chain
        only = _only(self.versions) if chain.family == nft.NFPROTO_INET else []
        wanted = {
            f"{self.name} {side} {pattern}": [
                *only,
                nft.meta(key),
                nft.compare(_link(pattern)),
                _ACCEPT,
            ]
            for side, key in (("from", nft.NFT_META_IIFNAME), ("to", nft.NFT_META_OIFNAME))
            for pattern in sorted(patterns)
        }
        stale = [
            rule.handle
            for rule in nft.rules(self._kernel(), *where)
            if wanted.pop(rule.comment, None) is None and rule.comment.startswith(f"{self.name} ")
        ]
        messages = [nft.delete_rule(*where, handle) for handle in stale]
        messages += [
            nft.add_rule(*where, rule, comment=comment, at_head=True)
            for comment, rule in wanted.items()
        ]
        return messages


def _is_foreign_forward(chain: nft.ForeignChain) -> bool:
    families = (nft.NFPROTO_INET, nft.NFPROTO_IPV4, nft.NFPROTO_IPV6)
    is_ours = chain.table.startswith("wharf-") and chain.family == nft.NFPROTO_INET
    return chain.hook == nft.NF_INET_FORWARD and chain.family in families and not is_ours


def _versions(chain: nft.ForeignChain) -> frozenset[int]:
    """The families whose packets a chain sees."""
    return frozenset(v for v, number in _PROTOCOLS.items() if chain.family == number) or BOTH


def _link(pattern: str) -> bytes:
    """A link's name to compare with; one that ends in "*" is compared as far as it goes."""
    return pattern[:-1].encode() if pattern.endswith("*") else nft.interface(pattern)
