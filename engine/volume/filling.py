"""What a volume begins with: copied out of its sight, then put in place whole or not at all.

The copy is made in a folder beside the volume's directory. Renaming that folder is what decides:
before, a crash leaves rubbish, after it the next one who looks goes on moving its entries into the
volume. The volume's own directory is never exchanged for another, because containers may have it
mounted. Where it is a file system of its own, the folder has to be inside.

All of it blocks. Whoever fills is alone in that for one volume; containers that have the volume may
write to it at any moment, and what is theirs stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from engine.linux import attributes, syscalls, tree

if TYPE_CHECKING:
    from collections.abc import Callable

UNFINISHED: Final = ".wharf-filling"
DECIDED: Final = ".wharf-filled"
_FS_IOC_FSGETXATTR: Final = 0x801C581F  # <linux/fs.h>, with its struct fsxattr
_fsxattr: Final = struct.Struct("=5I8x")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(volume: str, copy: Callable[[int], None]) -> None:
    """Let `copy` make what the directory `volume` begins with, if it is empty.

    `copy` gets a directory to fill and furnish with the attributes that the volume's own is to
    have. On a failure, or where others were first, the volume stays as it was.
    """
    with contextlib.ExitStack() as stack:
        target = _open(volume, stack)
        beside = _open(os.path.dirname(volume), stack)
        for place in (beside, target):
            _finish(place, target)
        if not _is_empty(target):
            return
        place = beside if _can_move(beside, target) else target
        stack.callback(_remove, place, UNFINISHED)
        os.mkdir(UNFINISHED, 0o700, dir_fd=place)
        with contextlib.ExitStack() as made:
            copy(_open(UNFINISHED, made, dir_fd=place))
        if _is_empty(target):
            os.rename(UNFINISHED, DECIDED, src_dir_fd=place, dst_dir_fd=place)
            _finish(place, target)


def finish(volume: str) -> None:
    """What a crash left beside the volume: put in place where that was decided, else removed."""
    folder = os.path.dirname(volume)
    if not {UNFINISHED, DECIDED}.intersection(os.listdir(folder)):
        return
    with contextlib.ExitStack() as stack:
        beside = _open(folder, stack)
        _finish(beside, _open(volume, stack))


def is_empty(volume: str) -> bool:
    """Whether it holds nothing but what a crash left of filling it."""
    with contextlib.ExitStack() as stack:
        return _is_empty(_open(volume, stack))


def _open(name: str, stack: contextlib.ExitStack, dir_fd: int | None = None) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    stack.callback(os.close, fd)
    return fd


def _is_empty(target: int) -> bool:
    with os.scandir(target) as entries:
        return all(
            entry.name in (UNFINISHED, DECIDED) and entry.is_dir(follow_symlinks=False)
            for entry in entries
        )


def _can_move(beside: int, target: int) -> bool:
    """Whether what is made beside can be put into the volume by its name alone."""
    try:
        os.rename(UNFINISHED, UNFINISHED, src_dir_fd=beside, dst_dir_fd=target)
    except FileNotFoundError:  # the kernel looks for the name after it has compared the mounts
        return _project(beside) == _project(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
    return False


def _project(fd: int) -> int:
    """Whose quota new files count for; names are not moved from one project to another."""
    try:
        found = fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_fsxattr.size))
    except OSError:
        return 0
    return int(_fsxattr.unpack(found)[3])


def _finish(place: int, target: int) -> None:
    _remove(place, UNFINISHED)
    with contextlib.ExitStack() as stack:
        try:
            decided = _open(DECIDED, stack, dir_fd=place)
        except (FileNotFoundError, NotADirectoryError):
            return
        status = os.fstat(decided)
        times = (status.st_atime_ns, status.st_mtime_ns)  # moving what is in it changes them
        for name in os.listdir(decided):
            _move(name, decided, target)
        attributes.copy(decided, target)
        os.utime(target, ns=times)
    _remove(place, DECIDED)  # with what others were first to have


def _move(name: str, source: int, target: int) -> None:
    """A name that somebody else has taken in the meantime stays theirs."""
    try:
        syscalls.renameat2(source, name, target, name, syscalls.RENAME_NOREPLACE)
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # not every file system knows the flag
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        elif exc.errno != errno.EEXIST:
            raise


def _remove(place: int, name: str) -> None:
    with contextlib.suppress(NotADirectoryError):  # none of ours: some container made it
        tree.remove(f"/proc/self/fd/{place}/{name}")
