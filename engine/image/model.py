"""What an image is to users, and what the verbs answer with.

An image is a config (its digest is the id) on a stack of layers. Names, the time of the last tag
and the parent are not part of it: they are this engine's knowledge and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine import timestamp
from engine.oci.digest import ChainId, DiffId, Digest, ImageId, chain_id
from engine.oci.document import Document
from engine.oci.image import ImageConfig

if TYPE_CHECKING:
    from engine.oci.platform import Platform

VERSION = 1
"""Version of the stored rows; raised with a migration."""


class ImageRow(Document, frozen=True, kw_only=True):
    """The row of an image. `documents` are the blobs kept for it: config, manifest, indexes."""

    version: int = VERSION
    documents: tuple[Digest, ...]
    parent: ImageId | None = None
    last_tagged_ns: int = 0  # 0: never tagged here
    is_built_locally: bool = False


class TagRow(Document, frozen=True, kw_only=True):
    """The row of a name: key is the full reference, with a tag or a digest."""

    version: int = VERSION
    image: ImageId


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it stands. Lists of names are sorted; `created_ns` None where it is not said."""

    id: ImageId
    config: ImageConfig
    row: ImageRow
    size_bytes: int
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()

    @property
    def short_id(self) -> str:
        """Twelve digits, as sentences show them."""
        return self.id.partition(":")[2][:12]

    @property
    def diff_ids(self) -> tuple[DiffId, ...]:
        return self.config.diff_ids

    @property
    def chain_id(self) -> ChainId | None:
        """The top layer, None for an image without layers."""
        return chain_id(self.config.diff_ids)

    @property
    def parent(self) -> ImageId | None:
        return self.row.parent

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def labels(self) -> dict[str, str]:
        return (self.config.config.labels if self.config.config else None) or {}

    @property
    def created_ns(self) -> int | None:
        return created_ns(self.config.created)


def created_ns(text: str) -> int | None:
    """The moment a config or a history entry says, None where it says nothing of sense."""
    try:
        return timestamp.parse_ns(text) if text else None
    except ValueError:
        return None


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a pull, push, load or import. `error` ends the stream.

    `current` and `total` are bytes (0: unknown); `stream` is text to show as it is; `aux` a
    document for programs.
    """

    id: str = ""
    status: str = ""
    current: int = 0
    total: int = 0
    stream: str = ""
    error: str = ""
    aux: dict[str, str | int] | None = None


class ImageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to list; `filters` maps a filter's name to its values."""

    all: bool = False
    shared_size: bool = False
    filters: dict[str, tuple[str, ...]] = {}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list. There may be fewer names than the image has (filter `reference`)."""

    image: Image
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    shared_size_bytes: int  # -1: not asked for
    containers: int

    @property
    def created_s(self) -> int:
        created = self.image.created_ns
        return 0 if created is None else created // timestamp.SECOND


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """All that inspect shows. `directories` are the overlay's (GraphDriver.Data).

    `comment` falls back to the last history entry's; `raw_config` is the exact document.
    """

    image: Image
    driver: str
    directories: dict[str, str]
    comment: str
    raw_config: bytes


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One step of how an image came to be, newest first; `id` is "<missing>" where not known."""

    id: str = "<missing>"
    created_s: int = 0
    created_by: str = ""
    comment: str = ""
    size_bytes: int = 0
    tags: tuple[str, ...] | None = None


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Either a name that is gone or an image or layer."""

    untagged: str = ""
    deleted: str = ""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    removed: tuple[Removed, ...]
    reclaimed_bytes: int


class LayerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one layer and how many images stand on it; several layers may share a folder."""

    chain_id: ChainId
    folder: str
    size_bytes: int
    images: int
