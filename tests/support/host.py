"""What the kernel of this machine is like, where what a test expects depends on it."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def has_unified_cgroup() -> bool:
    """Version 2 alone; with a hybrid layout the controllers are version 1's."""
    return (_CGROUP / "cgroup.controllers").exists()


def online_cpus() -> str:
    """As the kernel lists them: 0-3,8."""
    return Path("/sys/devices/system/cpu/online").read_text().strip()


def cgroup_of(pid: int, controller: str) -> Path:
    """A process's control group: version 2's one, or on version 1 that of a controller."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if has_unified_cgroup() and number == "0":
            return _CGROUP / path.lstrip("/")
        if controller in controllers.split(","):
            return _CGROUP / controller / path.lstrip("/")
    raise LookupError(f"process {pid} has no group for {controller}")
