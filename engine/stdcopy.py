"""Two output streams in one: each piece of output behind a header of eight bytes.

The stream, three zero bytes, the length (moby api/pkg/stdcopy). What is attached to a terminal has
one stream and no frames. Monitors have this too, so it needs next to nothing.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

STDOUT, STDERR = 1, 2
# A frame of this stream is an error to whoever reads the others (stdcopy.Systemerr).
SYSTEM_ERROR = 3

_HEADER = struct.Struct(">B3xI")


def header(stream: int, length: int) -> bytes:
    return _HEADER.pack(stream, length)


def frame(stream: int, data: bytes) -> bytes:
    return _HEADER.pack(stream, len(data)) + data


def frames(batch: Iterable[tuple[int, bytes]]) -> bytes:
    pack = _HEADER.pack
    parts: list[bytes] = []
    for stream, data in batch:
        parts += (pack(stream, len(data)), data)
    return b"".join(parts)


def unframed(batch: Iterable[tuple[int, bytes]]) -> bytes:
    """The same without frames, as a terminal's output goes."""
    return b"".join([data for _, data in batch])
