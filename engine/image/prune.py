"""Pruning: which images nobody wants any more (moby daemon/images/image_prune.go)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine import filters as filtering
from engine.errors import Conflict, EngineError, InvalidParameter
from engine.image.model import Pruned
from engine.image.removal import Removal
from engine.oci import digest as digests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.image.catalog import Catalog
    from engine.image.model import Image
    from engine.image.removal import Publish, Users
    from engine.storage.snapshots import Snapshots

KNOWN = frozenset({"dangling", "label", "label!", "until"})
"""Filters of a prune."""

log = logging.getLogger(__name__)


def run(
    catalog: Catalog,
    snapshots: Snapshots,
    filters: Mapping[str, tuple[str, ...]],
    *,
    users_of: Users,
    publish: Publish,
) -> Pruned:
    """Remove what the filters mean, passing over what is in use; then sweep."""
    dangling_only, until_ns = check(filters)
    sizes = {str(layer.chain_id): layer.size_bytes for layer in snapshots.layers()}
    removal = Removal(catalog, users_of, publish)
    for image in catalog.all():
        if _is_meant(catalog, image, filters, until_ns, dangling_only=dangling_only):
            _remove(removal, catalog, image, dangling_only=dangling_only)
    swept = catalog.sweep()
    reclaimed = {r.deleted for r in removal.removed} | {x.chain_id for x in swept.released.layers}
    return Pruned(
        removed=tuple(removal.removed),
        reclaimed_bytes=sum(sizes.get(chain_id, 0) for chain_id in reclaimed),
    )


def check(filters: Mapping[str, tuple[str, ...]]) -> tuple[bool, int | None]:
    """Whether only dangling images are meant, and the youngest they may be."""
    filtering.check(filters, KNOWN)
    dangling = filtering.truth(filters, "dangling")
    try:
        return dangling is not False, filtering.until_ns(filters)
    except InvalidParameter as exc:
        raise EngineError(str(exc)) from exc  # dockerd takes the blame for it (500)


def _is_meant(
    catalog: Catalog,
    image: Image,
    filters: Mapping[str, tuple[str, ...]],
    until_ns: int | None,
    *,
    dangling_only: bool,
) -> bool:
    has_children = catalog.has_children(image.id)
    if has_children and (dangling_only or not catalog.references(image.id)):
        return False
    if until_ns is not None and (image.created_ns is None or image.created_ns > until_ns):
        return False
    return filtering.passes_labels(filters, image.labels)


def _remove(removal: Removal, catalog: Catalog, image: Image, *, dangling_only: bool) -> None:
    names = catalog.references(image.id)
    if dangling_only and any(name.tag is not None for name in names):
        return
    for ref in [str(name) for name in names] or [digests.encoded(image.id)]:
        current = catalog.find(ref)
        if current is None or current.id != image.id:
            continue  # gone with an earlier one, or named anew meanwhile
        try:
            removal.run(ref, current, force=False, prune=True)
        except Conflict as exc:
            log.debug("not pruned: %s", exc)
