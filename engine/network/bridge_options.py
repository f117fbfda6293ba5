"""Options of bridge networks: Docker's names with Docker's meaning. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from engine import literals
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MTU: Final = 1500
IFNAMSIZ: Final = 16

BRIDGE_NAME: Final = "com.docker.network.bridge.name"
DEFAULT_BRIDGE: Final = "com.docker.network.bridge.default_bridge"
ENABLE_ICC: Final = "com.docker.network.bridge.enable_icc"
ENABLE_MASQUERADE: Final = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING: Final = "com.docker.network.bridge.host_binding_ipv4"
MTU: Final = "com.docker.network.driver.mtu"
INHIBIT_IPV4: Final = "com.docker.network.bridge.inhibit_ipv4"
GATEWAY_MODES: Final = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
SOURCES: Final = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
TRUSTED: Final = "com.docker.network.bridge.trusted_host_interfaces"
ANNOUNCEMENTS: Final = "com.docker.network.advertise_addr_nmsgs"
ANNOUNCEMENT_PAUSE: Final = "com.docker.network.advertise_addr_ms"
INTERFACE_PREFIX: Final = "com.docker.network.container_iface_prefix"


class BadOption(InvalidParameter):
    """`reason` in the words of Go's strconv, which clients have always read here."""

    def __init__(self, name: str, value: str, reason: str) -> None:
        super().__init__(f"failed to parse {name} value: {value} ({reason})")


class Mode(StrEnum):
    """How a network leads out, of one family: "Gateway modes" of Docker's "Port publishing"."""

    NAT = "nat"
    NAT_UNPROTECTED = "nat-unprotected"
    """The same, and other hosts may ask for any port at a container's own address."""
    ROUTED = "routed"
    """No translation: published ports are those that others may ask for there."""
    ISOLATED = "isolated"
    """The host itself has no address on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    link: str = ""
    has_icc: bool = True
    has_masquerade: bool = True
    binding: str = ""  # where ports are published; "" is the daemon's choice
    mtu: int = DEFAULT_MTU
    mode_ipv4: Mode = Mode.NAT
    mode_ipv6: Mode = Mode.NAT
    inhibits_ipv4: bool = False  # the bridge bears no IPv4 address, its gateway is elsewhere
    sources: tuple[str, ...] = ()  # what packets that leave come from, at most one a family
    trusted: tuple[str, ...] = ()  # links behind which published ports are asked for directly
    prefix: str = ""  # of the interface's name in a container
    is_announced: bool = True  # whether neighbours are told of a container's addresses

    def mode(self, version: int) -> Mode:
        return self.mode_ipv4 if version == 4 else self.mode_ipv6

    def versions(self, mode: Mode) -> frozenset[int]:
        """The families in this mode."""
        return frozenset(version for version in GATEWAY_MODES if self.mode(version) is mode)

    def has_address(self, version: int) -> bool:
        """Whether the bridge bears one."""
        is_inhibited = version == 4 and self.inhibits_ipv4
        return self.mode(version) is not Mode.ISOLATED and not is_inhibited

    def needs_gateway(self, version: int, *, is_internal: bool) -> bool:
        """Whether an address is set apart for one, though nobody named it."""
        is_inhibited = version == 4 and self.inhibits_ipv4 and is_internal
        return self.mode(version) is not Mode.ISOLATED and not is_inhibited


def parse(options: Mapping[str, str]) -> Options:
    """Raises InvalidParameter. Names that mean nothing here are let be."""
    _boolean(options, DEFAULT_BRIDGE, False)
    link = options.get(BRIDGE_NAME, "")
    # The kernel would put a number in the place of "%d".
    if len(link.encode()) >= IFNAMSIZ or set(link) & set("/: \t\n\0%") or link in (".", ".."):
        raise InvalidParameter(f"invalid bridge name: {link!r}")
    return Options(
        link=link,
        has_icc=_boolean(options, ENABLE_ICC, True),
        has_masquerade=_boolean(options, ENABLE_MASQUERADE, True),
        binding=_address(options, HOST_BINDING),
        mtu=_mtu(options),
        mode_ipv4=_mode(options, 4),
        mode_ipv6=_mode(options, 6),
        inhibits_ipv4=_boolean(options, INHIBIT_IPV4, False),
        sources=tuple(s for version in SOURCES if (s := _source(options, version))),
        trusted=_links(options.get(TRUSTED, "")),
        prefix=options.get(INTERFACE_PREFIX, ""),
        is_announced=_announcements(options) > 0,
    )


def _announcements(options: Mapping[str, str]) -> int:
    """How many are asked for; the kernel sends one, so that this says whether."""
    _bounded(options, ANNOUNCEMENT_PAUSE, 100, 2000, "integer milliseconds")
    return _bounded(options, ANNOUNCEMENTS, 0, 3, "an integer")


def _bounded(options: Mapping[str, str], name: str, least: int, most: int, what: str) -> int:
    text = options.get(name)
    if text is None:
        return most
    try:
        number = literals.integer(text)
    except ValueError:
        raise InvalidParameter(f'value for option {name} "{text}" must be {what}') from None
    if not least <= number <= most:
        raise InvalidParameter(f"{name} must be in the range {least} to {most}")
    return number


def _mode(options: Mapping[str, str], version: int) -> Mode:
    name = GATEWAY_MODES[version]
    value = options.get(name, Mode.NAT)
    try:
        return Mode(value)
    except ValueError:
        raise BadOption(name, value, f"unknown gateway mode {value}") from None


def _source(options: Mapping[str, str], version: int) -> str:
    name = SOURCES[version]
    text = _address(options, name)
    if text and ip_address(text).version != version:
        raise BadOption(name, text, f"not an IPv{version} address")
    return text


def _links(text: str) -> tuple[str, ...]:
    """Those of a list with colons that a link can be called; no packet comes from another."""
    return tuple(dict.fromkeys(n for n in text.split(":") if 0 < len(n.encode()) < IFNAMSIZ))


def _boolean(options: Mapping[str, str], name: str, default: bool) -> bool:
    value = options.get(name)
    if value is None:
        return default
    try:
        return literals.boolean(value)
    except ValueError as exc:
        raise BadOption(name, value, str(exc)) from None


def _mtu(options: Mapping[str, str]) -> int:
    value = options.get(MTU)
    if value is None:
        return DEFAULT_MTU
    digits = value[1:] if value[:1] in "+-" else value
    if not digits.isascii() or not digits.isdigit():
        raise BadOption(MTU, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    if int(value) < 0:
        raise InvalidParameter(f"invalid MTU number: {value}")
    return int(value) or DEFAULT_MTU


def _address(options: Mapping[str, str], name: str) -> str:
    value = options.get(name)
    if value is None:
        return ""
    try:
        return str(ip_address(value))
    except ValueError:
        raise BadOption(name, value, "nil ip") from None
