"""What is remembered of where a layer's blobs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.errors import NoSpace
from engine.image.sources import MOST, Source, Sources
from engine.image.uploads import mountable, rank
from engine.oci import reference
from engine.oci.descriptor import Descriptor
from engine.oci.digest import DiffId, Digest
from engine.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LAYER = DiffId("sha256:" + "a" * 64)
OTHER = DiffId("sha256:" + "b" * 64)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def source(number: int, repository: str = "r.example/a") -> Source:
    return Source(digest=digest(number), size=number, media_type="gzip", repository=repository)


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    found = Database(str(tmp_path / "db"))
    yield found
    found.close()


def test_the_newest_is_last_and_there_are_only_so_many(database: Database) -> None:
    sources = Sources(database)
    for number in range(MOST + 3):
        sources.add(LAYER, source(number))
    sources.add(LAYER, source(10))
    found = Sources(database).of(LAYER)
    assert len(found) == MOST
    assert found[-1] == source(10)
    assert found[0] == source(3)


def test_a_full_disk_only_costs_the_memory_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources = Sources(database)
    sources.add(LAYER, source(1))

    def full(*_: object) -> None:
        raise NoSpace("db")

    monkeypatch.setattr(sources._table, "put", full)
    sources.add(LAYER, source(2))
    layers = [(LAYER, Descriptor(digest=digest(3), size=3))]
    sources.add_pulled("r.example/a", layers, [(LAYER, digest(3))])
    assert sources.of(LAYER) == (source(1),)
    assert caplog.text.count("no space left on device") == 2


def test_one_that_is_gone_is_forgotten(database: Database) -> None:
    sources = Sources(database)
    sources.add(LAYER, source(1))
    sources.add(LAYER, source(1, "r.example/b"))
    sources.forget(LAYER, source(1))
    assert sources.of(LAYER) == (source(1, "r.example/b"),)
    sources.forget(LAYER, source(1, "r.example/b"))
    assert database.table("source").items() == []


def test_a_manifest_alone_proves_nothing(database: Database) -> None:
    """A registry may say of any layer that any blob is it."""
    sources = Sources(database)
    layers = [
        (LAYER, Descriptor(digest=digest(1), size=1, media_type="gzip")),
        (OTHER, Descriptor(digest=digest(2), size=2, media_type="gzip")),
    ]
    sources.add_pulled("r.example/a", layers, [(LAYER, digest(1))])
    assert sources.of(LAYER) == (source(1),)
    assert sources.of(OTHER) == ()
    sources.add_pulled("r.example/b", layers, [])
    assert sources.of(LAYER) == (source(1), source(1, "r.example/b"))
    assert sources.of(OTHER) == ()


def test_what_is_not_here_any_more_is_swept(database: Database) -> None:
    sources = Sources(database)
    sources.add(LAYER, source(1))
    sources.add(OTHER, source(2))
    sources.sweep(lambda: [OTHER])
    assert sources.of(LAYER) == ()
    assert sources.of(OTHER) == (source(2),)


def test_a_row_that_cannot_be_read_counts_for_nothing(database: Database) -> None:
    database.table("source").put(LAYER, b"{")
    sources = Sources(database)
    assert sources.of(LAYER) == ()
    sources.add(LAYER, source(1))
    assert sources.of(LAYER) == (source(1),)


def test_the_likeliest_is_asked_first() -> None:
    known = [
        source(1, "r.example/team/app"),
        source(2, "docker.io/library/app"),
        source(3, "r.example/team/base"),
        source(4, "r.example/other/app"),
    ]
    ref = reference.parse("r.example/team/app:1")
    assert [one.size for one in rank(known, ref)] == [1, 3, 4, 2]
    assert [one.size for one in mountable(rank(known, ref), ref)] == [3, 4]
