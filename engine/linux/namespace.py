"""Namespaces: their names in runtime-spec and under /proc, joining and leaving them."""

from __future__ import annotations

import os

from engine.linux import syscalls

# runtime-spec type → (flag, name under /proc/<pid>/ns)
KINDS = {
    "cgroup": (syscalls.CLONE_NEWCGROUP, "cgroup"),
    "ipc": (syscalls.CLONE_NEWIPC, "ipc"),
    "mount": (syscalls.CLONE_NEWNS, "mnt"),
    "network": (syscalls.CLONE_NEWNET, "net"),
    "pid": (syscalls.CLONE_NEWPID, "pid"),
    "time": (syscalls.CLONE_NEWTIME, "time"),
    "user": (syscalls.CLONE_NEWUSER, "user"),
    "uts": (syscalls.CLONE_NEWUTS, "uts"),
}


def flag(kind: str) -> int:
    """CLONE_NEW… of a runtime-spec namespace type; raises KeyError."""
    return KINDS[kind][0]


def open_file(path: str) -> int:
    """A descriptor of a namespace file, for `syscalls.setns`."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_own_pid_namespace() -> int:
    """The namespace that children were born into before anybody changed that."""
    return open_file("/proc/self/ns/pid")
