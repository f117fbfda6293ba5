"""Capabilities: names, numbers, and the sets of a process (capabilities(7)).

A set is an int with one bit a capability. What init calls here opens no file.
"""

from __future__ import annotations

import errno

from engine.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""<linux/capability.h>: a capability's number is its place."""
_NUMBERS = {name: number for number, name in enumerate(NAMES)}

_last_cap: int | None = None


def last_cap() -> int:
    """The highest capability that the kernel knows, which may be one without a name here."""
    global _last_cap
    if _last_cap is None:
        _last_cap = next(number - 1 for number in range(64) if not _is_known(number))
    return _last_cap


def _is_known(number: int) -> bool:
    # As good as /proc/sys/kernel/cap_last_cap, but there without /proc too.
    try:
        syscalls.prctl(syscalls.PR_CAPBSET_READ, number)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def known() -> tuple[str, ...]:
    """The names of what the kernel knows."""
    return NAMES[: last_cap() + 1]


def number(name: str) -> int:
    """Raises KeyError for a name that is none ("CAP_" and upper case are part of it)."""
    return _NUMBERS[name]


def to_set(names: Iterable[str]) -> int:
    """Raises KeyError for a name that is none."""
    bits = 0
    for name in names:
        bits |= 1 << _NUMBERS[name]
    return bits


def from_set(bits: int) -> tuple[str, ...]:
    return tuple(name for name in NAMES if bits >> _NUMBERS[name] & 1)


def available() -> int:
    """What this process may hand on: its permitted set."""
    _effective, permitted, _inheritable = syscalls.capget()
    return permitted


def limit_bounding(keep: int) -> None:
    """Drop all others for good; needs CAP_SETPCAP, so it comes before the user changes."""
    for number in range(last_cap() + 1):
        if not keep >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)


def keep_across_setuid(keep: bool) -> None:
    """Whether the permitted set outlives setuid(2) from 0; cleared by execve(2) anyway."""
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, int(keep))


def set_sets(*, effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """The sets of this thread. What it does not hold itself it cannot keep: that is left out.

    The reference runtime does so too; else a container that asks for everything could not start
    on a host that keeps a capability from its services.
    """
    held = available()
    permitted &= held
    syscalls.capset(effective & permitted, permitted, inheritable & held)
    _set_ambient(ambient & permitted & inheritable)


def _set_ambient(bits: int) -> None:
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last_cap() + 1):
        if bits >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
