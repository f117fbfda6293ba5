"""All containers of this engine: rows on disk, and in memory what lists are served from.

    find(ref) → Handle          a handle is one container's place in memory, its lock and its task
    save(handle, container)     the row first, then the belief
    note(handle, container)     the belief, whatever becomes of the row

A `Handle` lives from create to remove. What changes a container holds its lock, and may have waited
for it until the container was gone: then nothing of it is written again. What only reads takes
`handle.container`, always a whole value. It is on disk as well, but for what has happened and could
not be written (`note`, a removal on a full disk): that is true all the same, and the next boot
learns it from the kernel and the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from engine import ids, offload
from engine.container.model import Container, Exec, State
from engine.container.wait import Waiters
from engine.errors import (
    AmbiguousId,
    ContainerNameInUse,
    InvalidParameter,
    NoSuchContainer,
    NoSuchExec,
    UnreadableContainer,
)
from engine.storage import rows
from engine.storage.database import NameTaken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from engine.ids import ContainerId
    from engine.runtime.client import Attachment, Task
    from engine.storage.database import Database

log = logging.getLogger(__name__)

EXEC_KEPT_S = 300
"""How long an exec that ended can be inspected (moby execCommandGC: five minutes and more)."""

_encode = msgspec.msgpack.Encoder().encode
_decode_container = msgspec.msgpack.Decoder(Container).decode
_decode_exec = msgspec.msgpack.Decoder(Exec).decode


class Handle:
    """One container in memory."""

    __slots__ = (
        "container",
        "exec_starts",
        "execs",
        "holds",
        "is_gone",
        "is_torn_down",
        "is_unreached",
        "lock",
        "probe_id",
        "queued",
        "restart_delay_ns",
        "restarts_under_way",
        "retry",
        "search",
        "stops_under_way",
        "task",
        "waiters",
    )

    def __init__(self, container: Container) -> None:
        self.container = container
        self.lock = asyncio.Lock()
        self.task: Task | None = None
        self.waiters = Waiters()
        self.is_unreached = False  # the last look for its monitor told nothing (see adoption)
        self.search: asyncio.Task[object] | None = None  # for its monitor
        self.queued: list[Attachment] = []  # clients that came before the start
        self.execs: dict[str, Exec] = {}
        # Set when a start is over; only who waits for one keeps its event.
        self.exec_starts: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.probe_id = ""  # of the last probe of its health, which is one of its execs
        self.holds = 0  # commits that need it to stand still
        self.is_gone = False
        self.is_torn_down = False  # its last run has left nothing, as far as this engine saw it end
        self.stops_under_way = 0  # how many ask it to stop and wait for its end
        self.retry: asyncio.Task[object] | None = None  # a restart of the engine's that waits
        self.restart_delay_ns = 0  # before the last of these
        self.restarts_under_way = 0  # how many are between their stop and their start

    @property
    def id(self) -> ContainerId:
        return self.container.id

    @property
    def state(self) -> State:
        return self.container.state

    def drop_queued(self) -> None:
        """Hang up on the clients that wait for a start."""
        for attachment in self.queued:
            with contextlib.suppress(OSError):
                os.close(attachment.fd)
        self.queued.clear()

    @property
    def is_connected(self) -> bool:
        """Whether there is a monitor to speak with; a container may run without (see adoption)."""
        return self.task is not None and self.task.is_connected


class Store:
    """Thread-bound to the event loop; only the writes cross to disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._containers = database.table("container")
        self._execs = database.table("exec")
        self._handles: dict[str, Handle] = {}
        self._by_name: dict[str, Handle] = {}
        self._by_exec: dict[str, Handle] = {}
        self._unreadable: dict[str, str] = {}  # the names by the ids
        self._exec_ends: dict[str, float] = {}  # when those that ended did, as far as is known here

    async def load(self) -> None:
        """Read all rows.

        Of a container whose row cannot be read every image and volume counts as used, and what runs
        of it goes on. It can only be removed, by force.
        """
        containers, self._unreadable, execs = await offload.disk(self._read)
        for container in containers:
            self._remember(Handle(container))
        orphans: list[str] = []
        for exec in execs:
            handle = self._handles.get(exec.container_id)
            if handle is not None:
                self.remember_exec(handle, exec)
            elif exec.container_id not in self._unreadable:
                orphans.append(exec.id)
        if orphans:
            await offload.disk(self._delete_exec_rows, orphans)

    def _read(self) -> tuple[list[Container], dict[str, str], list[Exec]]:
        containers, unreadable = rows.read(self._containers, _decode_container)
        names = {key: self._containers.name_of(key) or "" for key in unreadable}
        execs, _ = rows.read(self._execs, _decode_exec)
        return list(containers.values()), names, list(execs.values())

    # Finding

    def find(self, ref: str) -> Handle:
        """By id, name (also "holder/alias" of a link) or unambiguous beginning of an id.

        Raises NoSuchContainer, of one whose row cannot be read UnreadableContainer.
        """
        if not ref:
            raise InvalidParameter('invalid name or ID supplied: ""')
        name = ref.removeprefix("/")
        handle = self._handles.get(ref) or self._by_name.get(name) or self._linked(name)
        if handle is not None:
            return handle
        matching = ids.matches(ref, self._handles)
        if len(matching) > 1:
            raise AmbiguousId(ref)
        if not matching:
            unreadable = self._find_unreadable(ref)
            raise UnreadableContainer(ref, unreadable) if unreadable else NoSuchContainer(ref)
        return self._handles[matching[0]]

    def _find_unreadable(self, ref: str) -> str | None:
        """The id of the one container that `ref` names and whose row cannot be read."""
        name = ref.removeprefix("/")
        exact = [key for key, own in self._unreadable.items() if key == ref or own == name]
        found = exact or ids.matches(ref, self._unreadable)
        return found[0] if len(found) == 1 else None

    def _linked(self, name: str) -> Handle | None:
        holder, slash, alias = name.partition("/")
        handle = self._by_name.get(holder) if slash else None
        for link in handle.container.links if handle is not None else ():
            if link.alias == alias:
                return self._handles.get(link.container_id)
        return None

    def get(self, container_id: str) -> Handle | None:
        return self._handles.get(container_id)

    def has_row(self, container_id: str) -> bool:
        """Also true of one that cannot be read, whose files and volumes are to stay."""
        return container_id in self._handles or container_id in self._unreadable

    def unreadable_name(self, container_id: str) -> str:
        return self._unreadable.get(container_id, "")

    def unreadable(self) -> tuple[str, ...]:
        """The ids of containers of which nothing more than that is known."""
        return tuple(sorted(self._unreadable))

    def named(self, name: str) -> Handle | None:
        return self._by_name.get(name)

    def all(self) -> list[Handle]:
        return list(self._handles.values())

    def __len__(self) -> int:
        return len(self._handles)

    # Writing

    def insert_row(self, container: Container) -> None:
        """Take name and id on disk, atomically; touches the disk. Raises ContainerNameInUse."""
        try:
            self._containers.insert(container.id, _encode(container), name=container.name)
        except NameTaken as exc:
            raise ContainerNameInUse(container.name, exc.holder) from exc

    def delete_row(self, container_id: str) -> None:
        """Take back a row that `insert_row` wrote and nobody believes in; touches the disk."""
        self._containers.delete(container_id)

    def add(self, container: Container) -> Handle:
        """Believe in a row that `insert_row` wrote."""
        handle = Handle(container)
        self._remember(handle)
        return handle

    async def save(self, handle: Handle, container: Container) -> None:
        """Write the row, then believe it; the lock is held by the caller.

        Raises ContainerNameInUse for a name that is taken, NoSuchContainer where it is gone.
        """
        if handle.is_gone:
            raise NoSuchContainer(handle.id)
        try:
            await offload.disk(
                self._containers.put, container.id, _encode(container), name=container.name
            )
        except NameTaken as exc:
            raise ContainerNameInUse(container.name, exc.holder) from exc
        self._forget_name(handle)
        handle.container = container
        self._by_name[container.name] = handle

    async def note(self, handle: Handle, container: Container) -> bool:
        """As `save`, of what has happened whether or not it can be written; False if it was not."""
        if handle.is_gone:
            return False
        try:
            await self.save(handle, container)
        except Exception:
            log.exception("what happened to container %s could not be written", container.id)
            handle.container = container
            return False
        return True

    def believe(self, handle: Handle, container: Container) -> None:
        """Of what others remember too: the row has it with its next change."""
        if not handle.is_gone:
            handle.container = container

    @contextlib.asynccontextmanager
    async def change(
        self, handle: Handle, during: Container, after: Callable[[], Container]
    ) -> AsyncGenerator[None]:
        """Around what is done to what runs: the row says so first, and then that it is done.

        As before where it fails. Where the last row cannot be written, or the engine is cancelled
        or ends on the way, `during` is what the next engine finds: it has to have a mark that this
        one's `settle` knows, and what `after` gives, which is asked when it is done, none.
        """
        before = handle.container
        if during != before:
            await self.save(handle, during)
        try:
            yield
        except Exception:
            if handle.container is not before:
                await self.note(handle, before)
            raise
        await self.note(handle, after())

    async def save_state(self, handle: Handle, state: State) -> None:
        await self.save(handle, msgspec.structs.replace(handle.container, state=state))

    async def delete(self, handle: Handle) -> None:
        """Remove the row with its execs, then the memory of it."""
        await offload.disk(self._delete_rows, handle.id, tuple(handle.execs))
        self._handles.pop(handle.id, None)
        self._forget_name(handle)
        for exec_id in handle.execs:
            self._forget_exec(exec_id)
        handle.is_gone = True

    async def delete_unreadable(self, container_id: str) -> bool:
        """Remove a row that cannot be read, with its execs; whether it was there still."""
        await offload.disk(self._delete_rows_of_unreadable, container_id)
        return self._unreadable.pop(container_id, None) is not None

    def _delete_rows(self, container_id: str, exec_ids: Iterable[str]) -> None:
        execs = [(self._execs, exec_id) for exec_id in exec_ids]
        self._database.delete([(self._containers, container_id), *execs])

    def _delete_rows_of_unreadable(self, container_id: str) -> None:
        execs, _ = rows.read(self._execs, _decode_exec)
        self._delete_rows(
            container_id, [e.id for e in execs.values() if e.container_id == container_id]
        )

    def _remember(self, handle: Handle) -> None:
        self._handles[handle.id] = handle
        self._by_name[handle.container.name] = handle

    def _forget_name(self, handle: Handle) -> None:
        """Once the row let go of it, another container may have taken the name."""
        name = handle.container.name
        if self._by_name.get(name) is handle:
            del self._by_name[name]

    # Execs

    def find_exec(self, ref: str) -> tuple[Handle, Exec]:
        handle = self._by_exec.get(ref)
        if handle is None:
            raise NoSuchExec(ref)
        return handle, handle.execs[ref]

    async def save_exec(self, handle: Handle, exec: Exec) -> None:
        """The lock is held by the caller, so that no row outlives its container's."""
        if handle.is_gone:
            return
        await offload.disk(self._execs.put, exec.id, _encode(exec))
        self.remember_exec(handle, exec)

    async def note_exec(self, handle: Handle, exec: Exec) -> None:
        """As `save_exec`, of what has happened whether or not it can be written.

        A full disk must not leave anyone waiting, or deny what runs.
        """
        try:
            await self.save_exec(handle, exec)
        except Exception:
            log.exception("exec %s could not be written", exec.id)
            if not handle.is_gone:
                self.remember_exec(handle, exec)

    def remember_exec(self, handle: Handle, exec: Exec) -> None:
        handle.execs[exec.id] = exec
        self._by_exec[exec.id] = handle
        if exec.exit_code is not None:
            self._exec_ends.setdefault(exec.id, time.monotonic())

    def remember_probe(self, handle: Handle, exec: Exec) -> None:
        """In the place of the last one; these have no rows."""
        handle.execs.pop(handle.probe_id, None)
        self._forget_exec(handle.probe_id)
        handle.probe_id = exec.id
        self.remember_exec(handle, exec)

    async def forget_execs(self) -> None:
        """Forget the execs that ended long enough ago, however they did."""
        limit = time.monotonic() - EXEC_KEPT_S
        doomed = [exec_id for exec_id, at in self._exec_ends.items() if at <= limit]
        if not doomed:
            return
        await offload.disk(self._delete_exec_rows, doomed)
        for exec_id in doomed:
            handle = self._by_exec.get(exec_id)
            if handle is not None:
                handle.execs.pop(exec_id, None)
            self._forget_exec(exec_id)

    def _forget_exec(self, exec_id: str) -> None:
        self._by_exec.pop(exec_id, None)
        self._exec_ends.pop(exec_id, None)

    def _delete_exec_rows(self, exec_ids: Iterable[str]) -> None:
        self._database.delete((self._execs, exec_id) for exec_id in exec_ids)
