"""Reading a json-file log: rotated files, records in bulk, the tail from the end.

    <path>.2.gz  <path>.1  <path>      oldest first; the newest is written to

Sync and free of policy: bytes and paths in, records out. A record that a crash or a full disk has
damaged is skipped, and reading goes on with the next line.
"""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
# A record is at most 16 KiB of output, escaped; a "line" beyond this is garbage.
_LONGEST_BYTES = 1 << 20


class Record(msgspec.Struct, frozen=True, gc=False):
    """One piece of output; `log` ends in a line break unless the line goes on."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


_decoder = msgspec.json.Decoder(Record)


def parse(data: bytes) -> list[Record]:
    """Whole lines to records; in one pass unless something is damaged."""
    try:
        return _decoder.decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return [record for line in data.split(b"\n") if (record := _parse_one(line)) is not None]


def _parse_one(line: bytes) -> Record | None:
    """A torn record may have the next one behind it on the same line: look for its beginning."""
    start = 0
    while 0 <= start < len(line):
        try:
            return _decoder.decode(line[start:])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            start = line.find(b'{"log":', start + 1)
    return None


def files(path: str) -> list[str]:
    """All files of the log that are there, oldest first."""
    folder, base = os.path.split(path)
    numbered: list[tuple[int, str]] = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    for name in names:
        number = _number(name, base)
        if number is not None:
            numbered.append((number, os.path.join(folder, name)))
    return [name for _, name in sorted(numbered, reverse=True)]


def _number(name: str, base: str) -> int | None:
    if name == base:
        return 0
    text = name.removeprefix(base + ".").removesuffix(".gz")
    return int(text) if name.startswith(base + ".") and text.isdecimal() else None


def chunks(path: str) -> Iterator[bytes]:
    """The whole lines of one file in large pieces; a last line without its end is left out."""
    rest = b""
    with _open(path) as file:
        while data := file.read(CHUNK_BYTES):
            data = rest + data
            cut = data.rfind(b"\n") + 1
            rest = data[cut:]
            if cut:
                yield data[:cut]
            elif len(rest) > _LONGEST_BYTES:
                rest = b""


def _open(path: str) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


def tail(paths: list[str], lines: int) -> list[bytes]:
    """The last `lines` whole lines of all files together, oldest first, read from the end."""
    pieces: list[bytes] = []
    for path in reversed(paths):
        if lines <= 0:
            break
        piece = _tail_packed(path, lines) if path.endswith(".gz") else _tail_plain(path, lines)
        lines -= piece.count(b"\n")
        pieces.insert(0, piece)
    return pieces


def _tail_packed(path: str, lines: int) -> bytes:
    data = b"".join(chunks(path))
    return _last_lines(data, lines)


def _tail_plain(path: str, lines: int) -> bytes:
    """Blocks from the end until there are enough line breaks."""
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        count = 0
        blocks: list[bytes] = []
        while position > 0 and count <= lines:
            size = min(CHUNK_BYTES, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            count += block.count(b"\n")
            blocks.insert(0, block)
        data = b"".join(blocks)
    return _last_lines(data[: data.rfind(b"\n") + 1], lines)


def _last_lines(data: bytes, lines: int) -> bytes:
    end = len(data) - 1  # the break that ends the last line is not one between lines
    for _ in range(lines):
        end = data.rfind(b"\n", 0, max(end, 0))
        if end < 0:
            return data
    return data[end + 1 :]


def end_of(path: str) -> tuple[int, int]:
    """(inode, size) of the newest file; (0, 0) if there is none yet."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return info.st_ino, info.st_size
