"""Paths that an image, a container or a user chose, resolved beneath a root by the kernel.

Every verb takes a descriptor of the root. openat2(2) with RESOLVE_IN_ROOT follows links as a
process with that root would ("/x" and ".." stay inside), in one step, so that no rename between
check and use leads out. Magic links (/proc/<pid>/fd/<n>) are refused: they lead anywhere.
"""

from __future__ import annotations

import errno
import os
import stat

from engine.linux import syscalls

_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
_SAME_MOUNT = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
_PLAINLY = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
# The kernel answers EAGAIN when a rename anywhere on the host raced a "..": ask again, but a
# container that renames without end may not hold us here without end.
_TRIES = 256
# As many symbolic links as the kernel itself follows in one path (path_resolution(7)).
_MAX_LINKS = 40
# Whoever may put a FIFO, a terminal or a device where a file is expected gains nothing by it.
_CAUTIOUS = os.O_NONBLOCK | os.O_NOCTTY


def open_root(path: str) -> int:
    """A directory to resolve beneath; the caller's to close. `path` is trusted."""
    return os.open(path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in_root(root: int, path: str, flags: int = syscalls.O_PATH, mode: int = 0) -> int:
    """openat2(2) as if `root` were "/". The descriptor is the caller's to close."""
    return _openat2(root, path, flags, mode, _IN_ROOT)


def open_beneath(root: int, path: str, flags: int = syscalls.O_PATH, mode: int = 0) -> int:
    """Like open_in_root, but a path or link that would lead out is an error (EXDEV)."""
    return _openat2(root, path, flags, mode, _BENEATH)


def open_plainly(root: int, path: str, flags: int = syscalls.O_PATH) -> int:
    """Like open_beneath, but any link on the way is an error too (ELOOP)."""
    return _openat2(root, path, flags, 0, _PLAINLY)


def open_in_mount(root: int, path: str, flags: int) -> int:
    """Like open_plainly, but any mount on the way is an error too, a bind as well (EXDEV)."""
    return _openat2(root, path, flags, 0, _SAME_MOUNT)


def find_plainly(root: int, path: bytes, flags: int = syscalls.O_PATH) -> int | None:
    """What open_plainly opens, or None if there is no such thing."""
    try:
        return open_plainly(root, os.fsdecode(path), flags)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise


def _openat2(root: int, path: str, flags: int, mode: int, resolve: int) -> int:
    for _ in range(_TRIES):
        try:
            return syscalls.openat2(root, path or ".", flags, mode, resolve)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    raise OSError(errno.EAGAIN, "path changes while it is resolved", path)


def stat_in_root(root: int, path: str, *, follow: bool = True) -> os.stat_result:
    fd = open_in_root(root, path, syscalls.O_PATH | (0 if follow else os.O_NOFOLLOW))
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def chmod(directory: int, name: str, mode: int) -> None:
    """fchmodat(2) that follows no link; one that is found in the place of `name` is ELOOP."""
    fd = os.open(name, syscalls.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        # A descriptor of O_PATH takes no fchmod(2); this magic link leads to what it is open on.
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def mkdir_in_root(root: int, path: str, mode: int = 0o755) -> int:
    """`mkdir -p`; an O_PATH descriptor of the directory, the caller's to close.

    Links on the way are followed inside the root, also one whose target is not there yet: that
    is then made. Raises NotADirectoryError where something else is in the way, OSError ELOOP for
    links without end.
    """
    walk = _Walk(root, mode)
    walk.make(path)
    return open_in_root(root, walk.reached, syscalls.O_PATH | os.O_DIRECTORY)


def trace_in_root(root: int, path: str) -> tuple[list[str], list[str]]:
    """Where `mkdir_in_root` would come to, without making anything.

    The names of the directories that are there, none of them a link, and those that are not. Raises
    as `mkdir_in_root` does.
    """
    walk = _Trace(root)
    walk.make(path)
    return [part for part in walk.reached.split("/") if part != "."], walk.missing


class _Walk:
    """`reached` is a path without links from the root. Should a rename make it one with links
    meanwhile, the next call still resolves it inside the root."""

    def __init__(self, root: int, mode: int) -> None:
        self._root = root
        self._mode = mode
        self._links = 0
        self.reached = "."

    def make(self, path: str) -> None:
        pending = path.split("/")[::-1]
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                self._leave()
                continue
            link = self._step(part)
            if link is not None:
                self._follow(link, pending)

    def _leave(self) -> None:
        self.reached = os.path.dirname(self.reached) or "."

    def _step(self, part: str) -> str | None:
        """Enter `part`, made if need be; the target if it is a link."""
        child = f"{self.reached}/{part}"
        try:
            fd = self._open(child)
        except FileNotFoundError:
            self._mkdir(part)
            fd = self._open(child)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                return os.readlink("", dir_fd=fd)
            if not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), child)
        finally:
            os.close(fd)
        self.reached = child
        return None

    def _open(self, child: str) -> int:
        return open_in_root(self._root, child, syscalls.O_PATH | os.O_NOFOLLOW)

    def _mkdir(self, part: str) -> None:
        parent = open_in_root(self._root, self.reached, syscalls.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(part, self._mode, dir_fd=parent)
        except FileExistsError:
            return  # someone else made it: what it is comes out when it is opened
        finally:
            os.close(parent)

    def _follow(self, target: str, pending: list[str]) -> None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), target)
        if target.startswith("/"):
            self.reached = "."
        pending += target.split("/")[::-1]


class _Trace(_Walk):
    """A walk that makes nothing: `missing` are the names that it would have made."""

    def __init__(self, root: int) -> None:
        super().__init__(root, 0)
        self.missing: list[str] = []

    def _leave(self) -> None:
        if self.missing:
            self.missing.pop()
        else:
            super()._leave()

    def _step(self, part: str) -> str | None:
        if not self.missing:
            try:
                return super()._step(part)
            except FileNotFoundError:
                pass
        self.missing.append(part)
        return None

    def _mkdir(self, part: str) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)


def create_in_root(root: int, path: str, mode: int = 0o644) -> int:
    """A place to mount a file on: what is there, or else an empty file, its parents made.

    An O_PATH descriptor, the caller's to close.
    """
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        os.close(mkdir_in_root(root, os.path.dirname(path)))
    os.close(open_in_root(root, path, os.O_RDONLY | os.O_CREAT | _CAUTIOUS, mode))
    return open_in_root(root, path)


def read_in_root(root: int, path: str, *, limit_bytes: int) -> bytes:
    """The whole of a regular file of at most that size.

    Raises OSError: EISDIR for a folder, EINVAL for anything else but a regular file (told before
    it is opened, for opening a FIFO waits and opening a device may act), EFBIG for a larger one,
    and what open(2) has.
    """
    _check_regular(stat_in_root(root, path), path)
    fd = open_in_root(root, path, os.O_RDONLY | _CAUTIOUS)
    try:
        _check_regular(os.fstat(fd), path)  # it may have been exchanged in between
        return _read_bounded(fd, path, limit_bytes)
    finally:
        os.close(fd)


def _check_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _read_bounded(fd: int, path: str, limit_bytes: int) -> bytes:
    # Read, not asked of fstat: a file may grow, and those of /proc say 0.
    chunks: list[bytes] = []
    left = limit_bytes + 1
    while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return b"".join(chunks)
