"""What images there are and under which names: rows on disk, all of it in memory as well.

A name is a full reference, with a tag or with a digest; it means one image. Sync and thread-safe.
Changes go to disk first and to memory last, so whoever reads memory sees only what is kept. They
happen one at a time, under a lock that is held for rows and never for the files of layers; reading
takes the value that the last change published (see known.py), and never waits.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import msgspec

from engine.errors import InvalidParameter, NoSuchImage, WharfError
from engine.image import failure
from engine.image.known import Known
from engine.image.model import ImageRow, TagRow
from engine.oci import digest as digests
from engine.oci import platform as platforms
from engine.oci import reference as references
from engine.oci.digest import ChainId, Digest, ImageId
from engine.oci.image import ImageConfig, decode_config
from engine.oci.reference import Reference
from engine.storage import gc
from engine.storage.snapshots import LayerMissing, Released

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from engine.image.model import Image
    from engine.oci.platform import Platform
    from engine.storage.content import Content
    from engine.storage.database import Database
    from engine.storage.snapshots import Layer, Snapshots

S = TypeVar("S", bound=str)
T = TypeVar("T")

log = logging.getLogger(__name__)


class MissingLayer(InvalidParameter):
    """A config names layers that are not here."""

    def __init__(self, chain_id: ChainId) -> None:
        super().__init__(f"failed to get layer {chain_id}: layer does not exist")


@functools.lru_cache(maxsize=1024)
def _meaning(ref: str) -> tuple[ImageId | None, str]:
    """The id that is spelled out, or else the full name; each inspect of a container asks."""
    parsed = references.parse_any(ref)
    return (None, str(parsed.stored())) if isinstance(parsed, Reference) else (ImageId(parsed), "")


def _only_prefixed(prefix: str, ids: Iterable[S]) -> S | None:
    digits = prefix.removeprefix(f"{digests.CANONICAL}:")
    if not digits:
        return None
    found = [key for key in ids if key.partition(":")[2].startswith(digits)]
    return found[0] if len(found) == 1 else None


class Catalog:
    """Images by id and by name. Readers take what is published; only writers wait for a lock."""

    def __init__(self, database: Database, content: Content, snapshots: Snapshots) -> None:
        self._database = database
        self._content = content
        self._snapshots = snapshots
        self._image_rows = database.table("image")
        self._tag_rows = database.table("tag")
        self._changes = threading.RLock()
        self._tops: Counter[ChainId] = Counter()
        self._documents: Counter[Digest] = Counter()
        self._unreadable: set[str] = set()
        self._known = self._restored()

    # From disk

    def _restored(self) -> Known:
        known = Known()
        for key, body in self._image_rows.items():
            try:
                row = msgspec.json.decode(body, type=ImageRow)
                self._restore(known, ImageId(key), row)
                self._documents.update(row.documents)
            except (WharfError, OSError, msgspec.MsgspecError) as exc:
                # Kept on disk and out of sight: its row still protects what is left of it.
                log.error("image %s cannot be used: %s", key, exc)
                self._unreadable.add(key)
        for key, body in self._tag_rows.items():
            try:
                image_id = msgspec.json.decode(body, type=TagRow).image
                if image_id in known.images:
                    known.name(references.parse(key), image_id)
            except (msgspec.MsgspecError, InvalidParameter) as exc:
                log.error("the name %s cannot be read: %s", key, exc)
        return known

    def _restore(self, known: Known, image_id: ImageId, row: ImageRow) -> None:
        config = decode_config(self._content.read(Digest(image_id)))
        top = digests.chain_id(config.diff_ids)
        known.put(image_id, config, row, self._size(config))
        if top is not None:
            self._tops[top] += 1

    # Reading

    def all(self) -> list[Image]:
        return list(self._known.images.values())

    def by_id(self, image_id: ImageId) -> Image | None:
        return self._known.images.get(image_id)

    def references(self, image_id: ImageId) -> Sequence[Reference]:
        """All names of an image, in the order of their full spelling."""
        return self._known.references.get(image_id, ())

    def named(self, name: Reference) -> list[tuple[Reference, ImageId]]:
        """All names with the same repository, in order."""
        found = [
            (reference, image_id)
            for image_id, owned in self._known.references.items()
            for reference in owned
            if reference.name == name.name
        ]
        return sorted(found, key=lambda pair: str(pair[0]))

    def of_reference(self, reference: Reference) -> ImageId | None:
        """The image that a name means; a digest in it counts more than its tag."""
        return self._known.names.get(str(reference.stored()))

    def has_children(self, image_id: ImageId) -> bool:
        """Whether others were made of the image."""
        return image_id in self._known.children

    def find(self, ref: str) -> Image | None:
        """The image that a name, an id or the beginning of one means; None if none or several.

        Raises InvalidReference.
        """
        image_id, name = _meaning(ref)
        known = self._known
        if image_id is None:
            image_id = known.names.get(name) or self.by_prefix(ref)
        return known.images.get(image_id) if image_id is not None else None

    def by_prefix(self, prefix: str) -> ImageId | None:
        """The one image whose id begins so, with or without "sha256:"."""
        return _only_prefixed(prefix, self._known.images)

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

    # Changing

    def put(
        self,
        image_id: ImageId,
        *,
        names: Iterable[Reference] = (),
        digest_names: Iterable[Reference] = (),
        documents: Collection[Digest] = (),
        parent: ImageId | None = None,
        is_built_locally: bool = False,
        is_tagged_now: bool = False,
    ) -> Image:
        """Make an image visible and give it names; its config is in the content store already.

        Layers and documents are there and held by a lease. An image that is there already gets the
        names and documents besides its own. Of the names by digest in `digest_names` one that means
        another image goes on meaning that: an index is one digest for all its platforms. Raises
        InvalidDocument, MissingLayer.
        """
        with self._changes:
            known = self._known.copy()
            before = known.images.get(image_id)
            config = before.config if before else self._readable_config(image_id)
            row = _merged(before.row if before else None, image_id, documents, parent)
            if is_built_locally or is_tagged_now:
                row = msgspec.structs.replace(
                    row,
                    is_built_locally=is_built_locally or row.is_built_locally,
                    last_tagged_ns=time.time_ns() if is_tagged_now else row.last_tagged_ns,
                )
            stored = [name.stored() for name in names]
            stored += self._still_free(image_id, digest_names)
            with self._database.transaction():
                self._image_rows.put(image_id, msgspec.json.encode(row))
                for name in stored:
                    self._put_tag(name, image_id)
            self._count(before, row, config)
            known.put(image_id, config, row, self._size(config))
            for name in stored:
                known.name(name, image_id)
            self._known = known
            self._unreadable.discard(image_id)
            return known.images[image_id]

    def remember(self, image_id: ImageId, *, name: Reference, document: Digest) -> bool:
        """Give an image a name and a document besides its own; whether it is still here.

        A digest that means another image goes on meaning that.
        """
        with self._changes:
            if image_id not in self._known.images:
                return False
            self.put(image_id, digest_names=(name,), documents=(document,))
            return True

    def _still_free(self, image_id: ImageId, names: Iterable[Reference]) -> list[Reference]:
        free: list[Reference] = []
        for name in names:
            stored = name.stored()
            if self._known.names.get(str(stored), image_id) == image_id:
                free.append(stored)
            else:
                log.info("%s means another image than %s, and goes on doing so", stored, image_id)
        return free

    def _count(self, before: Image | None, row: ImageRow, config: ImageConfig) -> None:
        """What the image stands on is needed once more; what it stood on already, was so."""
        self._documents.update(set(row.documents) - set(before.row.documents if before else ()))
        top = digests.chain_id(config.diff_ids)
        if before is None and top is not None:
            self._tops[top] += 1

    def _size(self, config: ImageConfig) -> int:
        return self._snapshots.stack_size(digests.chain_id(config.diff_ids))

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
        former = self._known.names.get(str(name))
        if name.digest is not None and former is not None and former != image_id:
            raise failure.DigestTaken(name.digest)
        self._tag_rows.put(str(name), msgspec.json.encode(TagRow(image=image_id)))

    def untag(self, name: Reference) -> bool:
        """Take a name away; whether there was one."""
        stored = name.stored()
        with self._changes:
            known = self._known.copy()
            if not known.unname(stored):
                return False
            self._tag_rows.delete(str(stored))
            self._known = known
            return True

    def delete(self, image_id: ImageId) -> Sequence[Layer]:
        """Remove an image, its names, and what only it needed; gives the layers removed.

        Raises NoSuchImage.
        """
        with self._changes:
            known = self._known.copy()
            image = known.images.get(image_id)
            if image is None:
                raise NoSuchImage(image_id)
            tags = [(self._tag_rows, str(name)) for name in known.references.get(image_id, ())]
            self._database.delete([*tags, (self._image_rows, image_id)])
            known.drop(image_id)
            self._known = known
            released = self._release(image)
        # Bytes take their time, and nobody else has to wait for them.
        self._snapshots.remove_folders(released)
        return released.layers

    def _release(self, image: Image) -> Released:
        """Remove the blobs, and the rows of the layers, that only this image needed."""
        _take_away(self._documents, image.row.documents)
        _take_away(self._tops, [top] if (top := image.chain_id) is not None else [])
        if self._unreadable:
            return Released()
        for document in image.row.documents:
            if document not in self._documents:
                delete = functools.partial(self._content.delete, document)
                self._snapshots.leases.unless_held(document, delete)
        return self._snapshots.release(top, top_layers=self._tops.keys())

    def give_up(self, ref: str) -> ImageId | None:
        """Remove the rows of an image that cannot be read, by its id, the beginning of that or a
        name; None if `ref` means no such image. What only it needed is left to `sweep`.
        """
        with self._changes:
            if not self._unreadable:
                return None
            names = self._named_unreadable()
            image_id, name = _meaning(ref)
            wanted = image_id or names.get(name) or _only_prefixed(ref, self._unreadable)
            if wanted not in self._unreadable:
                return None
            tags = [(self._tag_rows, key) for key, image in names.items() if image == wanted]
            self._database.delete([*tags, (self._image_rows, wanted)])
            self._unreadable.discard(wanted)
            return ImageId(wanted)

    def _named_unreadable(self) -> dict[str, str]:
        """The names that mean images which cannot be read, as far as those can be."""
        found: dict[str, str] = {}
        for key, body in self._tag_rows.items():
            try:
                image_id = msgspec.json.decode(body, type=TagRow).image
            except msgspec.MsgspecError:
                continue
            if image_id in self._unreadable:
                found[key] = image_id
        return found

    def release(self, chain_id: ChainId | None) -> None:
        """Remove the layer, and those below it, as far down as nobody needs them any more."""
        with self._changes:
            if self._unreadable:
                return
            released = self._snapshots.release(chain_id, top_layers=self._tops.keys())
        self._snapshots.remove_folders(released)

    def sweep(self) -> gc.Swept:
        """Remove layers and blobs that nothing names (see gc)."""
        with self._changes:
            if self._unreadable:
                # A row that cannot be read may name layers: better too much than too little.
                log.warning("nothing is swept while an image cannot be read")
                return gc.Swept()
            swept = gc.sweep_rows(
                self._content,
                self._snapshots,
                top_layers=self._tops.keys(),
                blobs=self._documents.keys(),
            )
        self._snapshots.remove_folders(swept.released)
        return swept


def _take_away(counter: Counter[T], names: Iterable[T]) -> None:
    """Count each once less; one that nobody needs any more is no longer in it."""
    for name in names:
        counter[name] -= 1
        if counter[name] <= 0:
            del counter[name]


def _merged(
    before: ImageRow | None,
    image_id: ImageId,
    documents: Collection[Digest],
    parent: ImageId | None,
) -> ImageRow:
    row = before or ImageRow(documents=(Digest(image_id),))
    return msgspec.structs.replace(
        row,
        documents=tuple(dict.fromkeys((*row.documents, *documents))),
        parent=parent or row.parent,
    )


def check_name(name: Reference) -> None:
    """Raise AmbiguousTag for a name that would read as an id."""
    if name.familiar_name == digests.CANONICAL:
        raise failure.AmbiguousTag


def as_shown(ref: str) -> str:
    """What a sentence calls something that is not there: familiar, the tag spelled out."""
    parsed = references.parse_any(ref)
    return parsed.with_default_tag().familiar if isinstance(parsed, Reference) else parsed
