"""The one door to compression: a stream of any known form as plain bytes, and plain bytes as gzip.

Output is handed on in pieces of bounded size, so a bomb costs time and disk but no memory; all
codecs leave the GIL while they work. Nothing is ever run as a program: an unpacker that is
looked up by its name can be the image's own.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from enum import StrEnum
from typing import Protocol

import zstandard
from isal import igzip_lib, isal_zlib

from engine.errors import InvalidParameter

INPUT_BYTES = 256 << 10
OUTPUT_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
"""What is compressed at a time: the output depends on where its pieces end."""
GZIP_LEVEL = 2
"""Of a layer to be sent, eight parts in a hundred more than what dockerd sends, and ten times as
fast; the next level is half as fast for two parts less."""
LARGEST_WINDOW_BYTES = 128 << 20
"""Memory one zstd or xz stream may ask for; zstd's own limit is 128 MiB unless told otherwise."""

_HEAD_BYTES = 10
_GZIP_WBITS = 31  # zlib.h: a window of 32 KiB, the header of gzip
_IGZIP_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # stub says instance


class Compression(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


class Readable(Protocol):
    """Where bytes come from; b"" is the end, fewer than asked for are not."""

    def read(self, n: int, /) -> bytes: ...


class _Codec(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class CorruptStream(InvalidParameter):
    """The compressed bytes are broken or end too early."""


_MAGICS = (
    (b"\x1f\x8b\x08", Compression.GZIP),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
)


def detect(head: bytes) -> Compression:
    """What a stream is that begins with `head` (ten bytes are enough)."""
    for magic, compression in _MAGICS:
        if head.startswith(magic):
            return compression
    # Skippable frames may come first (zstd format, §3.1.2).
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return Compression.ZSTD
    return Compression.NONE


class _Prefixed:
    """A stream with the bytes already read from it put back in front."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, n: int, /) -> bytes:
        if self._head:
            head, self._head = self._head[:n], self._head[n:]
            return head
        return self._stream.read(n)


class _Decompressed:
    """The plain bytes of a stream that may consist of several members, one after the other."""

    def __init__(self, stream: Readable, compression: Compression) -> None:
        self._stream = stream
        self._compression = compression
        self._codec = _codec(compression)
        self._rest = b""

    def read(self, n: int, /) -> bytes:
        try:
            return self._read(min(n, OUTPUT_BYTES))
        except (OSError, EOFError, lzma.LZMAError, zlib.error, _IGZIP_ERROR) as exc:
            raise CorruptStream(f"{self._compression}: invalid data: {exc}") from exc

    def _read(self, n: int) -> bytes:
        while True:
            if self._codec.eof and not self._next_member():
                return b""
            data = b""
            if self._codec.needs_input:
                data, self._rest = self._rest or _checked(self._stream, INPUT_BYTES), b""
                if not data:
                    raise CorruptStream("unexpected EOF")
            if plain := self._codec.decompress(data, n):
                return plain

    def _next_member(self) -> bool:
        """Begin the member behind the one that ended; False at the end of the stream.

        Zeros behind the last member are padding (gzip(1) ignores them too).
        """
        rest = self._codec.unused_data or self._rest
        while not (rest := rest.lstrip(b"\0")):
            rest = _checked(self._stream, INPUT_BYTES)
            if not rest:
                return False
        self._codec, self._rest = _codec(self._compression), rest
        return True


def _checked(stream: Readable, n: int) -> bytes:
    """Read; an error of the source itself is not one of the codec."""
    try:
        return stream.read(n)
    except OSError as exc:
        raise SourceFailed(exc) from exc


class SourceFailed(Exception):
    """Reading the source failed; `__cause__` says how."""


def _codec(compression: Compression) -> _Codec:
    match compression:
        case Compression.GZIP:
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        case Compression.BZIP2:
            return bz2.BZ2Decompressor()
        case Compression.XZ:
            return lzma.LZMADecompressor(memlimit=LARGEST_WINDOW_BYTES)
        case _:
            raise ValueError(f"no codec for {compression}")


class _Zstd:
    def __init__(self, stream: Readable) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(
            stream,  # type: ignore[arg-type]  # only `read` is called
            read_size=INPUT_BYTES,
            read_across_frames=True,
        )

    def read(self, n: int, /) -> bytes:
        try:
            return self._reader.read(min(n, OUTPUT_BYTES))
        except zstandard.ZstdError as exc:
            raise CorruptStream(f"zstd: invalid data: {exc}") from exc


def _head(stream: Readable) -> bytes:
    head = b""
    while len(head) < _HEAD_BYTES and (more := stream.read(_HEAD_BYTES - len(head))):
        head += more
    return head


def plain(stream: Readable) -> Readable:
    """The stream without its compression, whichever it has."""
    head = _head(stream)
    whole = _Prefixed(head, stream)
    match detect(head):
        case Compression.NONE:
            return whole
        case Compression.ZSTD:
            return _Zstd(whole)
        case compression:
            return _Decompressed(whole, compression)


class Gzip:
    """Compresses a stream; the same bytes give the same output, whatever pieces they come in.

    `write` gives back what is ready, `finish` the rest.
    """

    def __init__(self) -> None:
        self._codec = isal_zlib.compressobj(GZIP_LEVEL, wbits=_GZIP_WBITS)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, data: bytes) -> bytes:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes < BLOCK_BYTES:
            return b""
        whole = b"".join(self._waiting)
        end = len(whole) - len(whole) % BLOCK_BYTES
        self._waiting = [whole[end:]]
        self._waiting_bytes = len(whole) - end
        blocks = memoryview(whole)
        return b"".join(
            self._codec.compress(blocks[start : start + BLOCK_BYTES])
            for start in range(0, end, BLOCK_BYTES)
        )

    def finish(self) -> bytes:
        rest, self._waiting = b"".join(self._waiting), []
        return self._codec.compress(rest) + self._codec.flush()
