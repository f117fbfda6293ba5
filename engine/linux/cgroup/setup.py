"""Where the control groups of this host are mounted, and how a path names one of them.

A path is relative to the root of every hierarchy ("wharf-1a2b3c4d/<id>"), whatever the version.
It is cleaned as if the root were all there is, so "../../x" means "x" (dockerd does the same with
a cgroup parent), and cgroupfs holds no symbolic links that could lead elsewhere.
"""

from __future__ import annotations

import os

from engine.linux import mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

STANDARD_MOUNT = "/sys/fs/cgroup"
# What a mount of a v1 hierarchy may name among its options besides its controllers.
_NOT_CONTROLLERS = frozenset(
    ("rw", "ro", "noprefix", "clone_children", "xattr", "none", "all", "cpuset_v2_mode")
)


class Roots:
    """`controllers` maps a v1 controller, or "name=…", to its mount; `unified` is v2's mount.

    On a hybrid host both are there and `version` is 1: the controllers are what counts.
    """

    __slots__ = ("controllers", "unified", "version")

    def __init__(self, version: int, controllers: dict[str, str], unified: str | None) -> None:
        self.version = version
        self.controllers = controllers
        self.unified = unified

    def hierarchies(self) -> list[str]:
        """The v1 mounts, each once: "cpu" and "cpuacct" often share one."""
        return sorted(set(self.controllers.values()))


def roots_of(lines: Iterable[bytes]) -> Roots:
    """The hierarchies among the lines of /proc/self/mountinfo.

    Mounts below /sys/fs/cgroup come first: a chroot or a container manager may have more copies,
    and any of them shows the same tree, but the standard place is the one that stays.
    """
    controllers: dict[str, str] = {}
    unified: str | None = None
    found = [mount for mount in mountinfo.mounts(lines) if mount.fstype.startswith("cgroup")]
    for mount in sorted(found, key=lambda m: not m.target.startswith(STANDARD_MOUNT)):
        if mount.fstype == "cgroup2":
            unified = unified or mount.target
            continue
        for name in mount.options.split(","):
            is_controller = name.startswith("name=") or (
                name not in _NOT_CONTROLLERS and "=" not in name
            )
            if is_controller:
                controllers.setdefault(name, mount.target)
    has_v1 = any(not name.startswith("name=") for name in controllers)
    if not has_v1 and unified is not None:
        return Roots(2, {}, unified)
    return Roots(1, controllers, unified)


_roots: Roots | None = None


def roots() -> Roots:
    """The hierarchies of this host, read once: they are mounted at boot and stay."""
    global _roots
    if _roots is None:
        with open("/proc/self/mountinfo", "rb") as file:
            _roots = roots_of(file)
    return _roots


def use(replacement: Roots | None) -> None:
    """Take these for the hierarchies of this host (tests); None: read them again."""
    global _roots
    _roots = replacement


def join(root: str, path: str) -> str:
    """The directory of `path` below a hierarchy; never above it."""
    clean = os.path.normpath("/" + path).lstrip("/")
    return os.path.join(root, clean) if clean else root


def parents(path: str) -> list[str]:
    """ "a/b/c" → ["a", "a/b", "a/b/c"]."""
    parts = join("", path).split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts)) if parts[count]]
