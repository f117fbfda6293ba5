"""Pushing: an image that is here, to a repository of a registry.

    layers (see uploads.py) ⇒ config ⇒ manifest ⇒ remember

What a client reads is what dockerd says, in its order. The manifest is one that came with the
image, to the byte, where it names the blobs that the layers are in the target: so an image that was
pulled has the same digest wherever it is pushed. Otherwise it is the one that dockerd would make.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine import offload
from engine.errors import EngineError, NoSuchImage
from engine.image import encoding
from engine.image.channel import Channel, with_progress
from engine.image.joint import all_done
from engine.image.model import Progress
from engine.image.uploads import Target, Uploads
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci.descriptor import Descriptor
from engine.oci.document import InvalidDocument
from engine.oci.image import Manifest, decode_manifest
from engine.registry import retry, upload
from engine.registry.retry import Policy
from engine.storage.content import BlobMissing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from engine.image.model import Image
    from engine.image.sources import Source, Sources
    from engine.image.uploads import Upload
    from engine.oci.digest import DiffId, Digest, ImageId
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.registry.auth import RegistryAuth
    from engine.registry.client import Client, Repository
    from engine.storage.content import Content
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer, Snapshots

log = logging.getLogger(__name__)

ACTIONS = ("push", "pull")


class NothingToPush(EngineError):
    """dockerd finds this out with the answer begun, so it is no 404."""


class DigestPushed(EngineError):
    def __init__(self) -> None:
        super().__init__("cannot push a digest reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """An image that `ref`'s repository now has under this manifest."""

    ref: Reference
    image_id: ImageId
    digest: Digest
    manifest: bytes


class Local(Protocol):
    """What a push asks of the images that are here. Its methods may block."""

    def named(self, name: Reference) -> Sequence[tuple[Reference, ImageId]]:
        """All names of the repository, with what they mean."""

    def image_named(self, ref: Reference) -> ImageId | None: ...

    def image(self, image_id: ImageId) -> Image | None: ...

    def check_platform(self, ref: Reference, platform: Platform) -> None:
        """Raise NoSuchImage or PlatformMismatch."""

    def put_pushed(self, pushed: Pushed) -> None:
        """Keep the manifest and the repository digest of an image, if it is still here."""

    async def sweep(self) -> None:
        """Remove what nothing names any more."""


class Pusher:
    """Pushes out of one engine's stores."""

    def __init__(
        self,
        client: Client,
        content: Content,
        snapshots: Snapshots,
        local: Local,
        sources: Sources,
        *,
        most_uploads: int = 5,
        policy: Policy | None = None,
        on_pushed: Callable[[Reference], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._content = content
        self._snapshots = snapshots
        self._local = local
        self._on_pushed = on_pushed
        self._policy = policy or Policy()
        self._uploads = Uploads(snapshots, sources, most_uploads=most_uploads, policy=self._policy)

    async def close(self) -> None:
        await self._uploads.close()

    async def push(
        self,
        ref: Reference,
        *,
        auth: RegistryAuth | None = None,
        platform: Platform | None = None,
    ) -> AsyncGenerator[Progress]:
        """Push one tag, or all tags where `ref` is a name alone.

        Closing the iterator, or cancelling whoever iterates, ends the push and leaves nothing.
        """
        channel = Channel()
        work = self._run(ref, auth, platform, channel)
        async with aclosing(with_progress(work, channel, f"push {ref}")) as steps:
            async for progress in steps:
                yield progress

    async def _run(
        self, ref: Reference, auth: RegistryAuth | None, platform: Platform | None, channel: Channel
    ) -> None:
        if platform is not None:
            self._local.check_platform(ref, platform)
        channel.send(Progress(status=f"The push refers to repository [{ref.name}]"))
        if not self._local.named(ref):
            raise NothingToPush(
                f"An image does not exist locally with the tag: {ref.familiar_name}"
            )
        await self._client.attempt(
            ref,
            auth,
            lambda repository: self._all(
                Target(ref=ref, auth=auth, repository=repository), channel
            ),
            actions=ACTIONS,
        )
        self._on_pushed(ref)

    async def _all(self, target: Target, channel: Channel) -> None:
        there: dict[DiffId, Source] = {}
        for ref, image_id in self._meant(target.ref):
            await _Push(self, target, ref, image_id, there, channel).run()

    def _meant(self, ref: Reference) -> list[tuple[Reference, ImageId]]:
        if ref.tag is not None:
            image_id = self._local.image_named(ref)
            if image_id is None:
                raise NothingToPush(f"tag does not exist: {ref.familiar}")
            return [(ref, image_id)]
        if not ref.is_name_only:
            raise DigestPushed
        named = [(name, image_id) for name, image_id in self._local.named(ref) if name.tag]
        if not named:
            raise NothingToPush(f"no tags to push for {ref.familiar_name}")
        return named

    # What one push needs of the stores

    @property
    def uploads(self) -> Uploads:
        return self._uploads

    def lease(self) -> Lease:
        return self._snapshots.lease()

    async def hold(self, image_id: ImageId, lease: Lease) -> tuple[Image, bytes, list[Layer]]:
        """The image, its config and its layers, lowest first, held by the lease."""
        return await offload.to_the_end(offload.disk(self._hold, image_id, lease))

    def _hold(self, image_id: ImageId, lease: Lease) -> tuple[Image, bytes, list[Layer]]:
        image = self._local.image(image_id)
        if image is None:
            raise NoSuchImage(image_id)
        for document in (image_id, *image.row.documents):
            lease.add(document)
        layers: list[Layer] = []
        for chain_id in digests.chain_ids(image.diff_ids):
            layer = self._snapshots.find_layer(chain_id, lease)
            if layer is None:
                raise NoSuchImage(image_id)
            layers.append(layer)
        return image, self._content.read(digests.parse(image_id)), layers

    async def manifests(self, image: Image) -> list[tuple[Manifest, bytes]]:
        """Those that came with the image, or were made of it before."""
        return await offload.disk(self._manifests, image)

    def _manifests(self, image: Image) -> list[tuple[Manifest, bytes]]:
        found: list[tuple[Manifest, bytes]] = []
        for digest in image.row.documents:
            if digest == digests.parse(image.id):
                continue
            try:
                data = self._content.read(digest)
                document = decode_manifest(data)
            except (BlobMissing, InvalidDocument) as exc:
                log.debug("no manifest in %s: %s", digest, exc)
                continue
            if isinstance(document, Manifest) and document.config.digest == digests.parse(image.id):
                found.append((document, data))
        return found

    async def send_small(self, repository: Repository, data: bytes) -> None:
        """A config."""
        await retry.briefly(lambda: upload.put(repository, data))

    async def send_manifest(self, repository: Repository, tag: str, kind: str, data: bytes) -> None:
        await retry.briefly(lambda: repository.put_manifest(tag, kind, data))

    async def let_go(self, image_id: ImageId) -> None:
        """An image that was removed meanwhile left behind what the push still read."""
        if self._local.image(image_id) is None:
            await offload.to_the_end(self._local.sweep())

    async def put(self, pushed: Pushed) -> None:
        """The last step: the manifest and the repository digest are part of the image now."""
        await offload.to_the_end(offload.disk(self._put, pushed))

    def _put(self, pushed: Pushed) -> None:
        with self.lease() as lease:
            lease.add(pushed.digest)
            if self._content.find(pushed.digest) is None:
                self._content.put(pushed.manifest, pushed.digest)
            self._local.put_pushed(pushed)


class _Push:
    """One tag on its way there. `there` is what this push knows the target to have."""

    def __init__(
        self,
        pusher: Pusher,
        target: Target,
        ref: Reference,
        image_id: ImageId,
        there: dict[DiffId, Source],
        channel: Channel,
    ) -> None:
        self._pusher = pusher
        self._target = target
        self._ref = ref
        self._image_id = image_id
        self._there = there
        self._send = channel.send

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            await self._pusher.let_go(self._image_id)

    async def _run(self) -> None:
        with self._pusher.lease() as lease:
            image, config, layers = await self._pusher.hold(self._image_id, lease)
            await self._layers(layers)
            repository = self._target.repository
            await self._pusher.send_small(repository, config)
            kind, manifest = await self._manifest(image, config)
            tag = self._ref.tag or ""
            await self._pusher.send_manifest(repository, tag, kind, manifest)
            digest = digests.of(manifest)
            size = len(manifest)
            self._send(Progress(status=f"{tag}: digest: {digest} size: {size}"))
            await self._pusher.put(
                Pushed(ref=self._ref, image_id=image.id, digest=digest, manifest=manifest)
            )
            self._send(Progress(aux={"Tag": tag, "Digest": digest, "Size": size}))

    async def _layers(self, layers: Sequence[Layer]) -> None:
        """All layers in the target, each once; the topmost is begun first, as with dockerd."""
        joined: dict[DiffId, Upload] = {}
        uploads = self._pusher.uploads
        try:
            for layer in reversed(layers):
                shown = layer.diff_id.partition(":")[2][:12]
                self._send(Progress(id=shown, status="Preparing"))
                if layer.diff_id in self._there:
                    self._send(Progress(id=shown, status="Layer already exists"))
                elif layer.diff_id not in joined:
                    joined[layer.diff_id] = uploads.join(self._target, layer, self._send)
            await all_done(joined.values())
            for diff_id, running in joined.items():
                self._there[diff_id] = await running.result()
        finally:
            await offload.to_the_end(self._leave(list(joined.values())))

    async def _leave(self, joined: Sequence[Upload]) -> None:
        await asyncio.gather(
            *(self._pusher.uploads.leave(running, self._send) for running in joined)
        )

    async def _manifest(self, image: Image, config: bytes) -> tuple[str, bytes]:
        """Its media type and its bytes."""
        blobs = [self._there[diff_id] for diff_id in image.diff_ids]
        for document, data in await self._pusher.manifests(image):
            if [layer.digest for layer in document.layers] == [blob.digest for blob in blobs]:
                return document.media_type or media_type.OCI_MANIFEST, data
        return media_type.DOCKER_MANIFEST, encoding.manifest(
            Descriptor(
                media_type=media_type.DOCKER_CONFIG,
                digest=digests.parse(image.id),
                size=len(config),
            ),
            [
                Descriptor(
                    media_type=media_type.as_docker(blob.media_type),
                    digest=blob.digest,
                    size=blob.size,
                )
                for blob in blobs
            ],
        )
