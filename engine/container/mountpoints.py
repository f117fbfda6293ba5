"""The mount points of a container that is being made, with the volumes behind them.

Volumes are held for the container from here on, so that no prune takes them away before its row
says who uses them. A file system on a volume is mounted at the start, as dockerd does it; only a
volume that is to begin as a copy of the image's files needs it sooner.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import mounts, propagation, view
from engine.container.model import MountPoint, MountType
from engine.errors import EngineError, InvalidParameter, NoSuchContainer, WharfError
from engine.linux import oserror
from engine.linux import path as paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.container.model import Container, HostConfig
    from engine.container.rooms import Rooms

log = logging.getLogger(__name__)


def find(rooms: Rooms, ref: str) -> Container:
    """A container that another refers to: one that is not there is a mistake of the request."""
    try:
        return rooms.store.find(ref).container
    except NoSuchContainer as exc:
        raise InvalidParameter(str(exc)) from exc


async def resolve(
    rooms: Rooms, container: Container
) -> tuple[tuple[MountPoint, ...], tuple[str, ...]]:
    """Every mount by destination, with its volumes made; and which volumes are new."""
    planned = _plan(rooms, container)
    if sources := _to_be_there(planned):
        await offload.foreign(_check_sources, sources)
    fresh: list[str] = []
    held: list[str] = []
    try:
        points = [await _resolve(rooms, container, point, fresh, held) for point in planned]
    except BaseException:
        await _release(rooms, container, held)
        await remove(rooms, fresh)
        raise
    return tuple(points), tuple(fresh)


def _plan(rooms: Rooms, container: Container) -> list[MountPoint]:
    """In dockerd's order of precedence: volumes-from, -v, --mount, then anonymous volumes."""
    host_config = container.host_config
    planned: dict[str, MountPoint] = {}
    for text in host_config.volumes_from or ():
        ref, writable = mounts.parse_volumes_from(text)
        for point in find(rooms, ref).mount_points:
            planned[point.destination] = mounts.inherited(point, writable=writable)
    taken: set[str] = set()
    for point, written, excluded in _asked(host_config):
        if point.destination in taken or point.destination in excluded:
            raise mounts.DuplicateMountPoint(written)
        taken.add(point.destination)
        planned[point.destination] = point
    for target in container.config.volumes:
        point = _anonymous(target, host_config.volume_driver)
        if point.destination not in {*planned, *host_config.tmpfs}:
            planned[point.destination] = point
    return [propagation.guarded(point, rooms.config.data_root) for point in planned.values()]


def _asked(host_config: HostConfig) -> Iterator[tuple[MountPoint, str, Iterable[str]]]:
    """Each -v and --mount: what it means, its target as a refusal shows it, and what excludes it.

    Only -v makes its source where there is none, and a --mount that says so.
    """
    for bind in host_config.binds or ():
        point = mounts.parse_bind(bind, host_config.volume_driver)
        point = msgspec.structs.replace(point, created_source=True)
        yield point, point.destination, host_config.tmpfs
    for request in host_config.mounts or ():
        creates = bool(request.bind_options and request.bind_options.create_mountpoint)
        point = msgspec.structs.replace(mounts.parse_mount(request), created_source=creates)
        yield point, request.target, ()


def _anonymous(target: str, driver: str) -> MountPoint:
    """Also one at the root, which dockerd finds out at start that it cannot mount."""
    destination = os.path.normpath("/" + target)
    return MountPoint(
        type=MountType.VOLUME,
        source="",
        destination=destination.replace("//", "/", 1),
        driver=driver,
        is_anonymous=True,
    )


def _to_be_there(points: Iterable[MountPoint]) -> list[str]:
    """`--mount` wants its source to be there; `-v` will make it at start."""
    return [p.source for p in points if p.type is MountType.BIND and not p.created_source]


def _check_sources(sources: Iterable[str]) -> None:
    for source in sources:
        check_source(source)


def check_source(path: str) -> None:
    """Raises InvalidMount where there is nothing to bind; blocks."""
    try:
        os.stat(path)
    except FileNotFoundError as exc:
        raise mounts.InvalidMount("bind", f"bind source path does not exist: {path}") from exc
    except OSError as exc:
        raise mounts.InvalidMount("bind", f"stat {path}: {oserror.reason(exc)}") from exc


async def _resolve(
    rooms: Rooms, container: Container, point: MountPoint, fresh: list[str], held: list[str]
) -> MountPoint:
    """The mount point with its volume's name, driver and directory."""
    if point.type is MountType.IMAGE:
        image = await rooms.images.get(point.name)
        return msgspec.structs.replace(point, source=image.id)
    if point.type is not MountType.VOLUME or (point.name and point.source):
        return point
    options = point.spec.volume_options if point.spec else None
    # Held until the row is there, so that no prune in between takes it away.
    volume, is_new = await rooms.volumes.hold(
        point.name,
        point.driver,
        options.driver_options if options else {},
        options.labels if options else {},
        container_id=container.id,
    )
    held.append(volume.name)
    if is_new:
        fresh.append(volume.name)
    by_config = point.spec is None
    return msgspec.structs.replace(
        point,
        name=volume.name,
        driver=volume.driver,
        source=volume.mountpoint,
        mode=point.mode or ("" if by_config else "z"),
    )


async def mount_what_is_filled(rooms: Rooms, container: Container) -> None:
    """Mount the file system of each volume that begins as a copy of something in the image."""
    points = [p for p in container.mount_points if p.is_filled and rooms.volumes.is_device(p.name)]
    if not points:
        return
    image = rooms.images.find(container.image_id) if container.image_id else None
    if image is None or image.chain_id is None:
        return
    layers = rooms.snapshots.layer_folders(image.chain_id)
    for point in await offload.disk(_covering, layers, points):
        try:
            await rooms.volumes.acquire(point.name, container.id)
        except WharfError as exc:
            raise EngineError(f"failed to populate volume: {exc}") from exc


def _covering(layers: Sequence[str], points: Sequence[MountPoint]) -> list[MountPoint]:
    """Those in whose place the image has something."""
    with view.of_layers(layers) as root:
        return [point for point in points if _is_there(root, point.destination)]


def _is_there(root: int, where: str) -> bool:
    try:
        paths.stat_in_root(root, where)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return True


async def release(rooms: Rooms, container: Container) -> None:
    """Let go of the volumes that were held; idempotent."""
    volumes = [p.name for p in container.mount_points if p.type is MountType.VOLUME]
    await _release(rooms, container, volumes)


async def _release(rooms: Rooms, container: Container, names: Iterable[str]) -> None:
    for name in names:
        await rooms.volumes.release(name, container.id)


async def remove(rooms: Rooms, volumes: Iterable[str]) -> None:
    """Take back volumes of a container that was not made.

    What cannot be removed, or has found another container meanwhile, stays. That says nothing to
    whoever asked: the failure that led here does.
    """
    for name in volumes:
        try:
            await rooms.volumes.remove(name, force=True)
        except WharfError as exc:
            log.info("volume %s of a container that was not made stays: %s", name, exc)
