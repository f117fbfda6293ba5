"""Packing a directory as a tar, in the form in which dockerd writes layers (moby go-archive).

    tree(root)     all that is seen beneath a root: what `export` gives
    layer(root)    overlayfs's upper directory as a layer: whiteouts and opaque directories in
                   the form that every image has them in (image-spec, layer.md)

Names are in the order of their bytes, a directory before what is in it; times are whole seconds;
of extended attributes only file capabilities come along, sockets not at all. The same tree gives
the same bytes.

What is packed may belong to a container that runs, and change meanwhile. Every entry is taken hold
of by its one name in a directory that is held open, and no link is followed, so no rename leads
out. Only then it is looked at, and opened if it is a file: opening a device may act on the host,
and a container can put one in the place of anything. A file has the length that it had when it was
opened, whatever becomes of it: what is missing in the end is zeros. What has gone between the
listing and the opening is left out.

However large the tree is, in memory are the names of the directories on the way down, and those of
files with several names.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.linux import path as paths
from engine.linux.overlay import OPAQUE
from engine.storage import tar, tarheader
from engine.storage.compression import SourceFailed
from engine.storage.extract import LONGEST_PATH_BYTES, OPAQUE_WHITEOUT, WHITEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
SMALL_BYTES = 64 << 10
"""A file up to here shares a piece with others."""

OPEN_DIRECTORIES = 64

CAPABILITY = "security.capability"
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_WHITEOUT_FILE = "trusted.overlay.whiteout"
_BORROWED = frozenset(f"{space}{name}" for space in _OVERLAY for name in ("redirect", "metacopy"))

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME
# It is not there any more, or something else is (a link, a socket).
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE})
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EPERM, errno.ENODATA, *GONE})


class NotPlain(EngineError):
    """A writable directory that shows, through overlayfs alone, what lies in the layers below."""

    def __init__(self, path: bytes, attribute: str) -> None:
        super().__init__(
            f"/{os.fsdecode(path)} has the attribute {attribute}: a layer cannot be made of what "
            "overlayfs keeps in redirect_dir or metacopy form"
        )


def tree(root: int) -> Iterator[bytes]:
    """The tar of all beneath the directory `root`, in pieces. OSError where the disk fails.

    The descriptor (O_PATH is enough) must stay open until the iteration ends or is closed.
    """
    return _Packer(root, is_layer=False).run()


def layer(root: int) -> Iterator[bytes]:
    """As `tree`, of an upper directory of overlayfs. Raises NotPlain besides."""
    return _Packer(root, is_layer=True).run()


class Pieces:
    """Pieces as a stream to read from, in the thread that reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, n: int, /) -> bytes:
        """At most `n` bytes, b"" at the end. Raises SourceFailed for an OSError of the pieces."""
        if not self._rest:
            try:
                piece = next(self._pieces, b"")
            except OSError as exc:
                raise SourceFailed from exc
            if len(piece) <= n:
                return piece
            self._rest = memoryview(piece)
        head, self._rest = self._rest[:n], self._rest[n:]
        return bytes(head)


class _Level:
    """A directory on the way down. `fd` is -1 while it is not held open; `names` are what is left
    of it, the next one last; `path_bytes` is the length of its path with the slash behind it."""

    __slots__ = ("fd", "has_whiteout_files", "identity", "names", "path_bytes")

    def __init__(self, fd: int, path_bytes: int, *, has_whiteout_files: bool) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.identity = (status.st_dev, status.st_ino)
        self.names = sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)
        self.path_bytes = path_bytes
        self.has_whiteout_files = has_whiteout_files


class _Packer:
    def __init__(self, root: int, *, is_layer: bool) -> None:
        self._root = root
        self._is_layer = is_layer
        self._levels: list[_Level] = []
        self._path = bytearray()  # of the directory that is being read, with a slash
        self._out = bytearray()
        # The first name of each file with several, and how many of them have not come yet.
        self._linked: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._left_out = 0

    def run(self) -> Iterator[bytes]:
        try:
            self._push(os.open(".", _DIRECTORY, dir_fd=self._root), has_whiteout_files=False)
            while self._levels:
                level = self._levels[-1]
                if not level.names:
                    self._pop()
                    continue
                yield from self._entry(level, level.names.pop())
                if len(self._out) >= PIECE_BYTES:
                    yield self._flush()
            self._out += tarheader.END
            yield self._flush()
        finally:
            for level in self._levels:
                _close(level.fd)
            if self._left_out:
                log.warning("%d files with too long paths were left out", self._left_out)

    def _flush(self) -> bytes:
        piece = bytes(self._out)
        self._out.clear()
        return piece

    # Down and up

    def _push(self, fd: int, *, has_whiteout_files: bool) -> None:
        try:
            level = _Level(fd, len(self._path), has_whiteout_files=has_whiteout_files)
        except BaseException:
            os.close(fd)
            raise
        self._levels.append(level)
        if len(self._levels) > OPEN_DIRECTORIES:
            upper = self._levels[-1 - OPEN_DIRECTORIES]
            _close(upper.fd)
            upper.fd = -1

    def _pop(self) -> None:
        below = self._levels.pop()
        try:
            if not self._levels:
                return
            level = self._levels[-1]
            del self._path[level.path_bytes :]
            if level.fd < 0:
                level.fd = self._return(level, below.fd)
                if level.fd < 0:
                    level.names.clear()  # it has gone
        finally:
            _close(below.fd)

    def _return(self, level: _Level, below: int) -> int:
        """Open a directory again that was let go: as the parent of the one that was read, or, if
        that was moved, by its path. -1 if it is neither."""
        if below >= 0:
            fd = os.open("..", _DIRECTORY, dir_fd=below)
            if _is(fd, level.identity):
                return fd
            os.close(fd)
        path = os.fsdecode(bytes(self._path[:-1])) or "."
        try:
            fd = paths.open_plainly(self._root, path, _DIRECTORY)
        except OSError as exc:
            if exc.errno in GONE:
                return -1
            raise
        if _is(fd, level.identity):
            return fd
        os.close(fd)
        return -1

    # Entries

    def _entry(self, level: _Level, name: bytes) -> Iterator[bytes]:
        if len(self._path) + len(name) >= LONGEST_PATH_BYTES:
            self._left_out += 1  # nobody could unpack it
            return
        try:
            fd = os.open(name, _PATH, dir_fd=level.fd)
        except OSError as exc:
            if exc.errno in GONE:
                return
            raise
        try:
            status = os.fstat(fd)
            match stat.S_IFMT(status.st_mode):
                case stat.S_IFREG:
                    yield from self._file(level, name, fd)
                case stat.S_IFDIR:
                    self._directory(name, fd)
                case stat.S_IFLNK:
                    self._symlink(name, fd, status)
                case stat.S_IFSOCK:
                    pass
                case _:
                    self._node(name, fd, status)
        finally:
            os.close(fd)

    def _member(self, name: bytes, type: int, status: os.stat_result) -> tarheader.Member:
        member = tarheader.Member(bytes(self._path) + name, type)
        member.mode = status.st_mode & 0o7777
        member.uid = status.st_uid
        member.gid = status.st_gid
        member.mtime_s = status.st_mtime_ns // 1_000_000_000
        return member

    def _file(self, level: _Level, name: bytes, path_fd: int) -> Iterator[bytes]:
        fd = os.open(_again(path_fd), _FILE)
        try:
            status = os.fstat(fd)
            xattrs = _names(fd)
            self._check_plain(name, xattrs)
            if level.has_whiteout_files and not status.st_size and _WHITEOUT_FILE in xattrs:
                self._whiteout(name, status)
                return
            member = self._member(name, tar.REGULAR, status)
            member.xattrs = _kept(fd, xattrs)
            if self._is_link(member, status):
                self._out += member.blocks()
                return
            member.size = status.st_size
            self._out += member.blocks()
            yield from self._contents(fd, member.size)
        finally:
            os.close(fd)

    def _contents(self, fd: int, size: int) -> Iterator[bytes]:
        """As many bytes as were announced, and the padding."""
        left = size
        if left > SMALL_BYTES:
            yield self._flush()  # never empty: the header is in it
        while left:
            data = os.read(fd, min(left, PIECE_BYTES)) or bytes(min(left, PIECE_BYTES))
            left -= len(data)
            if size > SMALL_BYTES:
                yield data
            else:
                self._out += data
        self._out += bytes(-size % tar.BLOCK)

    def _directory(self, name: bytes, path_fd: int) -> None:
        fd = os.open(".", _DIRECTORY, dir_fd=path_fd)
        try:
            status = os.fstat(fd)
            xattrs = _names(fd)
            self._check_plain(name, xattrs)
            member = self._member(name + b"/", tar.DIRECTORY, status)
            member.xattrs = _kept(fd, xattrs)
            self._out += member.blocks()
            opaque = os.getxattr(fd, OPAQUE) if self._is_layer and OPAQUE in xattrs else b""
            if opaque == b"y":
                self._opaque(member)
        except BaseException:
            os.close(fd)
            raise
        self._path += name + b"/"
        self._push(fd, has_whiteout_files=opaque == b"x")

    def _symlink(self, name: bytes, fd: int, status: os.stat_result) -> None:
        member = self._member(name, tar.SYMLINK, status)
        member.link = os.readlink(b"", dir_fd=fd)
        member.xattrs = _kept(_again(fd), _names(_again(fd)))
        self._is_link(member, status)
        self._out += member.blocks()

    def _node(self, name: bytes, fd: int, status: os.stat_result) -> None:
        is_character = stat.S_ISCHR(status.st_mode)
        if self._is_layer and is_character and status.st_rdev == 0:
            self._whiteout(name, status)
            return
        member = self._member(name, tar.FIFO, status)
        if not stat.S_ISFIFO(status.st_mode):
            member.type = tar.CHARACTER if is_character else tar.BLOCK_DEVICE
            member.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        member.xattrs = _kept(_again(fd), _names(_again(fd)))
        self._is_link(member, status)
        self._out += member.blocks()

    def _is_link(self, member: tarheader.Member, status: os.stat_result) -> bool:
        """Whether this is one more name of a file that came before; then the member says so."""
        if status.st_nlink < 2:
            return False
        key = (status.st_dev, status.st_ino)
        first, left = self._linked.get(key, (b"", status.st_nlink))
        if left == 1:
            self._linked.pop(key, None)
        else:
            self._linked[key] = (first or member.name, left - 1)
        if not first:
            return False
        member.type = tar.HARD_LINK
        member.link = first
        return True

    # What overlayfs has its own forms for

    def _check_plain(self, name: bytes, xattrs: list[str]) -> None:
        if self._is_layer and (borrowed := _BORROWED.intersection(xattrs)):
            raise NotPlain(bytes(self._path) + name, min(borrowed))

    def _whiteout(self, name: bytes, status: os.stat_result) -> None:
        member = self._member(WHITEOUT + name, tar.REGULAR, status)
        member.mode = 0o600
        self._out += member.blocks()

    def _opaque(self, directory: tarheader.Member) -> None:
        member = tarheader.Member(directory.name + OPAQUE_WHITEOUT, tar.REGULAR)
        member.mode = directory.mode & 0o777
        member.uid, member.gid = directory.uid, directory.gid
        self._out += member.blocks()


def _again(fd: int) -> str:
    """A path to what a descriptor of O_PATH is open on, whatever has become of its name."""
    return f"/proc/self/fd/{fd}"


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _is(fd: int, identity: tuple[int, int]) -> bool:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == identity


# Extended attributes


def _names(target: int | str) -> list[str]:
    try:
        return os.listxattr(target)
    except OSError as exc:
        if exc.errno in _NO_XATTRS:
            return []
        raise


def _kept(target: int | str, names: list[str]) -> dict[bytes, bytes] | None:
    """The capabilities of a file, without the user that a namespace gave them for (revision 3)."""
    if CAPABILITY not in names:
        return None
    try:
        value = os.getxattr(target, CAPABILITY)
    except OSError as exc:
        if exc.errno in _NO_XATTRS:
            return None
        raise
    if value[3:4] == b"\x03":
        value = value[:3] + b"\x02" + value[4:20]
    return {CAPABILITY.encode(): value}
