"""Which layers and snapshots there are, in memory, and how often each is needed.

`layers` and `snapshots` are replaced, never changed: whoever reads takes the mapping that is there
and needs no lock. Changes are made one at a time, which is the caller's affair. What stands on a
layer or uses a folder is counted, so that taking one away looks at nothing but itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.oci.digest import ChainId
    from engine.storage.snapshots import Layer, Snapshot

T = TypeVar("T")


class Stacks:
    def __init__(self, layers: Mapping[ChainId, Layer], snapshots: Mapping[str, Snapshot]) -> None:
        self.layers = layers
        self.snapshots = snapshots
        self._above: Counter[ChainId | None] = Counter(found.parent for found in layers.values())
        self._above.update(found.parent for found in snapshots.values())
        self._in_folder = Counter(found.folder for found in layers.values())

    def count_above(self, chain_id: ChainId) -> int:
        """How many layers and snapshots stand right on it."""
        return self._above[chain_id]

    def is_folder(self, name: str) -> bool:
        """Whether a layer uses the folder."""
        return self._in_folder[name] > 0

    def add(self, layer: Layer) -> None:
        if layer.chain_id in self.layers:
            return
        self.layers = {**self.layers, layer.chain_id: layer}
        self._above[layer.parent] += 1
        self._in_folder[layer.folder] += 1

    def remove(self, layers: Iterable[Layer]) -> None:
        left = dict(self.layers)
        for layer in layers:
            del left[layer.chain_id]
            _subtract(self._above, layer.parent)
            _subtract(self._in_folder, layer.folder)
        self.layers = left

    def add_snapshot(self, key: str, snapshot: Snapshot) -> None:
        self.snapshots = {**self.snapshots, key: snapshot}
        self._above[snapshot.parent] += 1

    def remove_snapshot(self, key: str) -> None:
        """None of that key is fine."""
        left = dict(self.snapshots)
        snapshot = left.pop(key, None)
        if snapshot is not None:
            self.snapshots = left
            _subtract(self._above, snapshot.parent)


def _subtract(counter: Counter[T], key: T) -> None:
    """Counts of zero would pile up."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
