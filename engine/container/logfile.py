"""Reading a json-file log: rotated files, records in bulk, the tail from the end.

    <path>.2.gz  <path>.1  <path>      oldest first; the newest is written to

Sync and free of policy: bytes and paths in, records out. A record that a crash or a full disk has
damaged is skipped, and reading goes on with the next line.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import time
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES = 64 * 1024
# A record is at most 16 KiB of output, escaped; a "line" beyond this is garbage.
_LONGEST_BYTES = 1 << 20
# A rotation renames a handful of files: it is over in a moment.
ROTATION_ATTEMPTS = 200
ROTATION_PAUSE_S = 0.001


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


class Part(NamedTuple):
    """One file of a log, held open: renames do not matter to it any more."""

    file: BinaryIO
    is_packed: bool
    inode: int
    whole_bytes: int  # up to its last line break when it was opened; of packed ones all

    def close(self) -> None:
        self.file.close()


def names(path: str) -> list[str]:
    """All files of the log that are there, oldest first."""
    folder, base = os.path.split(path)
    numbered: list[tuple[int, str]] = []
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    for name in found:
        number = _number(name, base)
        if number is not None:
            numbered.append((number, os.path.join(folder, name)))
    # One that is being packed is there twice: the packed one is not whole until the other is gone.
    plain = {number for number, name in numbered if not name.endswith(".gz")}
    return [
        name
        for number, name in sorted(numbered, reverse=True)
        if number not in plain or not name.endswith(".gz")
    ]


def _number(name: str, base: str) -> int | None:
    if name == base:
        return 0
    text = name.removeprefix(base + ".").removesuffix(".gz")
    return int(text) if name.startswith(base + ".") and text.isdecimal() else None


Chain = list[tuple[int, str]]
"""(inode, name) of the log's files, oldest first."""


def chain(path: str) -> Chain | None:
    """None if a rotation changed it while it was read."""
    first, second = _read_chain(path), _read_chain(path)
    return first if first == second else None


def _read_chain(path: str) -> Chain:
    found: Chain = []
    for name in names(path):
        with contextlib.suppress(FileNotFoundError):
            found.append((os.stat(name).st_ino, name))
    return found


def open_all(path: str) -> list[Part]:
    """Every file of the log at one moment, oldest first; the caller closes them."""
    for _ in range(ROTATION_ATTEMPTS):
        found = chain(path)
        parts = None if found is None else _open_chain(found)
        if parts is not None:
            return parts
        time.sleep(ROTATION_PAUSE_S)
    raise OSError(errno.EAGAIN, "the log is rotated faster than it can be opened", path)


def _open_chain(found: Chain) -> list[Part] | None:
    with contextlib.ExitStack() as undo:
        parts: list[Part] = []
        for inode, name in found:
            part = open_part(inode, name)
            if part is None:
                return None
            undo.callback(part.close)
            parts.append(part)
        undo.pop_all()
    return parts


def open_part(inode: int, name: str) -> Part | None:
    """None if another file has taken the name, or none has it."""
    try:
        file = open(name, "rb", buffering=0)  # noqa: SIM115 (handed over)
    except FileNotFoundError:
        return None
    info = os.fstat(file.fileno())
    if info.st_ino != inode:
        file.close()
        return None
    is_packed = name.endswith(".gz")
    size = info.st_size
    whole = size if is_packed else size - _unfinished(file.fileno(), size)
    return Part(cast("BinaryIO", file), is_packed, inode, whole)


def _unfinished(fd: int, size: int) -> int:
    """Bytes behind the last line break."""
    block = os.pread(fd, min(size, _LONGEST_BYTES), max(0, size - _LONGEST_BYTES))
    return len(block) - (block.rfind(b"\n") + 1)


def chunks(part: Part, start: int = 0) -> Iterator[bytes]:
    """The whole lines of one file in large pieces, from a beginning of a line on."""
    if part.is_packed:
        with gzip.GzipFile(fileobj=part.file) as packed:
            yield from _whole_lines(packed.read)
        return
    part.file.seek(start)
    left = part.whole_bytes - start

    def read(size: int) -> bytes:
        nonlocal left
        data = part.file.read(min(size, left))
        left -= len(data)
        return data

    yield from _whole_lines(read)


def _whole_lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    rest = b""
    while data := read(CHUNK_BYTES):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        rest, data = data[cut:], data[:cut]
        if data:
            yield data
        elif len(rest) > _LONGEST_BYTES:
            rest = b""


def tail(parts: list[Part], lines: int) -> Iterator[bytes]:
    """The last `lines` whole lines of all files together, oldest first.

    Where they begin is found from the end; nothing is kept but what is being given.
    """
    begins: list[tuple[Part, int]] = []
    for part in reversed(parts):
        if lines <= 0:
            break
        start, found = _packed_start(part, lines) if part.is_packed else _start(part, lines)
        begins.insert(0, (part, start))
        lines -= found
    for part, start in begins:
        if part.is_packed:
            part.file.seek(0)
            yield from _behind(chunks(part), start)
        else:
            yield from chunks(part, start)


def _start(part: Part, lines: int) -> tuple[int, int]:
    """(offset, how many lines stand behind it): the last `lines`, or all there are."""
    position, found = part.whole_bytes, 0
    fd = part.file.fileno()
    while position > 0:
        size = min(CHUNK_BYTES, position)
        position -= size
        block = os.pread(fd, size, position)
        breaks = block.count(b"\n")
        # The break that ends the line before the first one wanted is one more than they have.
        if found + breaks > lines:
            return position + _behind_breaks(block, found + breaks - lines), lines
        found += breaks
    return 0, found


def _behind_breaks(block: bytes, count: int) -> int:
    end = -1
    for _ in range(count):
        end = block.index(b"\n", end + 1)
    return end + 1


def _packed_start(part: Part, lines: int) -> tuple[int, int]:
    """(lines to leave out, lines that stay); a packed file is read whole to count them."""
    total = sum(piece.count(b"\n") for piece in chunks(part))
    return max(0, total - lines), min(total, lines)


def _behind(pieces: Iterator[bytes], leave_out: int) -> Iterator[bytes]:
    for piece in pieces:
        breaks = piece.count(b"\n")
        if breaks <= leave_out:
            leave_out -= breaks
            continue
        yield piece[_behind_breaks(piece, leave_out) :]
        leave_out = 0
