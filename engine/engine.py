"""Assembly: the rooms are made here, handed to each other, restored at boot and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from typing import TYPE_CHECKING, Any, Self

from engine import offload, system
from engine.container import apparmor, logconfig, seccomp, spec
from engine.container.containers import Containers
from engine.container.limits import Host
from engine.container.rooms import Rooms
from engine.container.store import Store
from engine.errors import EngineError, WharfError
from engine.events import EventBus
from engine.image.pull import Puller
from engine.image.push import Pusher
from engine.image.store import Images
from engine.linux import capability, cgroup, oserror
from engine.network.manager import Networks
from engine.registry.client import Client
from engine.registry.retry import Policy
from engine.runtime.client import Runtime
from engine.storage import gc
from engine.storage.content import Content
from engine.storage.database import Database
from engine.storage.snapshots import Snapshots
from engine.system import System
from engine.volume.manager import Volumes
from engine.work import Work

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from engine.config import EngineConfig
    from engine.runtime.protocol import Exit, Json

log = logging.getLogger(__name__)

_CLOSE_S = 10.0


class AlreadyRunning(EngineError):
    def __init__(self, path: str) -> None:
        super().__init__(f"another engine is using {path}")


class _Nobody:
    """Whom the runtime reports to until there are containers."""

    def on_exit(self, container_id: str, exit: Exit) -> None: ...
    def on_restarted(self, container_id: str, pid: int, started_ns: int, count: int) -> None: ...
    def on_exec_exit(self, container_id: str, exec_id: str, code: int, at_ns: int) -> None: ...
    def on_oom(self, container_id: str) -> None: ...
    def on_probing(self, container_id: str, exec_id: str, pid: int) -> None: ...
    def on_probed(
        self, container_id: str, exec_id: str, code: int | None, said: Json | None
    ) -> None: ...
    def on_detach(self, container_id: str, exec_id: str | None) -> None: ...
    def on_lost(self, container_id: str) -> None: ...


class Engine:
    """All rooms of one engine; `open` makes one that is ready to serve."""

    config: EngineConfig
    events: EventBus
    database: Database
    images: Images
    containers: Containers
    networks: Networks
    registry: Client
    volumes: Volumes
    runtime: Runtime
    system: System

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.events = EventBus()
        self._work = Work()
        self._closing = contextlib.AsyncExitStack()
        self._is_open = False

    @classmethod
    async def open(cls, config: EngineConfig) -> Self:
        """Take the data-root, make the rooms, restore what was; undone if any of it fails."""
        engine = cls(config)
        async with engine._closing:
            await engine._open()
            engine._is_open = True
            engine._closing = engine._closing.pop_all()
        return engine

    async def close(self) -> None:
        """Let running containers go on (live-restore), or stop them first; then let go of all."""
        if not self.config.live_restore:
            await self.containers.stop_all(self.config.shutdown_timeout_s)
        await self._closing.aclose()

    async def _open(self) -> None:
        config, closing = self.config, self._closing
        logconfig.check_default(config.log_driver, config.log_opts)
        if doubt := logconfig.doubts(config.log_driver, config.log_opts):
            log.warning("%s", doubt)
        await offload.disk(seccomp.daemon_profile, config)
        made: list[str] = []
        closing.callback(self._unmake, made)
        await offload.disk(_make_directories, config, made)
        locks = await offload.disk(_lock, config)
        closing.callback(_unlock, locks)
        if config.exec_root in made:
            closing.callback(self._unmake_lock)
        self.database = await offload.disk(Database, os.path.join(config.data_root, "wharf.db"))
        closing.push_async_callback(offload.disk, self.database.close)
        content, snapshots = await offload.disk(_open_storage, config, self.database)
        self.images = await offload.disk(Images, self.database, content, snapshots, self.events)
        closing.push_async_callback(self.images.close)
        self._open_registry(content, snapshots)
        self.volumes = await offload.disk(Volumes, config, self.database, self.events)
        closing.push_async_callback(self.volumes.close_engine)
        await self.volumes.open_engine()
        self.networks = Networks(config, self.database, self.events)
        self.runtime = Runtime(config.exec_root, events=_Nobody())
        parent = await offload.kernel(_open_cgroups, config)
        closing.push_async_callback(offload.kernel, _close_cgroups, parent)
        closing.push_async_callback(self.runtime.close)
        closing.push_async_callback(self.networks.close_engine)
        await self._open_side_by_side(self.runtime.open(), self._open_networks())
        await self._open_containers(snapshots, parent)
        closing.push_async_callback(self._work.close, _CLOSE_S)
        closing.callback(self.events.close)

    async def _open_side_by_side(self, *openings: Coroutine[Any, Any, None]) -> None:
        """Rooms that do not need each other.

        A failure that is reported on purpose is raised as itself, not in a group: a user reads it.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for opening in openings:
                    group.create_task(opening)
        except BaseExceptionGroup as failures:
            for failure in failures.exceptions:
                if isinstance(failure, WharfError | OSError):
                    raise failure from failures
            raise

    async def _open_networks(self) -> None:
        try:
            await self.networks.open_engine()
        except WharfError as error:
            error.args = (f"Error initializing network controller: {error}",)
            raise

    def _unmake(self, made: list[str]) -> None:
        """A start that was refused leaves no folders; those that are in use by now stay."""
        for path in () if self._is_open else reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def _unmake_lock(self) -> None:
        """While it is held: the next one makes another."""
        if not self._is_open:
            os.unlink(os.path.join(self.config.exec_root, _LOCK))

    def _open_registry(self, content: Content, snapshots: Snapshots) -> None:
        self.registry = Client.of(self.config)
        puller = Puller(
            self.registry,
            content,
            snapshots,
            self.images,
            self.images.sources,
            most_downloads=self.config.max_concurrent_downloads,
            policy=Policy(attempts=self.config.max_download_attempts),
            on_pulled=self.images.publish_pull,
        )
        pusher = Pusher(
            self.registry,
            content,
            snapshots,
            self.images,
            self.images.sources,
            most_uploads=self.config.max_concurrent_uploads,
            on_pushed=self.images.publish_push,
        )
        self.images.puller = puller
        self.images.pusher = pusher
        self._closing.push_async_callback(self.registry.close)
        self._closing.push_async_callback(puller.close)
        self._closing.push_async_callback(pusher.close)

    async def _open_containers(self, snapshots: Snapshots, cgroup_parent: str) -> None:
        config = self.config
        host = await offload.kernel(_read_host)
        store = Store(self.database)
        rooms = Rooms(
            config=config,
            events=self.events,
            work=self._work,
            store=store,
            snapshots=snapshots,
            images=self.images,
            networks=self.networks,
            volumes=self.volumes,
            runtime=self.runtime,
            host=host,
            capabilities=frozenset(capability.from_set(capability.available())),
            cgroup_version=cgroup.version(),
            cgroup_parent=cgroup_parent,
            masked_paths=await offload.disk(_masked_paths),
        )
        self.containers = Containers(rooms)
        self.images.users_of = self.containers.users_of_image
        self.images.users = self.containers.users_of_images
        self.volumes.users_of = self.containers.users_of_volume
        self.volumes.users = self.containers.users_of_volumes
        self.runtime.events = self.containers.reports
        self.system = System(
            config=config,
            containers=self.containers,
            images=self.images,
            volumes=self.volumes,
            features=host.features,
            id=await offload.disk(system.read_id, config.data_root),
        )
        await store.load()
        await offload.kernel(apparmor.prepare)
        await self.containers.restore()
        await self.images.sweep()
        await self.containers.start_wanted()


# Directories and locks


_LOCK = "lock"


def _make_directories(config: EngineConfig, made: list[str]) -> None:
    """Closed to others from the first instant; `made` gets those that were not there."""
    for path, mode in (
        (config.data_root, 0o710),
        (os.path.join(config.data_root, "containers"), 0o710),
        (config.exec_root, 0o700),
        (os.path.join(config.exec_root, "containers"), 0o700),
        (os.path.join(config.exec_root, "seccomp"), 0o700),
    ):
        if not os.path.isdir(path):
            made.append(path)
        try:
            os.makedirs(path, mode, exist_ok=True)
        except FileExistsError as exc:
            raise EngineError(f"mkdir {exc.filename}: not a directory") from exc
        except OSError as exc:
            raise EngineError(f"mkdir {oserror.sentence(exc)}") from exc
        os.chmod(path, mode)


def _lock(config: EngineConfig) -> list[int]:
    """Two engines never share a data-root or an exec-root: the second one learns who is first."""
    held: list[int] = []
    try:
        for root in (config.data_root, config.exec_root):
            held.append(os.open(os.path.join(root, _LOCK), os.O_RDWR | os.O_CREAT, 0o600))
            try:
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise AlreadyRunning(root) from exc
    except BaseException:
        _unlock(held)
        raise
    return held


def _unlock(held: list[int]) -> None:
    for fd in held:
        os.close(fd)


# Rooms that are made on disk or in the kernel


def _open_storage(config: EngineConfig, database: Database) -> tuple[Content, Snapshots]:
    content = Content(os.path.join(config.data_root, "content"))
    snapshots = Snapshots(config.data_root, database)
    gc.take_away(content, snapshots)
    return content, snapshots


def _open_cgroups(config: EngineConfig) -> str:
    return cgroup.open_parent(config.cgroup_parent.strip("/") or f"wharf-{config.instance}")


def _close_cgroups(parent: str) -> None:
    """The parent goes unless containers live on in it."""
    with contextlib.suppress(OSError):
        if not cgroup.processes(parent):
            cgroup.remove(parent, 0)


def _read_host() -> Host:
    return Host(
        features=cgroup.supported(),
        cpu_count=os.cpu_count() or 1,
        cpus=cgroup.available_cpus() or "0",
        memory_nodes=cgroup.available_mems() or "0",
    )


def _masked_paths() -> tuple[str, ...]:
    """Docker's list, with the thermal counters that this host's CPUs have."""
    thermal = "/sys/devices/system/cpu/cpu{}/thermal_throttle"
    cpus = range(os.cpu_count() or 1)
    found = [path for number in cpus if os.path.exists(path := thermal.format(number))]
    return (*spec.MASKED_PATHS, *found)
