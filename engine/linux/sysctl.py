"""Knobs of the kernel: sysctl(8), proc_sys(5). Those of `net` are of the caller's namespace."""

from __future__ import annotations


def get(name: str) -> str:
    """ "net/ipv4/ip_forward" → "1". Raises OSError."""
    with open(f"/proc/sys/{name}", encoding="ascii") as file:
        return file.read().strip()


def put(name: str, value: str) -> None:
    """Raises OSError, FileNotFoundError where the kernel has no such knob."""
    with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
        file.write(value)
