"""Mark and sweep: what no row names is removed, at boot and on prune.

Every change on disk goes row last when made and row first when removed, so whatever a crash leaves
has no row: a folder, a link, a blob. Nothing here decides what is wanted, only what is named.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.storage.snapshots import Released

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.oci.digest import ChainId, Digest
    from engine.storage.content import Content
    from engine.storage.snapshots import Snapshots

log = logging.getLogger(__name__)


_NOTHING = Released()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    released: Released = _NOTHING
    blobs: tuple[Digest, ...] = ()


def sweep(
    content: Content,
    snapshots: Snapshots,
    *,
    top_layers: Collection[ChainId],
    blobs: Collection[Digest],
) -> Swept:
    """Remove layers that neither an image (by its top layer), a snapshot nor a lease needs, and
    blobs that are not in `blobs` and have no lease.

    The caller sees to it that no image is put meanwhile without a lease.
    """
    swept = sweep_rows(content, snapshots, top_layers=top_layers, blobs=blobs)
    snapshots.remove_folders(swept.released)
    return swept


def sweep_rows(
    content: Content,
    snapshots: Snapshots,
    *,
    top_layers: Collection[ChainId],
    blobs: Collection[Digest],
) -> Swept:
    """As `sweep`, but the folders of layers are left to the caller (`snapshots.remove_folders`)."""
    released = snapshots.sweep_layers(top_layers)
    unwanted: list[Digest] = []

    def delete(digest: Digest) -> None:
        content.delete(digest)
        unwanted.append(digest)

    for digest in [digest for digest, _ in content.walk() if digest not in blobs]:
        snapshots.leases.unless_held(digest, functools.partial(delete, digest))
    if released.layers or unwanted:
        log.info("swept %d layers and %d blobs", len(released.layers), len(unwanted))
    return Swept(released=released, blobs=tuple(unwanted))


def take_away(content: Content, snapshots: Snapshots) -> None:
    """Put away what work cut short has left, at once, however much it is; before any is begun.

    `snapshots.empty_trash` then frees the space, and may run beside anything.
    """
    content.sweep_ingests()
    snapshots.sweep_folders()
