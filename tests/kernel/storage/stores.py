"""Stores in a folder of the test's own."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from engine.storage.content import Content
from engine.storage.database import Database
from engine.storage.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from engine.oci.digest import ChainId, DiffId
    from engine.storage.leases import Lease
    from engine.storage.snapshots import Layer


class Stores:
    """Database, blobs and snapshots below one root; opening it again is a restart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = Database(str(root / "wharf.db"))
        self.content = Content(str(root / "content"))
        self.snapshots = Snapshots(str(root), self.database)

    def extract(
        self, tar: bytes, parent: ChainId | None = None, *, diff_id: DiffId | None = None
    ) -> Layer:
        with self.snapshots.lease() as lease:
            return self.commit(tar, parent, lease, diff_id=diff_id)

    def commit(
        self, tar: bytes, parent: ChainId | None, lease: Lease, *, diff_id: DiffId | None = None
    ) -> Layer:
        staged = self.snapshots.stage_layer(io.BytesIO(tar), diff_id=diff_id)
        return self.snapshots.commit_layer(staged, parent, lease)

    def release(self, layer: Layer) -> list[Layer]:
        """Remove the layer with what only it needs; no image needs anything."""
        released = self.snapshots.release(layer.chain_id, top_layers=())
        self.snapshots.remove_folders(released)
        return list(released.layers)

    def sweep(self, top_layers: Collection[ChainId]) -> list[Layer]:
        released = self.snapshots.sweep_layers(top_layers)
        self.snapshots.remove_folders(released)
        return list(released.layers)

    def diff(self, layer: Layer) -> str:
        return os.path.join(self.snapshots.root, layer.folder, "diff")

    def tar(self, layer: Layer) -> bytes:
        return b"".join(self.snapshots.layer_tar(layer.chain_id))

    def folders(self) -> set[str]:
        """What there is of layers and snapshots on disk."""
        return set(os.listdir(self.snapshots.root)) - {"init", "l", "stage", "trash"}

    def unfinished(self) -> list[str]:
        """What work cut short would leave."""
        root = self.snapshots.root
        return [
            *os.listdir(os.path.join(root, "stage")),
            *os.listdir(os.path.join(root, "trash")),
            *os.listdir(self.content.ingest_root),
        ]

    def close(self) -> None:
        self.database.close()
