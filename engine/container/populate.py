"""A new volume begins as a copy of what the image has at its place.

Owners, modes, times, links, devices and extended attributes come along; the volume's own directory
takes over the owner and mode of the directory it covers, unless it was given its own. Only an empty
volume is filled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from engine.container import view
from engine.errors import EngineError
from engine.linux import attributes, oserror
from engine.linux import path as paths
from engine.volume import filling
from engine.volume.local import AS_IT_IS, Ownership

if TYPE_CHECKING:
    from engine.container.model import MountPoint


def begin(root: int, point: MountPoint, *, merged: str, ownership: Ownership) -> None:
    """Let the volume behind `point` begin as the directory that it covers beneath `root`.

    Raises EngineError where a volume of the image's, or one that is empty yet, would cover a file;
    `merged` is where dockerd has its root mounted, and what its sentences begin with.
    """
    if point.is_inherited or not (point.is_anonymous or point.is_filled):
        return
    where = point.destination
    try:
        mode = paths.stat_in_root(root, where).st_mode
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            sentence = f"evalSymlinksInScope: too many links in {merged}{where}"
            raise EngineError(sentence) from exc
        if exc.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise EngineError(f"lstat {merged}{where}: {oserror.reason(exc)}") from exc
        return
    is_file = not stat.S_ISDIR(mode)
    if is_file and point.spec is None and point.is_anonymous:
        raise EngineError(f"cannot mount volume over existing file, file exists {merged}{where}")
    if is_file and point.is_filled and filling.is_empty(point.source):
        raise EngineError(f"source {merged}{where} is not directory")
    if point.is_filled:
        populate(root, where, point.source, ownership)


def populate(root: int, destination: str, volume: str, ownership: Ownership = AS_IT_IS) -> None:
    """Copy the directory `destination` beneath `root` into the directory `volume`.

    A destination that is not there, or is no directory, leaves the volume as it is, and so does a
    failure. The caller sees to it that nobody else fills the volume meanwhile.
    """
    source = view.open_in_root(root, destination)
    if source is None:
        return
    try:
        if not stat.S_ISDIR(os.fstat(source).st_mode):
            return
        directory = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(source)
    try:
        _fill(directory, volume, ownership)
    finally:
        os.close(directory)


def _fill(source: int, volume: str, ownership: Ownership) -> None:
    def copy(target: int) -> None:
        _copy_tree(source, target)
        ownership.give(target)

    if os.listdir(source):
        filling.fill(volume, copy)
    elif filling.is_empty(volume):
        target = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            attributes.copy(source, target)
            ownership.give(target)
        finally:
            os.close(target)


class _Level:
    """One directory under way, `where` it is beneath the volume, and what is left of it to copy."""

    __slots__ = ("names", "source", "target", "where")

    def __init__(self, source: int, target: int, where: str) -> None:
        self.source = source
        self.target = target
        self.where = where
        self.names = os.listdir(source)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


def _top(source: int, target: int) -> _Level:
    with contextlib.ExitStack() as stack:
        own_source = os.dup(source)
        stack.callback(os.close, own_source)
        own_target = os.dup(target)
        stack.callback(os.close, own_target)
        level = _Level(own_source, own_target, "")
        stack.pop_all()
    return level


def _copy_tree(source: int, target: int) -> None:
    """Directories are a stack, not a recursion: an image may nest them by the thousand.

    A directory gets its own attributes last, when nothing more is made in it.
    """
    links = _Links(target)
    levels = [_top(source, target)]
    try:
        while levels:
            level = levels[-1]
            if not level.names:
                attributes.copy(level.source, level.target)
                levels.pop().close()
                continue
            deeper = _copy_entry(level, level.names.pop(), links)
            if deeper is not None:
                levels.append(deeper)
    finally:
        for level in levels:
            level.close()


class _Links:
    """Where the first copy lies of each file that has several names in the image.

    By its place beneath the volume, not by a path of the host: another container may use the
    volume already, and put a link in the place of any directory of it.
    """

    __slots__ = ("_first", "_root")

    def __init__(self, root: int) -> None:
        self._root = root
        self._first: dict[tuple[int, int], tuple[str, str]] = {}

    def link(self, info: os.stat_result, level: _Level, name: str) -> bool:
        """Make `name` another name of the copy; False, and remembered, if it is the first."""
        folder, base = self._first.setdefault((info.st_dev, info.st_ino), (level.where, name))
        if (folder, base) == (level.where, name):
            return False
        there = paths.open_beneath(self._root, folder, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(base, name, src_dir_fd=there, dst_dir_fd=level.target, follow_symlinks=False)
        finally:
            os.close(there)
        return True


def _copy_entry(level: _Level, name: str, links: _Links) -> _Level | None:
    """Copy one entry; a directory is only made, and what is in it given back to be copied."""
    source, target = level.source, level.target
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    is_shared = not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1
    if is_shared and links.link(info, level, name):
        return None
    match stat.S_IFMT(info.st_mode):
        case stat.S_IFDIR:
            return _enter(level, name)
        case stat.S_IFREG:
            _copy_file(source, target, name)
        case stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            _own(target, name, info)
        case _:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
            _own(target, name, info)
    return None


def _enter(level: _Level, name: str) -> _Level:
    os.mkdir(name, 0o700, dir_fd=level.target)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.ExitStack() as stack:
        inner_source = os.open(name, flags, dir_fd=level.source)
        stack.callback(os.close, inner_source)
        inner_target = os.open(name, flags, dir_fd=level.target)
        stack.callback(os.close, inner_target)
        inner = _Level(inner_source, inner_target, os.path.join(level.where, name))
        stack.pop_all()
    return inner


def _copy_file(source: int, target: int, name: str) -> None:
    with contextlib.ExitStack() as stack:
        reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
        stack.callback(os.close, reader)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        writer = os.open(name, flags, 0o600, dir_fd=target)
        stack.callback(os.close, writer)
        while os.sendfile(writer, reader, None, 1 << 30):
            pass
        attributes.copy(reader, writer)


def _own(target: int, name: str, info: os.stat_result) -> None:
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        paths.chmod(target, name, stat.S_IMODE(info.st_mode))
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
