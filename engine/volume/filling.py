"""What a volume begins with: copied out of its sight, then put in place whole or not at all.

The copy is made in a folder beside the volume's directory. Once it is on the disk, renaming that
folder is what decides: before, a crash leaves rubbish, after it the next one who looks goes on
moving its entries into the volume. The volume's own directory is never exchanged for another,
because containers may have it mounted. Where it is a file system of its own, the folder has to be
inside.

All of it blocks. Two volumes may be one directory, bound to both: of one engine's fillers one at a
time is at work in it, and the next one's thread waits for as long as that one copies. Each fills a
folder with a name of its own, which is locked (flock) so that no other engine takes it for rubbish.
For such a lock nobody waits longer than moving names takes: containers that have the volume can
take it too. They may write to the volume at any moment, and what is theirs stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import struct
import threading
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from engine.linux import attributes, syscalls, tree

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

UNFINISHED: Final = ".wharf-filling"  # and a name of its own
DECIDED: Final = ".wharf-filled"
_OWN: Final = re.compile(f"{re.escape(UNFINISHED)}(-[0-9a-f]{{16}})?")
_FS_IOC_FSGETXATTR: Final = 0x801C581F  # <linux/fs.h>, with its struct fsxattr
_fsxattr: Final = struct.Struct("=5I8x")
_PATIENCE_S: Final = 2.0
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(volume: str, copy: Callable[[int], None]) -> None:
    """Let `copy` make what the directory `volume` begins with, if it is empty.

    `copy` gets a directory to fill and furnish with the attributes that the volume's own is to
    have. On a failure, or where others were first, the volume stays as it was.
    """
    with contextlib.ExitStack() as stack:
        target = _open(volume, stack)
        beside = _open(os.path.dirname(volume), stack)
        stack.enter_context(_turn(target))
        for place in (beside, target):
            _sweep(place)
            _finish(place, target)
        if not _is_empty(target):
            return
        place = beside if _can_move(beside, target) else target
        name, made = _make(place, stack)
        copy(made)
        syscalls.syncfs(made)
        if _decide(place, name, target):
            _put_in_place(made, target)
            _remove(place, DECIDED)  # with what others were first to have
        else:
            _finish(place, target)


def finish(volume: str) -> None:
    """What a crash left beside the volume: put in place where that was decided, else removed."""
    folder = os.path.dirname(volume)
    if not any(map(_is_ours, os.listdir(folder))):
        return
    with contextlib.ExitStack() as stack:
        beside = _open(folder, stack)
        _sweep(beside)
        _finish(beside, _open(volume, stack))


def is_empty(volume: str) -> bool:
    """Whether it holds nothing but what a crash left of filling it."""
    with contextlib.ExitStack() as stack:
        return _is_empty(_open(volume, stack))


def _open(name: str, stack: contextlib.ExitStack, dir_fd: int | None = None) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    stack.callback(os.close, fd)
    return fd


_turns: Final[WeakValueDictionary[tuple[int, int], threading.Lock]] = WeakValueDictionary()
_turns_guard: Final = threading.Lock()


def _turn(target: int) -> threading.Lock:
    """Who holds it is this process's only filler of that directory, by whatever name."""
    status = os.fstat(target)
    with _turns_guard:
        return _turns.setdefault((status.st_dev, status.st_ino), threading.Lock())


def _is_ours(name: str) -> bool:
    return name == DECIDED or _OWN.fullmatch(name) is not None


def _is_empty(target: int) -> bool:
    with os.scandir(target) as entries:
        return all(
            _is_ours(entry.name) and entry.is_dir(follow_symlinks=False) for entry in entries
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


def _make(place: int, stack: contextlib.ExitStack) -> tuple[str, int]:
    """A folder to fill, locked; what is there by its name at the end is removed."""
    while True:
        name = f"{UNFINISHED}-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=place)
        with contextlib.ExitStack() as made:
            try:
                fd = _open(name, made, dir_fd=place)
            except FileNotFoundError:
                continue
            # Before it was locked, somebody may have taken it for rubbish.
            if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_still(place, name, fd):
                made.callback(_remove, place, name)  # while it is locked
                stack.push(made.pop_all())
                return name, fd


def _lock(fd: int, how: int) -> bool:
    """False where somebody else has it. Where nobody can lock, nobody's folder is swept either."""
    try:
        fcntl.flock(fd, how)
    except OSError as exc:
        return exc.errno != errno.EWOULDBLOCK
    return True


def _is_still(place: int, name: str, fd: int) -> bool:
    try:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def _decide(place: int, name: str, target: int) -> bool:
    """Whether it is this folder that the volume begins with; there is one at a time that is.

    The volume is looked at once more after that: one decided before may be in place by now.
    """
    if not _is_empty(target):
        return False
    try:
        _rename(name, place, DECIDED, place)
    except OSError as exc:
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    if not _is_empty(target):
        _remove(place, DECIDED)
        return False
    return True


def _finish(place: int, target: int) -> None:
    """Put what was decided in place, or wait until another engine has."""
    with contextlib.ExitStack() as stack:
        try:
            decided = _open(DECIDED, stack, dir_fd=place)
        except (FileNotFoundError, NotADirectoryError):
            return
        if not _lock_soon(decided):
            log.warning("what a volume was to begin with is held by somebody, and stays as it is")
        elif _is_still(place, DECIDED, decided):
            _put_in_place(decided, target)
            _remove(place, DECIDED)


def _lock_soon(fd: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while not _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _sweep(place: int) -> None:
    """Remove what nobody is at work in any more."""
    for name in filter(_OWN.fullmatch, os.listdir(place)):
        with contextlib.ExitStack() as stack:
            try:
                fcntl.flock(_open(name, stack, dir_fd=place), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # gone, a file of some container's, or somebody is at work in it
                continue
            _remove(place, name)


def _put_in_place(decided: int, target: int) -> None:
    status = os.fstat(decided)
    times = (status.st_atime_ns, status.st_mtime_ns)  # moving what is in it changes them
    for name in os.listdir(decided):
        _move(name, decided, target)
    attributes.copy(decided, target)
    os.utime(target, ns=times)


def _move(name: str, source: int, target: int) -> None:
    """A name that somebody else has taken in the meantime stays theirs."""
    with contextlib.suppress(FileExistsError):
        _rename(name, source, name, target)


def _rename(name: str, source: int, new: str, target: int) -> None:
    """To a name that nobody has, where the file system can tell."""
    try:
        syscalls.renameat2(source, name, target, new, syscalls.RENAME_NOREPLACE)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # not every file system knows the flag
            raise
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)


def _remove(place: int, name: str) -> None:
    with contextlib.suppress(NotADirectoryError):  # none of ours: some container made it
        tree.remove(f"/proc/self/fd/{place}/{name}")
