"""Importing: the tar of a file system becomes an image of one layer.

receive to disk ⇒ unpack as a layer ⇒ write the config ⇒ put
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine import offload, timestamp
from engine.errors import EngineError, WharfError
from engine.image import changes as changes_
from engine.image import encoding, failure, spool
from engine.image.staging import stage
from engine.oci import digest as digests
from engine.oci import platform as platforms
from engine.oci.digest import ImageId
from engine.oci.image import Config, History
from engine.version import SERVER_VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.image.catalog import Catalog
    from engine.image.spool import Spool
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.storage.content import Content
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Snapshots, StagedLayer


class ImportFailed(EngineError):
    """The stream is no tar; dockerd blames itself for it (500)."""


class Importer:
    """Imports one tar."""

    def __init__(
        self, catalog: Catalog, content: Content, snapshots: Snapshots, folder: str
    ) -> None:
        self._catalog = catalog
        self._content = content
        self._snapshots = snapshots
        self._folder = folder

    async def run(
        self,
        chunks: AsyncIterator[bytes],
        *,
        ref: Reference | None,
        message: str,
        changes: Sequence[str],
        platform: Platform | None,
    ) -> ImageId:
        """Import; raises InvalidParameter for the changes, ImportFailed for the tar."""
        wanted = platform or platforms.default()
        if wanted.os != "linux":
            raise failure.UnsupportedOS
        config = await offload.disk(changes_.apply, Config(), changes)
        try:
            received = await spool.receive(chunks, self._folder)
            try:
                with self._snapshots.lease() as lease:
                    staged = await self._stage(received)
                    return await offload.to_the_end(
                        offload.disk(self._put, staged, lease, config, ref, message, wanted)
                    )
            finally:
                await spool.close(received)
        except OSError as exc:
            raise failure.of_disk(exc) from exc

    async def _stage(self, received: Spool) -> StagedLayer:
        try:
            return await stage(self._snapshots, received.reader())
        except WharfError as exc:
            raise ImportFailed(str(exc)) from exc

    def _put(
        self,
        staged: StagedLayer,
        lease: Lease,
        config: Config,
        ref: Reference | None,
        message: str,
        platform: Platform,
    ) -> ImageId:
        try:
            layer = self._snapshots.commit_layer(staged, None, lease)
        finally:
            staged.discard()
        created = timestamp.format_ns(time.time_ns())
        document = encoding.image(
            config_=config,
            container_config=Config(),
            created=created,
            diff_ids=(layer.diff_id,),
            history_=(History(created=created, comment=message),),
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            comment=message,
            docker_version=SERVER_VERSION,
        )
        image_id = ImageId(digests.of(document))
        lease.add(image_id)
        self._content.put(document)
        names = (ref,) if ref is not None else ()
        self._catalog.put(image_id, names=names, is_tagged_now=bool(names))
        return image_id
