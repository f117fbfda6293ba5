"""Binds whose mounts shall come and go on both sides, or on this one: the source must let them.

The kernel makes a mount private without a word where its source is; dockerd refuses instead
(moby daemon/oci_linux.go ensureShared, ensureSharedOrSlave).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.container.model import MountType
from engine.errors import EngineError, InvalidParameter
from engine.linux import mountinfo

if TYPE_CHECKING:
    from engine.container.model import MountPoint


class CannotPropagate(EngineError):
    def __init__(self, path: str, target: str, wanted: str) -> None:
        super().__init__(f"path {path} is mounted on {target} but it is not a {wanted} mount")


def check(point: MountPoint) -> None:
    """Raises CannotPropagate; blocks."""
    chosen = point.propagation.removeprefix("r")
    if chosen not in ("shared", "slave"):
        return
    mount = mountinfo.mount_of(point.source)
    if mount.peer_group or (chosen == "slave" and mount.master):
        return
    if not _asked(point):
        return  # the engine's own choice for what holds its data: private will do
    wanted = "shared" if chosen == "shared" else "shared or slave"
    raise CannotPropagate(point.source, mount.target, wanted)


def guarded(point: MountPoint, data_root: str) -> MountPoint:
    """A bind of the engine's own data must not hold its mounts back (volumes_linux.go)."""
    if point.type is not MountType.BIND or not _overlap(point.source, data_root):
        return point
    asked = _asked(point)
    if asked not in ("", "rslave", "rshared"):
        raise InvalidParameter(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when '
            f'mount source is within the daemon root, daemon root: "{data_root}", bind mount '
            f'source: "{point.source}", propagation: "{asked}"'
        )
    return msgspec.structs.replace(point, propagation=asked or "rslave")


def _asked(point: MountPoint) -> str:
    options = point.spec.bind_options if point.spec is not None else None
    return options.propagation if options is not None else ""


def _overlap(source: str, data_root: str) -> bool:
    """Whether one is the other or lies in it."""
    one, other = f"{source.rstrip('/')}/", f"{data_root}/"
    return one.startswith(other) or other.startswith(one)
