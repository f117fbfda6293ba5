"""Make a container: everything that can be known to be wrong is found before anything is made."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine import ids, offload
from engine.container import (
    defaults,
    links,
    logconfig,
    merge,
    mounts,
    names,
    populate,
    propagation,
    validate,
    view,
)
from engine.container.model import (
    Config,
    Container,
    Created,
    MountPoint,
    MountType,
    RestartPolicyName,
)
from engine.container.modes import other
from engine.container.publish import publish
from engine.errors import (
    ContainerNameInUse,
    EngineError,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
    WharfError,
)
from engine.ids import ContainerId
from engine.linux import oserror, tree
from engine.linux import path as paths
from engine.oci import platform as platforms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.container.model import CreateRequest, EndpointConfig, HostConfig
    from engine.container.rooms import Rooms
    from engine.image.model import Image

log = logging.getLogger(__name__)

_NAME_ATTEMPTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A container that is decided on but not made: all but its name is certain."""

    container: Container
    image: Image | None
    is_name_generated: bool
    fresh_volumes: tuple[str, ...]  # made for it, removed again if it fails


async def create(rooms: Rooms, request: CreateRequest) -> Created:
    """Validate, resolve, then make it on disk in one hop; undone whole if any of it fails."""
    request, warnings = validate.check(
        request, rooms.host, runtimes=rooms.runtimes, available=rooms.capabilities
    )
    name = names.parse(request.name) if request.name else ""
    image = await _find_image(rooms, request)
    warnings += _warnings(request, image)
    config = merge.merge(request.config, image.config.config if image else None)
    host_config = _complete(rooms, request.host_config)
    _check_shared(rooms, host_config)
    holder = rooms.store.named(name)
    if holder is not None:
        raise ContainerNameInUse(name, holder.id)
    container = _compose(rooms, request, config, host_config, image, name)
    rooms.networks.check(
        host_config.network_mode, {e.network_name: e.config for e in container.endpoints}
    )
    points, fresh = await _mount_points(rooms, container)
    draft = _Draft(
        container=msgspec.structs.replace(container, mount_points=points),
        image=image,
        is_name_generated=not name,
        fresh_volumes=fresh,
    )
    made = await _make(rooms, draft)
    rooms.store.add(made)
    # From here on the row itself says who uses them.
    await _release_volumes(rooms, made, _volume_names(made.mount_points))
    publish(rooms.events, made, "create")
    return Created(id=made.id, warnings=tuple(warnings))


async def _find_image(rooms: Rooms, request: CreateRequest) -> Image | None:
    if not request.config.image:
        return None
    wanted = platforms.parse(request.platform) if request.platform else None
    return await rooms.images.get(request.config.image, wanted)


def _warnings(request: CreateRequest, image: Image | None) -> list[str]:
    """What is accepted and cannot be kept, said rather than dropped."""
    warnings: list[str] = []
    if image is not None and not request.platform:
        host = platforms.default()
        own = image.platform
        if not platforms.matches_image(host, own):
            warnings.append(
                f"The requested image's platform ({own}) does not match the detected host "
                f"platform ({host}) and no specific platform was requested"
            )
    if request.host_config.restart_policy.name is not RestartPolicyName.NO:
        warnings.append("Restart policies are kept but not acted upon by this version.")
    check = request.config.healthcheck
    if check is not None and check.test not in ((), ("NONE",)):
        warnings.append("Health checks are kept but not run by this version.")
    for network, config in sorted(request.endpoints.items()):
        if unused := _without_effect(config):
            warnings.append(
                f"{unused} of the endpoint on network {network} are kept but have no effect in "
                "this version."
            )
    return warnings


def _without_effect(config: EndpointConfig) -> str:
    given = {
        "DriverOpts": config.driver_opts,
        "Links": config.links,
        "LinkLocalIPs": config.ipam and config.ipam.link_local_ips,
    }
    return ", ".join(name for name, value in given.items() if value)


def _complete(rooms: Rooms, asked: HostConfig) -> HostConfig:
    config = rooms.config

    def find_id(ref: str) -> str:
        try:
            return rooms.store.find(ref).id
        except (NotFound, InvalidParameter):
            return ref

    completed = defaults.complete(
        asked,
        config,
        cgroup_version=rooms.cgroup_version,
        find_id=find_id,
        masked_paths=rooms.masked_paths,
    )
    log_config = logconfig.complete(
        asked.log_config, driver=config.log_driver, options=config.log_opts
    )
    return msgspec.structs.replace(completed, log_config=log_config)


def _check_shared(rooms: Rooms, host_config: HostConfig) -> None:
    """Those whose namespaces or volumes are shared must be there (400, not 404, as in dockerd)."""
    refs = [other(host_config.pid_mode), other(host_config.ipc_mode)]
    refs += [mounts.parse_volumes_from(text)[0] for text in host_config.volumes_from or ()]
    for ref in refs:
        if ref is not None:
            _find_for(rooms, ref)


def _find_for(rooms: Rooms, ref: str) -> Container:
    try:
        return rooms.store.find(ref).container
    except NoSuchContainer as exc:
        raise InvalidParameter(str(exc)) from exc


def _compose(
    rooms: Rooms,
    request: CreateRequest,
    config: Config,
    host_config: HostConfig,
    image: Image | None,
    name: str,
) -> Container:
    container_id = ContainerId(ids.generate())
    folder = rooms.folder(container_id)
    path, args = merge.command(config)
    if not config.hostname:
        is_host = host_config.network_mode == "host"
        hostname = socket.gethostname() if is_host else ids.short(container_id)
        config = msgspec.structs.replace(config, hostname=hostname)
    keeps_log = host_config.log_config.type != "none"
    return Container(
        id=container_id,
        name=name,
        created_ns=time.time_ns(),
        config=config,
        host_config=host_config,
        image_id=image.id if image else "",
        path=path,
        args=args,
        endpoints=defaults.endpoints(host_config, request.endpoints),
        links=links.resolve(rooms, host_config),
        snapshot_key=container_id,
        log_path=os.path.join(folder, f"{container_id}-json.log") if keeps_log else "",
        cgroup_path=os.path.join(
            host_config.resources.cgroup_parent.strip("/") or rooms.cgroup_parent, container_id
        ),
    )


# Mounts


async def _mount_points(
    rooms: Rooms, container: Container
) -> tuple[tuple[MountPoint, ...], tuple[str, ...]]:
    """Every mount by destination, with its volumes made; and which volumes are new."""
    planned = _plan_mounts(rooms, container)
    await offload.foreign(_check_sources, planned)
    fresh: list[str] = []
    held: list[str] = []
    try:
        points = [await _resolve(rooms, container, point, fresh, held) for point in planned]
    except BaseException:
        await _release_volumes(rooms, container, held)
        await _remove_volumes(rooms, fresh)
        raise
    return tuple(points), tuple(fresh)


def _plan_mounts(rooms: Rooms, container: Container) -> list[MountPoint]:
    """In dockerd's order of precedence: volumes-from, -v, --mount, then anonymous volumes."""
    host_config = container.host_config
    planned: dict[str, MountPoint] = {}
    for text in host_config.volumes_from or ():
        ref, writable = mounts.parse_volumes_from(text)
        for point in _find_for(rooms, ref).mount_points:
            planned[point.destination] = mounts.inherited(point, writable=writable)
    taken: set[str] = set()
    for bind in host_config.binds or ():
        point = mounts.parse_bind(bind, host_config.volume_driver)
        if point.destination in taken or point.destination in host_config.tmpfs:
            raise mounts.DuplicateMountPoint(point.destination)
        taken.add(point.destination)
        planned[point.destination] = msgspec.structs.replace(point, created_source=True)
    for request in host_config.mounts or ():
        point = mounts.parse_mount(request)
        if point.destination in taken:
            raise mounts.DuplicateMountPoint(request.target)
        taken.add(point.destination)
        creates = bool(request.bind_options and request.bind_options.create_mountpoint)
        planned[point.destination] = msgspec.structs.replace(point, created_source=creates)
    for target in container.config.volumes:
        point = _anonymous(target, host_config.volume_driver)
        if point.destination not in {*planned, *host_config.tmpfs}:
            planned[point.destination] = point
    return [propagation.guarded(point, rooms.config.data_root) for point in planned.values()]


def _anonymous(target: str, driver: str) -> MountPoint:
    destination = os.path.normpath("/" + target)
    mounts.check_target(destination)
    return MountPoint(
        type=MountType.VOLUME,
        source="",
        destination=destination.replace("//", "/", 1),
        driver=driver,
        is_anonymous=True,
    )


def _check_sources(points: list[MountPoint]) -> None:
    """`--mount` wants its source to be there; `-v` will make it at start."""
    for point in points:
        if (
            point.type is MountType.BIND
            and not point.created_source
            and not os.path.lexists(point.source)
        ):
            raise mounts.missing_source(point.source)


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


def _volume_names(points: Iterable[MountPoint]) -> list[str]:
    return [point.name for point in points if point.type is MountType.VOLUME]


async def _release_volumes(rooms: Rooms, container: Container, names: Iterable[str]) -> None:
    for name in names:
        await rooms.volumes.release(name, container.id)


async def _remove_volumes(rooms: Rooms, volumes: list[str] | tuple[str, ...]) -> None:
    """What cannot be removed, or has found another container meanwhile, stays.

    That says nothing to whoever asked: the failure that led here does.
    """
    for name in volumes:
        try:
            await rooms.volumes.remove(name, force=True)
        except WharfError as exc:
            log.info("volume %s of a container that was not made stays: %s", name, exc)


# On disk


async def _make(rooms: Rooms, draft: _Draft) -> Container:
    try:
        return await offload.disk(_make_on_disk, rooms, draft)
    except BaseException:
        await _release_volumes(rooms, draft.container, _volume_names(draft.container.mount_points))
        await _remove_volumes(rooms, draft.fresh_volumes)
        raise


def _make_on_disk(rooms: Rooms, draft: _Draft) -> Container:
    """Folder, layer, volumes' first content; the row last. Undone if any of it fails."""
    container = draft.container
    parent = draft.image.chain_id if draft.image else None
    with contextlib.ExitStack() as undo:
        folder = rooms.folder(container.id)
        os.makedirs(folder, 0o710)
        undo.callback(tree.remove, folder)
        rooms.snapshots.prepare(container.snapshot_key, parent)
        undo.callback(rooms.snapshots.remove, container.snapshot_key)
        _look_inside(rooms, container)
        made = _insert(rooms, draft)
        undo.pop_all()
    return made


def _look_inside(rooms: Rooms, container: Container) -> None:
    """What needs the image's files: is there a place to work in, and what do volumes begin with."""
    working_dir = container.config.working_dir
    volumes = [p for p in container.mount_points if p.type is MountType.VOLUME]
    if not volumes and working_dir in ("", "/"):
        return
    with view.of_layers(rooms.snapshots.mounts(container.snapshot_key)) as root:
        if working_dir:
            merged = rooms.snapshots.directories(container.snapshot_key).get("MergedDir", "")
            _check_working_dir(root, working_dir, merged)
        for point in volumes:
            _populate(root, point)


def _check_working_dir(root: int, where: str, merged: str) -> None:
    """That nothing of the image is in its way; what is not there yet is made at the start.

    dockerd makes it here, and speaks of its root by where it has that mounted.
    """
    try:
        mode = paths.stat_in_root(root, where).st_mode
    except OSError as exc:
        match exc.errno:
            case errno.ENOTDIR:
                sentence = f"lstat {merged}{where}: {oserror.reason(exc)}"
            case errno.ELOOP:
                sentence = f"evalSymlinksInScope: too many links in {merged}{where}"
            case _:
                return
        raise EngineError(sentence) from exc
    if not stat.S_ISDIR(mode):
        raise EngineError(f"Cannot mkdir: {where} is not a directory")


def _populate(root: int, point: MountPoint) -> None:
    if point.is_anonymous and populate.is_file(root, point.destination):
        raise EngineError(
            f"cannot mount volume over existing file, file exists {point.destination}"
        )
    if not point.no_copy and not point.subpath:
        populate.populate(root, point.destination, point.source)


def _insert(rooms: Rooms, draft: _Draft) -> Container:
    """Name and row at once; a generated name that is taken is drawn again."""
    if not draft.is_name_generated:
        rooms.store.insert_row(draft.container)
        return draft.container
    for attempt in range(_NAME_ATTEMPTS):
        container = msgspec.structs.replace(draft.container, name=names.generate(attempt))
        with contextlib.suppress(ContainerNameInUse):
            rooms.store.insert_row(container)
            return container
    container = msgspec.structs.replace(draft.container, name=ids.short(draft.container.id))
    rooms.store.insert_row(container)
    return container
