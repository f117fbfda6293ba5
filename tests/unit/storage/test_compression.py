"""Decompression: the same bytes under any chunking, and little memory whatever comes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.storage import compression
from engine.storage.compression import CorruptStream

if TYPE_CHECKING:
    from collections.abc import Callable

PACKERS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    zstandard.ZstdCompressor().compress,
    bz2.compress,
    lzma.compress,
]


class Dripping:
    """Gives at most as many bytes at a time as it was told to."""

    def __init__(self, data: bytes, most: int) -> None:
        self._stream = io.BytesIO(data)
        self._most = most

    def read(self, n: int, /) -> bytes:
        return self._stream.read(min(n, self._most))


def everything(stream: compression.Readable) -> bytes:
    return b"".join(iter(lambda: stream.read(70_000), b""))


@given(
    st.binary(max_size=4000),
    st.sampled_from(PACKERS),
    st.integers(min_value=1, max_value=3000),
    st.integers(min_value=1, max_value=3),
)
def test_any_chunking(data: bytes, pack: Callable[[bytes], bytes], most: int, members: int) -> None:
    if pack is bytes and compression.detect(data) is not compression.Compression.NONE:
        return
    stream = compression.plain(Dripping(pack(data) * members, most))
    assert everything(stream) == data * members


@pytest.mark.parametrize("pack", PACKERS[1:])
def test_a_stream_cut_short(pack: Callable[[bytes], bytes]) -> None:
    data = random.Random(1).randbytes(50_000)
    packed = pack(data)
    stream = compression.plain(io.BytesIO(packed[: len(packed) // 2]))
    if pack is PACKERS[2]:
        # zstandard ends quietly; what reads the tar within does not.
        assert len(everything(stream)) < len(data)
        return
    with pytest.raises(CorruptStream, match="unexpected EOF"):
        everything(stream)


@pytest.mark.parametrize("pack", PACKERS[1:])
def test_a_stream_gone_wrong(pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(random.Random(1).randbytes(50_000)))
    for at in range(100, 200):
        packed[at] ^= 0xFF
    if pack is PACKERS[2]:
        packed[4:] = b"\xff" * len(packed[4:])
    with pytest.raises(CorruptStream):
        everything(compression.plain(io.BytesIO(bytes(packed))))


def test_padding_and_garbage_behind_gzip() -> None:
    packed = gzip.compress(b"data")
    assert everything(compression.plain(io.BytesIO(packed + bytes(5000)))) == b"data"
    with pytest.raises(CorruptStream):
        everything(compression.plain(io.BytesIO(packed + b"garbage" * 10)))


@pytest.mark.parametrize("pack", PACKERS[1:])
def test_a_bomb_is_given_in_small_pieces(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(bytes(64 << 20))
    assert len(packed) < 100_000
    stream = compression.plain(io.BytesIO(packed))
    tracemalloc.start()
    total = 0
    while piece := stream.read(1 << 30):
        assert len(piece) <= compression.OUTPUT_BYTES
        total += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 16 << 20


def test_a_huge_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    packed = compressor.compressobj()
    data = packed.compress(b"x" * 100_000) + packed.flush()
    with pytest.raises(CorruptStream):
        everything(compression.plain(io.BytesIO(data)))


def test_an_error_of_the_source_is_its_own() -> None:
    class Broken(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise ConnectionResetError("gone")
            return super().read(n)

    stream = compression.plain(Broken(gzip.compress(random.Random(1).randbytes(1 << 20))))
    with pytest.raises(compression.SourceFailed) as caught:
        everything(stream)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


@given(data=st.binary(max_size=4000), repeat=st.integers(1, 900), piece=st.integers(1, 300_000))
@settings(max_examples=30, deadline=None)
def test_gzip_is_the_same_whatever_pieces_come(data: bytes, repeat: int, piece: int) -> None:
    whole = data * repeat
    at_once, bit_by_bit = compression.Gzip(), compression.Gzip()
    expected = at_once.write(whole) + at_once.finish()
    pieces = [whole[at : at + piece] for at in range(0, len(whole), piece)]
    assert b"".join([*map(bit_by_bit.write, pieces), bit_by_bit.finish()]) == expected
    assert gzip.decompress(expected) == whole
