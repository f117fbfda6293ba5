"""Reading tar as Go's archive/tar does, in bulk: headers as values, contents in large pieces.

Known: v7, ustar, PAX (1.3 sparse forms too), GNU (long names, base-256 numbers, old sparse). Every
byte that is not a file's content is handed to `literal` in order, so that the archive can be
rebuilt from those bytes and the files. Nothing here touches the file system.

Errors are CorruptTar with Go's sentences, which are what dockerd's users see.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.storage.compression import Readable

BLOCK = 512
READ_BYTES = 1 << 20
LARGEST_SPECIAL_BYTES = 1 << 20
"""Largest PAX header, long name or sparse map (Go: maxSpecialFileSize)."""

LARGEST_SIZE = (1 << 63) - 1
_ZEROS = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS = b"01234567"
PAX, PAX_GLOBAL = b"xg"
GNU_LONG_LINK, GNU_LONG_NAME, GNU_SPARSE = b"KLS"
_OLD_REGULAR = 0
_WITHOUT_DATA = frozenset(b"123456")


class CorruptTar(InvalidParameter):
    """Not a tar, or one that ends too early or says impossible things."""


class Header:
    """One member. `name` and `linkname` are bytes as found; times in nanoseconds.

    `size` is the file's; `stored` how many bytes of it are in the archive; `sparse` the pieces
    (offset, length) those bytes fill, None if they are the whole file.
    """

    __slots__ = (
        "devmajor",
        "devminor",
        "gid",
        "linkname",
        "mode",
        "mtime_ns",
        "name",
        "size",
        "sparse",
        "stored",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, block: bytes, type: int) -> None:
        self.type = type
        self.name = _text(block[0:100])
        self.mode = _number(block[100:108])
        self.uid = _number(block[108:116])
        self.gid = _number(block[116:124])
        self.size = _number(block[124:136])
        self.mtime_ns = _number(block[136:148]) * 1_000_000_000
        self.linkname = _text(block[157:257])
        self.stored = self.size
        self.sparse: list[tuple[int, int]] | None = None
        self.xattrs: dict[bytes, bytes] | None = None
        self.devmajor = self.devminor = 0
        magic = block[257:263]
        if magic == b"ustar\0" or magic == b"ustar ":
            if type in (CHARACTER, BLOCK_DEVICE):
                self.devmajor = _number(block[329:337])
                self.devminor = _number(block[337:345])
            if magic == b"ustar\0" and block[345]:
                # Of star's own variant the last bytes of the prefix are times.
                end = 476 if block[508:512] == b"tar\0" else 500
                self.name = _text(block[345:end]) + b"/" + self.name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@functools.lru_cache(maxsize=4096)  # modes, owners and times of an archive are mostly the same
def _number(field: bytes) -> int:
    """Octal, or base-256 where the first bit is set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        # Some writers leave old bytes behind the terminator.
        try:
            return int(_text(field).strip(b" ") or b"0", 8)
        except ValueError:
            raise CorruptTar("archive/tar: invalid tar header") from None


def _checksum_fits(block: bytes) -> bool:
    field = block[148:156]
    # The field itself counts as spaces.
    found, expected = sum(block) - sum(field) + 8 * 32, _number(field)
    if found == expected:
        return True
    # Some old writers summed signed chars.
    high = sum(b >= 0x80 for b in block[:148] + block[156:])
    return found - 256 * high == expected


class Reader:
    """Members of a plain tar stream, in order.

    `next` gives a header; its contents are then taken with `contents` (they go to whoever asks) or
    left, whereupon `next` hands them to `literal` with the rest.
    """

    def __init__(
        self,
        stream: Readable,
        literal: Callable[[bytes], None],
        *,
        skip: Callable[[int], int] | None = None,
    ) -> None:
        """`skip` passes over bytes of the stream unread and says over how many; then contents
        that nobody takes are not given to `literal` either."""
        self._stream = stream
        self._literal = literal
        self._skip = skip
        self._buffer: bytes = b""
        self._at = 0
        self._before = 0
        self._unread = 0
        self._padding = 0

    def next(self) -> Header | None:
        """The next member, None at the end of the archive."""
        self.skip()
        long_name = long_link = None
        records: dict[bytes, bytes] = {}
        sparse_pieces: list[bytes] = []
        while True:
            block = self._header_block()
            if block is None:
                return None
            type = block[156]
            if type in (PAX, PAX_GLOBAL):
                data = self._special(_number(block[124:136]))
                if type == PAX:
                    records = {}
                    sparse_pieces = []
                    _parse_pax(data, records, sparse_pieces)
                continue
            if type == GNU_LONG_NAME:
                long_name = _text(self._special(_number(block[124:136])))
                continue
            if type == GNU_LONG_LINK:
                long_link = _text(self._special(_number(block[124:136])))
                continue
            break
        header = Header(block, type)
        if long_name is not None:
            header.name = long_name
        if long_link is not None:
            header.linkname = long_link
        if records or sparse_pieces:
            _merge_pax(header, records)
        self._settle(header, block, records, sparse_pieces)
        return header

    def _settle(
        self, header: Header, block: bytes, records: dict[bytes, bytes], pieces: list[bytes]
    ) -> None:
        """Decide what the member is in the end, and how many bytes follow it."""
        if header.type == _OLD_REGULAR:
            header.type = DIRECTORY if header.name.endswith(b"/") else REGULAR
        if not 0 <= header.size <= LARGEST_SIZE:
            raise CorruptTar("archive/tar: invalid tar header")
        header.stored = 0 if header.type in _WITHOUT_DATA else header.size
        if header.type in _WITHOUT_DATA:
            header.size = 0
        self._unread = header.stored
        self._padding = -header.stored % BLOCK
        if header.type == GNU_SPARSE:
            self._old_gnu_sparse(header, block)
        elif records and any(key.startswith(b"GNU.sparse.") for key in records):
            self._pax_sparse(header, records, pieces)

    # Contents

    @property
    def position(self) -> int:
        """Where in the stream the next byte is that nobody has taken."""
        return self._before + self._at

    @property
    def unread(self) -> int:
        """Bytes of the member's stored contents not yet taken."""
        return self._unread

    def contents(self) -> Iterator[memoryview | bytes]:
        """The member's stored contents in pieces; a piece is valid until the next is asked for."""
        while self._unread:
            available = len(self._buffer) - self._at
            if not available:
                self._fill()
                continue
            n = min(available, self._unread)
            piece = memoryview(self._buffer)[self._at : self._at + n]
            self._at += n
            self._unread -= n
            yield piece

    def small(self) -> bytes | memoryview | None:
        """The whole contents at once if they are at hand, else None: then use `contents`."""
        n, at = self._unread, self._at
        if at + n > len(self._buffer):
            return None
        self._at += n
        self._unread = 0
        return memoryview(self._buffer)[at : at + n]

    def skip(self) -> None:
        """Go to the end of the member; what was not taken is literal."""
        if self._skip is not None and self._unread:
            self._pass_over(self._unread, self._skip)
        for piece in self.contents():
            self._literal(bytes(piece))
        if self._padding:
            padding, self._padding = self._padding, 0
            self._literal(self._exactly(padding))

    def _pass_over(self, n: int, skip: Callable[[int], int]) -> None:
        self._unread = 0
        available = len(self._buffer) - self._at
        if n <= available:
            self._at += n
            return
        passed = skip(n - available)
        if passed < n - available:
            raise CorruptTar("unexpected EOF")
        self._before += len(self._buffer) + passed
        self._buffer, self._at = b"", 0

    def finish(self) -> None:
        """After the last member: all that follows is literal, to the end of the stream."""
        while True:
            if self._at < len(self._buffer):
                self._literal(self._buffer[self._at :])
                self._at = len(self._buffer)
            data = self._stream.read(READ_BYTES)
            if not data:
                return
            self._before += len(self._buffer)
            self._buffer, self._at = data, 0

    # Bytes

    def _fill(self) -> None:
        data = self._stream.read(READ_BYTES)
        if not data:
            raise CorruptTar("unexpected EOF")
        self._before += len(self._buffer)
        self._buffer, self._at = data, 0

    def _exactly(self, n: int) -> bytes:
        at = self._at
        if at + n <= len(self._buffer):
            self._at = at + n
            return self._buffer[at : at + n]
        parts: list[bytes] = []
        while n:
            if self._at == len(self._buffer):
                self._fill()
            part = self._buffer[self._at : self._at + n]
            self._at += len(part)
            n -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _block(self) -> bytes | None:
        """The next block, None where the stream ends before it."""
        if self._at == len(self._buffer):
            data = self._stream.read(READ_BYTES)
            if not data:
                return None
            self._before += len(self._buffer)
            self._buffer, self._at = data, 0
        block = self._exactly(BLOCK)
        self._literal(block)
        return block

    def _header_block(self) -> bytes | None:
        block = self._block()
        if block is None:
            return None
        if block == _ZEROS:
            second = self._block()
            if second is None or second == _ZEROS:
                return None
            raise CorruptTar("archive/tar: invalid tar header")
        if not _checksum_fits(block):
            raise CorruptTar("archive/tar: invalid tar header")
        return block

    def _special(self, size: int) -> bytes:
        """The contents of a header that describes the next one."""
        if size < 0:
            raise CorruptTar("archive/tar: invalid tar header")
        if size > LARGEST_SPECIAL_BYTES:
            raise CorruptTar("archive/tar: header field too long")
        data = self._exactly(size + -size % BLOCK)
        self._literal(data)
        return data[:size]

    # Sparse files

    def _old_gnu_sparse(self, header: Header, block: bytes) -> None:
        pieces = _old_sparse_pieces(block[386:482], 4)
        is_extended = block[482]
        real_size = _number(block[483:495])
        while is_extended:
            extension = self._block()
            if extension is None:
                raise CorruptTar("unexpected EOF")
            pieces += _old_sparse_pieces(extension, 21)
            is_extended = extension[504]
            if len(pieces) * 24 > LARGEST_SPECIAL_BYTES:
                raise CorruptTar("archive/tar: header field too long")
        header.type = REGULAR
        _set_sparse(header, pieces, real_size)

    def _pax_sparse(self, header: Header, records: dict[bytes, bytes], pieces: list[bytes]) -> None:
        major, minor = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
        real = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if (major, minor) == (b"1", b"0"):
            numbers = self._sparse_map_in_data(header)
        elif b"GNU.sparse.map" in records:
            numbers = [_decimal(n) for n in records[b"GNU.sparse.map"].split(b",") if n]
        elif pieces:
            numbers = [_decimal(n) for n in pieces]
        else:
            return
        if name := records.get(b"GNU.sparse.name"):
            header.name = name
        if len(numbers) % 2 or real is None:
            raise CorruptTar("archive/tar: invalid tar header")
        _set_sparse(header, list(zip(numbers[::2], numbers[1::2], strict=True)), _decimal(real))

    def _sparse_map_in_data(self, header: Header) -> list[int]:
        """PAX 1.0: decimal lines at the start of the contents, padded to a block."""
        text = b""
        lines: list[bytes] = []
        wanted = 1
        while len(lines) < wanted:
            if self._unread < BLOCK or len(text) > LARGEST_SPECIAL_BYTES:
                raise CorruptTar("archive/tar: invalid tar header")
            block = self._exactly(BLOCK)
            self._literal(block)
            self._unread -= BLOCK
            text += block
            lines = text.split(b"\n")[:-1]
            if lines:
                wanted = 1 + 2 * _decimal(lines[0])
        header.stored = self._unread
        return [_decimal(line) for line in lines[1:wanted]]


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise CorruptTar("archive/tar: invalid tar header")
    return int(digits)


def _old_sparse_pieces(field: bytes, count: int) -> list[tuple[int, int]]:
    return [
        (_number(entry[:12]), _number(entry[12:24]))
        for entry in (field[24 * i : 24 * i + 24] for i in range(count))
        if entry[0]
    ]


def _set_sparse(header: Header, pieces: list[tuple[int, int]], real_size: int) -> None:
    """Take over a sparse map that is ordered, lies within the file and fits what is stored."""
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0:
            raise CorruptTar("archive/tar: invalid tar header")
        end = offset + length
    total = sum(length for _, length in pieces)
    if end > real_size or real_size > LARGEST_SIZE or total != header.stored:
        raise CorruptTar("archive/tar: invalid tar header")
    header.sparse = pieces
    header.size = real_size


def _parse_pax(data: bytes, records: dict[bytes, bytes], pieces: list[bytes]) -> None:
    """Records are `length SP key=value LF`; a repeated key's last value counts."""
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise CorruptTar("archive/tar: invalid tar header")
        length = _decimal(data[at:space])
        stop = at + length
        equals = data.find(b"=", space, stop)
        if stop > end or stop <= space + 1 or equals < 0 or data[stop - 1] != 0x0A:
            raise CorruptTar("archive/tar: invalid tar header")
        key, value = data[space + 1 : equals], data[equals + 1 : stop - 1]
        if key == b"GNU.sparse.offset" or key == b"GNU.sparse.numbytes":
            pieces.append(value)
        records[key] = value
        at = stop


def _merge_pax(header: Header, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        if not value:
            continue  # an empty value takes a former one back
        if key == b"path":
            header.name = _without_nul(value)
        elif key == b"linkpath":
            header.linkname = _without_nul(value)
        elif key == b"size":
            header.size = header.stored = _decimal(value)
        elif key == b"uid":
            header.uid = _decimal(value)
        elif key == b"gid":
            header.gid = _decimal(value)
        elif key == b"mtime":
            header.mtime_ns = _pax_time_ns(value)
        elif key.startswith(_XATTR):
            if header.xattrs is None:
                header.xattrs = {}
            header.xattrs[key[len(_XATTR) :]] = value


def _without_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise CorruptTar("archive/tar: invalid tar header")
    return value


def _pax_time_ns(value: bytes) -> int:
    """Seconds with a fraction of any length, cut to nanoseconds."""
    negative = value.startswith(b"-")
    whole, _, fraction = value.lstrip(b"-").partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 19:
        raise CorruptTar("archive/tar: invalid tar header")
    ns = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -ns if negative else ns
