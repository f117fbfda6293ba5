"""`wharfd --check`: what this host offers, what is missing, and what follows from that.

Looking (probe.py) is apart from judging: `judge` is pure and says each finding in a line.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.config import EngineConfig
from engine.doctor.probe import Facts, look

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Check", "Level", "examine", "judge", "lines"]

_LOW_DISK_BYTES = 2 << 30
_LOW_FILES = 65_536
_GOOD_FILES = 1_048_576
_OWN_FILES = 100  # databases, sockets and libraries of the daemon, generously
_FILES_EACH = 2  # of the daemon, a running container: its monitor's socket and a pidfd
_PYTHON = (3, 11)


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `text` says the consequence where something is not as it should be."""

    name: str
    level: Level
    text: str

    @property
    def is_fatal(self) -> bool:
        """Nothing runs without it."""
        return self.level is Level.MISSING

    def __str__(self) -> str:
        return f"{self.level:<8} {self.name:<14} {self.text}"


def examine(config: EngineConfig) -> list[Check]:
    return judge(look(config))


def lines(checks: Iterable[Check]) -> str:
    return "".join(f"{check}\n" for check in checks)


def judge(facts: Facts) -> list[Check]:
    """What the facts mean, the most basic first."""
    return [
        _python(facts),
        _user(facts),
        _kernel(facts),
        _namespaces(facts),
        *_cgroup(facts),
        _overlay(facts),
        _disk(facts),
        *_network(facts),
        _seccomp(facts),
        *_security_modules(facts),
        _files(facts),
        _exec_root(facts),
        _socket_group(facts),
    ]


def _ok(name: str, text: str) -> Check:
    return Check(name, Level.OK, text)


def _warn(name: str, text: str) -> Check:
    return Check(name, Level.WARN, text)


def _missing(name: str, text: str) -> Check:
    return Check(name, Level.MISSING, text)


def _python(facts: Facts) -> Check:
    version = ".".join(map(str, facts.python))
    if facts.python < _PYTHON:
        return _missing("python", f"{version}, needs 3.11 or newer")
    return _ok("python", version)


def _user(facts: Facts) -> Check:
    if not facts.is_root:
        return _missing("user", "not root: containers cannot be made")
    if "CAP_SYS_ADMIN" in facts.missing_capabilities:
        return _missing("user", "root without CAP_SYS_ADMIN: containers cannot be made")
    if facts.missing_capabilities:
        names = ", ".join(facts.missing_capabilities)
        return _warn("user", f"root without {names}: no container can have that either")
    return _ok("user", "root with all capabilities")


def _kernel(facts: Facts) -> Check:
    name = f"Linux {facts.kernel} {facts.machine}"
    if facts.openat2_errno:
        return _missing("kernel", f"{name} has no openat2(2): needs 5.6 or newer")
    if facts.mount_api_errno == errno.ENOSYS:
        return _missing("kernel", f"{name} has no fsopen(2): needs 5.2 or newer")
    return _ok("kernel", name)


def _namespaces(facts: Facts) -> Check:
    if facts.missing_namespaces:
        names = ", ".join(facts.missing_namespaces)
        return _missing("namespaces", f"the kernel has no {names}: containers cannot be isolated")
    return _ok("namespaces", "mount, pid, network, ipc, uts, cgroup")


# Control groups

_LIMIT_WORDS = {
    "memory_limit": "memory",
    "swap_limit": "swap",
    "cpu_cfs_quota": "CPU quota",
    "cpu_shares": "CPU shares",
    "cpuset": "cpusets",
    "pids_limit": "number of processes",
}


def _cgroup(facts: Facts) -> Iterator[Check]:
    if not facts.cgroup_controllers:
        yield _missing("cgroup", "no control groups are mounted: nothing can be limited or ended")
        return
    names = ", ".join(sorted(facts.cgroup_controllers))
    below = f", below {facts.cgroup_base}" if facts.cgroup_base else ""
    yield _ok("cgroup", f"version {facts.cgroup_version}{below}: {names}")
    if not facts.limits.get("devices"):
        yield _missing("cgroup devices", "no devices controller: devices cannot be kept off")
    without = [word for key, word in _LIMIT_WORDS.items() if not facts.limits.get(key)]
    if without:
        yield _warn("cgroup limits", f"no limit of {', '.join(without)}: such limits are dropped")
    if not facts.limits.get("blkio_weight"):
        yield _warn("cgroup blkio", "no weights for block devices: --blkio-weight has no effect")
    if not facts.has_cgroup_kill:
        yield _warn("cgroup kill", "no cgroup.kill (Linux 5.14): ending fork bombs takes longer")


# Storage


def _overlay(facts: Facts) -> Check:
    where = f"at {facts.data_root}"
    match facts.overlay_errno:
        case 0:
            return _ok("overlay", f"mounts {where}")
        case errno.ENODEV:
            return _missing("overlay", "the kernel has no overlay file system: no image can run")
        case number:
            reason = os.strerror(number)
            return _missing("overlay", f"does not mount {where} ({reason}): no image can run")


def _disk(facts: Facts) -> Check:
    free = f"{facts.free_bytes / (1 << 30):.1f} GiB free at {facts.data_root}"
    if facts.free_bytes < _LOW_DISK_BYTES:
        return _warn("disk", f"{free}: pulling images may fail")
    return _ok("disk", free)


# Network


def _network(facts: Facts) -> Iterator[Check]:
    yield _link("bridge", facts.bridge_errno)
    yield _link("veth", facts.veth_errno)
    yield _nat(facts)
    if facts.legacy_drops:
        families = " and ".join(facts.legacy_drops)
        yield _warn(
            "iptables",
            f"the legacy iptables filter drops {families}: containers reach nothing and no "
            "published port answers until its FORWARD policy is ACCEPT or its rules let them",
        )
    if facts.dropping_chains:
        names = ", ".join(facts.dropping_chains)
        yield _warn(
            "forwarding",
            f"dropped by default in {names}: rules for container networks are added there",
        )
    elif facts.ipv4_forward:
        yield _ok("forwarding", "IPv4 is forwarded")
    else:
        yield _ok("forwarding", "IPv4 is not forwarded yet: the daemon turns it on")
    if facts.has_ipv6:
        yield _ok("ipv6", "on: networks with --ipv6 and published ports on [::] work")
    else:
        yield _warn("ipv6", "off: containers have IPv4 only")


def _link(kind: str, number: int) -> Check:
    if number:
        reason = os.strerror(number)
        return _missing(kind, f"cannot be made ({reason}): only --network host and none work")
    return _ok(kind, "can be made")


def _nat(facts: Facts) -> Check:
    if facts.nat_errno:
        reason = os.strerror(facts.nat_errno)
        return _missing("nf_tables", f"no NAT ({reason}): no published ports, no way out")
    return _ok("nf_tables", "NAT works")


# Security


def _seccomp(facts: Facts) -> Check:
    if not facts.has_seccomp:
        return _missing("seccomp", "the kernel has no filters: only --security-opt unconfined runs")
    if not facts.has_libseccomp:
        return _missing(
            "seccomp",
            "libseccomp is not installed: only containers with --security-opt "
            "seccomp=unconfined or --privileged start",
        )
    return _ok("seccomp", "filters, compiled by libseccomp")


def _security_modules(facts: Facts) -> Iterator[Check]:
    if facts.has_apparmor:
        yield _apparmor(facts)
    if facts.is_selinux_enforcing:
        yield _warn("selinux", "enforcing: files get no labels, bind mounts may be denied")


def _apparmor(facts: Facts) -> Check:
    if facts.has_apparmor_profile:
        return _ok("apparmor", "docker-default is loaded")
    if facts.apparmor_parser:
        return _ok(
            "apparmor",
            f"on; the daemon's start loads docker-default with {facts.apparmor_parser}",
        )
    return _warn(
        "apparmor",
        "on, but docker-default is not loaded and there is no apparmor_parser to load it: "
        "containers run unconfined by it",
    )


def _files(facts: Facts) -> Check:
    enough = (facts.open_files - _OWN_FILES) // _FILES_EACH
    text = f"{facts.open_files}: {_FILES_EACH} a container, so enough for about {max(enough, 0)}"
    if facts.open_files < _LOW_FILES:
        raise_it = f"ulimit -Hn {_GOOD_FILES}, or systemd's LimitNOFILE={_GOOD_FILES}"
        return _warn("open files", f"{text}; each client takes more ({raise_it})")
    return _ok("open files", text)


def _exec_root(facts: Facts) -> Check:
    if facts.exec_root_errno:
        reason = os.strerror(facts.exec_root_errno)
        return _missing("exec root", f"no sockets can be made at {facts.exec_root}: {reason}")
    return _ok("exec root", facts.exec_root)


def _socket_group(facts: Facts) -> Check:
    if not facts.socket_group:
        return _ok("socket group", "none asked for: the socket is root's")
    if facts.has_socket_group:
        return _ok("socket group", f"{facts.socket_group}: its members may use the socket")
    if facts.socket_group != EngineConfig().group:
        return _missing("socket group", f"there is no group {facts.socket_group}")
    return _warn(
        "socket group", f"there is no group {facts.socket_group}: only root can use the socket"
    )
