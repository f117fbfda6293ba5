"""Writing the headers of a tar as Go's archive/tar does, byte for byte, so that layers have the
digests that dockerd's have.

Of PAX as little as possible: what fits its field stands there, a long name in two fields if it
can; only where that is not enough (a name that is not ASCII, a large id, a time before 1970, an
extended attribute) it stands in a record before. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.storage import tar

if TYPE_CHECKING:
    from collections.abc import Mapping

END = bytes(2 * tar.BLOCK)
"""What an archive ends with."""

XATTR = b"SCHILY.xattr."

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_LARGEST_ID = 8**7 - 1
_LARGEST_NUMBER = 8**11 - 1
_MAGIC = b"ustar\x0000"
_NO_CHECKSUM = b" " * 8


class Member:
    """What a header says. `device` is (major, minor), `mtime_s` may be negative; a `name` ends in a
    slash if it is a directory's."""

    __slots__ = (
        "device",
        "gid",
        "link",
        "mode",
        "mtime_s",
        "name",
        "size",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, type: int) -> None:
        self.name = name
        self.type = type
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.mtime_s = 0
        self.link = b""
        self.device = (0, 0)
        self.xattrs: Mapping[bytes, bytes] | None = None

    def blocks(self) -> bytes:
        """The member up to its contents."""
        records = self._records()
        if not records:
            return self._block(self.name)
        if records.keys() == {b"path"}:
            prefix, name = _split(self.name)
            if prefix:
                return self._block(name, prefix)
        return _extended(self.name, records) + self._block(_ascii(self.name))

    def _records(self) -> dict[bytes, bytes]:
        """What does not fit its field."""
        records: dict[bytes, bytes] = {}
        if len(self.name) > _NAME_BYTES or not self.name.isascii():
            records[b"path"] = self.name
        if len(self.link) > _NAME_BYTES or not self.link.isascii():
            records[b"linkpath"] = self.link
        if self.uid > _LARGEST_ID:
            records[b"uid"] = b"%d" % self.uid
        if self.gid > _LARGEST_ID:
            records[b"gid"] = b"%d" % self.gid
        if self.size > _LARGEST_NUMBER:
            records[b"size"] = b"%d" % self.size
        if not 0 <= self.mtime_s <= _LARGEST_NUMBER:
            records[b"mtime"] = b"%d" % self.mtime_s
        for name, value in (self.xattrs or {}).items():
            records[XATTR + name] = value
        return records

    def _block(self, name: bytes, prefix: bytes = b"") -> bytes:
        return _sealed(
            b"".join(
                (
                    _text(name, _NAME_BYTES),
                    _octal(self.mode, 8),
                    _octal(self.uid, 8),
                    _octal(self.gid, 8),
                    _octal(self.size, 12),
                    _octal(self.mtime_s, 12),
                    _NO_CHECKSUM,
                    b"%c" % self.type,
                    _text(_ascii(self.link), _NAME_BYTES),
                    _MAGIC,
                    bytes(64),
                    _octal(self.device[0], 8),
                    _octal(self.device[1], 8),
                    prefix.ljust(tar.BLOCK - 345, b"\0"),
                )
            )
        )


def _sealed(block: bytes) -> bytes:
    """With its checksum, which is counted as if it were blank."""
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])


def _extended(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    """The member that holds the records of the next one."""
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    folder, _, file = name.rpartition(b"/")
    parts = [part for part in (*folder.split(b"/"), b"PaxHeaders.0", file) if part]
    called = _ascii(b"/".join(parts))[:_NAME_BYTES].rstrip(b"/")
    block = b"".join(
        (
            called.ljust(_NAME_BYTES, b"\0"),
            _octal(0, 8) * 3,
            _octal(len(data), 12),
            _octal(0, 12),
            _NO_CHECKSUM,
            b"x",
            bytes(_NAME_BYTES),
            _MAGIC,
            bytes(tar.BLOCK - 265),
        )
    )
    return _sealed(block) + data + bytes(-len(data) % tar.BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`length SP key=value LF`; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))  # one digit more may be what makes it longer
    return b"%d %b=%b\n" % (length, key, value)


def _ascii(name: bytes) -> bytes:
    """What is left for readers that know no records."""
    return name if name.isascii() else bytes(byte for byte in name if byte < 0x80)


def _text(text: bytes, width: int) -> bytes:
    """A field; one that is cut does not end in a slash, or it would read as a directory."""
    if len(text) > width and text[width - 1 : width] == b"/":
        return text[: width - 1].rstrip(b"/").ljust(width, b"\0")
    return text[:width].ljust(width, b"\0")


def _octal(number: int, width: int) -> bytes:
    """Zero stands for what does not fit: a record says it then."""
    if not 0 <= number < 8 ** (width - 1):
        number = 0
    return b"%0*o\0" % (width - 1, number)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """(prefix, rest) of a name that fits in two fields; no prefix if it does not."""
    length = len(name)
    if length > _NAME_BYTES and name.isascii():
        is_cut = length > _PREFIX_BYTES + 1
        end = _PREFIX_BYTES + 1 if is_cut else length - name.endswith(b"/")
        at = name.rfind(b"/", 0, end)
        if 0 < at <= _PREFIX_BYTES and 0 < length - at - 1 <= _NAME_BYTES:
            return name[:at], name[at + 1 :]
    return b"", name
