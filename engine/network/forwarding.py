"""Whether the host forwards packets between its links (ip-sysctl)."""

from __future__ import annotations

import contextlib
import logging

from engine.linux import sysctl

log = logging.getLogger(__name__)


def enable(*, ipv6: bool) -> bool:
    """Have the host forward packets; True where it did not forward IPv4 before."""
    was_off = _is_off("net/ipv4/ip_forward")
    names = ["net/ipv4/ip_forward"]
    if ipv6:
        names += [f"net/ipv6/conf/{scope}/forwarding" for scope in ("default", "all")]
    for name in filter(_is_off, names):
        try:
            sysctl.put(name, "1")
        except OSError as error:
            log.warning("cannot set %s: %s", name, error)
    return was_off


def _is_off(name: str) -> bool:
    """A host without IPv6 has no such knob."""
    with contextlib.suppress(OSError):
        return sysctl.get(name) == "0"
    return False
