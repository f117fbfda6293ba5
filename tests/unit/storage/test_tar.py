"""Tar: what Python's own writer writes, read in bulk; every byte accounted for."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.storage import tar
from engine.storage.tar import CorruptTar

_names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=300,
).filter(lambda name: not name.endswith("/"))

_members = st.lists(
    st.tuples(
        _names,
        st.binary(max_size=2000),
        st.integers(min_value=0, max_value=0o7777),
        st.integers(min_value=0, max_value=2**32 - 2),
        st.integers(min_value=0, max_value=2**36),
    ),
    max_size=8,
)


def written(members: list[tuple[str, bytes, int, int, int]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data, mode, owner, mtime in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.mtime = len(data), mode, owner, mtime
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Dripping(io.BytesIO):
    most = 1 << 30

    def read(self, n: int | None = -1, /) -> bytes:
        return super().read(min(n or 0, self.most))


@given(
    _members,
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(min_value=1, max_value=3000),
    st.booleans(),
)
def test_members_and_bytes(
    members: list[tuple[str, bytes, int, int, int]], form: int, most: int, takes: bool
) -> None:
    archive = written(members, form)
    stream = Dripping(archive)
    stream.most = most
    again: list[bytes] = []
    reader = tar.Reader(stream, again.append)
    found = []
    while (header := reader.next()) is not None:
        data = b""
        if takes:
            data = b"".join(bytes(piece) for piece in reader.contents())
            again.append(data)
        found.append((header.name.decode(), data, header.mode, header.uid, header.mtime_ns))
    reader.finish()
    assert b"".join(again) == archive
    assert found == [
        (name, data if takes else b"", mode, owner, mtime * 10**9)
        for name, data, mode, owner, mtime in members
    ]


@given(_members)
def test_contents_passed_over(members: list[tuple[str, bytes, int, int, int]]) -> None:
    archive = written(members, tarfile.PAX_FORMAT)
    stream = Dripping(archive)
    stream.most = 1024

    def skip(n: int) -> int:
        at = stream.tell()
        stream.seek(min(at + n, len(archive)))
        return stream.tell() - at

    reader = tar.Reader(stream, lambda _: None, skip=skip)
    found = []
    while (header := reader.next()) is not None:
        found.append(archive[reader.position : reader.position + header.stored])
    assert found == [data for _, data, *_ in members]


@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reader = tar.Reader(io.BytesIO(data), lambda _: None)
    try:
        while reader.next() is not None:
            pass
    except CorruptTar:
        return


@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    archive = bytearray(written([("a" * 150, b"x" * 700, 0o644, 5, 7)], tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    again: list[bytes] = []
    reader = tar.Reader(io.BytesIO(archive), again.append)
    try:
        while reader.next() is not None:
            pass
        reader.finish()
    except CorruptTar:
        return
    assert b"".join(again) == bytes(archive)


def pax(records: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("f")
        info.size = 4
        info.pax_headers = records
        archive.addfile(info, io.BytesIO(b"data"))
    return out.getvalue()


@pytest.mark.parametrize(
    "records",
    [
        {"size": "-1"},
        {"size": "1" * 30},
        {"size": "0x4"},
        {"uid": "-5"},
        {"mtime": "soon"},
        {"path": "a\0b"},
        {"GNU.sparse.map": "0,4", "GNU.sparse.size": "3"},
        {"GNU.sparse.map": "0,4,2,1", "GNU.sparse.size": "9"},
        {"GNU.sparse.map": "0,4,1", "GNU.sparse.size": "9"},
        {"GNU.sparse.map": "0,4"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
    ],
)
def test_impossible_records(records: dict[str, str]) -> None:
    with pytest.raises(CorruptTar):
        tar.Reader(io.BytesIO(pax(records)), lambda _: None).next()


def test_records_count_more_than_the_header() -> None:
    header = tar.Reader(
        io.BytesIO(
            pax(
                {
                    "path": "other",
                    "uid": "70000",
                    "mtime": "12.0000000019",
                    "SCHILY.xattr.user.a": "b",
                    "GNU.sparse.map": "2,3,7,1",
                    "GNU.sparse.size": "10",
                }
            )
        ),
        lambda _: None,
    ).next()
    assert header is not None
    assert (header.name, header.uid, header.mtime_ns) == (b"other", 70000, 12_000_000_001)
    assert header.xattrs == {b"user.a": b"b"}
    assert (header.size, header.stored, header.sparse) == (10, 4, [(2, 3), (7, 1)])


def test_a_header_that_describes_too_much() -> None:
    with pytest.raises(CorruptTar, match="header field too long"):
        tar.Reader(io.BytesIO(pax({"comment": "x" * (2 << 20)})), lambda _: None).next()


def test_numbers() -> None:
    block = bytearray(written([("a", b"", 0o644, 2**40, 0)], tarfile.GNU_FORMAT)[:512])
    header = tar.Reader(io.BytesIO(bytes(block) + bytes(1024)), lambda _: None).next()
    assert header is not None
    assert header.uid == 2**40
