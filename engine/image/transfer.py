"""Layers on their way from a registry into the snapshots, each once however many pulls want it.

    download ⇒ verify ⇒ unpack ⇒ (the layer below is there) ⇒ commit

A transfer is named by the chain id it will make. It lives as long as a pull holds it: the last to
let go ends it, and what it had so far is removed. Unpacking needs no parent, so the layers of an
image are unpacked side by side; only the commit waits for the layer below.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine import ids, offload
from engine.errors import EngineError, WharfError
from engine.image.joint import Joint
from engine.image.remote import RegistrationFailed, RootFSMismatch
from engine.linux import oserror
from engine.oci import digest as digests
from engine.oci.digest import next_chain_id
from engine.registry.fetch import REPORT_EVERY_S, Fetch, Policy, to_the_end
from engine.storage.layer import DiffIdMismatch

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import BinaryIO

    from engine.image.joint import Listener
    from engine.oci.descriptor import Descriptor
    from engine.oci.digest import ChainId, DiffId, Digest
    from engine.registry.client import Repository
    from engine.storage.content import Content, Ingest
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer, Snapshots, StagedLayer

FIRST_REPORT_BYTES = 32 * 1024
"""A look at the first bytes, to tell the compression, is not worth a line."""


class Transfer(Joint["Layer"]):
    """One layer, which `lease` holds until nobody waits. `brought`: the blob that became it."""

    def __init__(self, chain_id: ChainId, display_id: str, lease: Lease) -> None:
        super().__init__(display_id)
        self.chain_id = chain_id
        self.lease = lease
        self.brought: Digest | None = None


class Transfers:
    """All transfers of one engine; `most_downloads` of them download at a time."""

    def __init__(
        self, content: Content, snapshots: Snapshots, *, most_downloads: int, policy: Policy
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._policy = policy
        self._slots = asyncio.Semaphore(most_downloads)
        self._running: dict[ChainId, Transfer] = {}

    async def close(self) -> None:
        """End all that is under way."""
        running = [t.task for t in self._running.values() if t.task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def join(
        self,
        repository: Repository,
        descriptor: Descriptor,
        diff_id: DiffId,
        parent: Transfer | ChainId | None,
        listener: Listener,
        *,
        is_repeated: bool = False,
    ) -> Transfer:
        """Begin to bring the layer here, or go along with who has begun.

        `is_repeated`: the same layer is further down the stack, so nothing is downloaded for it.
        """
        below = parent.chain_id if isinstance(parent, Transfer) else parent
        chain_id = next_chain_id(below, diff_id)
        transfer = self._running.get(chain_id)
        if transfer is None:
            display_id = ids.short(digests.encoded(descriptor.digest))
            transfer = Transfer(chain_id, display_id, self._snapshots.lease())
            self._running[chain_id] = transfer
            work = _Work(
                self._content,
                self._snapshots,
                repository,
                descriptor,
                diff_id,
                transfer,
                policy=self._policy,
                slots=self._slots,
            )
            transfer.task = asyncio.get_running_loop().create_task(
                work.run(parent, is_repeated=is_repeated), name=f"layer {display_id}"
            )
            transfer.task.add_done_callback(lambda _: self._forget(transfer))
        transfer.join(listener)
        return transfer

    async def leave(self, transfer: Transfer, listener: Listener) -> None:
        """Lose interest; the last to do so ends the transfer and waits until it has ended."""
        if not transfer.leave(listener):
            return
        self._forget(transfer)
        await transfer.end()
        transfer.lease.close()

    def _forget(self, transfer: Transfer) -> None:
        """Nobody joins it any more: a layer that is there is found, a failure is not shared."""
        if self._running.get(transfer.chain_id) is transfer:
            del self._running[transfer.chain_id]


class _Work:
    """What one transfer does, in order."""

    def __init__(
        self,
        content: Content,
        snapshots: Snapshots,
        repository: Repository,
        descriptor: Descriptor,
        diff_id: DiffId,
        transfer: Transfer,
        *,
        policy: Policy,
        slots: asyncio.Semaphore,
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._repository = repository
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._transfer = transfer
        self._policy = policy
        self._slots = slots
        self._staged: StagedLayer | None = None

    async def run(self, parent: Transfer | ChainId | None, *, is_repeated: bool) -> Layer:
        """The committed layer. On failure or cancellation nothing is left."""
        if is_repeated or await offload.disk(self._is_unpacked_elsewhere):
            adopted = await self._adopt(await _chain_id_of(parent))
            if adopted is not None:
                if not is_repeated:
                    self._transfer.report("Already exists")
                return adopted
        try:
            staged = await self._stage(await self._download())
            layer = await self._commit(staged, await _chain_id_of(parent))
            self._transfer.brought = self._descriptor.digest
        finally:
            # A commit leaves nothing to discard.
            if self._staged is not None:
                await to_the_end(offload.disk(self._staged.discard))
        self._transfer.report("Pull complete")
        return layer

    def _is_unpacked_elsewhere(self) -> bool:
        return any(
            layer.diff_id == self._diff_id and layer.is_portable
            for layer in self._snapshots.layers()
        )

    async def _adopt(self, below: ChainId | None) -> Layer | None:
        lease = self._transfer.lease
        adopt = offload.disk(self._snapshots.adopt_layer, self._diff_id, below, lease)
        with _registering():
            return await to_the_end(adopt)

    async def _download(self) -> Ingest:
        """The blob, verified, in a file that only the ingest knows."""
        made: list[Ingest] = []

        def open_sink() -> Ingest:
            made.append(self._content.ingest(digests.parse(self._descriptor.digest)))
            return made[-1]

        if self._slots.locked():
            self._transfer.report("Waiting")
        async with self._slots:
            fetch = Fetch(
                self._repository,
                self._descriptor,
                open_sink,
                policy=self._policy,
                report=self._transfer.report,
            )
            try:
                await fetch.run()
            except OSError as exc:
                raise EngineError(
                    f"write {self._content.ingest_root}: {oserror.reason(exc)}"
                ) from exc
        return made[-1]

    async def _stage(self, ingest: Ingest) -> StagedLayer:
        """Unpack the blob into a folder of its own and forget the blob."""
        source = _Source(ingest.path, self._transfer, self._descriptor.size)
        unpacking = asyncio.ensure_future(offload.unpack(self._unpack, source))
        try:
            with _registering():
                return await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            source.is_cancelled.set()
            await asyncio.wait((unpacking,))
            unpacking.exception()
            raise
        finally:
            await to_the_end(offload.disk(ingest.abort))

    def _unpack(self, source: _Source) -> StagedLayer:
        with source:
            self._staged = self._snapshots.stage_layer(
                source, diff_id=self._diff_id, is_cancelled=source.is_cancelled.is_set
            )
        return self._staged

    async def _commit(self, staged: StagedLayer, below: ChainId | None) -> Layer:
        lease = self._transfer.lease
        with _registering():
            return await to_the_end(
                offload.disk(self._snapshots.commit_layer, staged, below, lease)
            )


class _Source:
    """The blob as the unpacking thread reads it; reports from there how far it is."""

    def __init__(self, path: str, transfer: Transfer, size: int) -> None:
        self.is_cancelled = threading.Event()
        self._path = path
        self._transfer = transfer
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._file: BinaryIO | None = None
        self._read = 0
        self._next = 0.0

    def __enter__(self) -> _Source:
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, n: int, /) -> bytes:
        assert self._file is not None
        data = self._file.read(n)
        self._read += len(data)
        now = time.monotonic()
        is_due = now >= self._next and self._read >= FIRST_REPORT_BYTES
        if data and (is_due or self._read == self._size):
            self._next = now + REPORT_EVERY_S
            report = self._transfer.report
            self._loop.call_soon_threadsafe(report, "Extracting", self._read, self._size)
        return data


@contextmanager
def _registering() -> Generator[None]:
    """What goes wrong while a layer is made of a blob, in dockerd's words."""
    try:
        yield
    except DiffIdMismatch as exc:
        raise RootFSMismatch from exc
    except OSError as exc:
        raise RegistrationFailed(oserror.reason(exc)) from exc
    except WharfError as exc:
        raise RegistrationFailed(str(exc)) from exc


async def _chain_id_of(parent: Transfer | ChainId | None) -> ChainId | None:
    """The chain id below, once it is there; raises what ended the layer below."""
    if isinstance(parent, Transfer):
        return (await parent.result()).chain_id
    return parent
