"""The images of one engine: the verbs on them, each one hop to disk and one event afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from engine import offload
from engine.errors import InvalidParameter, NotFound, Unclassified
from engine.image import archive, failure, inspect
from engine.image import prune as pruning
from engine.image.catalog import Catalog, check_name
from engine.image.channel import Channel, with_progress
from engine.image.commit import Committer
from engine.image.importing import Importer
from engine.image.load import Loader
from engine.image.model import (
    Progress,
    Removed,
)
from engine.image.removal import Removal
from engine.image.sources import Sources
from engine.oci import digest as digests
from engine.oci import reference as references
from engine.oci.digest import ImageId
from engine.registry.meter import Meter
from engine.work import Work

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager

    from engine.events import EventBus
    from engine.image.commit import Origin
    from engine.image.model import (
        HistoryItem,
        Image,
        ImageQuery,
        ImageView,
        LayerUsage,
        Pruned,
        Summary,
    )
    from engine.image.pull import Pulled
    from engine.image.push import Pushed
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.registry.auth import RegistryAuth
    from engine.storage.content import Content
    from engine.storage.database import Database
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Snapshots, StagedLayer

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
"""Of an archive, given out at a time: one hop to disk each."""


class Download(Protocol):
    """A body on its way; `length` is -1 where nobody says."""

    url: str
    length: int

    def chunks(self) -> AsyncIterator[bytes]: ...


class Puller(Protocol):
    """What pulls; handed in by engine.py."""

    def pull(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]: ...


class Pusher(Protocol):
    """What pushes; handed in by engine.py."""

    def push(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]: ...


def _nobody(_: str) -> list[tuple[str, bool]]:
    return []


class Images:
    """All verbs on images. Who assembles the engine sets `users_of`, `users` (the same of all
    images at once), `puller` and `pusher`.
    """

    def __init__(
        self, database: Database, content: Content, snapshots: Snapshots, events: EventBus
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._events = events
        self._folder = os.path.join(os.path.dirname(snapshots.root), "tmp")
        self._work = Work()
        self._is_pruning = False
        self.catalog = Catalog(database, content, snapshots)
        self.users_of: Callable[[str], list[tuple[str, bool]]] = _nobody
        self.users: Callable[[], Mapping[str, list[tuple[str, bool]]]] = dict
        self.sources = Sources(database)
        self.puller: Puller | None = None
        self.pusher: Pusher | None = None

    # Reading

    def find(self, ref: str) -> Image | None:
        """The image that a name, an id or the beginning of one means.

        Raises InvalidReference.
        """
        return self.catalog.find(ref)

    def all(self) -> list[Image]:
        return self.catalog.all()

    async def get(self, ref: str, platform: Platform | None = None) -> Image:
        """As `find`; raises NoSuchImage, PlatformMismatch."""
        return self.catalog.get(ref, platform)

    async def list(self, query: ImageQuery) -> list[Summary]:
        return await offload.disk(
            inspect.summaries, self.catalog, self._snapshots, query, self.users()
        )

    async def inspect(self, ref: str, platform: Platform | None = None) -> ImageView:
        image = self.catalog.get(ref, platform)
        return await offload.disk(inspect.view, self.catalog, self._snapshots, image)

    async def history(self, ref: str, platform: Platform | None = None) -> Sequence[HistoryItem]:
        return inspect.history(self.catalog, self._snapshots, self.catalog.get(ref, platform))

    async def usage(self) -> Sequence[LayerUsage]:
        """Every layer kept, for df."""
        return inspect.usage(self.catalog, self._snapshots)

    # Names

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        """Give an image another name; one that means another image moves."""
        name = references.from_repo_and_tag(repo, tag)
        if name is None:
            raise InvalidParameter("invalid reference format")
        check_name(name)
        try:
            image = self.catalog.get(ref)
        except InvalidParameter as exc:
            raise NotFound(str(exc)) from exc  # what cannot be a name names nothing
        await self._work.do(self._tag(image.id, name), what="tag image")

    async def _tag(self, image_id: ImageId, name: Reference) -> None:
        await offload.disk(self.catalog.put, image_id, names=(name,), is_tagged_now=True)
        self.publish("tag", image_id, name.familiar)

    # Coming

    async def put(
        self,
        config: bytes,
        *,
        names: Sequence[Reference] = (),
        parent: ImageId | None = None,
        is_built_locally: bool = False,
        lease: Lease,
    ) -> Image:
        """Make an image visible whose layers are committed and held by the lease; no event."""

        def put() -> Image:
            image_id = ImageId(digests.of(config))
            lease.add(image_id)
            self._content.put(config)
            return self.catalog.put(
                image_id, names=names, parent=parent, is_built_locally=is_built_locally
            )

        return await offload.disk(put)

    async def pull(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Pull a name (see pull.py); what a pull cut short leaves is removed at once."""
        if self.puller is None:
            raise failure.NoPuller
        is_whole = has_failed = False
        try:
            async with aclosing(self.puller.pull(ref, auth=auth, platform=platform)) as steps:
                async for progress in steps:
                    has_failed = bool(progress.error)
                    yield progress
            is_whole = not has_failed
        finally:
            if not is_whole:
                await offload.to_the_end(self.sweep())

    async def load(
        self,
        chunks: AsyncIterator[bytes],
        *,
        quiet: bool = False,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Load an archive. Closing the iterator ends it and leaves only whole images."""
        loader = Loader(self.catalog, self._content, self._snapshots, self._folder, self._loaded)
        channel = Channel()
        work = loader.run(chunks, platform, channel, quiet)
        async with aclosing(with_progress(work, channel, "load images")) as steps:
            async for progress in steps:
                yield progress

    def _loaded(self, image_id: ImageId) -> None:
        self.publish("load", image_id, image_id)

    async def import_(
        self,
        chunks: AsyncIterator[bytes],
        ref: Reference | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Make an image of one layer out of a file system's tar."""
        importer = Importer(self.catalog, self._content, self._snapshots, self._folder)
        if ref is not None:
            check_name(ref)
        try:
            image_id = await importer.run(
                chunks, ref=ref, message=message, changes=changes, platform=platform
            )
        except BaseException:
            # The layer, where the image could not be written.
            await offload.to_the_end(self.sweep())
            raise
        if ref is not None:
            self.publish("tag", image_id, ref.familiar)
        self.publish("import", image_id, image_id)
        yield Progress(status=image_id)

    async def import_from(
        self,
        download: Download,
        ref: Reference | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """As `import_`, from a download that has begun; its failures come behind its first line."""
        yield Progress(status=f"Downloading from {download.url}")
        channel = Channel()
        work = self._import_from(download, channel, ref, message, changes, platform)
        async with aclosing(with_progress(work, channel, "import image")) as steps:
            async for progress in steps:
                yield progress

    async def _import_from(
        self,
        download: Download,
        channel: Channel,
        ref: Reference | None,
        message: str,
        changes: Sequence[str],
        platform: Platform | None,
    ) -> None:
        chunks = _counted(download, channel)
        async with aclosing(self.import_(chunks, ref, message, changes, platform)) as steps:
            async for progress in steps:
                channel.send(progress)

    async def commit(
        self,
        origin: Origin,
        ref: Reference | None,
        open_files: Callable[[], AbstractAsyncContextManager[Iterator[bytes]]],
    ) -> ImageId:
        """Make an image of a container's own files; `open_files` gives their tar while it is read.

        Raises ParentMissing, AmbiguousTag, DiskFailed, NoSpace, TooDeep, and what `open_files` does
        when it opens and when it closes; then nothing is left.
        """
        committer = Committer(self.catalog, self._content, self._snapshots)
        if ref is not None:
            check_name(ref)
        committer.parent(origin)
        staged: StagedLayer | None = None
        try:
            async with open_files() as files:
                staged = await committer.stage(files)
        except BaseException:
            if staged is not None:
                await offload.to_the_end(offload.disk(staged.discard))
            raise
        try:
            image_id = await committer.put(staged, origin, ref)
        except BaseException:
            await offload.to_the_end(self.sweep())
            raise
        self.publish("create", image_id, image_id)
        if ref is not None:
            self.publish("tag", image_id, ref.familiar)
        return image_id

    # Going

    async def push(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Push a name (see push.py)."""
        if self.pusher is None:
            raise failure.NoPuller
        async with aclosing(self.pusher.push(ref, auth=auth, platform=platform)) as steps:
            async for progress in steps:
                yield progress

    async def save(
        self, refs: Sequence[str], *, platform: Platform | None = None
    ) -> AsyncGenerator[bytes]:
        """The archive of the images; what can be refused is refused before the first piece."""
        try:
            selected = archive.select(self.catalog, refs, platform)
        except InvalidParameter as exc:
            raise Unclassified(str(exc)) from exc
        pieces = archive.save(self.catalog, self._snapshots, selected)
        try:
            first = await offload.to_the_end(offload.disk(_gather, pieces))
            for each in selected:
                self.publish("save", each.image.id, each.image.id)
            while first:
                yield first
                # A client that leaves waits for the piece under way: it cannot be closed before.
                first = await offload.to_the_end(offload.disk(_gather, pieces))
        finally:
            await offload.to_the_end(offload.disk(pieces.close))

    async def remove(
        self,
        ref: str,
        *,
        force: bool = False,
        prune: bool = True,
        platforms: Sequence[Platform] = (),
    ) -> Sequence[Removed]:
        """Take a name away, and the image with its last one. Raises ImageInUse, DeleteConflict."""
        if len(platforms) > 1:
            raise InvalidParameter("multiple platforms are not supported")
        if self.catalog.find(ref) is None and (given_up := await self._give_up(ref)):
            return [Removed(deleted=given_up)]
        image = self.catalog.get(ref, platforms[0] if platforms else None)
        return await self._work.do(
            self._remove(ref, image, force=force, prune=prune), what="remove image"
        )

    async def _remove(
        self, ref: str, image: Image, *, force: bool, prune: bool
    ) -> Sequence[Removed]:
        removal = Removal(self.catalog, self.users_of, self._publisher())
        await offload.disk(removal.run, ref, image, force=force, prune=prune)
        return removal.removed

    async def _give_up(self, ref: str) -> ImageId | None:
        """One that was damaged is out of sight, but not out of the way: nothing is swept for it."""
        given_up = await offload.disk(self.catalog.give_up, ref)
        if given_up is not None:
            await self.sweep()
        return given_up

    async def prune(self, filters: Mapping[str, tuple[str, ...]]) -> Pruned:
        """Remove images nobody wants. Raises PruneRunning, InvalidFilter."""
        if self._is_pruning:
            raise failure.PruneRunning
        pruning.check(filters)
        self._is_pruning = True
        return await self._work.do(self._prune(filters), what="prune images")

    async def _prune(self, filters: Mapping[str, tuple[str, ...]]) -> Pruned:
        try:
            pruned = await offload.disk(
                pruning.run,
                self.catalog,
                self._snapshots,
                filters,
                users_of=_remembered(self.users(), self.users_of),
                publish=self._publisher(),
            )
        finally:
            self._is_pruning = False
        self._events.publish("image", "prune", "", {"reclaimed": str(pruned.reclaimed_bytes)})
        return pruned

    async def sweep(self) -> None:
        """Remove layers and blobs that nothing names; at boot after all rows are read."""
        await offload.disk(self._sweep)
        self._work.spawn(offload.disk(self._snapshots.empty_trash), what="empty trash")

    def _sweep(self) -> None:
        self.catalog.sweep()
        self.sources.sweep(lambda: [layer.diff_id for layer in self._snapshots.layers()])

    # For pull and push (engine.image.pull.Local, engine.image.push.Local)

    def image_named(self, ref: Reference) -> ImageId | None:
        return self.catalog.of_reference(ref)

    def has_image(self, image_id: ImageId) -> bool:
        return self.catalog.by_id(image_id) is not None

    def put_pulled(self, pulled: Pulled) -> None:
        """Make a pulled image visible under its name and its repository digest."""
        self.catalog.put(
            pulled.image_id,
            names=() if pulled.ref.digest is not None else (pulled.ref,),
            digest_names=(pulled.ref.name_only().with_digest(pulled.digest),),
            documents=pulled.documents,
        )

    def named(self, name: Reference) -> Sequence[tuple[Reference, ImageId]]:
        return self.catalog.named(name)

    def image(self, image_id: ImageId) -> Image | None:
        return self.catalog.by_id(image_id)

    def check_platform(self, ref: Reference, platform: Platform) -> None:
        self.catalog.get(str(ref), platform)

    def put_pushed(self, pushed: Pushed) -> None:
        """Give a pushed image its repository digest, if it was not removed meanwhile."""
        name = pushed.ref.name_only().with_digest(pushed.digest)
        self.catalog.remember(pushed.image_id, name=name, document=pushed.digest)

    def publish_pull(self, ref: Reference) -> None:
        self._publish_distribution("pull", ref)

    def publish_push(self, ref: Reference) -> None:
        self._publish_distribution("push", ref)

    def _publish_distribution(self, action: str, ref: Reference) -> None:
        """The event of a pull or push: its actor is what was asked for."""
        image_id = self.catalog.of_reference(ref)
        image = self.catalog.by_id(image_id) if image_id else None
        attributes = dict(image.labels) if image else {}
        self._events.publish(
            "image", action, ref.familiar, {**attributes, "name": ref.familiar_name}
        )

    # Events

    def publish(self, action: str, image_id: str, name: str) -> None:
        """An event of an image, with its labels as long as it is there."""
        image = self.catalog.by_id(ImageId(image_id))
        labels = dict(image.labels) if image else {}
        self._events.publish("image", action, image_id, {**labels, "name": name})

    def _publisher(self) -> Callable[[str, Image], None]:
        """Publishes from any thread; a deleted image has no labels any more."""
        loop = asyncio.get_running_loop()

        def publish(action: str, image: Image) -> None:
            labels = {} if action == "delete" else image.labels
            attributes = {**labels, "name": image.id}
            loop.call_soon_threadsafe(self._events.publish, "image", action, image.id, attributes)

        return publish

    async def close(self) -> None:
        await self._work.close(10)


async def _counted(download: Download, channel: Channel) -> AsyncIterator[bytes]:
    """The download's bytes, telling the channel how many there were so far."""
    meter = Meter(
        lambda status, current, total: channel.send(
            Progress(status=status, current=current, total=total)
        ),
        "Importing",
        download.length,
    )
    arrived = 0
    async for chunk in download.chunks():
        arrived += len(chunk)
        meter.at(arrived)
        yield chunk
    meter.end(arrived)


def _remembered(
    users: Mapping[str, list[tuple[str, bool]]], users_of: Callable[[str], list[tuple[str, bool]]]
) -> Callable[[str], list[tuple[str, bool]]]:
    """Who used an image a moment ago still does; only that nobody does is looked at anew."""
    return lambda image_id: users.get(image_id) or users_of(image_id)


def _gather(pieces: Iterator[bytes]) -> bytes:
    """A piece worth a hop; b"" at the end."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            break
    return b"".join(gathered)
