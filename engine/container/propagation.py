"""Binds whose mounts shall come and go on both sides, or on this one: the source must let them.

The kernel makes a mount private without a word where its source is; dockerd refuses instead
(moby daemon/oci_linux.go ensureShared, ensureSharedOrSlave).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.linux import mountinfo

if TYPE_CHECKING:
    from engine.container.model import MountPoint


class CannotPropagate(EngineError):
    def __init__(self, path: str, target: str, wanted: str) -> None:
        super().__init__(f"path {path} is mounted on {target} but it is not a {wanted} mount")


def check(point: MountPoint) -> None:
    """Raises CannotPropagate; blocks."""
    asked = point.propagation.removeprefix("r")
    if asked not in ("shared", "slave"):
        return
    mount = mountinfo.mount_of(point.source)
    if mount.peer_group or (asked == "slave" and mount.master):
        return
    if not _was_asked_for(point):
        return  # the engine's own choice for what holds its data: private will do
    wanted = "shared" if asked == "shared" else "shared or slave"
    raise CannotPropagate(point.source, mount.target, wanted)


def _was_asked_for(point: MountPoint) -> bool:
    options = point.spec.bind_options if point.spec is not None else None
    return options is not None and bool(options.propagation)
