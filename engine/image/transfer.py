"""Layers on their way from a registry into the snapshots, each once however many pulls want it.

    download ⇒ verify ⇒ ┐
       └ ⇒ unpack  ⇒ ⇒ ┴ (the layer below is there) ⇒ commit

A transfer is named by the chain id it will make. It lives as long as a pull holds it: the last to
let go ends it, and what it had so far is removed. Unpacking needs no parent, so the layers of an
image are unpacked side by side; only the commit waits for the layer below.

A layer is unpacked behind its download, from the file that the download writes: the network never
waits for the disk, nor memory for either. Only so many are at a time (`offload.ARRIVALS`, threads
of their own, for they wait for the network); a layer that finds no thread free is unpacked when it
is whole. What is unpacked early is a staging that nobody sees. It becomes a layer
only if the blob had the digest of the manifest and the tar that of the config; when a download
begins anew, so does the unpacking. A client hears of it as from dockerd: Extracting comes after
Download complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from engine import ids, offload
from engine.errors import EngineError, WharfError
from engine.image.joint import Joint, Joints
from engine.image.remote import RegistrationFailed, RootFSMismatch
from engine.linux import oserror
from engine.oci import digest as digests
from engine.oci.digest import next_chain_id
from engine.registry.fetch import Fetch
from engine.registry.meter import REPORT_EVERY_S
from engine.storage.content import IngestAborted
from engine.storage.layer import DiffIdMismatch

if TYPE_CHECKING:
    from collections.abc import Generator

    from engine.image.joint import Listener
    from engine.oci.descriptor import Descriptor
    from engine.oci.digest import ChainId, DiffId, Digest
    from engine.registry.client import Repository
    from engine.registry.retry import Policy
    from engine.storage.content import Content, Follower, Ingest
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer, Snapshots, StagedLayer

FIRST_REPORT_BYTES = 32 * 1024
"""A look at the first bytes, to tell the compression, is not worth a line."""


class Transfer(Joint["Layer"]):
    """One layer, which `lease` holds until nobody waits. `brought`: the blob that became it."""

    def __init__(
        self, chain_id: ChainId, display_id: str, lease: Lease, parent: Transfer | ChainId | None
    ) -> None:
        super().__init__(chain_id, display_id)
        self.chain_id = chain_id
        self.lease = lease
        self.parent = parent
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
        self._arrivals = asyncio.Semaphore(offload.ARRIVALS)
        self._running: Joints[Transfer] = Joints()

    async def close(self) -> None:
        """End all that is under way."""
        await self._running.close()

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
        if transfer is None or not self._may_succeed(transfer):
            display_id = ids.short(digests.encoded(descriptor.digest))
            transfer = Transfer(chain_id, display_id, self._snapshots.lease(), parent)
            work = _Work(
                self._content,
                self._snapshots,
                repository,
                descriptor,
                diff_id,
                transfer,
                policy=self._policy,
                slots=self._slots,
                arrivals=self._arrivals,
            )
            transfer.begin(work.run(parent, is_repeated=is_repeated), "layer")
            self._running.add(transfer)
        transfer.join(listener)
        return transfer

    async def leave(self, transfer: Transfer, listener: Listener) -> None:
        """Lose interest; the last to do so ends the transfer and waits until it has ended."""
        if await self._running.leave(transfer, listener):
            transfer.lease.close()

    def _may_succeed(self, transfer: Transfer) -> bool:
        """Not upon a layer whose transfer has failed, or is being ended: whoever waits for that one
        leaves this one as well, but those who come now have begun the lower one anew.
        """
        below = transfer.parent
        if not isinstance(below, Transfer) or self._running.has(below):
            return True
        task = below.task
        return task is not None and task.done() and not task.cancelled() and not task.exception()


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
        arrivals: asyncio.Semaphore,
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._repository = repository
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._transfer = transfer
        self._policy = policy
        self._slots = slots
        self._arrivals = arrivals
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
            staged = await self._bring()
            layer = await self._commit(staged, await _chain_id_of(parent))
            self._transfer.brought = self._descriptor.digest
        finally:
            # A commit leaves nothing to discard.
            if self._staged is not None:
                await offload.to_the_end(offload.disk(self._staged.discard))
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
            return await offload.to_the_end(adopt)

    async def _bring(self) -> StagedLayer:
        """The blob, downloaded and verified, unpacked into a folder of its own, and forgotten."""
        digest = digests.parse(self._descriptor.digest)
        arrival = _Arrival(self._content, digest, self._descriptor.size, self._transfer)
        if self._slots.locked():
            self._transfer.report("Waiting")
        async with contextlib.AsyncExitStack() as stack:
            async with self._slots:
                unpacking = await self._unpack_early(arrival, stack)
                stack.push_async_callback(self._end, arrival, unpacking)
                await self._download(arrival, unpacking)
            if unpacking is None:
                unpacking = asyncio.ensure_future(offload.unpack(self._unpack, arrival))
                stack.push_async_callback(self._end, arrival, unpacking)
            with _registering():
                return await asyncio.shield(unpacking)

    async def _unpack_early(
        self, arrival: _Arrival, stack: contextlib.AsyncExitStack
    ) -> asyncio.Future[StagedLayer] | None:
        """Begin to unpack what is about to come, if there is a thread for it."""
        if self._arrivals.locked():
            return None
        await stack.enter_async_context(self._arrivals)
        return asyncio.ensure_future(offload.arrival(self._unpack, arrival))

    async def _download(
        self, arrival: _Arrival, unpacking: asyncio.Future[StagedLayer] | None
    ) -> None:
        """Bring the whole blob here; not to its end if the disk refuses what comes of it."""
        fetching = asyncio.ensure_future(self._fetch(arrival))

        def stop(unpacking: asyncio.Future[StagedLayer]) -> None:
            if unpacking.exception() is not None:
                fetching.cancel()

        if unpacking is not None:
            unpacking.add_done_callback(stop)
        try:
            await fetching
        except asyncio.CancelledError:
            task = asyncio.current_task()
            is_stopped = unpacking is not None and unpacking.done()
            if not is_stopped or task is None or task.cancelling():
                raise
            return
        arrival.complete()

    async def _fetch(self, arrival: _Arrival) -> None:
        fetch = Fetch(
            self._repository,
            self._descriptor,
            arrival.open_sink,
            policy=self._policy,
            report=self._transfer.report,
        )
        try:
            await fetch.run()
        except OSError as exc:
            raise EngineError(f"write {self._content.ingest_root}: {oserror.reason(exc)}") from exc

    async def _end(self, arrival: _Arrival, unpacking: asyncio.Future[StagedLayer] | None) -> None:
        """Let the thread end, whatever it waits for, and remove the blob."""
        await offload.to_the_end(offload.disk(arrival.close))
        if unpacking is not None:
            await offload.to_the_end(offload.ended(unpacking))

    def _unpack(self, arrival: _Arrival) -> StagedLayer:
        """Unpack the blob, each time that its download begins anew."""
        ingest = None
        while True:
            ingest = arrival.after(ingest)
            with contextlib.suppress(IngestAborted):
                self._staged = self._unpack_one(arrival, ingest)
                return self._staged

    def _unpack_one(self, arrival: _Arrival, ingest: Ingest) -> StagedLayer:
        with ingest.follow() as follower:
            try:
                staged = self._snapshots.stage_layer(
                    _Source(follower, arrival),
                    diff_id=self._diff_id,
                    is_cancelled=arrival.is_closed,
                )
            except WharfError:
                # Of bytes that are not the blob's no complaint is worth hearing.
                ingest.wait_until_verified()
                raise
        try:
            ingest.wait_until_verified()
        except IngestAborted:
            staged.discard()
            raise
        return staged

    async def _commit(self, staged: StagedLayer, below: ChainId | None) -> Layer:
        lease = self._transfer.lease
        with _registering():
            return await offload.to_the_end(
                offload.disk(self._snapshots.commit_layer, staged, below, lease)
            )


class _Arrival:
    """One layer's blob on its way here: ingests one after the other, of which the last counts.

    The loop, the threads that write and the thread that unpacks all know it.
    """

    def __init__(self, content: Content, digest: Digest, size: int, transfer: Transfer) -> None:
        self._content = content
        self._digest = digest
        self._size = size
        self._transfer = transfer
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._ingest: Ingest | None = None
        self._is_closed = False
        self._is_complete = False
        self._unpacked_bytes = 0
        self._next = 0.0

    def open_sink(self) -> Ingest:
        """A new beginning; from any thread."""
        ingest = self._content.ingest(self._digest)
        with self._changed:
            self._ingest = ingest
            self._changed.notify_all()
        return ingest

    def after(self, last: Ingest | None) -> Ingest:
        """Wait for an ingest newer than the last; raises InterruptedError if none is to come."""
        with self._changed:
            while not self._is_closed:
                if self._ingest is not None and self._ingest is not last:
                    self._unpacked_bytes = 0
                    return self._ingest
                self._changed.wait()
        raise InterruptedError("the download was given up")

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """No more is to come, and what came is not needed any more; removes the blob."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._ingest is not None:
            self._ingest.abort()

    # How far the unpacking is

    def complete(self) -> None:
        """From now on clients hear of the unpacking; on the loop."""
        self._is_complete = True
        if self._is_worth_a_line():
            self._report(self._unpacked_bytes)

    def count(self, read: int) -> None:
        """So many bytes more were taken by the thread that unpacks."""
        self._unpacked_bytes += read
        now = time.monotonic()
        if not self._is_complete or not self._is_worth_a_line():
            return
        if now >= self._next or self._unpacked_bytes == self._size:
            self._next = now + REPORT_EVERY_S
            self._loop.call_soon_threadsafe(self._report, self._unpacked_bytes)

    def _is_worth_a_line(self) -> bool:
        enough = min(FIRST_REPORT_BYTES, self._size)
        return self._unpacked_bytes >= enough > 0

    def _report(self, current: int) -> None:
        self._transfer.report("Extracting", current, self._size)


class _Source:
    """The blob as the unpacking thread reads it."""

    def __init__(self, follower: Follower, arrival: _Arrival) -> None:
        self._follower = follower
        self._arrival = arrival

    def read(self, n: int, /) -> bytes:
        data = self._follower.read(n)
        if data:
            self._arrival.count(len(data))
        return data


@contextlib.contextmanager
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
