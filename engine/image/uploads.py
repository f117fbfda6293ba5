"""Layers on their way to a registry, each once however many pushes want it there.

    is a known blob of it there? ⇒ may one be mounted from a neighbour? ⇒ tar, gzip, send

An upload is named by who sends what where. The last push to let go of it ends it; what the
registry had of it so far it is told to forget. How often is asked before sending begins is
dockerd's measure: the larger the layer, the more it is worth (moby distribution/push_v2.go).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from engine import ids, offload
from engine.errors import WharfError
from engine.image.failure import of_disk
from engine.image.joint import Joint, Joints
from engine.image.packing import Packed
from engine.image.sources import Source
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci import reference as references
from engine.registry import failure, retry, upload
from engine.storage.recipe import DamagedLayer
from engine.storage.snapshots import LayerMissing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.image.joint import Listener
    from engine.image.sources import Sources
    from engine.oci.digest import Digest
    from engine.oci.reference import Reference
    from engine.registry.auth import RegistryAuth
    from engine.registry.client import Repository
    from engine.registry.retry import Policy
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer, Snapshots

log = logging.getLogger(__name__)

SMALL_BYTES = 100 * 1024
MIDDLING_BYTES = 10 << 20


class UnreadableLayer(failure.Final):
    """What is here of the layer cannot be sent."""


class _Patience(NamedTuple):
    """How many repositories to mount from, how many blobs to ask for, and whether also for those
    that were only seen elsewhere.
    """

    mounts: int
    checks: int
    asks_for_all: bool


def _patience(size_bytes: int) -> _Patience:
    if size_bytes > MIDDLING_BYTES:
        return _Patience(4, 3, asks_for_all=True)
    if size_bytes > SMALL_BYTES:
        return _Patience(3, 1, asks_for_all=False)
    return _Patience(1, 1, asks_for_all=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a push goes, and as whom. `repository` is for this push alone."""

    ref: Reference
    auth: RegistryAuth | None
    repository: Repository

    @property
    def name(self) -> str:
        """The repository's full name."""
        return self.ref.name

    @property
    def key(self) -> tuple[str, str, RegistryAuth | None]:
        return self.repository.endpoint.url, self.name, self.auth


class Upload(Joint[Source]):
    """One layer. `task` ends with the blob that it is in the target."""


class Uploads:
    """All uploads of one engine; `most_uploads` of them at a time."""

    def __init__(
        self, snapshots: Snapshots, sources: Sources, *, most_uploads: int, policy: Policy
    ) -> None:
        self._snapshots = snapshots
        self._sources = sources
        self._policy = policy
        self._slots = asyncio.Semaphore(most_uploads)
        self._running: Joints[Upload] = Joints()

    async def close(self) -> None:
        """End all that is under way."""
        await self._running.close()

    def join(self, target: Target, layer: Layer, listener: Listener) -> Upload:
        """Begin to send the layer, or go along with who has begun."""
        key = (target.key, layer.diff_id)
        running = self._running.get(key)
        if running is None:
            running = Upload(key, ids.short(digests.encoded(layer.diff_id)))
            work = _Work(self._snapshots, self._sources, target, layer, running)
            running.begin(work.run(self._slots, self._policy), "push layer")
            self._running.add(running)
        running.join(listener)
        return running

    async def leave(self, running: Upload, listener: Listener) -> None:
        """Lose interest; the last to do so ends the upload and waits until it has ended."""
        await self._running.leave(running, listener)


class _Work:
    """What one upload does, in order."""

    def __init__(
        self, snapshots: Snapshots, sources: Sources, target: Target, layer: Layer, running: Upload
    ) -> None:
        self._snapshots = snapshots
        self._sources = sources
        self._target = target
        self._repository = target.repository
        self._layer = layer
        self._report = running.report
        self._patience = _patience(layer.size_bytes)
        self._asked: set[Digest] = set()
        self._found: Source | None = None

    async def run(self, slots: asyncio.Semaphore, policy: Policy) -> Source:
        with self._snapshots.lease() as lease:
            await offload.to_the_end(offload.disk(self._hold, lease))
            if slots.locked():
                self._report("Waiting")
            async with slots:
                await retry.patiently(self._attempt, policy=policy, report=self._report)
        assert self._found is not None
        return self._found

    def _hold(self, lease: Lease) -> None:
        """A push that began this may leave while others wait for it."""
        if self._snapshots.find_layer(self._layer.chain_id, lease) is None:
            raise LayerMissing(self._layer.chain_id)

    async def _attempt(self) -> None:
        known = await offload.disk(self._sources.of, self._layer.diff_id)
        ranked = rank(known, self._target.ref)
        if await self._is_there(ranked, 1):
            return
        session = await self._mount(ranked)
        try:
            if self._found is not None:
                return
            more = [s for s in ranked if self._patience.asks_for_all or self._is_own(s)]
            if await self._is_there(more, self._patience.checks - len(self._asked)):
                return
            if session is None:
                session = await upload.begin(self._repository)
            assert session is not None
            await self._send(session)
            session = None
        finally:
            if session is not None:
                await session.cancel()

    def _is_own(self, source: Source) -> bool:
        return source.repository == self._target.name

    # What is there already

    async def _is_there(self, ranked: Iterable[Source], most: int) -> bool:
        """Whether the target has one of the blobs; at most so many are asked for."""
        for source in ranked:
            if most <= 0:
                break
            if source.digest in self._asked:
                continue
            most -= 1
            self._asked.add(source.digest)
            if await self._has(source):
                self._report("Layer already exists")
                await self._keep(source)
                return True
        return False

    async def _has(self, source: Source) -> bool:
        try:
            size = await upload.size_of(self._repository, source.digest)
        except WharfError as exc:
            # If it matters, sending will say so too.
            log.debug("cannot ask for %s in %s: %s", source.digest, self._target.name, exc)
            self._asked.discard(source.digest)
            return False
        if size is None and self._is_own(source):
            await offload.disk(self._sources.forget, self._layer.diff_id, source)
        return size in (source.size, -1)

    async def _keep(self, source: Source) -> None:
        """The target has this blob now; remembered for the next push."""
        found = Source(
            digest=source.digest,
            size=source.size,
            media_type=source.media_type,
            repository=self._target.name,
        )
        await offload.to_the_end(offload.disk(self._sources.add, self._layer.diff_id, found))
        self._found = found

    # What a neighbour has

    async def _mount(self, ranked: Sequence[Source]) -> upload.Session | None:
        """A session to go on with, if one came of asking to mount; `_found` if it succeeded."""
        session: upload.Session | None = None
        try:
            for source in mountable(ranked, self._target.ref)[: self._patience.mounts]:
                begun = await self._mount_one(source)
                if self._found is not None:
                    return session
                if begun is not None:
                    if session is not None:
                        await session.cancel()
                    session = begun
        except BaseException:
            if session is not None:
                await session.cancel()
            raise
        return session

    async def _mount_one(self, source: Source) -> upload.Session | None:
        path = references.parse(source.repository).path
        mount = upload.Mount(digest=source.digest, repository=path)
        try:
            session = await upload.begin(self._repository, mount)
        except WharfError as exc:
            log.info("cannot mount %s from %s: %s", source.digest, source.repository, exc)
            return None
        if session is not None:
            return session
        self._report(f"Mounted from {path}")
        await self._keep(source)
        return None

    # What has to be sent

    async def _send(self, session: upload.Session) -> None:
        def report(read_bytes: int) -> None:
            self._report("Pushing", read_bytes, self._layer.size_bytes)

        tar = self._snapshots.layer_tar(self._layer.chain_id)
        packed = Packed(tar, self._layer.diff_id, report)
        try:
            await session.send(packed.__aiter__())
            await session.commit(packed.digest)
        except DamagedLayer as exc:
            raise UnreadableLayer(str(exc)) from exc
        except OSError as exc:
            raise UnreadableLayer(str(of_disk(exc))) from exc
        finally:
            await packed.close()
        self._report("Pushed")
        await self._keep(
            Source(
                digest=packed.digest,
                size=packed.size,
                media_type=media_type.DOCKER_LAYER_GZIP,
                repository=self._target.name,
            )
        )


def rank(known: Iterable[Source], ref: Reference) -> list[Source]:
    """The likeliest first: of repositories whose names begin most like the target's, the newest."""
    wanted = [ref.domain, *ref.path.split("/")]

    def alike(source: Source) -> int:
        parts = source.repository.split("/")
        return next(
            (n for n, (a, b) in enumerate(zip(parts, wanted, strict=False)) if a != b),
            min(len(parts), len(wanted)),
        )

    newest_first = tuple(known)[::-1]
    return sorted(newest_first, key=alike, reverse=True)


def mountable(ranked: Iterable[Source], ref: Reference) -> list[Source]:
    """Those that the target's registry has in another repository."""
    return [
        source
        for source in ranked
        if source.repository != ref.name and source.repository.startswith(f"{ref.domain}/")
    ]
