"""What has to be found out on disk and in the kernel before a spec can be written.

One hop, and one before it where the container is given paths of the host: those may not answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import offload
from engine.container import (
    apparmor,
    capabilities,
    devices,
    limits,
    modes,
    mountpoints,
    mounts,
    propagation,
    seccomp,
    security,
    user,
    view,
)
from engine.container.model import MountType
from engine.errors import (
    EngineError,
    InvalidParameter,
    NoSuchImage,
    Unclassified,
)
from engine.linux import oserror, syscalls
from engine.linux import path as paths
from engine.runtime.client import RuntimeFailure

if TYPE_CHECKING:
    from engine.container.model import Container, MountPoint
    from engine.container.rooms import Rooms
    from engine.oci import runtime as oci
    from engine.oci.digest import ChainId
    from engine.storage.snapshots import Mount


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`seccomp` is None to run without a filter."""

    rootfs: list[Mount]
    user: user.User
    security: security.SecurityOptions
    capabilities: tuple[str, ...]
    devices: list[oci.Device]
    device_rules: tuple[oci.DeviceRule, ...]
    device_numbers: dict[str, tuple[int, int]]
    subpaths: dict[str, str]
    trees: dict[str, Mount]
    seccomp: seccomp.Filter | None
    shm_source: str
    apparmor_profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What there is of the host's own."""

    devices: list[oci.Device]
    device_rules: tuple[oci.DeviceRule, ...]
    device_numbers: dict[str, tuple[int, int]]
    subpaths: dict[str, str]
    trees: dict[str, Mount]


async def gather(rooms: Rooms, container: Container) -> Findings:
    """Leaves behind directories that `-v` asked for, and a shared /dev/shm."""
    seen = await offload.foreign(_see, rooms, container) if _names_paths(container) else None
    return await offload.disk(_find, rooms, container, seen)


def _names_paths(container: Container) -> bool:
    resources = container.host_config.resources
    is_given = (point.type is MountType.BIND or point.subpath for point in container.mount_points)
    return any(is_given) or bool(resources.devices) or bool(limits.devices_of(resources))


def _see(rooms: Rooms, container: Container) -> _Seen:
    host_config = container.host_config
    nodes, rules = devices.plan(
        host_config.resources.devices or (),
        host_config.resources.device_cgroup_rules or (),
        privileged=host_config.privileged,
    )
    _refuse_device_requests(container)
    _check_binds(container)
    return _Seen(
        devices=nodes,
        device_rules=tuple(rules),
        device_numbers={
            path: devices.numbers(path) for path in limits.devices_of(host_config.resources)
        },
        subpaths=_subpaths(rooms, container),
        trees=_trees(rooms, container),
    )


def _find(rooms: Rooms, container: Container, seen: _Seen | None) -> Findings:
    host_config = container.host_config
    options = security.parse(
        host_config.security_opt or (), no_new_privileges=rooms.config.no_new_privileges
    )
    granted = grant(rooms, container)
    if seen is None:
        seen = _see(rooms, container)
    rootfs = rooms.snapshots.mounts(container.snapshot_key)
    os.makedirs(rooms.root(container.id), 0o700, exist_ok=True)
    return Findings(
        rootfs=rootfs,
        user=look_up_user(rooms, container, container.config.user),
        security=options,
        capabilities=granted,
        devices=seen.devices,
        device_rules=seen.device_rules,
        device_numbers=seen.device_numbers,
        subpaths=seen.subpaths,
        trees=seen.trees,
        seccomp=None
        if host_config.privileged
        else seccomp.prepare(rooms.config, options.seccomp, frozenset(granted)),
        shm_source=_shared_memory(rooms, container),
        apparmor_profile=apparmor.profile(options.apparmor, privileged=host_config.privileged),
    )


def grant(rooms: Rooms, container: Container) -> tuple[str, ...]:
    host_config, available = container.host_config, rooms.capabilities
    return capabilities.effective(
        add=capabilities.normalize(host_config.cap_add or (), available, "CapAdd"),
        drop=capabilities.normalize(host_config.cap_drop or (), available, "CapDrop"),
        privileged=host_config.privileged,
        within=available,
    )


def _refuse_device_requests(container: Container) -> None:
    for request in container.host_config.resources.device_requests or ():
        wanted = " ".join(f"[{' '.join(group)}]" for group in request.capabilities or ())
        raise Unclassified(
            f'could not select device driver "{request.driver}" with capabilities: [{wanted}]'
        )


# Users


def look_up_user(rooms: Rooms, container: Container, name: str) -> user.User:
    """By the files in the container's layers, of one that does not run."""
    with view.of_layers(rooms.snapshots.folders(container.snapshot_key)) as root:
        return user_in(root, container, name)


def user_in(root: int, container: Container, name: str) -> user.User:
    passwd = view.read_file(root, "/etc/passwd")
    group = view.read_file(root, "/etc/group")
    found = user.lookup(name, passwd, group, container.host_config.group_add or ())
    return found if found.home else found._replace(home=user.home_of(found.uid, passwd))


# Mounts


def _check_binds(container: Container) -> None:
    for point in container.mount_points:
        if point.type is MountType.BIND:
            mounts.check_recursion(point)
            _ensure_source(point)
            propagation.check(point)


def _ensure_source(point: MountPoint) -> None:
    """`-v` makes a directory where there is nothing; `--mount` has its source, or fails."""
    if not point.created_source:
        mountpoints.check_source(point.source)
    if os.path.exists(point.source):
        return
    try:
        os.makedirs(point.source, 0o755, exist_ok=True)
    except NotADirectoryError as exc:
        text = f"failed to fulfil mount request: open {point.source}: {oserror.reason(exc)}"
        raise RuntimeFailure("mount", exc.errno or 0, text) from exc
    except OSError as exc:
        raise EngineError(
            f"error while creating mount source path '{point.source}': mkdir {point.source}: "
            f"{oserror.reason(exc)}"
        ) from exc


def _subpaths(rooms: Rooms, container: Container) -> dict[str, str]:
    """Which part of a volume or image each mount shows, by its destination.

    It is init that resolves and mounts them: between a look from here and the mount, another
    container may exchange what lies in the volume. Looking here is for dockerd's sentences.
    """
    found: dict[str, str] = {}
    for point in container.mount_points:
        if point.subpath and point.type in (MountType.VOLUME, MountType.IMAGE):
            _look_at(_folders(rooms, point), point.subpath)
            found[point.destination] = point.subpath
    return found


def _folders(rooms: Rooms, point: MountPoint) -> list[str]:
    """What it shows, topmost first."""
    if point.type is MountType.VOLUME:
        return [point.source]
    return rooms.snapshots.layer_folders(_chain(rooms, point))


def _look_at(folders: list[str], subpath: str) -> None:
    """Raise what dockerd says of a path that is not there or leads out (internal/safepath)."""
    with view.of_layers(folders) as root:
        try:
            os.close(paths.open_beneath(root, subpath))
        except OSError as exc:
            raise InvalidParameter(_inaccessible(folders[0], subpath, exc)) from exc


def _inaccessible(directory: str, subpath: str, exc: OSError) -> str:
    where = os.path.join(directory, subpath)
    reason = oserror.reason(exc)
    match exc.errno:
        case errno.EXDEV:
            return (
                "path concatenation escapes the base directory, "
                f"base: {directory}, subpath: {subpath}"
            )
        case errno.ENOENT:
            return f"cannot access path {where}: lstat {where}: {reason}"
        case errno.ELOOP:
            reason = "EvalSymlinks: too many links"
        case _:
            pass
    return f'error while resolving symlinks in combined path "{where}": {reason}'


def _trees(rooms: Rooms, container: Container) -> dict[str, Mount]:
    """What is mounted to be the source of each image, by its destination."""
    return {
        point.destination: rooms.snapshots.view_mounts(_chain(rooms, point))[0]
        for point in container.mount_points
        if point.type is MountType.IMAGE
    }


def _chain(rooms: Rooms, point: MountPoint) -> ChainId:
    image = rooms.images.find(point.source)
    if image is None or image.chain_id is None:
        raise NoSuchImage(point.name)
    return image.chain_id


def _shared_memory(rooms: Rooms, container: Container) -> str:
    """The tmpfs behind /dev/shm of containers that share it, mounted on the host for them."""
    mode = container.host_config.ipc_mode
    owner = modes.other(mode) or (container.id if mode == "shareable" else "")
    if not owner:
        return ""
    place = shm_path(rooms, owner)
    if owner == container.id:
        os.makedirs(place, 0o700, exist_ok=True)
        if not os.path.ismount(place):
            size = f"mode=1777,size={container.host_config.shm_size_bytes}"
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
            syscalls.mount("shm", place, "tmpfs", flags, size)
    return place


def shm_path(rooms: Rooms, container_id: str) -> str:
    return os.path.join(rooms.config.exec_root, "containers", container_id, "shm")


def release_shared_memory(rooms: Rooms, container_id: str) -> None:
    with contextlib.suppress(OSError):
        syscalls.umount2(shm_path(rooms, container_id), syscalls.MNT_DETACH)
