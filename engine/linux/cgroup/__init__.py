"""Control groups, v1 and v2 behind one set of verbs.

Every `path` is relative to the root of the hierarchies ("wharf-1a2b3c4d/<id>"). Limits are the
runtime spec's `linux.resources`, as plain dictionaries. A limit that the kernel refuses is a
`LimitError`, an OSError whose `str()` is the reference runtime's sentence. The order for a
container: create, apply, devices, then attach (or enter, from inside); at its end: kill, remove.

This package imports only what a bare interpreter has: the monitor lives on it.
"""

from __future__ import annotations

import os

from engine.linux.cgroup import device_policy, setup, v1, v2
from engine.linux.cgroup import resources as _resources
from engine.linux.cgroup.limit import LimitError, Setting
from engine.linux.cgroup.metrics import stats
from engine.linux.cgroup.oom import OomWatch
from engine.linux.cgroup.parent import open_parent
from engine.linux.cgroup.support import available_cpus, available_mems, supported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "LimitError",
    "OomWatch",
    "Setting",
    "apply",
    "attach",
    "available_cpus",
    "available_mems",
    "change",
    "controllers",
    "create",
    "devices",
    "enter",
    "exists",
    "freeze",
    "is_frozen",
    "kill",
    "oom_count",
    "oom_watch",
    "open_parent",
    "plan",
    "processes",
    "remove",
    "stats",
    "supported",
    "thaw",
    "version",
]

_FREEZE_S = 2.0


def version() -> int:
    """1 or 2; a hybrid host counts as 1, for there the controllers are."""
    return setup.roots().version


def controllers() -> set[str]:
    """The controllers that groups can use, under the names of their version."""
    if version() == 1:
        return {name for name in setup.roots().controllers if "=" not in name}
    with open(os.path.join(v2.root(), "cgroup.controllers"), encoding="ascii") as file:
        return set(file.read().split())


def create(path: str) -> None:
    """Make the group with those above it; one that exists stays as it is."""
    v1.create(path) if version() == 1 else v2.create(path)


def exists(path: str) -> bool:
    """True if any trace of the group is there."""
    places = v1.directories(path) if version() == 1 else [v2.directory(path)]
    return any(os.path.isdir(place) for place in places)


def attach(path: str, pid: int) -> None:
    """Move a process, with all its threads, into the group."""
    v1.attach(path, pid) if version() == 1 else v2.attach(path, pid)


def enter(path: str) -> None:
    """Move the calling process, which has one thread; much cheaper on v1 than `attach`."""
    v1.enter(path) if version() == 1 else v2.enter(path)


def plan(resources: dict[str, Any], version: int) -> list[Setting]:
    """What `apply` would write, in order: (controller, file, value). Pure."""
    return _resources.plan(resources, version)


def apply(path: str, resources: dict[str, Any]) -> None:
    """Set the limits; on a living group too. Devices are apart. Raises LimitError."""
    settings = plan(resources, version())
    v1.apply(path, settings) if version() == 1 else v2.apply(path, settings)


def change(path: str, resources: dict[str, Any]) -> None:
    """As `apply`, but all of it or nothing: where one limit is refused, the others are taken back.

    To what the kernel had, which the zero of a limit that was never set does not say. For limits
    that are one value each.
    """
    of_version = v1 if version() == 1 else v2
    settings = plan(resources, version())
    found = [of_version.as_found(path, setting) for setting in settings]
    before = [setting for setting in found if setting is not None]
    try:
        of_version.apply(path, settings)
    except OSError:
        for setting in before:
            try:
                of_version.carry_out(path, setting, before)
            except OSError:
                continue  # what was refused is told, and this is no better for being told
        raise


def devices(path: str, rules: list[dict[str, Any]]) -> None:
    """Allow the devices that the rules come to, and those every container has."""
    policy = device_policy.policy([*rules, *device_policy.RUNTIME_RULES])
    if version() == 1:
        v1.devices(path, device_policy.commands(policy))
    else:
        v2.devices(path, policy)


def freeze(path: str, timeout_s: float = _FREEZE_S) -> None:
    """Stop every process where it is. Raises TimeoutError (with nothing frozen)."""
    v1.freeze(path, timeout_s) if version() == 1 else v2.freeze(path, timeout_s)


def thaw(path: str) -> None:
    v1.thaw(path) if version() == 1 else v2.thaw(path)


def is_frozen(path: str) -> bool:
    """False also where there is no such group."""
    return v1.is_frozen(path) if version() == 1 else v2.is_frozen(path)


def processes(path: str) -> list[int]:
    """The pids in the group and those below it; none where there is no such group."""
    return v1.processes(path) if version() == 1 else v2.processes(path)


def kill(path: str, timeout_s: float = 5.0) -> bool:
    """SIGKILL everything inside, frozen or forking, and wait; False: some are still there.

    Who has their pid must still reap them.
    """
    if not exists(path):
        return True
    return v1.kill(path, timeout_s) if version() == 1 else v2.kill(path, timeout_s)


def remove(path: str, timeout_s: float = 2.0) -> None:
    """Remove the group and those below it; nothing to do where there is none.

    Raises OSError EBUSY if a process is still inside after that time.
    """
    v1.remove(path, timeout_s) if version() == 1 else v2.remove(path, timeout_s)


def oom_count(path: str) -> int:
    """How many processes the kernel killed here for want of memory, so far."""
    return v1.oom_count(path) if version() == 1 else v2.oom_count(path)


def oom_watch(path: str) -> OomWatch:
    """A descriptor that becomes ready when that happens; the caller's to close."""
    return OomWatch(path)
