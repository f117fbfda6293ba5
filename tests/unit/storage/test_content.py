"""Blobs: visible only when whole and verified."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.oci import digest
from engine.oci.digest import Digest, InvalidDigest
from engine.storage.content import (
    BlobDamaged,
    BlobMissing,
    Content,
    DigestMismatch,
    IngestAborted,
    SizeMismatch,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Executor
    from pathlib import Path

    from engine.storage.content import Ingest


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(str(tmp_path / "content"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_chunking(content: Content, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    name = digest.of(data)
    with content.ingest(name, len(data)) as ingest:
        for piece in pieces:
            ingest.write(piece)
        assert ingest.commit() == name
    assert content.read(name) == data
    assert content.size(name) == len(data)
    assert os.listdir(content.ingest_root) == []


def test_what_is_not_committed_is_not_there(content: Content) -> None:
    name = digest.of(b"data")
    with content.ingest(name) as ingest:
        ingest.write(b"data")
        assert not content.has(name)
    assert not content.has(name)
    assert os.listdir(content.ingest_root) == []
    with pytest.raises(BlobMissing):
        content.read(name)


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [
        (b"date", 4, DigestMismatch),
        (b"dat", 4, SizeMismatch),
        (b"datas", 4, SizeMismatch),
        (b"date", None, DigestMismatch),
    ],
)
def test_a_blob_that_lies(
    content: Content, data: bytes, size: int | None, error: type[Exception]
) -> None:
    name = digest.of(b"data")

    def ingest_it() -> None:
        with content.ingest(name, size) as ingest:
            ingest.write(data)
            ingest.commit()

    with pytest.raises(error):
        ingest_it()
    assert list(content.walk()) == []
    assert os.listdir(content.ingest_root) == []


def test_other_algorithms(content: Content) -> None:
    hasher = digest.hasher("sha512:")
    hasher.update(b"data")
    name = Digest(f"sha512:{hasher.hexdigest()}")
    content.put(b"data", name)
    assert list(content.walk()) == [(name, 4)]


def test_a_name_cannot_lead_out(content: Content) -> None:
    for name in ("sha256:../../../etc/passwd", "../x:" + "a" * 64):
        with pytest.raises(InvalidDigest):
            content.read(Digest(name))


def test_deleting_and_sweeping(content: Content) -> None:
    name = content.put(b"data")
    content.delete(name)
    content.delete(name)
    assert not content.has(name)
    ingest = content.ingest(digest.of(b"x"))
    ingest.write(b"x")
    content.sweep_ingests()
    assert os.listdir(content.ingest_root) == []
    with pytest.raises(FileNotFoundError):
        ingest.abort()


def test_a_full_disk_keeps_nothing_of_an_ingest(content: Content) -> None:
    ingest = content.ingest(digest.of(b"data"))
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), ingest._fd)
    with pytest.raises(OSError, match="No space"):
        ingest.write(b"data")
    assert ingest.offset == 0
    ingest.abort()
    assert os.listdir(content.ingest_root) == []


def test_a_blob_that_cannot_get_its_name_leaves_nothing(
    content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        content.put(b"data")
    assert os.listdir(content.ingest_root) == []


# Following

SOON_S = 0.05
"""Who would go on though he must not would have done so by then."""


@pytest.fixture
def thread() -> Generator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _all_of(ingest: Ingest, n: int) -> list[bytes]:
    pieces: list[bytes] = []
    with ingest.follow() as follower:
        while piece := follower.read(n):
            pieces.append(piece)
    return pieces


def test_a_follower_reads_what_is_written_and_waits_for_more(
    content: Content, thread: Executor
) -> None:
    with content.ingest(digest.of(b"abcdef"), 6) as ingest, ingest.follow() as follower:
        ingest.write(b"abc")
        assert follower.read(2) == b"ab"
        assert follower.read(2) == b"c"
        more = thread.submit(follower.read, 100)
        with pytest.raises(NotYet):
            more.result(SOON_S)
        ingest.write(b"def")
        assert more.result(10) == b"def"


def test_nobody_sees_the_end_before_the_blob_is_verified(
    content: Content, thread: Executor
) -> None:
    with content.ingest(digest.of(b"data"), 4) as ingest:
        followed = thread.submit(_all_of, ingest, 100)
        ingest.write(b"data")
        with pytest.raises(NotYet):
            followed.result(SOON_S)
        ingest.verify()
        assert followed.result(10) == [b"data"]
        ingest.commit()


def test_an_ingest_that_is_aborted_ends_its_followers(content: Content, thread: Executor) -> None:
    ingest = content.ingest(digest.of(b"data"))
    ingest.write(b"dat")
    followed = thread.submit(_all_of, ingest, 100)
    ingest.abort()
    with pytest.raises(IngestAborted):
        followed.result(10)
    with pytest.raises(IngestAborted):
        ingest.follow()
    with pytest.raises(IngestAborted):
        ingest.wait_until_verified()


def test_wrong_bytes_have_no_end(content: Content, thread: Executor) -> None:
    with content.ingest(digest.of(b"data")) as ingest:
        followed = thread.submit(_all_of, ingest, 100)
        ingest.write(b"date")
        with pytest.raises(DigestMismatch):
            ingest.verify()
        with pytest.raises(NotYet):
            followed.result(SOON_S)
    with pytest.raises(IngestAborted):
        followed.result(10)


def test_what_changed_on_the_disk_is_not_given_out(content: Content) -> None:
    name = content.put(b"config")
    with open(content.path(name), "r+b") as file:
        file.write(b"C")
    with pytest.raises(BlobDamaged, match=f"^failed to verify: {name}$"):
        content.read(name)
    assert content.find(name) is None
    content.put(b"config")
    assert content.find(name) == b"config"
    content.delete(name)
    assert content.find(name) is None
