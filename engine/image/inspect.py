"""Looking at images: lists, details, history, sizes. Reads memory, hardly ever the disk."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from engine import filters as filtering
from engine import timestamp
from engine.errors import EngineError
from engine.image.model import HistoryItem, ImageView, LayerUsage, Summary, created_ns
from engine.oci import digest as digests
from engine.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.image.catalog import Catalog
    from engine.image.model import Image, ImageQuery
    from engine.oci.digest import ChainId, ImageId
    from engine.oci.reference import Reference
    from engine.storage.snapshots import Snapshots

DRIVER = "overlay2"
KNOWN = frozenset({"dangling", "label", "before", "since", "reference", "until"})
"""Filters of a list."""


def summaries(
    catalog: Catalog,
    snapshots: Snapshots,
    query: ImageQuery,
    users: Mapping[str, Sequence[object]],
) -> list[Summary]:
    """The images that a query means, newest first. Raises InvalidFilter, NoSuchImage."""
    filtering.check(query.filters, KNOWN)
    dangling = bool(filtering.truth(query.filters, "dangling"))
    before_ns, since_ns = _bounds(catalog, query.filters)
    images = catalog.all()
    shared = _shared_sizes(images, snapshots) if query.shared_size else {}
    found: list[Summary] = []
    for image in images:
        if not _is_within(image, before_ns, since_ns) or not _has_labels(image, query.filters):
            continue
        names = _names(catalog.references(image.id), query.filters.get("reference"))
        has_children = catalog.has_children(image.id)
        if not _is_shown(query, names, dangling=dangling, has_children=has_children):
            continue
        found.append(
            Summary(
                image=image,
                repo_tags=tuple(n.familiar for n in names if n.tag is not None),
                repo_digests=tuple(n.familiar for n in names if n.tag is None),
                shared_size_bytes=shared.get(image.id, -1),
                containers=len(users.get(image.id, ())),
            )
        )
    return sorted(found, key=lambda s: (-s.created_s, s.image.id))


def _is_shown(
    query: ImageQuery, names: Sequence[Reference], *, dangling: bool, has_children: bool
) -> bool:
    if dangling and has_children:
        return False
    if names:
        return not (dangling and any(n.tag is not None for n in names))
    if has_children and not query.all:
        return False
    if "dangling" in query.filters and not dangling:
        return False
    return "reference" not in query.filters


def _names(names: Sequence[Reference], patterns: tuple[str, ...] | None) -> Sequence[Reference]:
    if patterns is None:
        return names
    try:
        return [n for n in names if any(references.familiar_match(p, n) for p in patterns)]
    except references.InvalidReference as exc:
        raise EngineError("syntax error in pattern") from exc  # again dockerd's own fault


def _bounds(
    catalog: Catalog, filters: Mapping[str, tuple[str, ...]]
) -> tuple[int | None, int | None]:
    """Created before (exclusive) and since (exclusive); several values narrow each other."""
    before = [catalog.get(ref).created_ns for ref in filters.get("before", ())]
    before += [_moment_ns(text) for text in filters.get("until", ())]
    since = [catalog.get(ref).created_ns for ref in filters.get("since", ())]
    return (
        min((ns for ns in before if ns is not None), default=None),
        max((ns for ns in since if ns is not None), default=None),
    )


def _moment_ns(text: str) -> int:
    try:
        return timestamp.parse_user_ns(text, time.time_ns())
    except ValueError as exc:
        raise EngineError(str(exc)) from None  # dockerd takes the blame for it (500)


def _is_within(image: Image, before_ns: int | None, since_ns: int | None) -> bool:
    created = image.created_ns
    if before_ns is not None and (created is None or created >= before_ns):
        return False
    return since_ns is None or (created is not None and created > since_ns)


def _has_labels(image: Image, filters: Mapping[str, tuple[str, ...]]) -> bool:
    if "label" not in filters:
        return True
    return image.config.config is not None and filtering.matches_labels(
        filters["label"], image.labels
    )


def _uses(images: list[Image]) -> Counter[ChainId]:
    """How many images stand on each layer."""
    uses: Counter[ChainId] = Counter()
    for image in images:
        uses.update(digests.chain_ids(image.diff_ids))
    return uses


def _shared_sizes(images: list[Image], snapshots: Snapshots) -> dict[ImageId, int]:
    uses = _uses(images)
    return {
        image.id: sum(
            snapshots.layer_size(chain_id)
            for chain_id in digests.chain_ids(image.diff_ids)
            if uses[chain_id] > 1
        )
        for image in images
    }


def usage(catalog: Catalog, snapshots: Snapshots) -> list[LayerUsage]:
    """Every layer that is kept, with how many images stand on it."""
    uses = _uses(catalog.all())
    return [
        LayerUsage(
            chain_id=layer.chain_id,
            folder=layer.folder,
            size_bytes=layer.size_bytes,
            images=uses[layer.chain_id],
        )
        for layer in snapshots.layers()
    ]


def view(catalog: Catalog, snapshots: Snapshots, image: Image) -> ImageView:
    """Everything about one image."""
    history = image.config.history
    comment = image.config.comment or (history[-1].comment if history else "")
    top = image.chain_id
    return ImageView(
        image=image,
        driver=DRIVER,
        directories=snapshots.layer_directories(top) if top else {},
        comment=comment,
        raw_config=catalog.raw_config(image.id),
    )


def history(catalog: Catalog, snapshots: Snapshots, image: Image) -> list[HistoryItem]:
    """How the image came to be, newest step first."""
    chain = iter(digests.chain_ids(image.diff_ids))
    items: list[HistoryItem] = []
    for entry in image.config.history:
        size = 0
        if not entry.empty_layer:
            chain_id = next(chain, None)
            if chain_id is None:
                raise EngineError("too many non-empty layers in History section")
            size = snapshots.layer_size(chain_id)
        created = created_ns(entry.created)
        items.append(
            HistoryItem(
                created_s=0 if created is None else created // timestamp.SECOND,
                created_by=entry.created_by,
                comment=entry.comment,
                size_bytes=size,
            )
        )
    items.reverse()
    return _identified(catalog, image, items)


def _identified(catalog: Catalog, image: Image, items: list[HistoryItem]) -> list[HistoryItem]:
    """Give steps the ids of the image and of its parents, as far as they are here."""
    identified: list[HistoryItem] = []
    current: Image | None = image
    for item in items:
        if current is None:
            identified.append(item)
            continue
        identified.append(
            HistoryItem(
                id=current.id,
                created_s=item.created_s,
                created_by=item.created_by,
                comment=item.comment,
                size_bytes=item.size_bytes,
                tags=current.repo_tags or None,
            )
        )
        current = catalog.by_id(current.parent) if current.parent else None
    return identified
