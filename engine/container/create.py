"""Make a container: everything that can be known to be wrong is found before anything is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
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
    mountpoints,
    mounts,
    names,
    networking,
    populate,
    remove,
    validate,
    view,
    workdir,
)
from engine.container.model import (
    Config,
    Container,
    Created,
    MountPoint,
    MountType,
)
from engine.container.modes import other
from engine.container.publish import publish
from engine.errors import (
    ContainerNameInUse,
    InvalidParameter,
    NotFound,
)
from engine.ids import ContainerId
from engine.linux import mountinfo, tree
from engine.oci import platform as platforms

if TYPE_CHECKING:
    from engine.container.model import CreateRequest, HostConfig
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
    points, fresh = await mountpoints.resolve(rooms, container)
    draft = _Draft(
        container=msgspec.structs.replace(container, mount_points=points),
        image=image,
        is_name_generated=not name,
        fresh_volumes=fresh,
    )
    made = await _make(rooms, draft)
    rooms.store.add(made)
    # From here on the row itself says who uses them.
    await mountpoints.release(rooms, made)
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
    return warnings


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
            mountpoints.find(rooms, ref)


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
        endpoints=defaults.endpoints(
            config, host_config, request.endpoints, networking.main(rooms, host_config)
        ),
        links=links.resolve(rooms, host_config),
        snapshot_key=container_id,
        log_path=os.path.join(folder, f"{container_id}-json.log") if keeps_log else "",
        cgroup_path=os.path.join(
            host_config.resources.cgroup_parent.strip("/") or rooms.cgroup_parent, container_id
        ),
    )


# On disk


async def _make(rooms: Rooms, draft: _Draft) -> Container:
    """Undone whole if it fails, or if the engine closes meanwhile, but for `_Left`."""
    points = draft.container.mount_points
    is_far = any(rooms.volumes.is_device(p.name) for p in points)
    make = _make_far if is_far else _make_near
    try:
        await mountpoints.mount_what_is_filled(rooms, draft.container)
        async with rooms.volumes.filling(p.name for p in points if p.is_filled):
            return await make(rooms, draft)
    except _Left:
        raise
    except BaseException:
        await mountpoints.release(rooms, draft.container)
        await mountpoints.remove(rooms, draft.fresh_volumes)
        raise


class _Left(asyncio.CancelledError):
    """A thread that may never come back still fills volumes: the next boot takes all of it away."""


async def _make_near(rooms: Rooms, draft: _Draft) -> Container:
    return await offload.to_the_end(
        offload.disk(_make_on_disk, rooms, draft), undo=lambda made: _unmake(rooms, made)
    )


async def _make_far(rooms: Rooms, draft: _Draft) -> Container:
    """What is copied to a volume's own file system may wait for a server, but closing does not.

    So the row, by which the container is there, is not for that thread to write.
    """
    try:
        await offload.alone(_prepare, rooms, draft)
    except asyncio.CancelledError as exc:
        raise _Left from exc
    return await offload.to_the_end(
        offload.disk(_finish, rooms, draft), undo=lambda made: _unmake(rooms, made)
    )


async def _unmake(rooms: Rooms, made: Container) -> None:
    """Nobody believes in it yet. Where its row cannot be removed it has come to be after all."""
    # The row first: what has none is swept at boot, if the rest fails.
    try:
        await offload.disk(rooms.store.delete_row, made.id)
    except BaseException:
        rooms.store.add(made)  # so its volumes are in use, and it can be removed by hand
        raise
    await offload.disk(remove.remove_from_disk, rooms, made.id, made.snapshot_key)


def _make_on_disk(rooms: Rooms, draft: _Draft) -> Container:
    """Folder, layer, volumes' first content; the row last. Undone if any of it fails."""
    _prepare(rooms, draft)
    return _finish(rooms, draft)


def _prepare(rooms: Rooms, draft: _Draft) -> None:
    """All but the row; undone if any of it fails."""
    container = draft.container
    parent = draft.image.chain_id if draft.image else None
    with contextlib.ExitStack() as undo:
        folder = rooms.folder(container.id)
        os.makedirs(folder, 0o710)
        undo.callback(tree.remove, folder)
        rooms.snapshots.prepare(container.snapshot_key, parent)
        undo.callback(rooms.snapshots.remove, container.snapshot_key)
        _look_inside(rooms, container)
        undo.pop_all()


def _finish(rooms: Rooms, draft: _Draft) -> Container:
    """The row; where that fails, what was prepared goes."""
    try:
        return _insert(rooms, draft)
    except BaseException:
        container = draft.container
        remove.remove_from_disk(rooms, container.id, container.snapshot_key)
        raise


def _look_inside(rooms: Rooms, container: Container) -> None:
    """What needs the image's files: the place to work in, and what volumes begin with.

    A view must not be written below: where something was made, volumes are shown it by another.
    """
    working_dir = container.config.working_dir
    volumes = [p for p in container.mount_points if _is_at_hand(rooms, p)]
    if not volumes and working_dir in ("", "/"):
        return
    snapshots, key = rooms.snapshots, container.snapshot_key
    folders, merged = snapshots.folders(key), snapshots.directories(key)["MergedDir"]
    with contextlib.ExitStack() as views:
        root = views.enter_context(view.of_layers(folders[1:]))
        if working_dir and workdir.make(root, snapshots.upper(key), working_dir, merged=merged):
            root = views.enter_context(view.of_layers(folders))
        for point in volumes:
            own = rooms.volumes.ownership(point.name)
            populate.begin(root, point, merged=merged, ownership=own)


def _is_at_hand(rooms: Rooms, point: MountPoint) -> bool:
    """Whether it is a volume whose own files are in its directory by now."""
    if point.type is not MountType.VOLUME:
        return False
    return not rooms.volumes.is_device(point.name) or mountinfo.is_target(point.source)


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
