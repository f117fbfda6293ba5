"""Ports as EXPOSE takes them, which is as `docker run -p` does (docker/go-connections nat)."""

from __future__ import annotations

import ipaddress
import re

from engine.errors import InvalidParameter

_PROTOCOLS = ("tcp", "udp", "sctp")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


class InvalidPorts(InvalidParameter):
    pass


def parse(spec: str) -> list[str]:
    """The container's ports, each with its protocol, of `[[address:]port[s]:]port[s][/protocol]`.

    Raises InvalidPorts, also for a part that means nothing here.
    """
    *before, last = spec.split(":")
    numbers, protocol, *_ = (*last.split("/"), "", "")
    protocol = protocol.lower() or "tcp"
    host = before[-1] if before else ""
    _check_address(":".join(before[:-1]))
    if not numbers:
        raise InvalidPorts(f"No port specified: {spec}<empty>")
    ports = _range("containerPort", numbers)
    if host and len(_range("hostPort", host)) != len(ports) > 1:
        raise InvalidPorts(
            f"Invalid ranges specified for container and host Ports: {numbers} and {host}"
        )
    if protocol not in _PROTOCOLS:
        raise InvalidPorts(f"Invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in ports]


def _range(what: str, text: str) -> range:
    found = _RANGE.fullmatch(text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not low <= high <= 65535:
        raise InvalidPorts(f"Invalid {what}: {text}")
    return range(low, high + 1)


def _check_address(text: str) -> None:
    is_bracketed = text.startswith("[") and text.endswith("]")
    if ":" in text and not is_bracketed:
        raise InvalidPorts(
            f"Invalid ip address {text}: address {text}:: too many colons in address"
        )
    address = text[1:-1] if is_bracketed else text
    try:
        if address:
            ipaddress.ip_address(address)
    except ValueError:
        raise InvalidPorts(f"Invalid ip address: {address}") from None
