"""Pulling: from a name at a registry to an image here.

    resolve ⇒ choose the platform's manifest ⇒ config ⇒ layers (see transfer.py) ⇒ put

What a client reads is what dockerd says, in its order. Nothing is visible before the last step: a
layer that came without its image is nobody's and is swept; an image's row names everything it is
made of. A failure before the first line is raised, later ones are the last line.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine import ids, offload
from engine.errors import EngineError, Forbidden, WharfError
from engine.image.channel import Channel, with_progress
from engine.image.failure import PlatformMismatch, UnsupportedOS
from engine.image.joint import all_done
from engine.image.model import Progress
from engine.image.remote import (
    DEEPEST_INDEX,
    check_config,
    check_is_image,
    check_media_types,
    choose,
    host_platform,
)
from engine.image.transfer import Transfer, Transfers
from engine.oci import digest as digests
from engine.oci import platform
from engine.oci.digest import ImageId
from engine.oci.image import Manifest, decode_config
from engine.registry import failure
from engine.registry.client import resolved
from engine.registry.retry import Policy, may_retry
from engine.storage.snapshots import LayerMissing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from engine.image.sources import Sources
    from engine.oci.descriptor import Descriptor
    from engine.oci.digest import ChainId, DiffId, Digest
    from engine.oci.image import ImageConfig
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.registry.auth import RegistryAuth
    from engine.registry.client import Client, Repository, Resolved
    from engine.storage.content import Content
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Snapshots

log = logging.getLogger(__name__)

RESERVED_NAME = "scratch"
MOST_DOCUMENTS = 64
"""Of an index and those in it, tried for one that has the platform."""
CONFIG_ATTEMPTS = 5
CONFIG_DELAY_S = 0.25


class NoMatchingManifest(EngineError):
    def __init__(self, wanted: Platform) -> None:
        super().__init__(f"no matching manifest for {wanted} in the manifest list entries")


class ConfigFailed(EngineError):
    def __init__(self, cause: object) -> None:
        super().__init__(f"error pulling image configuration: {cause}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """All of an image that is now here, for the store to make it visible.

    `documents` are config, manifest and the indexes above it, all in the content store; `digest`
    is what the registry calls the image (the outermost document). `layers` are what the manifest
    says they are there, `brought` those that came just now and are so indeed.
    """

    ref: Reference
    image_id: ImageId
    top_layer: ChainId | None
    digest: Digest
    manifest_digest: Digest
    documents: tuple[Digest, ...]
    layers: tuple[tuple[DiffId, Descriptor], ...] = ()
    brought: tuple[tuple[DiffId, Digest], ...] = ()


class Local(Protocol):
    """What a pull asks of the images that are here. Its methods block."""

    def image_named(self, ref: Reference) -> ImageId | None:
        """The image that the tag or digest names now."""

    def has_image(self, image_id: ImageId) -> bool: ...

    def put_pulled(self, pulled: Pulled) -> None:
        """Make the image visible under its reference and its repository digest, at once."""


class Puller:
    """Pulls into one engine's stores."""

    def __init__(
        self,
        client: Client,
        content: Content,
        snapshots: Snapshots,
        local: Local,
        sources: Sources,
        *,
        most_downloads: int = 3,
        policy: Policy | None = None,
        on_pulled: Callable[[Reference], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._content = content
        self._snapshots = snapshots
        self._local = local
        self._sources = sources
        self._on_pulled = on_pulled
        self._transfers = Transfers(
            content, snapshots, most_downloads=most_downloads, policy=policy or Policy()
        )

    async def close(self) -> None:
        await self._transfers.close()

    async def pull(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Pull one tag or digest, or all tags where `ref` is a name alone.

        Closing the iterator, or cancelling whoever iterates, ends the pull and leaves nothing.
        """
        channel = Channel()
        work = self._run(ref, auth, platform, channel)
        async with aclosing(with_progress(work, channel, f"pull {ref}")) as steps:
            async for progress in steps:
                yield progress

    async def _run(
        self,
        ref: Reference,
        auth: RegistryAuth | None,
        wanted: Platform | None,
        channel: Channel,
    ) -> None:
        if ref.familiar_name == RESERVED_NAME:
            raise Forbidden(f"'{RESERVED_NAME}' is a reserved name")
        try:
            await self._client.attempt(
                ref, auth, lambda repository: self._all(repository, ref, wanted, channel)
            )
        except WharfError as exc:
            raise failure.of_pull(exc, ref) from exc
        self._on_pulled(ref)
        if wanted is not None and not ref.is_name_only:
            await self._warn_of_mismatch(ref, wanted, channel)

    async def _all(
        self, repository: Repository, ref: Reference, wanted: Platform | None, channel: Channel
    ) -> None:
        refs = [ref]
        if ref.is_name_only:
            refs = [ref.with_tag(tag) for tag in await repository.tags()]
        is_new = False
        for one in refs:
            is_new = await _Pull(self, repository, one, wanted, channel).run() or is_new
        news = "Downloaded newer image for" if is_new else "Image is up to date for"
        channel.send(Progress(status=f"Status: {news} {ref.familiar}"))

    async def _warn_of_mismatch(self, ref: Reference, wanted: Platform, channel: Channel) -> None:
        """An image for one platform alone is pulled whatever was wanted, and dockerd says so."""
        found = await offload.disk(self._platform_of, ref)
        if found is not None and not platform.matches_image(wanted, found):
            channel.send(
                Progress(status=f"WARNING: {PlatformMismatch(ref.familiar, found, wanted)}")
            )

    def _platform_of(self, ref: Reference) -> Platform | None:
        image_id = self._local.image_named(ref)
        return self.config(image_id).platform if image_id is not None else None

    # What one pull needs of the stores

    @property
    def transfers(self) -> Transfers:
        return self._transfers

    def lease(self) -> Lease:
        return self._snapshots.lease()

    async def known(self, digest: Digest) -> bytes | None:
        """A document that is here already."""
        return await offload.disk(self._content.find, digest)

    def config(self, image_id: ImageId) -> ImageConfig:
        return decode_config(self._content.read(digests.parse(image_id)))

    async def config_of(self, image_id: ImageId) -> ImageConfig | None:
        """Of an image that is here; None also where its config was damaged and is wanted anew."""

        def read() -> ImageConfig | None:
            data = self._content.find(digests.parse(image_id))
            is_here = data is not None and self._local.has_image(image_id)
            return decode_config(data) if is_here and data is not None else None

        return await offload.disk(read)

    async def adopt(self, diff_id: DiffId, parent: ChainId | None, lease: Lease) -> ChainId | None:
        """The layer, if its tar is unpacked here already."""
        adopt = offload.disk(self._snapshots.adopt_layer, diff_id, parent, lease)
        layer = await offload.to_the_end(adopt)
        return layer.chain_id if layer is not None else None

    async def hold(self, chain_id: ChainId, lease: Lease) -> None:
        """Keep a layer that a transfer has made; raises LayerMissing."""
        find = offload.disk(self._snapshots.find_layer, chain_id, lease)
        if await offload.to_the_end(find) is None:
            raise LayerMissing(chain_id)

    async def put(self, pulled: Pulled, documents: Sequence[tuple[Digest, bytes]]) -> bool:
        """The last step: documents, then the row. Whether the name meant something else before."""
        return await offload.to_the_end(offload.disk(self._put, pulled, documents))

    def _put(self, pulled: Pulled, documents: Sequence[tuple[Digest, bytes]]) -> bool:
        with self.lease() as lease:
            for digest, data in documents:
                lease.add(digest)
                if self._content.find(digest) is None:
                    self._content.put(data, digest)
            before = self._local.image_named(pulled.ref)
            self._local.put_pulled(pulled)
            self._sources.add_pulled(pulled.ref.name, pulled.layers, pulled.brought)
        return before != pulled.image_id


class _Pull:
    """One tag or digest on its way here."""

    def __init__(
        self,
        puller: Puller,
        repository: Repository,
        ref: Reference,
        wanted: Platform | None,
        channel: Channel,
    ) -> None:
        self._puller = puller
        self._repository = repository
        self._ref = ref
        self._wanted = wanted
        self._send = channel.send
        self._brought: list[tuple[DiffId, Digest]] = []
        self._documents_left = MOST_DOCUMENTS

    async def run(self) -> bool:
        """Whether the name means another image now than before."""
        found = await self._repository.resolve(self._ref, known=self._puller.known)
        check_is_image(found)
        shown = str(self._ref) if self._ref.digest else self._ref.tag or ""
        self._send(Progress(id=shown, status=f"Pulling from {self._ref.path}"))
        path = await self._descend(found, DEEPEST_INDEX)
        with self._puller.lease() as lease:
            pulled, documents = await self._bring(path, lease)
            is_new = await self._puller.put(pulled, documents)
        self._send(Progress(status=f"Digest: {found.descriptor.digest}"))
        return is_new

    async def _descend(self, found: Resolved, deepest: int) -> tuple[Resolved, ...]:
        """From the outermost document to the manifest for the platform."""
        if isinstance(found.document, Manifest):
            return (found,)
        host = await offload.disk(host_platform)
        for descriptor in choose(found.document, self._wanted or host):
            if deepest == 0 or self._documents_left == 0:
                break
            self._documents_left -= 1
            inner = await self._document(descriptor)
            try:
                return (found, *await self._descend(inner, deepest - 1))
            except NoMatchingManifest:
                continue
        raise NoMatchingManifest(self._wanted or platform.default())

    async def _document(self, descriptor: Descriptor) -> Resolved:
        digest = digests.parse(descriptor.digest)
        data = await self._puller.known(digest)
        if data is not None:
            return resolved(self._ref, digest, data)
        return await self._repository.manifest(self._ref, descriptor)

    async def _bring(
        self, path: Sequence[Resolved], lease: Lease
    ) -> tuple[Pulled, list[tuple[Digest, bytes]]]:
        """Config and layers; what is to be put, and its documents."""
        manifest = path[-1].document
        assert isinstance(manifest, Manifest)
        documents = [(one.descriptor.digest, one.data) for one in path]
        image_id = ImageId(digests.parse(manifest.config.digest))
        config = await self._puller.config_of(image_id)
        if config is None:
            if self._wanted is not None and self._wanted.os not in ("", "linux"):
                raise UnsupportedOS
            check_media_types(manifest)
            data = await self._config(manifest.config)
            config = await offload.disk(decode_config, data)
            # An image is called so wherever it comes from, though the registry may say sha512.
            image_id = ImageId(digests.of(data))
            documents.append((digests.parse(image_id), data))
            check_config(config, manifest)
            await self._layers(manifest.layers, config.diff_ids, lease)
        pulled = Pulled(
            ref=self._ref,
            image_id=image_id,
            top_layer=digests.chain_id(config.diff_ids),
            digest=path[0].descriptor.digest,
            manifest_digest=path[-1].descriptor.digest,
            documents=(*(one.descriptor.digest for one in path), digests.parse(image_id)),
            layers=tuple(zip(config.diff_ids, manifest.layers, strict=False)),
            brought=tuple(self._brought),
        )
        return pulled, documents

    async def _config(self, descriptor: Descriptor) -> bytes:
        """The config's bytes, after a few attempts."""
        for attempt in range(1, CONFIG_ATTEMPTS + 1):
            try:
                return await self._repository.blob(descriptor, "image config")
            except failure.VerificationFailed as exc:
                raise ConfigFailed(exc) from exc
            except WharfError as exc:
                if attempt == CONFIG_ATTEMPTS or not may_retry(exc):
                    message = f"download failed after attempts={attempt}: {exc}"
                    raise ConfigFailed(message) from exc
                log.debug("attempt %d to fetch config: %s", attempt, exc)
                await asyncio.sleep(CONFIG_DELAY_S * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    async def _layers(
        self, descriptors: Sequence[Descriptor], diff_ids: Sequence[DiffId], lease: Lease
    ) -> None:
        """All layers, held by the lease: those here already first, the rest side by side."""
        below: ChainId | None = None
        here = 0
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
            adopted = await self._puller.adopt(diff_id, below, lease)
            if adopted is None:
                break
            self._send(Progress(id=_shown(descriptor), status="Already exists"))
            below, here = adopted, here + 1
        if here < len(descriptors):
            await self._transfer(descriptors[here:], diff_ids[here:], below, lease)

    async def _transfer(
        self,
        descriptors: Sequence[Descriptor],
        diff_ids: Sequence[DiffId],
        below: ChainId | None,
        lease: Lease,
    ) -> None:
        transfers = self._puller.transfers
        joined: list[Transfer] = []
        parent: Transfer | ChainId | None = below
        try:
            for number, (descriptor, diff_id) in enumerate(zip(descriptors, diff_ids, strict=True)):
                is_repeated = diff_id in diff_ids[:number]
                if not is_repeated:
                    status = "Pulling fs layer"
                    self._send(Progress(id=_shown(descriptor), status=status))
                parent = transfers.join(
                    self._repository,
                    descriptor,
                    diff_id,
                    parent,
                    self._send,
                    is_repeated=is_repeated,
                )
                joined.append(parent)
            await all_done(joined)
            for diff_id, transfer in zip(diff_ids, joined, strict=True):
                if transfer.brought is not None:
                    self._brought.append((diff_id, transfer.brought))
                await self._puller.hold(transfer.chain_id, lease)
        finally:
            await offload.to_the_end(self._leave(joined))

    async def _leave(self, joined: Sequence[Transfer]) -> None:
        """From the top down, so that none waits for one that was ended beneath it."""
        for transfer in reversed(joined):
            await self._puller.transfers.leave(transfer, self._send)


def _shown(descriptor: Descriptor) -> str:
    return ids.short(digests.encoded(descriptor.digest))
