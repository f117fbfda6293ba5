"""Committing: what a container has changed becomes a layer on its image, and the two a new image.

pack and unpack at once, as a layer of its own ⇒ put it on the parent's ⇒ write the config ⇒ put

The layer is unpacked from its tar, never linked to the container's files: those may change the next
moment. It is then a layer like any that was pulled, with a recipe of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import offload, timestamp
from engine.errors import NotFound
from engine.image import encoding, failure
from engine.image.staging import stage
from engine.oci import digest as digests
from engine.oci.digest import DiffId, ImageId
from engine.oci.image import Config, History
from engine.storage import pack, tarheader
from engine.version import SERVER_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.image.catalog import Catalog
    from engine.image.model import Image
    from engine.oci.reference import Reference
    from engine.storage.content import Content
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Snapshots, StagedLayer

NO_FILES = DiffId(digests.of(tarheader.END))
"""The diff id of a tar without members: a layer that is not made (moby layer.IsEmpty)."""


class ParentMissing(NotFound):
    """The container's image was removed by force; without its config there is nothing to go on."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"failed to get digest {image_id}: no such file or directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a committed image comes from: `container_config` is what ran, `config` what shall."""

    parent: ImageId
    container_id: str
    container_config: Config
    config: Config
    author: str = ""
    comment: str = ""


class Committer:
    def __init__(self, catalog: Catalog, content: Content, snapshots: Snapshots) -> None:
        self._catalog = catalog
        self._content = content
        self._snapshots = snapshots

    def parent(self, origin: Origin) -> Image:
        """Raises ParentMissing."""
        image = self._catalog.by_id(origin.parent)
        if image is None:
            raise ParentMissing(origin.parent)
        return image

    async def stage(self, files: Iterator[bytes]) -> StagedLayer:
        """Unpack the tar of a layer; raises what reading it raises, DiskFailed, NoSpace."""
        try:
            return await stage(self._snapshots, pack.Pieces(files), is_plain=True)
        except OSError as exc:
            raise failure.of_disk(exc) from exc

    async def put(self, staged: StagedLayer, origin: Origin, ref: Reference | None) -> ImageId:
        """Make the image visible. The staged layer is used up, also on a failure.

        Raises ParentMissing, TooDeep, DiskFailed, NoSpace.
        """
        try:
            with self._snapshots.lease() as lease:
                return await offload.to_the_end(offload.disk(self._put, staged, lease, origin, ref))
        except OSError as exc:
            raise failure.of_disk(exc) from exc

    def _put(
        self, staged: StagedLayer, lease: Lease, origin: Origin, ref: Reference | None
    ) -> ImageId:
        try:
            parent = self.parent(origin)
            if parent.chain_id is not None:
                self._snapshots.find_layer(parent.chain_id, lease)
            added: tuple[DiffId, ...] = ()
            if staged.diff_id != NO_FILES:
                layer = self._snapshots.commit_layer(staged, parent.chain_id, lease)
                added = (layer.diff_id,)
            document = _document(parent, origin, added)
            image_id = ImageId(digests.of(document))
            lease.add(image_id)
            self._content.put(document)
            self._catalog.put(
                image_id,
                names=() if ref is None else (ref,),
                parent=parent.id,
                is_built_locally=True,
                is_tagged_now=ref is not None,
            )
        finally:
            staged.discard()
        return image_id


def _document(parent: Image, origin: Origin, added: Sequence[DiffId]) -> bytes:
    """The config: the parent's history and one step more (moby image.NewChildImage)."""
    below = parent.config
    created = timestamp.format_ns(time.time_ns())
    step = History(
        created=created,
        created_by=" ".join(origin.container_config.cmd or ()),
        author=origin.author,
        comment=origin.comment,
        empty_layer=not added,
    )
    return encoding.image(
        config_=origin.config,
        container_config=origin.container_config,
        created=created,
        diff_ids=(*below.diff_ids, *added),
        history_=(*below.history, step),
        architecture=below.architecture,
        variant=below.variant,
        os=below.os or "linux",
        os_version=below.os_version,
        os_features=below.os_features or (),
        author=origin.author,
        container=origin.container_id,
        docker_version=SERVER_VERSION,
    )
