"""Volumes: made, found, held by containers, removed.

A volume is in use as long as a container refers to it, running or not; who does is asked of
`users_of`. It is held (`acquire`, `release`) while a container runs: that is what a file system of
its options is mounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from engine import filters, ids, offload
from engine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NoSuchVolume,
    NotFound,
    UnreadableVolume,
    WharfError,
)
from engine.linux import oserror
from engine.storage import rows
from engine.volume import local
from engine.volume.model import ANONYMOUS, LOCAL, Pruned, Volume
from engine.volume.turns import Turns
from engine.work import Work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from engine.config import EngineConfig
    from engine.events import EventBus
    from engine.storage.database import Database

log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(Volume).decode
_CLOSE_S = 10.0
_LIST = frozenset(("dangling", "driver", "label", "name"))
_PRUNE = frozenset(("all", "label", "label!"))


class VolumeInUse(Conflict):
    def __init__(self, name: str, users: Sequence[str]) -> None:
        super().__init__(f"remove {name}: volume is in use - [{', '.join(users)}]")


class NoSuchVolumeDriver(NotFound):
    def __init__(self, name: str, driver: str) -> None:
        super().__init__(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
        )


class Volumes:
    """All volumes of one engine. Its verbs are called on the event loop."""

    def __init__(self, config: EngineConfig, database: Database, events: EventBus) -> None:
        self._root = os.path.join(config.data_root, "volumes")
        self._table = database.table("volume")
        self._events = events
        self._volumes: dict[str, Volume] = {}
        self._holders: dict[str, set[str]] = {}
        self._unreadable: set[str] = set()
        self._turns = Turns()
        self._fillings = Turns()
        self._work = Work()
        self._is_pruning = False
        self._leaving: Counter[str] = Counter()  # unmounted just now, though nobody waits any more
        self.users_of: Callable[[str], Sequence[str]] = lambda _: ()
        self.users: Callable[[], Mapping[str, Sequence[str]]] = dict

    async def open_engine(self) -> None:
        """Read the rows and finish what a crash interrupted.

        A directory without a row is somebody's data, and taken up again; an empty one that nobody
        named was about to be made.
        """
        self._volumes, self._unreadable = await offload.disk(rows.read, self._table, _decode)
        await offload.disk(local.sweep, self._root)
        for name in await offload.disk(local.names, self._root):
            if name not in self._volumes and name not in self._unreadable:
                if ids.is_id(name) and await offload.disk(local.remove_empty, self._root, name):
                    continue
                await offload.disk(local.create, self._root, name)
                log.warning("volume %s has a directory and no record, it is taken up again", name)
                await self._keep(self._new(name, None, None))

    async def settle(self) -> None:
        """After the running containers took theirs again: unmount what nobody holds."""
        for volume in list(self._volumes.values()):
            if local.needs_mount(volume.options) and not self._holders.get(volume.name):
                await self._detach(volume)

    async def close_engine(self) -> None:
        """Wait for what is being made or removed."""
        await self._work.close(_CLOSE_S)

    async def sweep(self, is_container: Callable[[str], bool]) -> None:
        """Remove what was made for containers that never came to be."""
        for volume in list(self._volumes.values()):
            if volume.made_for and not is_container(volume.made_for):
                log.info("removing volume %s of a container that was never made", volume.name)
                try:
                    await self.remove(volume.name, force=True)
                except WharfError as exc:
                    log.warning("it stays for the next time: %s", exc)

    # Which there are

    def find(self, name: str) -> Volume | None:
        return self._volumes.get(name)

    def is_device(self, name: str) -> bool:
        """Whether a file system is mounted for it while it is held."""
        volume = self.find(name)
        return volume is not None and local.needs_mount(volume.options)

    def ownership(self, name: str) -> local.Ownership:
        """Whose its directory is, whatever it begins with."""
        volume = self.find(name)
        return local.ownership(volume.options if volume is not None else None)

    def made_for(self, container_id: str) -> list[str]:
        """The anonymous volumes that came into being with a container, and are still its own."""
        return [v.name for v in self._volumes.values() if v.made_for == container_id]

    async def get(self, name: str) -> Volume:
        """Raises NoSuchVolume, of one whose row cannot be read UnreadableVolume."""
        volume = self.find(name)
        if volume is None:
            raise self._missing(name)
        return volume

    def _missing(self, name: str) -> NoSuchVolume:
        return UnreadableVolume(name) if name in self._unreadable else NoSuchVolume(name)

    async def list(self, wanted: Mapping[str, Sequence[str]] | None = None) -> tuple[Volume, ...]:
        chosen = wanted or {}
        filters.check(chosen, _LIST)
        is_dangling = filters.truth(chosen, "dangling")
        users = self.users() if is_dangling is not None else {}
        return tuple(
            v
            for v in self._volumes.values()
            if (not chosen.get("name") or filters.matches_text(chosen["name"], v.name))
            and (not chosen.get("driver") or v.driver in chosen["driver"])
            and filters.matches_labels(chosen.get("label", ()), v.labels or {})
            and (is_dangling is None or is_dangling == (not users.get(v.name)))
        )

    async def sizes(self) -> dict[str, int]:
        """Bytes of each volume that is a directory and nothing else."""
        plain = [v for v in self._volumes.values() if local.is_plain(v.options)]
        found = await asyncio.gather(
            *(offload.disk(local.size_bytes, volume.mountpoint) for volume in plain)
        )
        return {volume.name: size for volume, size in zip(plain, found, strict=True)}

    # Made and removed

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume of that name, new or not; without a name a new anonymous one."""
        if not name:
            name, labels = _anonymous(labels)
        _check_driver(name, driver)
        make = self._create(name, options, labels)
        return await self._work.do(make, what=f"create volume {name}")

    async def _create(
        self, name: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Volume:
        async with self._turns.of(name):
            volume, _ = await self._find_or_make(name, options, labels)
        return volume

    async def hold(
        self,
        name: str,
        driver: str,
        options: Mapping[str, str],
        labels: Mapping[str, str],
        *,
        container_id: str,
    ) -> tuple[Volume, bool]:
        """As `create` and `acquire` at once, so that no prune comes between; and whether it is new.

        But no file system is mounted yet: that it cannot be is found out at start, as in dockerd.
        A new anonymous one is made for the container, which may have no row yet.
        """
        made_for = "" if name else container_id
        if not name:
            name, labels = _anonymous(labels)
        _check_driver(name, driver)
        async with self._turns.of(name):
            volume, is_new = await self._find_or_make(
                name, options or None, labels or None, made_for=made_for
            )
            if local.needs_mount(volume.options):
                self._holders.setdefault(volume.name, set()).add(container_id)
                return volume, is_new
            try:
                await self._acquire(volume, container_id)
            except BaseException:
                if is_new:
                    await self._remove(volume)
                raise
        return volume, is_new

    async def _find_or_make(
        self,
        name: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        *,
        made_for: str = "",
    ) -> tuple[Volume, bool]:
        if (volume := self.find(name)) is not None:
            return volume, False
        if name in self._unreadable:
            raise EngineError(f"create {name}: there is a volume whose record cannot be read")
        try:
            local.check_name(name)
            local.check_options(options or {})
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error}") from None
        volume = msgspec.structs.replace(self._new(name, options, labels), made_for=made_for)
        try:
            await offload.disk(local.create, self._root, name, volume.options)
        except OSError as error:
            path = os.path.join(self._root, name)
            raise EngineError(
                f"create {name}: error while creating volume root path '{path}': "
                f"mkdir {path}: {oserror.reason(error)}"
            ) from error
        await self._keep(volume)
        self._publish(volume, "create")
        return volume, True

    def _new(
        self, name: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Volume:
        return Volume(
            name=name,
            mountpoint=local.mountpoint(self._root, name),
            created_ns=time.time_ns(),
            labels=None if labels is None else dict(labels),
            options=None if options is None else dict(options),
        )

    async def _keep(self, volume: Volume) -> None:
        document = msgspec.json.encode(volume)
        await offload.disk(self._table.put, volume.name, document, name=volume.name)
        self._volumes[volume.name] = volume

    async def keep(self, name: str, container_id: str) -> None:
        """The volume outlives the container that it was made for."""
        async with self._turns.of(name):
            volume = self.find(name)
            if volume is not None and volume.made_for == container_id:
                await self._keep(msgspec.structs.replace(volume, made_for=""))

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises VolumeInUse, NoSuchVolume; with `force` none of that name is enough.

        One whose row cannot be read is removed by force only.
        """
        await self._work.do(self._remove_named(name, force=force), what=f"remove volume {name}")

    async def _remove_named(self, name: str, *, force: bool) -> None:
        async with self._turns.of(name):
            volume = self.find(name)
            if volume is None and not force:
                raise self._missing(name)
            if volume is None and name not in self._unreadable:
                return
            users = self.users_of(name)
            if users:
                raise VolumeInUse(name, users)
            if holders := self._holders.get(name):
                raise VolumeInUse(name, sorted(holders))
            # What is mounted for one whose row cannot be read, nobody knows.
            await self._remove(volume or self._new(name, None, None), is_unknown=volume is None)

    async def _remove(self, volume: Volume, *, is_unknown: bool = False) -> None:
        """The directory first: a row without one is made whole, data without a row comes back."""
        try:
            if is_unknown or local.needs_mount(volume.options):
                # Before it is rubbish: under its name it can be removed another time.
                await self._unmount(volume)
            await offload.disk(local.remove, self._root, volume.name)
        except OSError as error:
            raise EngineError(f"remove {volume.name}: {oserror.sentence(error)}") from error
        await offload.disk(self._table.delete, volume.name)
        self._volumes.pop(volume.name, None)
        self._unreadable.discard(volume.name)
        self._holders.pop(volume.name, None)
        self._publish(volume, "destroy")

    async def prune(self, wanted: Mapping[str, Sequence[str]] | None = None) -> Pruned:
        """Remove what no container refers to: anonymous volumes, or with all=true every one."""
        chosen = wanted or {}
        if self._is_pruning:
            raise Conflict("a prune operation is already running")
        filters.check(chosen, _PRUNE)
        takes_all = bool(filters.single_truth(chosen, "all"))
        self._is_pruning = True
        return await self._work.do(self._prune(chosen, takes_all), what="prune volumes")

    async def _prune(self, chosen: Mapping[str, Sequence[str]], takes_all: bool) -> Pruned:
        try:
            pruned = await self._remove_unwanted(chosen, takes_all)
        finally:
            self._is_pruning = False
        attributes = {"reclaimed": str(pruned.reclaimed_bytes)}
        self._events.publish("volume", "prune", "", attributes)
        return pruned

    async def _remove_unwanted(
        self, chosen: Mapping[str, Sequence[str]], takes_all: bool
    ) -> Pruned:
        removed: list[str] = []
        reclaimed = 0
        users = self.users()  # whether somebody came meanwhile, the removal looks
        for volume in list(self._volumes.values()):
            is_meant = takes_all or volume.is_anonymous
            if not (is_meant and local.is_plain(volume.options)) or users.get(volume.name):
                continue
            if not filters.passes_labels(chosen, volume.labels or {}):
                continue
            size = await offload.disk(local.size_bytes, volume.mountpoint)
            try:
                await self.remove(volume.name)
            except (VolumeInUse, NoSuchVolume):
                continue
            except WharfError:
                log.warning("volume %s could not be pruned", volume.name, exc_info=True)
                continue
            removed.append(volume.name)
            reclaimed += size
        return Pruned(names=tuple(removed), reclaimed_bytes=reclaimed)

    # Held by what runs

    async def acquire(self, name: str, container_id: str) -> str:
        """The directory to mount; held until `release`. Raises NoSuchVolume, EngineError."""
        async with self._turns.of(name):
            volume = await self.get(name)
            await self._acquire(volume, container_id)
            return volume.mountpoint

    def still_holds(self, name: str, container_id: str) -> None:
        """At boot: what runs has the volume in it, whether or not it can be had once more."""
        self._holders.setdefault(name, set()).add(container_id)

    @contextlib.asynccontextmanager
    async def filling(self, names: Iterable[str]) -> AsyncGenerator[None]:
        """Nobody else fills one of these volumes meanwhile."""
        async with contextlib.AsyncExitStack() as turns:
            for name in sorted(set(names)):
                await turns.enter_async_context(self._fillings.of(name))
            yield

    async def _acquire(self, volume: Volume, container_id: str) -> None:
        if local.needs_mount(volume.options):
            assert volume.options is not None
            if self._leaving[volume.name]:
                raise EngineError(
                    f"error while mounting volume '{volume.mountpoint}': what was mounted there "
                    "is still being unmounted"
                )
            try:
                await offload.foreign(local.attach, volume.options, volume.mountpoint)
            except OSError as error:
                raise EngineError(
                    f"error while mounting volume '{volume.mountpoint}': {oserror.reason(error)}"
                ) from error
        elif not await offload.disk(os.path.isdir, volume.mountpoint):
            await offload.disk(local.create, self._root, volume.name, volume.options)
        self._holders.setdefault(volume.name, set()).add(container_id)

    async def release(self, name: str, container_id: str) -> None:
        """Idempotent; the last one unmounts what was mounted."""
        async with self._turns.of(name):
            holders = self._holders.get(name, set())
            holders.discard(container_id)
            volume = self.find(name)
            if volume is None or holders:
                return
            self._holders.pop(name, None)
            if local.needs_mount(volume.options):
                await self._detach(volume)

    async def _detach(self, volume: Volume) -> None:
        try:
            await self._unmount(volume)
        except (OSError, WharfError) as error:
            log.warning("volume %s stays mounted: %s", volume.name, error)

    async def _unmount(self, volume: Volume) -> None:
        """Perhaps it takes longer than anyone waits; until then nothing is mounted there again."""
        loop, has_begun = asyncio.get_running_loop(), False

        def left() -> None:
            self._leaving[volume.name] -= 1

        def detach() -> None:
            nonlocal has_begun
            has_begun = True
            try:
                local.detach(volume.mountpoint)
            finally:
                with contextlib.suppress(RuntimeError):  # the engine is gone, and this with it
                    loop.call_soon_threadsafe(left)

        self._leaving[volume.name] += 1
        try:
            await offload.foreign(detach)
        except WharfError:
            if not has_begun:  # too many of its kind
                left()
            raise

    def _publish(self, volume: Volume, action: str) -> None:
        self._events.publish("volume", action, volume.name, {"driver": volume.driver})


def _anonymous(labels: Mapping[str, str] | None) -> tuple[str, Mapping[str, str]]:
    """A name of its own, and the label that says that nobody gave it."""
    return ids.generate(), {**(labels or {}), ANONYMOUS: ""}


def _check_driver(name: str, driver: str) -> None:
    if driver not in ("", LOCAL):
        raise NoSuchVolumeDriver(name, driver)
