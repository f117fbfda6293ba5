"""Recipes: what, with the files of a layer's directory, makes its exact tar again.

A layer is kept unpacked, and its tar must come back byte for byte for save and push (the diff_id is
a hash of it). The recipe holds all bytes of the tar that are not the contents of a file: headers,
padding, the end; and where the contents belong. It is one zstd stream of records:

    L <length: u32> <bytes>                                     these bytes
    F <offset: u64> <length: u64> <length of path: u16> <path>  so much of this file
    M <number: u32> <length of path: u16> <path>                the tar replaces what is at path

A tar may name a path twice. What the first left there is then moved to `replaced/<number>` beside
the directory and an M record says when, so that the F records before it know where to look.
Paths are physical (no component is a symbolic link) and relative to the directory.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from engine.errors import EngineError
from engine.linux import oserror, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"recipe 1\n"
LEVEL = 3
READ_BYTES = 1 << 20

_LITERAL = struct.Struct("<cI")
_FILE = struct.Struct("<cQQH")
_MOVE = struct.Struct("<cIH")
_FLUSH_BYTES = 128 << 10


class DamagedLayer(EngineError):
    """The directory or the recipe is not what it was when the layer was unpacked."""


class Writer:
    """Writes a recipe; adjoining literals become one record, and many records one write."""

    def __init__(self, file: BinaryIO) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=False)
        self._records: list[bytes] = [MAGIC]
        self._record_bytes = 0
        self._literals: list[bytes] = []
        self._literal_bytes = 0
        self.moves = 0

    def literal(self, data: bytes) -> None:
        self._literals.append(data)
        self._literal_bytes += len(data)
        if self._literal_bytes >= _FLUSH_BYTES:
            self._end_literal()

    def _end_literal(self) -> None:
        """What was literal so far is a record."""
        if self._literals:
            self._records += (_LITERAL.pack(b"L", self._literal_bytes), *self._literals)
            self._record_bytes += self._literal_bytes
            self._literals.clear()
            self._literal_bytes = 0
        if self._record_bytes >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        # Each write leaves the GIL and waits for it again: not for every small file.
        self._zstd.write(b"".join(self._records))
        self._records.clear()
        self._record_bytes = 0

    def _record(self, head: bytes, path: bytes) -> None:
        self._end_literal()
        self._records += (head, path)
        self._record_bytes += len(head) + len(path)

    def file(self, path: bytes, offset: int, length: int) -> None:
        if length:
            self._record(_FILE.pack(b"F", offset, length, len(path)), path)

    def move(self, path: bytes) -> int:
        """Note that `path` is being replaced; returns the number to move the old one to."""
        number = self.moves
        self.moves += 1
        self._record(_MOVE.pack(b"M", number, len(path)), path)
        return number

    def close(self) -> None:
        self._end_literal()
        self._flush()
        self._zstd.flush(zstandard.FLUSH_FRAME)


@dataclass(slots=True)
class _Moves:
    """Which paths were replaced after which record."""

    of: dict[bytes, list[tuple[int, int]]] = field(
        default_factory=dict[bytes, list[tuple[int, int]]]
    )

    def add(self, path: bytes, at: int, number: int) -> None:
        self.of.setdefault(path, []).append((at, number))

    def resolve(self, path: bytes, at: int) -> bytes:
        """Where the file is now that was at `path` at record `at`: below diff/ or replaced/."""
        first: tuple[int, int, bytes] | None = None
        end = len(path)
        while end > 0:
            prefix = path[:end]
            for when, number in self.of.get(prefix, ()):
                if when > at and (first is None or when < first[0]):
                    first = (when, number, path[end:])
                    break
            end = path.rfind(b"/", 0, end)
        if first is None:
            return b"diff/" + path
        return b"replaced/%d" % first[1] + first[2]


class _Records:
    """The records of a recipe, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._reader = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        if self._reader.read(len(MAGIC)) != MAGIC:
            raise DamagedLayer("a layer's recipe has an unknown form")

    def _exactly(self, n: int) -> bytes:
        data = self._reader.read(n)
        while len(data) < n:
            more = self._reader.read(n - len(data))
            if not more:
                raise DamagedLayer("a layer's recipe ends too early")
            data += more
        return data

    def __iter__(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        """(kind, offset or number, length, literal bytes or path)."""
        while kind := self._reader.read(1):
            match kind:
                case b"L":
                    (length,) = struct.unpack("<I", self._exactly(4))
                    yield kind, 0, length, self._exactly(length)
                case b"F":
                    offset, length, path = struct.unpack("<QQH", self._exactly(18))
                    yield kind, offset, length, self._exactly(path)
                case b"M":
                    number, path = struct.unpack("<IH", self._exactly(6))
                    yield kind, number, 0, self._exactly(path)
                case _:
                    raise DamagedLayer("a layer's recipe holds an unknown record")


def _moves_of(recipe_path: str) -> _Moves:
    moves = _Moves()
    with open(recipe_path, "rb") as file:
        for at, (kind, number, _, path) in enumerate(_Records(file)):
            if kind == b"M":
                moves.add(path, at, number)
    return moves


def assemble(folder: str, *, has_moves: bool) -> Iterator[bytes]:
    """The tar again, in pieces; `folder` holds `recipe`, `diff` and perhaps `replaced`.

    Raises DamagedLayer where a file is missing or shorter than it was. Whether all bytes are the
    same only the hash of the whole can tell.
    """
    recipe_path = os.path.join(folder, "recipe")
    moves = _moves_of(recipe_path) if has_moves else _Moves()
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(recipe_path, "rb") as file:
            for at, (kind, offset, length, data) in enumerate(_Records(file)):
                if kind == b"L":
                    yield data
                elif kind == b"F":
                    yield from _piece_of(root, moves.resolve(data, at), offset, length)
    finally:
        os.close(root)


_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV


LONGEST_STEP_BYTES = 3500
"""Of a path opened at once: the kernel takes 4,096, and a file's own path may be longer."""


def _open(root: int, path: bytes, flags: int) -> int:
    """Open beneath `root`, however long the path; nothing on it may be a symbolic link."""
    steps: list[bytes] = []
    while len(path) > LONGEST_STEP_BYTES:
        cut = path.rindex(b"/", 0, LONGEST_STEP_BYTES)
        steps.append(path[:cut])
        path = path[cut + 1 :]
    fd = os.dup(root)
    for step in steps:
        fd = _step(fd, step, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return _step(fd, path, flags)


def _step(fd: int, path: bytes, flags: int) -> int:
    """Open the path in place of `fd`."""
    try:
        return syscalls.openat2(fd, os.fsdecode(path), flags, resolve=_RESOLVE)
    finally:
        os.close(fd)


def _piece_of(root: int, path: bytes, offset: int, length: int) -> Iterator[bytes]:
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME
        fd = _open(root, path, flags)
    except OSError as exc:
        said = f"a layer's file {os.fsdecode(path)!r} is missing: {oserror.reason(exc)}"
        raise DamagedLayer(said) from exc
    try:
        while length:
            data = os.pread(fd, min(length, READ_BYTES), offset)
            if not data:
                raise DamagedLayer(f"a layer's file {os.fsdecode(path)!r} is shorter than it was")
            offset += len(data)
            length -= len(data)
            yield data
    finally:
        os.close(fd)
