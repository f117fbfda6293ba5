"""Layers: from a tar stream to a folder, and back to the same tar.

    <folder>/diff        the files, whiteouts in overlay's form
    <folder>/recipe      what else the tar consists of (see recipe.py)
    <folder>/replaced    contents of names that the tar gives twice; usually absent

`stage` needs no lower layer, so the layers of an image are unpacked side by side. What depends on
those below is put right afterwards, in order, by `complete`: the attributes of directories that the
tar leaves out, and hard links to files of a lower layer. dockerd makes the former root's, mode
0755, and refuses the latter.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

from engine.errors import InvalidParameter
from engine.linux import oserror, overlay, syscalls, tree
from engine.linux import path as paths
from engine.oci import digest as digests
from engine.oci.digest import DiffId
from engine.storage import compression, extract, recipe, tar
from engine.storage.compression import CorruptStream, SourceFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.storage.compression import Readable
    from engine.storage.extract import MissingLink

COPY_BYTES = 8 << 20


class CorruptLayer(InvalidParameter):
    """The stream is no layer: not a tar, cut short, or with entries that cannot be made."""


class DiffIdMismatch(InvalidParameter):
    """The tar is not the one that the image's config names."""

    def __init__(self, expected: DiffId, actual: DiffId) -> None:
        super().__init__(f'invalid diffID for layer: expected "{expected}", got "{actual}"')
        self.expected = expected
        self.actual = actual


class Staged:
    """What unpacking found out about a layer; facts for the row and work for `complete`."""

    __slots__ = (
        "diff_id",
        "folder",
        "has_moves",
        "implied",
        "is_opaque",
        "missing_links",
        "size_bytes",
        "tar_bytes",
    )

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.diff_id = DiffId("")
        self.tar_bytes = 0
        self.size_bytes = 0
        self.has_moves = False
        self.is_opaque = False
        self.implied: tuple[bytes, ...] = ()
        self.missing_links: tuple[MissingLink, ...] = ()

    @property
    def needs_lower(self) -> bool:
        return bool(self.implied or self.missing_links)


class _Hashed:
    """Counts and hashes what is read; both leave the GIL on pieces of this size."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._hash = digests.hasher()
        self.bytes = 0

    def read(self, n: int, /) -> bytes:
        data = self._stream.read(n)
        self._hash.update(data)
        self.bytes += len(data)
        return data

    @property
    def diff_id(self) -> DiffId:
        return DiffId(f"{digests.CANONICAL}:{self._hash.hexdigest()}")


def stage(
    stream: Readable,
    folder: str,
    *,
    diff_id: DiffId | None = None,
    is_plain: bool = False,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Staged:
    """Unpack a tar, of any compression, into `folder`, which is empty and ours alone.

    `is_plain`: it has none, whatever its first name looks like.

    The files are durable when this returns. Raises CorruptLayer, DiffIdMismatch, OSError of the
    disk, whatever `stream` raises, InterruptedError if cancelled; the caller discards the folder.
    """
    diff = os.path.join(folder, "diff")
    os.mkdir(diff, 0o755)
    os.chmod(diff, 0o755)
    staged = Staged(folder)
    source = _Hashed(stream if is_plain else compression.plain(stream))
    with open(os.path.join(folder, "recipe"), "xb") as file:
        writer = recipe.Writer(file)
        extractor = extract.Extractor(diff, os.path.join(folder, "replaced"), writer)
        try:
            _unpack(extractor, source, writer, is_cancelled)
        finally:
            extractor.close()
        writer.close()
    staged.diff_id = source.diff_id
    staged.tar_bytes = source.bytes
    if diff_id is not None and diff_id != staged.diff_id:
        raise DiffIdMismatch(diff_id, staged.diff_id)
    staged.has_moves = extractor.has_replaced
    staged.is_opaque = extractor.is_opaque
    staged.implied = tuple(extractor.implied)
    staged.missing_links = tuple(extractor.missing_links)
    staged.size_bytes = tree.usage(diff) if extractor.has_replaced else extractor.size_bytes
    sync(folder)
    return staged


# What only the disk or this process can be blamed for; any other errno is the archive's doing.
_OUR_FAULT = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS}
)


def _unpack(
    extractor: extract.Extractor,
    source: _Hashed,
    writer: recipe.Writer,
    is_cancelled: Callable[[], bool],
) -> None:
    try:
        extractor.run(tar.Reader(source, writer.literal), is_cancelled)
    except InterruptedError:
        raise
    except SourceFailed as exc:
        raise exc.__cause__ or exc from None
    except (tar.CorruptTar, CorruptStream) as exc:
        raise CorruptLayer(str(exc)) from exc
    except (ValueError, OverflowError) as exc:
        raise CorruptLayer(f"archive/tar: invalid tar header: {exc}") from exc
    except OSError as exc:
        if exc.errno in _OUR_FAULT:
            raise
        raise CorruptLayer(oserror.sentence(exc)) from exc


class _Sync:
    """One syncfs for all who ask at the same time: it flushes the whole file system anyway.

    Only a call that began after one's last write counts, so whoever finds one under way waits for
    the next, and the first of those who wait does it for all.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_running = False
        self._begun = 0
        self._done = 0

    def __call__(self, folder: str) -> None:
        with self._changed:
            needed = self._begun + 1
            while self._done < needed and self._is_running:
                self._changed.wait()
            if self._done >= needed:
                return
            self._is_running = True
            self._begun += 1
            mine = self._begun
        try:
            _syncfs(folder)
            with self._changed:
                self._done = mine
        finally:
            with self._changed:
                self._is_running = False
                self._changed.notify_all()


def _syncfs(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


sync = _Sync()
"""Make all of a folder durable with one call, however many files it has."""


# What lower layers know


def complete(staged: Staged, lowers: Sequence[str]) -> None:
    """Take from `lowers` (folders of files, topmost first) what the tar left to them.

    Raises CorruptLayer for a hard link to a file that is nowhere.
    """
    if not staged.needs_lower:
        return
    diff = os.path.join(staged.folder, "diff")
    for link in staged.missing_links:
        staged.size_bytes += _copy_up(diff, lowers, link)
    # The deepest first: giving a directory its time comes after everything beneath it.
    for path in sorted(staged.implied, key=lambda p: p.count(b"/"), reverse=True):
        _inherit(diff, lowers, path)
    sync(staged.folder)


_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def _open(root: str, path: bytes, flags: int) -> int | None:
    fd = paths.open_root(root)
    try:
        return paths.find_plainly(fd, path, flags)
    finally:
        os.close(fd)


def _find(lowers: Sequence[str], path: bytes) -> str | None:
    """The topmost folder that shows something at the path, as overlayfs looks for it."""
    names = path.split(b"/")
    for root in lowers:
        hides = False
        for depth in range(1, len(names) + 1):
            fd = _open(root, b"/".join(names[:depth]), _PATH)
            if fd is None:
                break
            status = os.fstat(fd)
            is_whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            is_last = depth == len(names)
            is_directory = stat.S_ISDIR(status.st_mode)
            opaque = is_directory and overlay.is_opaque(fd)
            os.close(fd)
            if is_whiteout or (not is_directory and not is_last):
                return None
            if is_last:
                return root
            hides = hides or opaque
        if hides:
            return None
    return None


def _inherit(diff: str, lowers: Sequence[str], path: bytes) -> None:
    """Give an implied directory the owner, mode, attributes and times it has below."""
    root = _find(lowers, path)
    if root is None:
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    below, here = _open(root, path, flags), _open(diff, path, flags)
    try:
        if below is not None and here is not None:
            _copy_attributes(below, here)
    finally:
        for fd in (below, here):
            if fd is not None:
                os.close(fd)


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if extract.is_taken(os.fsencode(name)):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _copy_up(diff: str, lowers: Sequence[str], link: MissingLink) -> int:
    """Make the link's file a copy of the one below; returns its size."""
    root = _find(lowers, link.target)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    source = _open(root, link.target, flags) if root is not None else None
    if source is None or root is None:
        raise CorruptLayer(
            f"link /{os.fsdecode(link.target)} /{os.fsdecode(link.path)}: no such file or directory"
        )
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise CorruptLayer(
                f"link /{os.fsdecode(link.target)} /{os.fsdecode(link.path)}: not a regular file"
            )
        return _copy(source, diff, link.path)
    finally:
        os.close(source)


def _copy(source: int, diff: str, path: bytes) -> int:
    above, _, name = path.rpartition(b"/")
    parent = _open(diff, above or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if parent is None:
        return 0
    times = os.fstat(parent)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            target = os.open(name, flags, 0o600, dir_fd=parent)
        except FileExistsError:
            return 0  # the tar put something else there afterwards
        try:
            size = os.fstat(source).st_size
            offset = 0
            while offset < size:
                offset += os.sendfile(target, source, offset, min(size - offset, COPY_BYTES))
            _copy_attributes(source, target)
        finally:
            os.close(target)
        os.utime(parent, ns=(times.st_mtime_ns, times.st_mtime_ns))
        return size
    finally:
        os.close(parent)
