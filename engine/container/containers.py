"""The containers of one engine: every verb that a client has, each once.

A verb finds its container, lets its module do the work as the engine's own (a client that leaves
cancels waiting, never work), and returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from engine import offload, signals
from engine.container import (
    attach,
    commit,
    create,
    diff,
    exec,
    exit,
    export,
    links,
    listing,
    logs,
    names,
    networking,
    prune,
    remove,
    restart,
    restore,
    start,
    stop,
    top,
    update,
)
from engine.container.model import (
    AttachOptions,
    ContainerView,
    MountType,
    Sizes,
    Status,
    WaitCondition,
)
from engine.container.publish import publish
from engine.container.reports import Reports
from engine.container.state import ACTIVE, Event, next_status
from engine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NoSuchContainer,
    UnreadableContainer,
    WharfError,
)
from engine.linux import cgroup
from engine.linux.fd import OwnedFd
from engine.runtime.client import RuntimeFailure

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping, Sequence

    from engine.container.logs import Batch
    from engine.container.model import (
        Change,
        CommitRequest,
        Container,
        Created,
        CreateRequest,
        EndpointConfig,
        Exec,
        ExecConfig,
        ListQuery,
        LogsQuery,
        Processes,
        Pruned,
        Resources,
        RestartPolicy,
        WaitResult,
    )
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)

_STOP_GRACE_S = 5  # beside a container's own time, at the daemon's end

_NO_FD = -1


class Containers:
    """Public verbs; a `ref` is a name, an id or the unambiguous beginning of one."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.reports = Reports(rooms)

    # Life

    async def create(self, request: CreateRequest) -> Created:
        return await self._rooms.work.do(
            create.create(self._rooms, request), what="creating a container"
        )

    async def start(self, ref: str) -> None:
        handle = self._rooms.store.find(ref)
        next_status(handle.state.status, Event.START, handle.id, ref=ref)
        await self._do(self._start(handle), f"starting container {handle.id}")

    async def _start(self, handle: Handle) -> None:
        try:
            async with handle.lock:
                if handle.state.status in ACTIVE:
                    return
                await start.start(self._rooms, handle)
        except WharfError:
            await exit.auto_remove(self._rooms, handle)
            raise

    async def stop(
        self, ref: str, *, signal: str | None = None, timeout_s: int | None = None
    ) -> None:
        """`timeout_s` None: the container's own, negative: wait for ever."""
        handle = self._rooms.store.find(ref)
        next_status(handle.state.status, Event.STOP, handle.id, ref=ref)
        try:
            signo, seconds = stop.stop_plan(handle, signal, timeout_s)
        except signals.InvalidSignal as exc:
            raise InvalidParameter(f"cannot stop container: {ref}: {exc}") from exc
        await self._do(
            stop.stop(self._rooms, handle, signo=signo, timeout_s=seconds),
            f"stopping container {handle.id}",
        )

    async def kill(self, ref: str, signal: str = "") -> None:
        signo = signals.parse_to_kill(signal) if signal else signals.SIGKILL
        handle = self._rooms.store.find(ref)
        # A process may have written before its start was answered: a signal then waits for the row.
        async with handle.lock:
            next_status(handle.state.status, Event.KILL, handle.id, ref=ref)
        what = f"killing container {handle.id}"
        if signo == signals.SIGKILL:
            await self._do(stop.kill(self._rooms, handle), what)
        else:
            await self._do(stop.send(self._rooms, handle, signo), what)

    async def restart(
        self, ref: str, *, signal: str | None = None, timeout_s: int | None = None
    ) -> None:
        handle = self._rooms.store.find(ref)
        try:
            signo, seconds = stop.stop_plan(handle, signal, timeout_s)
        except signals.InvalidSignal as exc:
            raise InvalidParameter(f"Cannot restart container {ref}: {exc}") from exc
        await self._do(
            self._restart(handle, ref, signo, seconds), f"restarting container {handle.id}"
        )

    async def _restart(self, handle: Handle, ref: str, signo: int, seconds: float | None) -> None:
        handle.restarts_under_way += 1
        try:
            if handle.state.status in ACTIVE:
                await stop.stop(self._rooms, handle, signo=signo, timeout_s=seconds)
            async with handle.lock:
                if handle.state.status not in ACTIVE:
                    await start.start(self._rooms, handle)
            publish(self._rooms.events, handle.container, "restart")
        except WharfError as exc:
            raise type_of(exc)(f"Cannot restart container {ref}: {exc}") from exc
        finally:
            handle.restarts_under_way -= 1
            await exit.auto_remove(self._rooms, handle)  # what --rm waited for, if it failed

    async def pause(self, ref: str) -> None:
        handle = self._rooms.store.find(ref)
        await self._do(stop.pause(self._rooms, handle), f"pausing container {handle.id}")

    async def unpause(self, ref: str) -> None:
        handle = self._rooms.store.find(ref)
        await self._do(stop.unpause(self._rooms, handle), f"unpausing container {handle.id}")

    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        try:
            handle = self._rooms.store.find(ref)
        except UnreadableContainer as exc:
            if link or not force:
                raise
            await self._do(
                remove.remove_unreadable(self._rooms, exc.container_id, ref=ref, volumes=volumes),
                f"removing container {exc.container_id}",
            )
            return
        if link:
            if "/" not in ref.removeprefix("/"):
                raise EngineError("Conflict, cannot remove the default link name of the container")
            await self._do(links.remove(self._rooms, ref), f"removing link {ref}")
            return
        if not force:
            next_status(handle.state.status, Event.REMOVE, handle.id, ref=ref)
        await self._do(
            remove.remove(self._rooms, handle, ref=ref, force=force, volumes=volumes),
            f"removing container {handle.id}",
        )

    async def prune(self, filters: Mapping[str, tuple[str, ...]]) -> Pruned:
        return await self._rooms.work.do(
            prune.prune(self._rooms, filters), what="pruning containers"
        )

    async def rename(self, ref: str, new_name: str) -> None:
        if not ref or not new_name:
            raise InvalidParameter("Neither old nor new names may be empty")
        handle = self._rooms.store.find(ref)
        await self._do(self._rename(handle, ref, new_name), f"renaming container {handle.id}")

    async def _rename(self, handle: Handle, ref: str, new_name: str) -> None:
        async with handle.lock:
            if handle.is_gone:
                raise NoSuchContainer(ref)
            old = handle.container.name
            if new_name.removeprefix("/") == old:
                raise InvalidParameter(
                    "Renaming a container with the same name as its current name"
                )
            try:
                name = names.parse("/" + new_name.removeprefix("/"))
                await self._rooms.store.save(handle, networking.renamed(handle.container, name))
            except WharfError as exc:
                raise type_of(exc)(f"Error when allocating new name: {exc}") from exc
            hostname = handle.container.config.hostname
            await self._rooms.networks.rename(handle.id, name, hostname)
            publish(self._rooms.events, handle.container, "rename", oldName=f"/{old}")

    async def update(
        self, ref: str, changes: Resources, restart_policy: RestartPolicy | None = None
    ) -> tuple[str, ...]:
        handle = self._rooms.store.find(ref)
        return await self._rooms.work.do(
            update.update(self._rooms, handle, changes, restart_policy),
            what=f"updating container {handle.id}",
        )

    # Networks

    async def connect(self, ref: str, network: str, config: EndpointConfig) -> None:
        """Put a container on one more network, at once if it runs."""
        handle = self._rooms.store.find(ref)
        await self._do(
            networking.connect(self._rooms, handle, network, config),
            f"connecting container {handle.id}",
        )

    async def disconnect(self, ref: str, network: str, *, force: bool = False) -> None:
        handle = self._rooms.store.find(ref)
        await self._do(
            networking.disconnect(self._rooms, handle, network, force=force),
            f"disconnecting container {handle.id}",
        )

    # Looking

    async def list(self, query: ListQuery) -> Sequence[ContainerView]:
        chosen = listing.select(self._rooms, query)
        sizes = await self._sizes(chosen) if query.with_size else {}
        linked = links.names(self._rooms.store.all())
        image_name = functools.cache(self._image_name)  # many containers share few images
        return [
            ContainerView(
                container=_shown(handle.container),
                sizes=sizes.get(handle.id),
                link_names=tuple(linked.get(handle.id, ())),
                image_name=image_name(handle.container.config.image, handle.container.image_id),
            )
            for handle in chosen
        ]

    async def inspect(self, ref: str, *, with_size: bool = False) -> ContainerView:
        handle = self._rooms.store.find(ref)
        container = handle.container
        sizes = await self._sizes([handle]) if with_size else {}
        return ContainerView(
            container=_shown(container),
            exec_ids=exec.running(handle),
            directories=self._directories(container),
            sizes=sizes.get(handle.id),
            links=links.shown(self._rooms, container),
            image_name=self._image_name(container.config.image, container.image_id),
        )

    def _directories(self, container: Container) -> dict[str, str]:
        snapshots = self._rooms.snapshots
        if not snapshots.exists(container.snapshot_key):
            return {}
        return snapshots.directories(container.snapshot_key)

    def _image_name(self, typed: str, image_id: str) -> str:
        """What was typed, while that still names the image; its id otherwise."""
        image = self._rooms.images.find(typed) if typed else None
        return typed if image is not None and image.id == image_id else image_id

    async def _sizes(self, handles: Sequence[Handle]) -> dict[str, Sizes]:
        keys = [(h.id, h.container.snapshot_key) for h in handles]
        return await offload.disk(self._measure, keys)

    def _measure(self, keys: Sequence[tuple[str, str]]) -> dict[str, Sizes]:
        snapshots = self._rooms.snapshots
        sizes: dict[str, Sizes] = {}
        for container_id, key in keys:
            if snapshots.exists(key):
                own = snapshots.usage(key)
                below = snapshots.stack_size(snapshots.parent(key))
                sizes[container_id] = Sizes(rw_bytes=own, rootfs_bytes=own + below)
        return sizes

    async def top(self, ref: str, ps_args: str = "") -> Processes:
        handle = self._rooms.store.find(ref)
        columns = top.parse(ps_args)
        next_status(handle.state.status, Event.TOP, handle.id, ref=ref)
        path = handle.container.cgroup_path
        # Names of users may come from far away (nsswitch.conf), and a process that waits for a
        # server may keep its command line to itself.
        shown = await offload.foreign(lambda: top.table(columns, top.read(cgroup.processes(path))))
        publish(self._rooms.events, handle.container, "top")
        return shown

    async def waiter(self, ref: str, condition: WaitCondition) -> Awaitable[WaitResult]:
        """Registers at once; what comes back is awaited later, when headers are out."""
        handle = self._rooms.store.find(ref)
        return handle.waiters.register(condition, handle.state)

    async def logs(self, ref: str, query: LogsQuery) -> AsyncGenerator[Batch, None]:
        """All checks are made here; what comes back is iterated, and closed to end it."""
        handle = self._rooms.store.find(ref)
        logs.check(handle, query)
        return logs.read(self._rooms.folders, handle, query)

    async def changes(self, ref: str) -> Sequence[Change]:
        """What it has changed since it was made, each directory before what is in it."""
        return await diff.changes(self._rooms, self._rooms.store.find(ref))

    # Files

    async def commit(self, ref: str, request: CommitRequest) -> str:
        """The id of the new image."""
        handle = self._rooms.store.find(ref)
        next_status(handle.state.status, Event.COMMIT, handle.id)
        return await self._rooms.work.do(
            commit.commit(self._rooms, handle, request), what=f"committing container {handle.id}"
        )

    def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """The tar of its root. Iterated to its end, or closed to end it."""
        return export.export(self._rooms, self._rooms.store.find(ref), ref=ref)

    # Streams

    async def check_attach(self, ref: str, options: AttachOptions) -> Container:
        """Raise what has to be said before the connection is taken over."""
        handle = self._rooms.store.find(ref)
        attach.check(handle, options, ref=ref)
        return handle.container

    async def attach(
        self, ref: str, options: AttachOptions, fd: OwnedFd, prefix: bytes = b""
    ) -> None:
        """`fd` is taken over, whatever happens."""
        client = OwnedFd(fd.take())
        try:
            handle = self._rooms.store.find(ref)
        except WharfError:
            client.close()
            raise
        await self._do(
            attach.attach(self._rooms, handle, options, client, prefix),
            f"attaching to container {handle.id}",
            client,
        )

    async def resize(self, ref: str, height: int, width: int) -> None:
        handle = self._rooms.store.find(ref)
        next_status(handle.state.status, Event.RESIZE, handle.id, ref=ref)
        if handle.task is None:
            raise Conflict(f"container {handle.id} is not running")
        try:
            await handle.task.resize(height, width)
        except RuntimeFailure as exc:
            raise EngineError(f"cannot resize container {handle.id}: {exc}") from exc
        publish(
            self._rooms.events, handle.container, "resize", height=str(height), width=str(width)
        )

    # Execs

    async def exec_create(self, ref: str, config: ExecConfig) -> str:
        handle = self._rooms.store.find(ref)
        await self._rooms.store.forget_execs()
        return await exec.create(self._rooms, handle, config, ref=ref)

    async def exec_check(self, exec_id: str) -> Exec:
        """Raise what has to be said before the connection is taken over."""
        handle, known = self._rooms.store.find_exec(exec_id)
        exec.check(handle)
        return known

    async def exec_start(
        self,
        exec_id: str,
        *,
        detach: bool = False,
        tty: bool = False,
        console_size: tuple[int, int] | None = None,
        fd: OwnedFd | None = None,
        prefix: bytes = b"",
    ) -> None:
        """`fd` is taken over, whatever happens; None to detach. Returns when the process runs."""
        client = OwnedFd(_NO_FD if fd is None else fd.take())
        try:
            handle, known = self._rooms.store.find_exec(exec_id)
        except WharfError:
            client.close()
            raise
        await self._do(
            exec.start(
                self._rooms,
                handle,
                known,
                console_size=console_size if tty else None,
                client=OwnedFd(_NO_FD) if detach else client,
                prefix=prefix,
            ),
            f"starting exec {exec_id}",
            client,
        )

    async def exec_resize(self, exec_id: str, height: int, width: int) -> None:
        handle, known = self._rooms.store.find_exec(exec_id)
        await exec.resize(handle, known, height, width)

    async def exec_inspect(self, exec_id: str) -> Exec:
        """Clients ask the moment a stream ends: what the monitor said by then is waited for."""
        handle, known = self._rooms.store.find_exec(exec_id)
        if known.is_running and handle.task is not None:
            with contextlib.suppress(RuntimeFailure):
                await handle.task.state()
        await self.reports.noted(exec_id)
        return handle.execs.get(exec_id, known)

    # What other rooms ask

    def users_of_image(self, image_id: str) -> builtins.list[tuple[str, bool]]:
        """(id, whether it runs) of the containers that need an image, or that may."""
        known = [
            (handle.id, handle.state.status in ACTIVE)
            for handle in self._rooms.store.all()
            if image_id in _images_of(handle)
        ]
        return known + [(unread, False) for unread in self._rooms.store.unreadable()]

    def users_of_images(self) -> Mapping[str, builtins.list[tuple[str, bool]]]:
        """As `users_of_image`, of all at once, but for those whose rows cannot be read."""
        users: dict[str, builtins.list[tuple[str, bool]]] = {}
        for handle in self._rooms.store.all():
            user = (handle.id, handle.state.status in ACTIVE)
            for image_id in _images_of(handle):
                users.setdefault(image_id, []).append(user)
        return users

    def users_of_volume(self, name: str) -> Sequence[str]:
        """Containers that refer to it, or may; one that is being removed with it does not count."""
        known = [handle.id for handle in self._rooms.store.all() if name in _volumes_of(handle)]
        return [*known, *self._rooms.store.unreadable()]

    def users_of_volumes(self) -> Mapping[str, Sequence[str]]:
        """As `users_of_volume`, of all at once, but for those whose rows cannot be read."""
        users: dict[str, builtins.list[str]] = {}
        for handle in self._rooms.store.all():
            for name in _volumes_of(handle):
                users.setdefault(name, []).append(handle.id)
        return users

    def unreadable(self) -> Sequence[str]:
        """Ids of containers whose rows cannot be read; until they can, nothing is pruned."""
        return self._rooms.store.unreadable()

    def counts(self) -> dict[str, int]:
        """How many there are, by what info calls them."""
        states = [handle.state.status for handle in self._rooms.store.all()]
        paused = states.count(Status.PAUSED)
        running = sum(status in ACTIVE for status in states) - paused
        return {
            "all": len(states),
            "running": running,
            "paused": paused,
            "stopped": len(states) - running - paused,
        }

    # Boot and end

    async def restore(self) -> None:
        """Adopt what runs, take note of what ended, sweep the rest; before anything is served."""
        await restore.restore(self._rooms)

    async def start_wanted(self) -> None:
        """Start what its restart policy wants to run, once what runs is known."""
        await restart.at_boot(self._rooms)

    async def stop_all(self, timeout_s: float) -> None:
        """End every container in its own way and time, all at once.

        Where that goes wrong it is given up: after `timeout_s`, or longer if a container may take
        longer (moby daemon/daemon.go, ShutdownTimeout).
        """
        plans = [
            (handle, *stop.stop_plan(handle, None, None))
            for handle in self._rooms.store.all()
            if handle.state.status in ACTIVE
        ]
        limit: float | None = timeout_s if timeout_s >= 0 else None
        for _, _, seconds in plans:
            own = None if seconds is None else seconds + _STOP_GRACE_S
            limit = None if limit is None or own is None else max(limit, own)
        try:
            async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
                for handle, signo, seconds in plans:
                    group.create_task(self._stop_for_exit(handle, signo, seconds))
        except TimeoutError:
            log.error("not all containers ended within %s s", limit)

    async def _stop_for_exit(self, handle: Handle, signo: int, seconds: float | None) -> None:
        try:
            await stop.stop(self._rooms, handle, signo=signo, timeout_s=seconds, is_asked=False)
        except WharfError as exc:
            log.warning("container %s could not be stopped: %s", handle.id, exc)

    async def _do(
        self,
        coroutine: Coroutine[object, object, None],
        what: str,
        given: OwnedFd | None = None,
    ) -> None:
        await self._rooms.work.do(coroutine, what=what, given=given)


def type_of(exc: WharfError) -> type[WharfError]:
    """The kind of a failure, to say it again in a longer sentence."""
    for kind in type(exc).__mro__:
        if kind.__module__ == "engine.errors" and kind.__base__ is WharfError:
            return kind
    return EngineError


def _shown(container: Container) -> Container:
    """One that waits to be started again has no networks, as far as dockerd tells."""
    if container.state.status is not Status.RESTARTING:
        return container
    return exit.without_sandbox(container, container.state)


def _images_of(handle: Handle) -> set[str]:
    """The image that a container was made from, and those that it mounts."""
    points = handle.container.mount_points
    mounted = {point.source for point in points if point.type is MountType.IMAGE}
    return {handle.container.image_id, *mounted}


def _volumes_of(handle: Handle) -> set[str]:
    """Volumes that a container refers to and does not give up just now."""
    return {
        point.name
        for point in handle.container.mount_points
        if point.type is MountType.VOLUME
        and not (point.is_anonymous and handle.state.gives_up_volumes)
    }
