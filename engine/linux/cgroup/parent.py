"""The group that holds all containers of one engine, and what v2 asks for before it can."""

from __future__ import annotations

import os

from engine.linux.cgroup import file, setup, v1, v2

LEAF = "daemon"
"""`DelegateSubgroup=` of the unit file; also where processes of a namespaced root go."""


def open_parent(name: str) -> str:
    """Make the group ready to hold containers; the path to put them beneath.

    It is `name` at the top of the tree, or on v2 below the unit's own group where systemd
    delegated that: there systemd keeps its hands off, and limits on the unit bind all containers.
    """
    if setup.roots().version == 1:
        v1.create(name)
        return name
    own = own_group(file.read("/proc/self/cgroup"))
    if own == "" and _is_namespaced_root():
        _move_to_leaf(own)
    base = delegated(own)
    path = f"{base}/{name}" if base else name
    v2.create(path)
    v2.enable_controllers(v2.directory(path))
    return path


def own_group(proc_cgroup: str) -> str:
    """The v2 line of a text of /proc/self/cgroup, without its first slash."""
    for line in proc_cgroup.split("\n"):
        if line.startswith("0::"):
            return line[3:].strip("/")
    return ""


def delegated(own: str) -> str:
    """The delegated group to build in, or "", for a process in the group `own`.

    Only if the daemon was started in a leaf of it (`Delegate=yes`, `DelegateSubgroup=daemon`,
    systemd 254): from the unit's group itself the daemon could move away and make it an inner
    one, but then an older systemd, which starts each process of the unit right there, could not
    start the next daemon while containers run (EBUSY, its exit status 219/CGROUP).
    """
    unit = os.path.dirname(own)
    return unit if unit and v2.is_delegated(unit) else ""


def _is_namespaced_root() -> bool:
    """The real root of the tree has no type; that of a cgroup namespace (a container) does."""
    return os.path.exists(os.path.join(v2.root(), "cgroup.type"))


def _move_to_leaf(group: str) -> None:
    """An engine inside a container stands in the group that it must divide: make room in it."""
    leaf = os.path.join(v2.directory(group), LEAF)
    os.makedirs(leaf, 0o755, exist_ok=True)
    for pid in file.pids_in(v2.directory(group)):
        _move(leaf, pid)


def _move(leaf: str, pid: int) -> None:
    try:
        file.write(os.path.join(leaf, "cgroup.procs"), str(pid))
    except ProcessLookupError:
        return  # it ended by itself
