"""Loading: from an archive of any Docker, or an OCI layout, to images.

    receive to disk ⇒ look into it ⇒ plan (which config, which layers, which names)
    ⇒ unpack the layers that are missing, side by side ⇒ put, image by image

A broken archive gives dockerd's sentence and leaves nothing: layers that no image came to use are
swept at the end, as after a crash.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from engine import offload
from engine.errors import EngineError
from engine.image import archive, encoding, spool
from engine.image.failure import InvalidArchive
from engine.image.model import Progress
from engine.image.remote import DEEPEST_INDEX, choose, host_platform
from engine.image.staging import discard, stage
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci import platform as platforms
from engine.oci import reference as references
from engine.oci.digest import ChainId, DiffId, Digest, ImageId
from engine.oci.document import LARGEST_BYTES, Document, decode
from engine.oci.image import (
    Config,
    History,
    ImageConfig,
    Index,
    decode_config,
    decode_manifest,
    listed,
)
from engine.storage.layer import DiffIdMismatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from engine.image.catalog import Catalog
    from engine.image.channel import Channel
    from engine.image.spool import Archive, Range
    from engine.oci.descriptor import Descriptor
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.storage.content import Content
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer, Snapshots, StagedLayer

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 3
"""Layers of one archive that are unpacked side by side; the pool has four threads for all."""

PROGRESS_S = 0.1
MOST_DOCUMENT_BYTES = 64 << 20
"""Of configs and manifests, which are kept until their images stand."""
LARGEST_MANIFEST_BYTES = 64 << 20
"""manifest.json and repositories name every layer of every image saved together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One image of an archive. `layers` are names of members."""

    config: bytes
    diff_ids: tuple[DiffId, ...]
    layers: tuple[str, ...]
    names: tuple[Reference, ...]
    parent: str = ""
    manifest: bytes | None = None

    @property
    def id(self) -> ImageId:
        return ImageId(digests.of(self.config))


class Loader:
    """Loads one archive. `on_loaded` is told of every image that was loaded."""

    def __init__(
        self,
        catalog: Catalog,
        content: Content,
        snapshots: Snapshots,
        folder: str,
        on_loaded: Callable[[ImageId], None],
    ) -> None:
        self._catalog = catalog
        self._content = content
        self._snapshots = snapshots
        self._folder = folder
        self._on_loaded = on_loaded

    async def run(
        self, chunks: AsyncIterator[bytes], platform: Platform | None, channel: Channel, quiet: bool
    ) -> None:
        """Load everything; progress goes to the channel. Raises WharfError, OSError."""
        received = await spool.receive(chunks, self._folder)
        try:
            received = await spool.plain(received, self._folder)
            opened = await spool.open_archive(received)
            with self._snapshots.lease() as lease:
                await self._load(opened, platform, channel, quiet, lease)
        except BaseException:
            # What was committed for an image that did not come about is nobody's now.
            await offload.to_the_end(offload.disk(self._catalog.sweep))
            raise
        finally:
            await spool.close(received)

    async def _load(
        self,
        opened: Archive,
        platform: Platform | None,
        channel: Channel,
        quiet: bool,
        lease: Lease,
    ) -> None:
        if opened.find(archive.MANIFEST) is None and not _is_layout(opened):
            await self._load_legacy(opened, channel, quiet, lease)
            return
        planned = await _read(opened, plan, platform)
        ids: list[ImageId] = []
        has_names = False
        for one in planned:
            await self._layers(opened, one, channel, quiet, lease)
            for name in one.names:
                self._announce(name, one.id, channel)
            await _disk(self._put, one, lease)
            ids.append(one.id)
            has_names = bool(one.names)
            self._on_loaded(one.id)
        await _disk(self._link_parents, planned)
        if not has_names:
            for image_id in ids:
                channel.send(Progress(stream=f"Loaded image ID: {image_id}\n"))
        if not ids:
            channel.send(Progress())  # an archive of no image is answered, if with nothing

    def _announce(self, name: Reference, image_id: ImageId, channel: Channel) -> None:
        former = self._catalog.of_reference(name)
        if former is not None and former != image_id:
            channel.send(
                Progress(
                    stream=f"The image {name.familiar} already exists, "
                    f"renaming the old one with ID {former} to empty string\n"
                )
            )
        channel.send(Progress(stream=f"Loaded image: {name.familiar}\n"))

    # Layers

    async def _layers(
        self, opened: Archive, planned: Planned, channel: Channel, quiet: bool, lease: Lease
    ) -> None:
        """Bring every layer of the image here; those unpacked already are not read again."""
        below: ChainId | None = None
        here = 0
        for diff_id in planned.diff_ids:
            found = await _disk(self._snapshots.adopt_layer, diff_id, below, lease)
            if found is None:
                break
            below, here = found.chain_id, here + 1
        missing = list(zip(planned.diff_ids, planned.layers, strict=True))[here:]
        gate = asyncio.Semaphore(AT_ONCE)
        tasks = [
            asyncio.create_task(self._stage(opened, name, diff_id, channel, quiet, gate))
            for diff_id, name in missing
        ]
        try:
            for place, task in enumerate(tasks, start=here):
                staged = await _of_place(task, place)
                below = (await self._commit(staged, below, lease)).chain_id
        except BaseException:
            await offload.to_the_end(_discard(tasks))
            raise

    async def _stage(
        self,
        opened: Archive,
        name: str,
        diff_id: DiffId | None,
        channel: Channel,
        quiet: bool,
        gate: asyncio.Semaphore,
    ) -> StagedLayer:
        async with gate:
            stream = opened.open(name)
            shown = digests.encoded(diff_id)[:12] if diff_id else name[:12]
            staging = stage(self._snapshots, stream, diff_id=diff_id)
            if quiet:
                return await staging
            return await _watched(staging, stream, opened.size(name), shown, channel)

    # Images

    def _put(self, planned: Planned, lease: Lease) -> None:
        lease.add(planned.id)
        documents = [self._content.put(planned.config)]
        if planned.manifest is not None:
            lease.add(digests.of(planned.manifest))
            documents.append(self._content.put(planned.manifest))
        self._catalog.put(planned.id, names=planned.names, documents=documents)

    def _link_parents(self, planned: list[Planned]) -> None:
        """Take over who was made of whom, as far as both came in this archive."""
        here = {one.id for one in planned}
        for one in planned:
            if one.parent not in here or one.parent == one.id:
                continue
            child, parent = self._catalog.by_id(one.id), self._catalog.by_id(ImageId(one.parent))
            if child is None or parent is None:
                continue
            if not is_valid_parent(child.config, parent.config):
                raise EngineError(f"image {parent.id} is not a valid parent for {child.id}")
            self._catalog.put(child.id, parent=parent.id)

    # Archives of Docker before 1.10

    async def _load_legacy(
        self, opened: Archive, channel: Channel, quiet: bool, lease: Lease
    ) -> None:
        loaded: dict[str, Planned] = {}
        for old in await _read(opened, legacy_order):
            below = loaded[old.config.parent] if old.config.parent else None
            diff_id = await self._legacy_layer(opened, old.old_id, below, channel, quiet, lease)
            image = modern(old, below, diff_id)
            await _disk(self._put, image, lease)
            if below is not None:
                await _disk(self._set_parent, image.id, below.id)
            loaded[old.old_id] = image
        for name, old_id in await _read(opened, legacy_names):
            if old_id not in loaded:
                raise InvalidArchive(f"invalid target ID: {old_id}")
            planned = loaded[old_id]
            self._announce(name, planned.id, channel)
            await _disk(self._name, planned.id, name)

    async def _legacy_layer(
        self,
        opened: Archive,
        old_id: str,
        below: Planned | None,
        channel: Channel,
        quiet: bool,
        lease: Lease,
    ) -> DiffId:
        task = asyncio.create_task(
            self._stage(opened, f"{old_id}/layer.tar", None, channel, quiet, asyncio.Semaphore(1))
        )
        parent = digests.chain_id(below.diff_ids) if below else None
        try:
            staged = await asyncio.shield(task)
            return (await self._commit(staged, parent, lease)).diff_id
        except BaseException:
            await offload.to_the_end(_discard([task]))
            raise

    async def _commit(self, staged: StagedLayer, parent: ChainId | None, lease: Lease) -> Layer:
        commit = offload.unpack(self._snapshots.commit_layer, staged, parent, lease)
        return await offload.to_the_end(commit)

    def _set_parent(self, image_id: ImageId, parent: ImageId) -> None:
        self._catalog.put(image_id, parent=parent)

    def _name(self, image_id: ImageId, name: Reference) -> None:
        self._catalog.put(image_id, names=(name,))


async def _disk(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` to its end, also for a client that left: the lease is not to be closed before."""
    return await offload.to_the_end(offload.disk(fn, *args, **kwargs))


async def _read(
    opened: Archive,
    fn: Callable[Concatenate[Archive, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run `fn`, which reads the archive."""
    return await spool.reading(opened.spool, offload.disk(fn, opened, *args, **kwargs))


async def _of_place(task: asyncio.Task[StagedLayer], place: int) -> StagedLayer:
    """What the task staged; a layer of other content is named by its place in the image."""
    try:
        return await asyncio.shield(task)
    except DiffIdMismatch as exc:
        raise InvalidArchive(
            f'invalid diffID for layer {place}: expected "{exc.expected}", got "{exc.actual}"'
        ) from exc


async def _discard(tasks: list[asyncio.Task[StagedLayer]]) -> None:
    """End what is being unpacked, and remove what was; layers committed stay."""
    for task in tasks:
        task.cancel()
    for staged in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(staged, BaseException):
            with suppress(OSError):
                await discard(staged)


async def _watched(
    staging: Coroutine[None, None, StagedLayer],
    stream: Range,
    total: int,
    shown: str,
    channel: Channel,
) -> StagedLayer:
    """Report how far a layer is while it is unpacked."""

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            _send(stream.consumed)

    def _send(current: int) -> None:
        channel.send(Progress(id=shown, status="Loading layer", current=current, total=total))

    reporter = asyncio.create_task(report())
    try:
        staged = await staging
    finally:
        reporter.cancel()
    _send(total)
    return staged


# Plans


def _is_layout(opened: Archive) -> bool:
    return opened.find("oci-layout") is not None and opened.find("index.json") is not None


def plan(opened: Archive, platform: Platform | None) -> list[Planned]:
    """The images of an archive, in its order. Raises InvalidArchive, InvalidDocument."""
    documents = _Documents(opened)
    if opened.find(archive.MANIFEST) is not None:
        items = archive.decode_manifest(
            opened.read(archive.MANIFEST, largest_bytes=LARGEST_MANIFEST_BYTES)
        )
        planned = [_plan_item(documents, item) for item in items]
    else:
        planned = _plan_layout(documents, platform or host_platform())
    return [one for one in planned if _is_wanted(one, platform)]


def _is_wanted(planned: Planned, platform: Platform | None) -> bool:
    return platform is None or platforms.matches_strictly(
        platform, decode_config(planned.config).platform
    )


class _Documents:
    """Members that images are described by, each read once however often it is named."""

    def __init__(self, opened: Archive) -> None:
        self._opened = opened
        self._configs: dict[str, tuple[bytes, tuple[DiffId, ...]]] = {}
        self._blobs: dict[Digest, bytes] = {}
        self._bytes_left = MOST_DOCUMENT_BYTES

    def index(self) -> bytes:
        return self._opened.read("index.json", largest_bytes=LARGEST_BYTES)

    def has(self, digest: Digest) -> bool:
        return self._opened.find(_blob_name(digest)) is not None

    def config(self, name: str, raw: bytes | None = None) -> tuple[bytes, tuple[DiffId, ...]]:
        """A config and the layers it names. Raises InvalidArchive, InvalidDocument.

        `raw` are its bytes, where they were read before.
        """
        if name not in self._configs:
            raw = self._read(name) if raw is None else raw
            self._configs[name] = (raw, _config(raw).diff_ids)
        return self._configs[name]

    def blob(self, digest: Digest) -> bytes:
        """A document of a layout, verified."""
        if digest not in self._blobs:
            data = self._read(_blob_name(digest))
            actual = digests.hasher(digest)
            actual.update(data)
            if actual.hexdigest() != digests.encoded(digest):
                raise InvalidArchive(f"blob {digest} has other content than its digest says")
            self._blobs[digest] = data
        return self._blobs[digest]

    def _read(self, name: str) -> bytes:
        data = self._opened.read(name, largest_bytes=LARGEST_BYTES)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise InvalidArchive(
                f"configs and manifests of the archive exceed {MOST_DOCUMENT_BYTES} bytes"
            )
        return data


def _plan_item(documents: _Documents, item: archive.ManifestItem) -> Planned:
    raw, diff_ids = documents.config(item.config)
    if len(item.layers) != len(diff_ids):
        raise InvalidArchive(
            "invalid manifest, layers length mismatch: "
            f"expected {len(item.layers)}, got {len(diff_ids)}"
        )
    return Planned(
        config=raw,
        diff_ids=diff_ids,
        layers=item.layers,
        names=tuple(_name(tag) for tag in item.repo_tags),
        parent=item.parent,
    )


def _config(raw: bytes) -> ImageConfig:
    """The config, checked; raises InvalidArchive, InvalidDocument."""
    config = decode_config(raw)
    if config.os not in ("", "linux"):
        raise InvalidArchive(f"cannot load {config.os} image on linux")
    for diff_id in config.diff_ids:
        digests.parse(diff_id)
    return config


def _name(tag: str) -> Reference:
    name = references.parse(tag)
    if name.tag is None:
        raise InvalidArchive(f'invalid tag "{tag}"')
    return name


def _plan_layout(documents: _Documents, wanted: Platform) -> list[Planned]:
    """The images of an OCI layout: one a manifest; of an index the best for the platform."""
    document = decode_manifest(documents.index(), media_type.OCI_INDEX)
    assert isinstance(document, Index)
    found: dict[ImageId, Planned] = {}
    for descriptor in document.manifests:
        for one in _plan_descriptor(documents, descriptor, wanted, DEEPEST_INDEX):
            former = found.get(one.id)
            names = (*(former.names if former else ()), *_layout_names(descriptor))
            found[one.id] = replace(one, names=tuple(dict.fromkeys(names)))
    if not found:
        raise InvalidArchive("index.json names no image for this host")
    return list(found.values())


def _plan_descriptor(
    documents: _Documents, descriptor: Descriptor, wanted: Platform, deepest: int
) -> list[Planned]:
    data = documents.blob(descriptor.digest)
    document = decode_manifest(data, descriptor.media_type)
    if isinstance(document, Index):
        if deepest == 0:
            raise InvalidArchive("index is nested too deep")
        # Those for other platforms may have been left out.
        there = (d for d in choose(document, wanted) if documents.has(d.digest))
        chosen = next(there, None)
        return _plan_descriptor(documents, chosen, wanted, deepest - 1) if chosen else []
    raw = documents.blob(document.config.digest)
    if not media_type.is_image_config(document.config.media_type):
        return []
    raw, diff_ids = documents.config(_blob_name(document.config.digest), raw)
    if len(document.layers) != len(diff_ids):
        raise InvalidArchive(
            "invalid manifest, layers length mismatch: "
            f"expected {len(document.layers)}, got {len(diff_ids)}"
        )
    return [
        Planned(
            config=raw,
            diff_ids=diff_ids,
            layers=tuple(_blob_name(layer.digest) for layer in document.layers),
            names=(),
            manifest=data,
        )
    ]


def _layout_names(descriptor: Descriptor) -> tuple[Reference, ...]:
    """The names that containerd, buildx and skopeo write beside a manifest."""
    annotations = descriptor.annotations or {}
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        text = annotations.get(key, "")
        # A bare tag ("latest") is no name of an image.
        if ":" in text or "/" in text:
            return (references.parse(text).with_default_tag(),)
    return ()


def _blob_name(digest: str) -> str:
    parsed = digests.parse(digest)
    return f"blobs/{digests.algorithm(parsed)}/{digests.encoded(parsed)}"


def is_valid_parent(child: ImageConfig, parent: ImageConfig) -> bool:
    """Whether the child's history is the parent's and one step more."""
    if not child.history and not parent.history:
        return True
    return len(child.history) - len(parent.history) == 1 and (
        child.history[: len(parent.history)] == parent.history
    )


# Archives of Docker before 1.10: a folder an image, each with its config and one layer


class OldConfig(Document, frozen=True, kw_only=True):
    """What is read of `<id>/json`; the rest is taken over as it is."""

    id: str = ""
    parent: str = ""
    os: str = ""
    created: str = ""
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    container_config: Config | None = None


@dataclass(frozen=True, slots=True)
class OldImage:
    old_id: str
    raw: bytes
    config: OldConfig


def legacy_order(opened: Archive) -> list[OldImage]:
    """The images of the archive, parents first. Raises InvalidArchive."""
    found: dict[str, OldImage] = {}
    for folder in opened.folders():
        pending = [folder]
        while pending:
            old_id = pending[-1]
            if old_id in found:
                pending.pop()
                continue
            image = _old_image(opened, old_id)
            parent = image.config.parent
            if parent and parent not in found:
                if parent in pending:
                    raise InvalidArchive(f"image {old_id} is its own ancestor")
                pending.append(parent)
                continue
            found[old_id] = image
            pending.pop()
    return list(found.values())


def _old_image(opened: Archive, old_id: str) -> OldImage:
    raw = opened.read(f"{old_id}/json", largest_bytes=LARGEST_BYTES)
    config = decode(raw, OldConfig, adjust=listed)
    if config.os not in ("", "linux"):
        raise InvalidArchive(f"cannot load {config.os} image on linux")
    return OldImage(old_id, raw, config)


def legacy_names(opened: Archive) -> list[tuple[Reference, str]]:
    """The names in `repositories`, each with the old id it means."""
    data = opened.read(archive.REPOSITORIES, largest_bytes=LARGEST_MANIFEST_BYTES)
    repositories = archive.decode_repositories(data)
    return [
        (references.parse(name).with_tag(tag), old_id)
        for name, tags in repositories.items()
        for tag, old_id in tags.items()
    ]


_DROPPED = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")


def modern(old: OldImage, below: Planned | None, diff_id: DiffId) -> Planned:
    """The config that an old image has now (moby image/v1 MakeConfigFromV1Config)."""
    diff_ids = (*(below.diff_ids if below else ()), diff_id)
    before = list(decode_config(below.config).history) if below else []
    command = old.config.container_config.cmd if old.config.container_config else None
    before.append(
        History(
            created=old.config.created,
            created_by=" ".join(command or ()),
            author=old.config.author,
            comment=old.config.comment,
        )
    )
    document = decode(old.raw, dict[str, object])
    kept = {key: value for key, value in document.items() if key not in _DROPPED}
    kept["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    kept["history"] = [encoding.history(entry) for entry in before]
    return Planned(
        config=encoding.to_json(dict(sorted(kept.items()))),
        diff_ids=diff_ids,
        layers=(),
        names=(),
    )
