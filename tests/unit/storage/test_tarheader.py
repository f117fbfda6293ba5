"""Headers as Go writes them: read back by Python's reader, and the forms Go chooses."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.storage import tar, tarheader
from engine.storage.tarheader import Member

_parts = st.binary(min_size=1, max_size=255).filter(
    lambda part: not {0, 0x2F} & {*part} and part not in (b".", b"..")
)
_paths = st.lists(_parts, min_size=1, max_size=6).map(b"/".join)


def member(name: bytes = b"a", type: int = tar.REGULAR, **fields: object) -> Member:
    made = Member(name, type)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@given(
    name=_paths,
    link=st.none() | _paths,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    size=st.integers(0, 2**50),
    mtime=st.integers(-(2**40), 2**40),
)
def test_what_is_written_is_read(
    name: bytes, link: bytes | None, mode: int, uid: int, gid: int, size: int, mtime: int
) -> None:
    type = tar.REGULAR if link is None else tar.SYMLINK
    size = size if link is None else 0
    blocks = member(
        name, type, mode=mode, uid=uid, gid=gid, size=size, mtime_s=mtime, link=link or b""
    ).blocks()
    assert len(blocks) % tar.BLOCK == 0
    literal: list[bytes] = []
    header = tar.Reader(io.BytesIO(blocks), literal.append).next()
    assert header is not None
    assert b"".join(literal) == blocks
    assert (header.name, header.type, header.mode) == (name, type, mode)
    assert (header.uid, header.gid, header.size) == (uid, gid, size)
    assert (header.mtime_ns, header.linkname) == (mtime * 10**9, link or b"")


def records(blocks: bytes) -> dict[str, str]:
    with tarfile.open(
        fileobj=io.BytesIO(blocks + tarheader.END), encoding="utf-8", errors="surrogateescape"
    ) as archive:
        (found,) = archive
        return found.pax_headers


@pytest.mark.parametrize(
    ("name", "count", "names"),
    [
        (b"n" * 100, 1, set[str]()),
        (b"n" * 101, 3, {"path"}),
        (b"p" * 155 + b"/" + b"n" * 100, 1, set[str]()),
        (b"p" * 155 + b"/" + b"n" * 99 + b"/", 1, set[str]()),
        (b"p" * 156 + b"/n", 3, {"path"}),
        (b"p/" + b"n" * 101, 3, {"path"}),
        (b"p" * 90 + b"/" + b"n" * 60 + b"/", 1, set[str]()),
        ("é".encode(), 3, {"path"}),
        (b"\xff", 3, {"path"}),
        (b"d/" * 130, 3, {"path"}),
    ],
)
def test_a_name_stands_in_its_field_if_it_can(name: bytes, count: int, names: set[str]) -> None:
    type = tar.DIRECTORY if name.endswith(b"/") else tar.REGULAR
    blocks = member(name, type).blocks()
    assert len(blocks) == count * tar.BLOCK
    assert {*records(blocks)} == names


def test_numbers_that_do_not_fit_are_zero_and_a_record() -> None:
    blocks = member(uid=2097152, gid=2097151, mtime_s=-1).blocks()
    block = blocks[-tar.BLOCK :]
    assert block[108:124] == b"0000000\x007777777\x00"
    assert block[136:148] == b"00000000000\x00"
    assert records(blocks) == {"uid": "2097152", "mtime": "-1"}


def test_the_member_of_records_has_a_name_like_gos() -> None:
    for name, called in (
        (b"d/\xc3\xa9x", b"d/PaxHeaders.0/x"),
        ("é/".encode(), b"/PaxHeaders.0"),
        (b"a/b\xff/", b"a/b/PaxHeaders.0"),
        (b"d/" * 60 + b"\xff", (b"d/" * 60)[:100].rstrip(b"/")),
    ):
        type = tar.DIRECTORY if name.endswith(b"/") else tar.REGULAR
        assert member(name, type).blocks()[:100].rstrip(b"\0") == called


def test_a_record_counts_its_own_digits() -> None:
    for length in range(80, 120):
        value = bytes(length)
        found = records(member(xattrs={b"user.x": value}).blocks())
        assert found == {"SCHILY.xattr.user.x": value.decode()}
