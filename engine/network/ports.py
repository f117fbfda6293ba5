"""Published ports: what was asked for, which host ports that becomes, and their sockets.

Three steps, as in libnetwork: `requests` reads what the client said (pure), `expand` spreads each
request over the host's addresses (pure), and a `PortAllocator` chooses numbers and binds them. A
bound socket is what really reserves a port; the allocator adds what sockets cannot tell (the same
port on 0.0.0.0 and on one address, ranges that go round). Sentences are Docker's.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from engine.errors import EngineError, InvalidParameter
from engine.linux import listening, sysctl
from engine.network.model import SHARED, Listener, PortBinding, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Address = IPv4Address | IPv6Address

EPHEMERAL: Final = (32768, 60999)
"""Where ports come from that the client leaves open, unless the kernel says otherwise."""

NUMBERS: Final = listening.PROTOCOLS
"""The protocols that can be published, and their numbers."""

_ANY_IPV4: Final = "0.0.0.0"
_ANY_IPV6: Final = "::"
_ANY: Final = [_ANY_IPV4, _ANY_IPV6]
_ATTEMPTS: Final = 10  # moby's maxAllocatePortAttempts
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class InvalidPort(InvalidParameter):
    def __init__(self, text: str) -> None:
        super().__init__(f'invalid port specification: "{text}"')


class PortError(EngineError):
    """A host port that cannot be had; the endpoint it was for is told around it."""


class InvalidRange(PortError):
    def __init__(self, text: str) -> None:
        super().__init__(f"invalid port range: {text}")


class UnknownProtocol(PortError):
    def __init__(self) -> None:
        super().__init__("unknown protocol")


class PortAllocated(PortError):
    """One of our own containers has it."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(f"Bind for {address}:{port} failed: port is already allocated")


class NoPortLeft(PortError):
    def __init__(self) -> None:
        super().__init__("all ports are allocated")


class PortNotBound(PortError):
    """The kernel refuses it, mostly because a process of the host has it."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {os.strerror(error.errno or 0).lower()}")


class NoSuchProtocol(PortError):
    """The host's kernel does not know it; dockerd's words are those of its proxy for SCTP."""

    def __init__(self, where: str, error: OSError) -> None:
        reason = os.strerror(error.errno or 0).lower()
        super().__init__(f"error starting userland proxy: failed to listen on {where}: {reason}")


# Structs, which are made in a tenth of a dataclass's time: a range is thousands of them.


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One binding a client asked for. `first` and `last` are 0 where it left the port open."""

    protocol: str
    container_port: int
    host_ip: str = ""
    first: int = 0
    last: int = 0

    @property
    def is_range(self) -> bool:
        return self.first == 0 or self.first != self.last


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One host port on some of the host's addresses: (host address, target address) each.

    They are texts, which know their hash: a range is a thousand of these.
    """

    protocol: str
    container_port: int
    first: int
    last: int
    addresses: tuple[tuple[str, str], ...]


# What the client said


def parse_container_port(text: str) -> tuple[int, str]:
    """ "80/tcp" → (80, "tcp"); tcp is what is meant where nothing is said.

    As dockerd reads it, which has no words for what is no number: that is port 0.
    """
    number, _, rest = text.partition("/")
    protocol = rest.partition("/")[0].lower() or "tcp"
    is_port = number.isascii() and number.isdigit() and len(number) <= 5 and int(number) <= 65535
    return int(number) if is_port else 0, protocol


def parse_host_port(text: str) -> tuple[int, int]:
    """ "", "8080" or "8080-8090" → first and last; (0, 0) for any. What follows a "/" is let be.

    Raises InvalidPort, InvalidRange.
    """
    text = text.partition("/")[0]
    if not text:
        return 0, 0
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidPort(text)
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if last < first or last > 65535:
        raise InvalidPort(text)
    if first == 0 and last != 0:
        raise InvalidRange(text)
    return first, last


def requests(
    exposed: Iterable[str],
    bindings: Mapping[str, Sequence[PortBinding]],
    *,
    publish_all: bool,
) -> list[Request]:
    """All bindings wanted: exact host ports before ranges, then in order of container port.

    A port that is not exposed is not published; clients that publish one expose it as well. Raises
    InvalidPort, InvalidRange, UnknownProtocol.

    Bindings that differ only in the host's address come next to each other (libnetwork's
    cmpPortBinding), because they are to get the same number.
    """
    found: list[Request] = []
    for text in dict.fromkeys(exposed):
        given = bindings.get(text, ())
        if not (given or publish_all):
            continue  # dockerd looks at no port that stays inside
        port, protocol = parse_container_port(text)
        if protocol not in NUMBERS or not text.partition("/")[0]:
            raise UnknownProtocol
        for binding in given:
            first, last = parse_host_port(binding.host_port)
            found.append(
                Request(
                    protocol=protocol,
                    container_port=port,
                    host_ip=binding.host_ip,
                    first=first,
                    last=last,
                )
            )
        if publish_all and not given:
            found.append(Request(protocol=protocol, container_port=port))
    return sorted(found, key=_order)


def _order(request: Request) -> tuple[bool, int, int, int, int, tuple[int, int]]:
    address = _host_address(request.host_ip)
    return (
        request.is_range,
        request.container_port,
        NUMBERS[request.protocol],
        request.first,
        request.last,
        (address.version, int(address)) if address else (0, 0),
    )


# Over which addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where published ports lead to, and where from: the container's addresses, the host's.

    `default` is the address for those that say none. The families in `routed` are not translated.
    """

    ipv4: Address | None
    ipv6: Address | None
    default: Address
    host_has_ipv6: bool
    routed: frozenset[int] = frozenset()


def expand(found: Sequence[Request], place: Place) -> list[Wanted]:
    """Spread requests over the host's addresses, one `Wanted` for each number to choose.

    "Any address" is 0.0.0.0 and [::] both. A container without IPv6 is reached from the host's
    IPv6 side by a relay.
    """

    def key(request: Request) -> tuple[str, int, int, int]:
        return request.protocol, request.container_port, request.first, request.last

    pairs: dict[str, tuple[tuple[str, str], ...]] = {
        text: tuple(
            (str(host), str(target))
            for host, target in _pairs(text, place)
            if host.version not in place.routed
        )
        for text in {request.host_ip for request in found}
    }
    wanted: list[Wanted] = []
    for (protocol, port, first, last), group in groupby(found, key):
        addresses = tuple(
            dict.fromkeys(pair for request in group for pair in pairs[request.host_ip])
        )
        if addresses:
            wanted.append(
                Wanted(
                    protocol=protocol,
                    container_port=port,
                    first=first,
                    last=last,
                    addresses=addresses,
                )
            )
    return wanted


def opened(found: Sequence[Request], place: Place) -> tuple[PublishedPort, ...]:
    """Those that others may ask for at the container's own address, where no host port leads to
    them; a host's address or port that was named says nothing there.
    """
    ports = (
        PublishedPort(
            container_port=request.container_port,
            protocol=request.protocol,
            host_ip=_ANY_IPV4 if host.version == 4 else _ANY_IPV6,
            host_port=0,
        )
        for request in found
        for host, target in _pairs(request.host_ip, place)
        if host.version in place.routed and host.version == target.version
    )
    return tuple(dict.fromkeys(ports))


def _host_address(text: str) -> Address | None:
    """None where none was said; IPv4 that is written as IPv6 is IPv4."""
    address = ip_address(text) if text else None
    return (address.ipv4_mapped if address and address.version == 6 else None) or address


def _pairs(text: str, place: Place) -> Iterator[tuple[Address, Address]]:
    host, default = _host_address(text), place.default
    if place.ipv4 is not None and (host or default).version == 4:
        yield host or default, place.ipv4
    target = place.ipv6 or place.ipv4
    if target is None:
        return
    if host is not None:
        if host.version == 6:
            yield host, target
    elif default.version == 6:
        yield default, target
    elif default.is_unspecified and place.host_has_ipv6:
        yield IPv6Address(0), target


# Numbers and sockets


def ephemeral_range() -> tuple[int, int]:
    """The kernel's range for ports that nobody chose."""
    try:
        first, last = map(int, sysctl.get("net/ipv4/ip_local_port_range").split())
    except (OSError, ValueError):
        return EPHEMERAL
    return first, last


class PortAllocator:
    """Which host ports are ours. Safe to call from any thread."""

    def __init__(self, ephemeral: tuple[int, int] = EPHEMERAL) -> None:
        self._ephemeral = ephemeral
        self._lock = threading.Lock()
        self._taken: dict[str, dict[str, set[int]]] = {name: {} for name in NUMBERS}
        self._last: dict[tuple[str, str, int, int], int] = {}

    def request(
        self, addresses: Sequence[str], protocol: str, first: int = 0, last: int = 0
    ) -> int:
        """Take one port on all the addresses: the next free after the last given of that range.

        Raises PortAllocated for a port that was named, NoPortLeft for a range without any.
        """
        with self._lock:
            taken = self._taken[protocol]
            watched = [taken.get(a, frozenset[int]()) for a in self._overlapping(taken, addresses)]
            if first and first == last:
                self._refuse_taken(taken, addresses, first)
                port = first
            else:
                port = self._next(watched, (protocol, addresses[0], first, last))
            for address in addresses:
                taken.setdefault(address, set()).add(port)
            return port

    def _refuse_taken(
        self, taken: dict[str, set[int]], addresses: Sequence[str], port: int
    ) -> None:
        for address in self._overlapping(taken, addresses):
            if port in taken.get(address, ()):
                raise PortAllocated(address, port)

    @staticmethod
    def _overlapping(taken: dict[str, set[int]], addresses: Sequence[str]) -> list[str]:
        """Where a port must be free: "any" overlaps all addresses of its family, and they it."""
        found = list(addresses)
        for address in addresses:
            any_address = _ANY_IPV6 if ":" in address else _ANY_IPV4
            if address == any_address:
                found += [a for a in taken if a not in found and _is_of(a, address)]
            elif any_address not in found:
                found.append(any_address)
        return found

    def _next(
        self, watched: Sequence[set[int] | frozenset[int]], key: tuple[str, str, int, int]
    ) -> int:
        first, last = key[2:] if key[2] else self._ephemeral
        port = self._last.get(key, last)
        for _ in range(first, last + 1):
            port = port + 1 if port < last else first
            if not any(port in ports for ports in watched):
                self._last[key] = port
                return port
        raise NoPortLeft

    def take(self, address: str, protocol: str, port: int) -> None:
        """Know a port that a running container has already."""
        with self._lock:
            self._taken[protocol].setdefault(address, set()).add(port)

    def release(self, address: str, protocol: str, port: int) -> None:
        with self._lock:
            ports = self._taken[protocol].get(address)
            if ports is None:
                return
            ports.discard(port)
            if not ports and address not in (_ANY_IPV4, _ANY_IPV6):
                del self._taken[protocol][address]

    def bind(self, wanted: Wanted) -> list[Listener]:
        """Choose a number, bind it on every address, listen.

        A port out of a range that some process of the host has is passed over, ten times at most.
        """
        attempts = _ATTEMPTS if wanted.first == 0 or wanted.first != wanted.last else 1
        for attempt in range(1, attempts + 1):
            try:
                return self._bind_once(wanted)
            except PortNotBound:
                if attempt == attempts:
                    raise
        raise NoPortLeft

    def _bind_once(self, wanted: Wanted) -> list[Listener]:
        hosts = [host for host, _ in wanted.addresses]
        port = self.request(hosts, wanted.protocol, wanted.first, wanted.last)
        listeners: list[Listener] = []
        try:
            if not _listen_both(wanted, hosts, port, listeners):
                for host, target in wanted.addresses:
                    listeners.append(_listen(wanted, host, target, port))
        except BaseException:
            close(listeners)
            for host in hosts:
                self.release(host, wanted.protocol, port)
            raise
        return listeners


def _listen_both(
    wanted: Wanted, hosts: Sequence[str], port: int, listeners: list[Listener]
) -> bool:
    """One socket for any address of either family. Where the kernel refuses it, one for each says
    which of them it is that cannot be had.
    """
    if hosts != _ANY or wanted.protocol == "sctp":
        return False
    try:
        fd = listening.bind(wanted.protocol, _ANY_IPV6, port, is_dual=True)
    except OSError:
        return False
    for host, target in wanted.addresses:
        listeners.append(_listener(fd, wanted, host, target, port))
        fd = SHARED
    return True


def _listen(wanted: Wanted, host: str, target: str, port: int) -> Listener:
    try:
        fd = listening.bind(wanted.protocol, host, port)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            raise NoSuchProtocol(f"{_bracketed(host)}:{port}", error) from error
        raise PortNotBound(_describe(wanted, host, target, port), error) from error
    return _listener(fd, wanted, host, target, port)


def _listener(fd: int, wanted: Wanted, host: str, target: str, port: int) -> Listener:
    return Listener(
        fd=fd,
        protocol=wanted.protocol,
        host_ip=host,
        host_port=port,
        target_ip=target,
        target_port=wanted.container_port,
    )


def _describe(wanted: Wanted, host: str, target: str, port: int) -> str:
    """As libnetwork's PortBinding prints itself."""
    exact = wanted.first == wanted.last
    numbers = "" if not wanted.first else str(wanted.first)
    if wanted.first and not exact:
        numbers += f"-{wanted.last}"
    where = f"{_bracketed(host)}:{numbers}:{_bracketed(target)}:{wanted.container_port}"
    which = "" if exact and wanted.first else f" {port}"
    return f"failed to bind host port{which} for {where}/{wanted.protocol}"


def _is_of(address: str, other: str) -> bool:
    """Whether they are of one family."""
    return (":" in address) == (":" in other)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if listener.fd >= 0:
            os.close(listener.fd)


def published(listeners: Iterable[Listener]) -> tuple[PublishedPort, ...]:
    return tuple(
        PublishedPort(
            container_port=listener.target_port,
            protocol=listener.protocol,
            host_ip=listener.host_ip,
            host_port=listener.host_port,
        )
        for listener in listeners
    )
