"""Unpacking one tar beneath one directory, in overlay's form, without ever leaving it.

Every path is resolved by openat2 with the directory as its root, so neither `..` nor a symbolic
link of the archive leads out; every file is created with O_EXCL in a directory held
open. Directories are kept open while the archive stays near them, which makes both true and cheap:
their times are set when they are let go, for creating a file in them changes those.

What the archive calls a whiteout becomes overlayfs's: `.wh.x` a character device 0:0 called x,
`.wh..wh..opq` the attribute trusted.overlay.opaque=y of its directory. Attributes of overlayfs are
never taken from an archive: redirect and metacopy would show files of other layers or of the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from engine.linux import path as paths
from engine.linux.overlay import OPAQUE
from engine.storage import tar

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.storage.recipe import Writer
    from engine.storage.tar import Header

OPEN_DIRECTORIES = 64
LONGEST_PATH_BYTES = 4096
LONGEST_CHAIN = 40
"""Symbolic links followed on one path (path_resolution(7))."""

WHITEOUT = b".wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
AUFS_METADATA = b".wh..wh."

# Ids up to here: 2^32-1 would mean "leave as it is" to chown(2), which is root.
LARGEST_ID = (1 << 32) - 2
LATEST_NS = (1 << 63) - 1

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOATIME
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """A directory held open. `path` is physical, relative to the root; times are set at `close`."""

    __slots__ = ("fd", "mtime_ns", "path")

    def __init__(self, fd: int, path: bytes, mtime_ns: int) -> None:
        self.fd = fd
        self.path = path
        self.mtime_ns = mtime_ns

    def child(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name

    def close(self) -> None:
        try:
            os.utime(self.fd, ns=(self.mtime_ns, self.mtime_ns))
        finally:
            os.close(self.fd)


class MissingLink:
    """A hard link to a file that this archive does not hold: it must be in a layer below."""

    __slots__ = ("header", "path", "target")

    def __init__(self, path: bytes, target: bytes, header: Header) -> None:
        self.path = path
        self.target = target
        self.header = header


def clean(name: bytes) -> bytes:
    """The name relative to the root, `.` and `..` taken out; b"" is the root itself."""
    if name[:1] not in (b"/", b".") and b"//" not in name and b"/." not in name:
        return name.rstrip(b"/")
    return os.path.normpath(b"/" + name).lstrip(b"/")


class Extractor:
    """Unpacks below `root` (a folder of our own that nobody else sees), writing the recipe.

    After `run`: `size_bytes` of what was created (None: count again, something was replaced),
    `implied` the directories that the archive left out, `missing_links`, `is_opaque` for the root.
    """

    def __init__(self, root: str, replaced: str, recipe: Writer) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._replaced = replaced
        self._recipe = recipe
        self._physical_root = os.fsencode(os.readlink(f"/proc/self/fd/{self._root}"))
        self._by_name: dict[bytes, Directory] = {}
        self._by_inode: OrderedDict[int, Directory] = OrderedDict()
        self._creators = {
            tar.REGULAR: self._file,
            tar.CONTIGUOUS: self._file,
            tar.HARD_LINK: self._hard_link,
            tar.SYMLINK: self._symlink,
            tar.CHARACTER: self._node,
            tar.BLOCK_DEVICE: self._node,
            tar.FIFO: self._node,
            tar.DIRECTORY: self._directory,
        }
        self.size_bytes = 0
        self.has_replaced = False
        self.implied: dict[bytes, None] = {}
        self.missing_links: list[MissingLink] = []
        self.is_opaque = False

    def run(self, reader: tar.Reader, is_cancelled: Callable[[], bool]) -> None:
        """Unpack the whole archive, up to the last byte of the stream.

        Raises CorruptTar, UnusableEntry or OSError; `InterruptedError` if cancelled.
        """
        while (header := reader.next()) is not None:
            if is_cancelled():
                raise InterruptedError("unpacking was cancelled")
            self._entry(header, reader)
        reader.finish()
        self._let_go()

    def close(self) -> None:
        """Close what is open; times of directories are lost unless `run` came to its end."""
        for directory in self._by_inode.values():
            os.close(directory.fd)
        self._by_inode.clear()
        self._by_name.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    # Directories

    def _parent(self, path: bytes, *, create: bool = True) -> tuple[Directory, bytes]:
        above, _, name = path.rpartition(b"/")
        directory = self._by_name.get(above)
        if directory is None:
            directory = self._open(above, create=create)
        return directory, name

    def _open(self, path: bytes, *, create: bool) -> Directory:
        try:
            return self._resolve(path)
        except (FileNotFoundError, NotADirectoryError):
            if not create:
                raise
            return self._imply(path)

    def _resolve(self, path: bytes) -> Directory:
        """Open what is there under a name and keep it open."""
        if len(path) >= LONGEST_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(path))
        text = os.fsdecode(path) or "."
        try:
            fd = paths.open_plainly(self._root, text, _DIRECTORY)
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
            fd = paths.open_in_root(self._root, text, _DIRECTORY)
            try:
                physical = self._physical(fd)
            except BaseException:
                os.close(fd)
                raise
            return self._keep(path, fd, physical)
        return self._keep(path, fd, path)

    def _physical(self, fd: int) -> bytes:
        """Where a directory is that was reached through a symbolic link."""
        found = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
        return found[len(self._physical_root) :].lstrip(b"/")

    def _imply(self, path: bytes, hops: int = 0) -> Directory:
        """Make a directory that the archive does not name, and those above it; keeps it open."""
        names = path.split(b"/")
        directory, depth = self._deepest(names)
        for place in range(depth, len(names)):
            name = names[place]
            try:
                self._mkdir(directory, name)
            except FileExistsError:
                if (target := self._link_target(directory, name)) is not None:
                    if hops == LONGEST_CHAIN:
                        raise OSError(
                            errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path)
                        ) from None
                    return self._imply(clean(b"/".join((target, *names[place + 1 :]))), hops + 1)
                directory = self._make_way(directory, name)
            physical = directory.child(name)
            self.implied[physical] = None
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory.fd)
            directory = self._keep(b"/".join(names[: place + 1]), fd, physical)
        return directory

    def _deepest(self, names: list[bytes]) -> tuple[Directory, int]:
        """The deepest directory on the way that is there, and how many names lead to it."""
        for depth in range(len(names) - 1, -1, -1):
            path = b"/".join(names[:depth])
            if (known := self._by_name.get(path)) is not None:
                return known, depth
            try:
                return self._resolve(path), depth
            except (FileNotFoundError, NotADirectoryError):
                continue
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _link_target(self, parent: Directory, name: bytes) -> bytes | None:
        """Where a symbolic link leads, seen from the root; None if it is something else."""
        try:
            target = os.readlink(name, dir_fd=parent.fd)
        except OSError:
            return None
        return target if target.startswith(b"/") else parent.path + b"/" + target

    def _make_way(self, parent: Directory, name: bytes) -> Directory:
        """Put a directory in the place of something else; one that was hidden stays so."""
        was_whiteout = _is_whiteout(os.stat(name, dir_fd=parent.fd, follow_symlinks=False))
        path = parent.child(name)
        self._replace(parent, name)
        parent, name = self._parent(path)
        self._mkdir(parent, name)
        if was_whiteout:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent.fd)
            try:
                os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)
        return parent

    def _mkdir(self, parent: Directory, name: bytes) -> None:
        """Make a directory with the rights of one nobody described."""
        os.mkdir(name, 0o755, dir_fd=parent.fd)
        os.chown(name, 0, 0, dir_fd=parent.fd, follow_symlinks=False)
        os.chmod(name, 0o755, dir_fd=parent.fd)

    def _keep(self, path: bytes, fd: int, physical: bytes) -> Directory:
        status = os.fstat(fd)
        known = self._by_inode.get(status.st_ino)
        if known is not None:
            os.close(fd)
            self._by_name[path] = known
            return known
        if len(self._by_inode) >= OPEN_DIRECTORIES:
            self._let_go_of_oldest()
        directory = Directory(fd, physical, status.st_mtime_ns)
        self._by_inode[status.st_ino] = directory
        self._by_name[path] = directory
        return directory

    def _let_go_of_oldest(self) -> None:
        _, directory = self._by_inode.popitem(last=False)
        self._by_name = {n: d for n, d in self._by_name.items() if d is not directory}
        directory.close()

    def _let_go(self) -> None:
        """Close all directories, setting their times."""
        self._by_name.clear()
        while self._by_inode:
            self._by_inode.popitem()[1].close()

    # Entries

    def _entry(self, header: Header, reader: tar.Reader) -> None:
        path = clean(header.name)
        if header.type in (tar.PAX, tar.PAX_GLOBAL):
            return
        if not path:
            # The root's own attributes are the topmost layer's: overlay never shows a lower's.
            return
        _check(header)
        name = path.rpartition(b"/")[2]
        if name.startswith(WHITEOUT):
            self._whiteout(path, name)
            return
        create = self._creators.get(header.type)
        if create is None:
            raise tar.CorruptTar(f"unhandled tar header type {header.type}")
        create(path, header, reader)

    def _free(self, path: bytes) -> tuple[Directory, bytes]:
        """The parent of `path`, with nothing at the name any more."""
        parent, name = self._parent(path)
        self._replace(parent, name)
        return self._parent(path)

    def _replace(self, parent: Directory, name: bytes) -> None:
        """Move away what is there; its contents may be needed to rebuild the archive."""
        number = self._recipe.move(parent.child(name))
        if not self.has_replaced:
            os.makedirs(self._replaced, mode=0o700, exist_ok=True)
            self.has_replaced = True
        source = parent.fd
        # Handles below it, and names resolved through it, are no longer what they say.
        keep = os.dup(source)
        try:
            self._let_go()
            mtime_ns = os.fstat(keep).st_mtime_ns
            os.rename(name, os.path.join(self._replaced, str(number)), src_dir_fd=keep)
            os.utime(keep, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(keep)

    def _file(self, path: bytes, header: Header, reader: tar.Reader) -> None:
        parent, name = self._parent(path)
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent.fd)
        except FileExistsError:
            parent, name = self._free(path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent.fd)
        try:
            self._contents(fd, parent.child(name), header, reader)
            os.fchown(fd, header.uid, header.gid)
            if header.xattrs:
                _set_xattrs(fd, header.xattrs)
            os.fchmod(fd, header.mode & 0o7777)
            mtime_ns = _bounded(header.mtime_ns)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _contents(self, fd: int, path: bytes, header: Header, reader: tar.Reader) -> None:
        self.size_bytes += header.size
        if header.sparse is not None:
            self._sparse(fd, path, header, reader)
            return
        if not header.stored:
            return
        self._recipe.file(path, 0, header.stored)
        if (data := reader.small()) is not None:
            _write(fd, data)
            return
        for piece in reader.contents():
            _write(fd, piece)

    def _sparse(self, fd: int, path: bytes, header: Header, reader: tar.Reader) -> None:
        os.ftruncate(fd, header.size)
        pieces = iter([p for p in header.sparse or () if p[1]])
        offset = length = 0
        for data in reader.contents():
            at = 0
            while at < len(data):
                if not length:
                    offset, length = next(pieces)
                    self._recipe.file(path, offset, length)
                part = data[at : at + length]
                _pwrite(fd, part, offset)
                at += len(part)
                offset += len(part)
                length -= len(part)

    def _directory(self, path: bytes, header: Header, _reader: tar.Reader) -> None:
        parent, name = self._parent(path)
        is_whiteout_here = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                is_whiteout_here = _is_whiteout(there)
                parent, name = self._free(path)
                os.mkdir(name, 0o700, dir_fd=parent.fd)
        self.implied.pop(parent.child(name), None)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent.fd)
        try:
            os.fchown(fd, header.uid, header.gid)
            if header.xattrs:
                _set_xattrs(fd, header.xattrs)
            if is_whiteout_here:
                os.setxattr(fd, OPAQUE, b"y")
            os.fchmod(fd, header.mode & 0o7777)
        except BaseException:
            os.close(fd)
            raise
        self._keep(path, fd, parent.child(name)).mtime_ns = _bounded(header.mtime_ns)

    def _symlink(self, path: bytes, header: Header, _reader: tar.Reader) -> None:
        if not header.linkname:
            raise tar.CorruptTar(f"symlink {os.fsdecode(path)!r} has no target")
        parent, name = self._parent(path)
        try:
            os.symlink(header.linkname, name, dir_fd=parent.fd)
        except FileExistsError:
            parent, name = self._free(path)
            os.symlink(header.linkname, name, dir_fd=parent.fd)
        self.size_bytes += len(header.linkname)
        self._describe(parent, name, header, is_symlink=True)

    def _node(self, path: bytes, header: Header, _reader: tar.Reader) -> None:
        kind = {
            tar.CHARACTER: stat.S_IFCHR,
            tar.BLOCK_DEVICE: stat.S_IFBLK,
            tar.FIFO: stat.S_IFIFO,
        }[header.type]
        device = 0 if kind == stat.S_IFIFO else _device(header)
        parent, name = self._parent(path)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent.fd)
        except FileExistsError:
            parent, name = self._free(path)
            os.mknod(name, kind | 0o600, device, dir_fd=parent.fd)
        self._describe(parent, name, header, is_symlink=False)

    def _hard_link(self, path: bytes, header: Header, _reader: tar.Reader) -> None:
        target = clean(header.linkname)
        if target == path:
            raise tar.CorruptTar(f"invalid hardlink {os.fsdecode(path)!r} to itself")
        parent, name = self._parent(path)
        if not self._link(target, parent, name, path):
            self.missing_links.append(MissingLink(parent.child(name), target, header))
            return
        parent, name = self._parent(path)
        mode = os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode
        self._describe(parent, name, header, is_symlink=stat.S_ISLNK(mode))

    def _link(self, target: bytes, parent: Directory, name: bytes, path: bytes) -> bool:
        """Link if the target is in this archive."""
        try:
            source, source_name = self._parent(target, create=False)
            if _is_whiteout(os.stat(source_name, dir_fd=source.fd, follow_symlinks=False)):
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        if source is parent and source_name == name:
            return True
        # Opening the target's directory may have let go of the other one.
        parent, name = self._parent(path)
        try:
            self._linkat(source, source_name, parent, name)
        except FileExistsError:
            parent, name = self._free(path)
            try:
                source, source_name = self._parent(target, create=False)
                self._linkat(source, source_name, self._parent(path)[0], name)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def _linkat(self, source: Directory, source_name: bytes, to: Directory, name: bytes) -> None:
        os.link(source_name, name, src_dir_fd=source.fd, dst_dir_fd=to.fd, follow_symlinks=False)

    def _describe(
        self, parent: Directory, name: bytes, header: Header, *, is_symlink: bool
    ) -> None:
        """Owner, attributes, mode and times of what cannot be held open.

        A second name of a symbolic link changes neither mode nor times of it, as with dockerd.
        """
        os.chown(name, header.uid, header.gid, dir_fd=parent.fd, follow_symlinks=False)
        if header.xattrs:
            _set_xattrs_at(parent.fd, name, header.xattrs)
        if not is_symlink:
            os.chmod(name, header.mode & 0o7777, dir_fd=parent.fd)
        elif header.type == tar.HARD_LINK:
            return
        mtime_ns = _bounded(header.mtime_ns)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent.fd, follow_symlinks=False)

    # Whiteouts

    def _whiteout(self, path: bytes, name: bytes) -> None:
        """Hide what layers below have at a name; never what this archive itself has there."""
        parent, _ = self._parent(path)
        if name == OPAQUE_WHITEOUT:
            if parent.path:
                os.setxattr(parent.fd, OPAQUE, b"y")
            else:
                self.is_opaque = True
            return
        if name.startswith(AUFS_METADATA):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise tar.CorruptTar(f"invalid whiteout {os.fsdecode(path)!r}")
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent.fd)
        except FileExistsError:
            there = os.stat(hidden, dir_fd=parent.fd, follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode):
                fd = os.open(hidden, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent.fd)
                try:
                    os.setxattr(fd, OPAQUE, b"y")
                finally:
                    os.close(fd)


def _check(header: Header) -> None:
    if not (0 <= header.uid <= LARGEST_ID and 0 <= header.gid <= LARGEST_ID):
        raise tar.CorruptTar(
            f"invalid owner {header.uid}:{header.gid} of {os.fsdecode(header.name)!r}"
        )


def _device(header: Header) -> int:
    if not (0 <= header.devmajor < 1 << 12 and 0 <= header.devminor < 1 << 20):
        raise tar.CorruptTar("archive/tar: invalid tar header")
    return os.makedev(header.devmajor, header.devminor)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _bounded(moment_ns: int) -> int:
    """A time that the file system can keep; others become the epoch, as with dockerd."""
    return moment_ns if 0 <= moment_ns <= LATEST_NS else 0


def _write(fd: int, data: bytes | memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        data = data[written:]
        written = os.write(fd, data)


def _pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        offset += written
        data = data[written:]


def is_taken(attribute: bytes) -> bool:
    """Whether an extended attribute of an archive is set: all but overlayfs's own."""
    return not attribute.startswith((b"trusted.overlay.", b"user.overlay."))


def _set_xattrs(fd: int | str, xattrs: dict[bytes, bytes], *, follow: bool = True) -> None:
    for name, value in xattrs.items():
        if not is_taken(name):
            continue
        try:
            os.setxattr(fd, name, value, follow_symlinks=follow)
        except PermissionError:
            # Not allowed for this kind of file, or not here: dockerd goes on without it too.
            continue


def _set_xattrs_at(directory: int, name: bytes, xattrs: dict[bytes, bytes]) -> None:
    """There is no call relative to a directory for a file that is not open."""
    _set_xattrs(f"/proc/self/fd/{directory}/{os.fsdecode(name)}", xattrs, follow=False)
