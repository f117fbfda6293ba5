"""What images there are and under which names: rows on disk, all of it in memory as well.

A name is a full reference, with a tag or with a digest; it means one image. Sync and thread-safe.
Changes go to disk first and to memory last, so whoever reads memory sees only what is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from engine.errors import InvalidParameter, NoSuchImage
from engine.image import failure
from engine.image.model import Image, ImageRow, TagRow
from engine.oci import digest as digests
from engine.oci import platform as platforms
from engine.oci import reference as references
from engine.oci.digest import ChainId, Digest, ImageId
from engine.oci.document import InvalidDocument
from engine.oci.image import ImageConfig, decode_config
from engine.oci.reference import Reference
from engine.storage import gc
from engine.storage.content import BlobMissing
from engine.storage.snapshots import LayerMissing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from engine.oci.platform import Platform
    from engine.storage.content import Content
    from engine.storage.database import Database
    from engine.storage.snapshots import Layer, Snapshots

log = logging.getLogger(__name__)


class MissingLayer(InvalidParameter):
    """A config names layers that are not here."""

    def __init__(self, chain_id: ChainId) -> None:
        super().__init__(f"failed to get layer {chain_id}: layer does not exist")


class Catalog:
    """Images by id and by name."""

    def __init__(self, database: Database, content: Content, snapshots: Snapshots) -> None:
        self._database = database
        self._content = content
        self._snapshots = snapshots
        self._image_rows = database.table("image")
        self._tag_rows = database.table("tag")
        self._lock = threading.RLock()
        self._configs: dict[ImageId, ImageConfig] = {}
        self._rows: dict[ImageId, ImageRow] = {}
        self._sizes: dict[ImageId, int] = {}
        self._tops: dict[ImageId, ChainId | None] = {}
        self._names: dict[str, ImageId] = {}
        self._references: dict[ImageId, dict[str, Reference]] = {}
        self._restore()

    # From disk

    def _restore(self) -> None:
        for key, row in self._image_rows.items():
            try:
                self._restore_image(ImageId(key), msgspec.json.decode(row, type=ImageRow))
            except (BlobMissing, InvalidDocument, LayerMissing, MissingLayer) as exc:
                # Kept on disk and out of sight: its row still protects what is left of it.
                log.error("image %s cannot be used: %s", key, exc)
        for key, row in self._tag_rows.items():
            image_id = msgspec.json.decode(row, type=TagRow).image
            if image_id in self._rows:
                self._remember(references.parse(key), image_id)

    def _restore_image(self, image_id: ImageId, row: ImageRow) -> None:
        config = decode_config(self._content.read(Digest(image_id)))
        self._take_in(image_id, config, row)

    def _take_in(self, image_id: ImageId, config: ImageConfig, row: ImageRow) -> None:
        top = digests.chain_id(config.diff_ids)
        self._sizes[image_id] = self._snapshots.stack_size(top)
        self._tops[image_id] = top
        self._configs[image_id] = config
        self._rows[image_id] = row

    def _remember(self, reference: Reference, image_id: ImageId) -> None:
        name = str(reference)
        former = self._names.get(name)
        if former is not None:
            self._references[former].pop(name, None)
        self._names[name] = image_id
        self._references.setdefault(image_id, {})[name] = reference

    def _forget(self, reference: Reference) -> None:
        image_id = self._names.pop(str(reference), None)
        if image_id is not None:
            self._references[image_id].pop(str(reference), None)

    # Reading

    def ids(self) -> list[ImageId]:
        with self._lock:
            return list(self._rows)

    def all(self) -> list[Image]:
        with self._lock:
            return [self._image(image_id) for image_id in self._rows]

    def by_id(self, image_id: ImageId) -> Image | None:
        with self._lock:
            return self._image(image_id) if image_id in self._rows else None

    def _image(self, image_id: ImageId) -> Image:
        names = self.references(image_id)
        return Image(
            id=image_id,
            config=self._configs[image_id],
            row=self._rows[image_id],
            size_bytes=self._sizes[image_id],
            repo_tags=tuple(r.familiar for r in names if r.tag is not None),
            repo_digests=tuple(r.familiar for r in names if r.tag is None),
        )

    def references(self, image_id: ImageId) -> list[Reference]:
        """All names of an image, in the order of their full spelling."""
        with self._lock:
            return [r for _, r in sorted(self._references.get(image_id, {}).items())]

    def named(self, name: Reference) -> list[tuple[Reference, ImageId]]:
        """All names with the same repository, in order."""
        with self._lock:
            found = [
                (reference, image_id)
                for image_id, owned in self._references.items()
                for reference in owned.values()
                if reference.name == name.name
            ]
        return sorted(found, key=lambda pair: str(pair[0]))

    def of_reference(self, reference: Reference) -> ImageId | None:
        """The image that a name means; a digest in it counts more than its tag."""
        return self._names.get(str(reference.stored()))

    def parents(self) -> set[ImageId]:
        """The images that others were made of."""
        with self._lock:
            return {row.parent for row in self._rows.values() if row.parent is not None}

    def children(self, image_id: ImageId) -> list[ImageId]:
        with self._lock:
            return [other for other, row in self._rows.items() if row.parent == image_id]

    def find(self, ref: str) -> Image | None:
        """The image that a name, an id or the beginning of one means; None if none or several.

        Raises InvalidReference.
        """
        parsed = references.parse_any(ref)
        with self._lock:
            if not isinstance(parsed, Reference):
                return self.by_id(ImageId(parsed))
            image_id = self.of_reference(parsed) or self.by_prefix(ref)
            return self.by_id(image_id) if image_id is not None else None

    def by_prefix(self, prefix: str) -> ImageId | None:
        """The one image whose id begins so, with or without "sha256:"."""
        digits = prefix.removeprefix(f"{digests.CANONICAL}:")
        if not digits:
            return None
        with self._lock:
            found = [key for key in self._rows if digests.encoded(key).startswith(digits)]
        return found[0] if len(found) == 1 else None

    def get(self, ref: str, platform: Platform | None = None) -> Image:
        """As `find`; raises NoSuchImage, PlatformMismatch, InvalidReference."""
        image = self.find(ref)
        if image is None:
            raise NoSuchImage(as_shown(ref))
        if platform is not None and not platforms.matches_image(platform, image.platform):
            raise failure.PlatformMismatch(ref, image.platform, platform)
        return image

    def raw_config(self, image_id: ImageId) -> bytes:
        """The exact bytes of the config."""
        return self._content.read(Digest(image_id))

    def top_layers(self) -> set[ChainId]:
        """The layers that images stand on."""
        with self._lock:
            return {top for top in self._tops.values() if top is not None}

    def documents(self) -> set[Digest]:
        """All blobs that rows name."""
        with self._lock:
            return {
                document
                for _, row in self._image_rows.items()
                for document in msgspec.json.decode(row, type=ImageRow).documents
            }

    # Changing

    def put(
        self,
        image_id: ImageId,
        *,
        names: Iterable[Reference] = (),
        documents: Collection[Digest] = (),
        parent: ImageId | None = None,
        is_built_locally: bool = False,
        is_tagged_now: bool = False,
    ) -> Image:
        """Make an image visible and give it names; its config is in the content store already.

        Layers and documents are there and held by a lease. An image that is there already gets the
        names and documents besides its own. Raises InvalidDocument, MissingLayer.
        """
        with self._lock:
            config = self._configs.get(image_id) or self._readable_config(image_id)
            before = self._rows.get(image_id)
            row = _merged(before, image_id, documents, parent, is_built_locally)
            if is_tagged_now:
                row = msgspec.structs.replace(row, last_tagged_ns=time.time_ns())
            stored = [name.stored() for name in names]
            with self._database.transaction():
                self._image_rows.put(image_id, msgspec.json.encode(row))
                for name in stored:
                    self._put_tag(name, image_id)
            self._take_in(image_id, config, row)
            for name in stored:
                self._remember(name, image_id)
            return self._image(image_id)

    def _readable_config(self, image_id: ImageId) -> ImageConfig:
        config = decode_config(self._content.read(Digest(image_id)))
        if config.os not in ("", "linux"):
            raise failure.UnsupportedOS
        top = digests.chain_id(config.diff_ids)
        try:
            self._snapshots.stack(top)
        except LayerMissing as exc:
            raise MissingLayer(top or ChainId("")) from exc
        return config

    def _put_tag(self, name: Reference, image_id: ImageId) -> None:
        check_name(name)
        former = self._names.get(str(name))
        if name.digest is not None and former is not None and former != image_id:
            raise failure.DigestTaken(name.digest)
        self._tag_rows.put(str(name), msgspec.json.encode(TagRow(image=image_id)))

    def untag(self, name: Reference) -> bool:
        """Take a name away; whether there was one."""
        stored = name.stored()
        with self._lock:
            if str(stored) not in self._names:
                return False
            self._tag_rows.delete(str(stored))
            self._forget(stored)
            return True

    def delete(self, image_id: ImageId) -> list[Layer]:
        """Remove an image, its names, and what only it needed; gives the layers removed."""
        with self._lock:
            row, names = self._rows[image_id], self.references(image_id)
            with self._database.transaction():
                for name in names:
                    self._tag_rows.delete(str(name))
                self._image_rows.delete(image_id)
            for name in names:
                self._forget(name)
            del self._configs[image_id], self._rows[image_id], self._sizes[image_id]
            self._references.pop(image_id, None)
            top = self._tops.pop(image_id)
            removed = self._snapshots.release(top, top_layers=self.top_layers())
            kept = self.documents()
            for document in row.documents:
                if document not in kept and not self._snapshots.leases.holds(document):
                    self._content.delete(document)
            return removed

    def sweep(self) -> gc.Swept:
        """Remove layers and blobs that nothing names (see gc)."""
        with self._lock:
            if len(self._configs) != len(self._image_rows.items()):
                # A row that cannot be read may name layers: better too much than too little.
                log.warning("nothing is swept while an image cannot be read")
                return gc.Swept(layers=(), blobs=())
            return gc.sweep(
                self._content,
                self._snapshots,
                top_layers=self.top_layers(),
                blobs=self.documents(),
            )


def _merged(
    before: ImageRow | None,
    image_id: ImageId,
    documents: Collection[Digest],
    parent: ImageId | None,
    is_built_locally: bool,
) -> ImageRow:
    known = before.documents if before else (Digest(image_id),)
    return ImageRow(
        documents=tuple(dict.fromkeys((*known, *documents))),
        parent=parent or (before.parent if before else None),
        last_tagged_ns=before.last_tagged_ns if before else 0,
        is_built_locally=is_built_locally or (before is not None and before.is_built_locally),
    )


def check_name(name: Reference) -> None:
    """Raise AmbiguousTag for a name that would read as an id."""
    if name.familiar_name == digests.CANONICAL:
        raise failure.AmbiguousTag


def as_shown(ref: str) -> str:
    """What a sentence calls something that is not there: familiar, the tag spelled out."""
    parsed = references.parse_any(ref)
    return parsed.with_default_tag().familiar if isinstance(parsed, Reference) else parsed
