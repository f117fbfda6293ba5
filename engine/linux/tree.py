"""Whole directories, however deep: rm(1) and du(1) without their processes.

What a container made may be deeper than the interpreter can recurse or the process has descriptors,
so removing goes down and up one directory at a time, with one descriptor and a list of names a
level. Symbolic links are removed, never followed. Whatever is mounted in there is somebody else's:
it is refused, never emptied.
"""

from __future__ import annotations

import errno
import os

from engine.linux import path as paths

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: str) -> None:
    """Remove the directory `path` and all in it; nothing there is no error.

    OSError EBUSY: something is mounted in it. The tree must not be moved meanwhile (EAGAIN).
    """
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        return
    names = [path]
    pending: list[list[str]] = []
    above: list[tuple[int, int]] = []
    try:
        pending.append(_empty(fd))
        while True:
            if pending[-1]:
                names.append(pending[-1].pop())
                above.append(_identity(fd))
                fd = _down(fd, names[-1])
                pending.append(_empty(fd))
                continue
            pending.pop()
            if not pending:
                break
            fd = _up(fd, above.pop())
            os.rmdir(names.pop(), dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(path)


def _empty(fd: int) -> list[str]:
    """Remove all but directories; the names of those."""
    directories: list[str] = []
    with os.scandir(fd) as entries:
        others: list[str] = []
        for entry in entries:
            (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    for name in others:
        os.unlink(name, dir_fd=fd)
    return directories


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _down(fd: int, name: str) -> int:
    """The child in place of `fd`."""
    try:
        child = paths.open_in_mount(fd, name, _FLAGS)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name) from exc
        raise
    os.close(fd)
    return child


def _up(fd: int, expected: tuple[int, int]) -> int:
    """The parent in place of `fd`, if it is the directory that was left to come here."""
    parent = os.open("..", _FLAGS, dir_fd=fd)
    if _identity(parent) != expected:
        os.close(parent)
        raise OSError(errno.EAGAIN, "directory was moved while it was being removed")
    os.close(fd)
    return parent


def usage(folder: str) -> int:
    """Bytes of the files in it, hard links once, directories free (moby internal/directory).

    A running container may change it meanwhile: what has gone is not counted, nothing is followed.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [b"."]
    root = paths.open_root(folder)
    try:
        while pending:
            path = pending.pop()
            below, size = _usage_of_one(root, path, seen)
            total += size
            pending += [path + b"/" + name for name in below]
    finally:
        os.close(root)
    return total


def _usage_of_one(root: int, path: bytes, seen: set[tuple[int, int]]) -> tuple[list[bytes], int]:
    """The directories in a directory, and the bytes of its files."""
    fd = paths.find_plainly(root, path, _FLAGS | os.O_NOATIME)
    below: list[bytes] = []
    total = 0
    if fd is None:
        return below, total
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(os.fsencode(entry.name))
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                identity = status.st_dev, status.st_ino
                if status.st_nlink == 1 or identity not in seen:
                    total += status.st_size
                if status.st_nlink > 1:
                    seen.add(identity)
    finally:
        os.close(fd)
    return below, total
