"""Where the blobs of a layer are known to be, outside.

A layer is kept unpacked and its compressed blob is not; but a registry that has the blob, or has it
in another repository, need not be sent it again, and an image so keeps its digest. Kept by diff id,
newest last. What stands here was seen: a blob of that digest was unpacked to the very tar, or made
of it. What a manifest merely says does not count, or it could lead a push to another layer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import msgspec

from engine.errors import WharfError
from engine.oci.digest import DiffId, Digest
from engine.oci.document import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from engine.oci.descriptor import Descriptor
    from engine.storage.database import Database

log = logging.getLogger(__name__)

MOST = 50
"""Of one layer; the oldest is forgotten first."""


class Source(Document, frozen=True, kw_only=True):
    """A blob of a layer in a repository ("docker.io/library/busybox")."""

    digest: Digest
    size: int
    media_type: str
    repository: str


class SourcesRow(Document, frozen=True, kw_only=True):
    version: int = 1
    sources: tuple[Source, ...] = ()


class Sources:
    """Thread-safe; its methods block. What cannot be written is not remembered, and that is all:
    the layers and the registry are as they were.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.table("source")
        self._changes = threading.Lock()

    def of(self, diff_id: DiffId) -> tuple[Source, ...]:
        """What is known of the layer, newest last."""
        body = self._table.get(diff_id)
        if body is None:
            return ()
        try:
            return msgspec.json.decode(body, type=SourcesRow).sources
        except msgspec.MsgspecError as exc:
            # It only saves work: the blob is made anew.
            log.warning("what is known of layer %s cannot be read: %s", diff_id, exc)
            return ()

    def add(self, diff_id: DiffId, source: Source) -> None:
        """Remember a blob that was seen to be this layer."""
        with self._changes, _if_there_is_room():
            self._add(diff_id, source)

    def _add(self, diff_id: DiffId, source: Source) -> None:
        kept = [one for one in self.of(diff_id) if not _is_same(one, source)]
        self._put(diff_id, (*kept, source)[-MOST:])

    def _put(self, diff_id: DiffId, sources: Sequence[Source]) -> None:
        if sources:
            row = SourcesRow(sources=tuple(sources))
            self._table.put(diff_id, msgspec.json.encode(row))
        else:
            self._table.delete(diff_id)

    def add_pulled(
        self,
        repository: str,
        layers: Iterable[tuple[DiffId, Descriptor]],
        seen: Iterable[tuple[DiffId, Digest]],
    ) -> None:
        """Remember the layers of a manifest that `repository` has.

        `seen` are those that came just now; one that was here counts if the pair was seen before.
        """
        arrived = frozenset(seen)
        with self._changes, _if_there_is_room(), self._database.transaction():
            for diff_id, descriptor in layers:
                pair = (diff_id, descriptor.digest)
                if pair not in arrived and not self._has_seen(*pair):
                    continue
                source = Source(
                    digest=descriptor.digest,
                    size=descriptor.size,
                    media_type=descriptor.media_type,
                    repository=repository,
                )
                self._add(diff_id, source)

    def _has_seen(self, diff_id: DiffId, digest: Digest) -> bool:
        return any(one.digest == digest for one in self.of(diff_id))

    def forget(self, diff_id: DiffId, source: Source) -> None:
        """The blob is not there any more."""
        with self._changes, _if_there_is_room():
            before = self.of(diff_id)
            kept = tuple(one for one in before if not _is_same(one, source))
            if kept != before:
                self._put(diff_id, kept)

    def sweep(self, layers: Callable[[], Iterable[DiffId]]) -> None:
        """Forget layers that are not here. `layers` is asked after the rows were read.

        A row is written when its layer is here, so one that is not has gone since.
        """
        with self._changes:
            known = [key for key, _ in self._table.items()]
            here = frozenset(layers()) if known else frozenset()
            gone = [key for key in known if key not in here]
            if gone:
                self._database.delete((self._table, key) for key in gone)


@contextlib.contextmanager
def _if_there_is_room() -> Generator[None]:
    try:
        yield
    except (WharfError, OSError) as exc:
        log.warning("where a layer is known to be is not remembered: %s", exc)


def _is_same(one: Source, other: Source) -> bool:
    return (one.digest, one.repository) == (other.digest, other.repository)
