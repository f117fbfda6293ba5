"""What a container has changed, seen from what it found: `docker diff`.

The answer is that of comparing the two roots entry by entry (moby go-archive changes.go), but only
what its own files touch is looked at: nothing else can differ. A directory comes before what is in
it, and what is in it in the order of names; dockerd's order is another each time.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from engine import offload
from engine.container import view
from engine.container.model import Change, ChangeKind
from engine.errors import EngineError
from engine.linux import oserror, overlay
from engine.linux import path as paths
from engine.storage import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.container.rooms import Rooms
    from engine.container.store import Handle

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND_NS = 1_000_000_000
_FOLDER, _OTHER = "directory", "file or link"


async def changes(rooms: Rooms, handle: Handle) -> list[Change]:
    snapshots, key = rooms.snapshots, handle.container.snapshot_key
    try:
        return await offload.disk(_changes, snapshots.folders(key))
    except OSError as exc:
        raise EngineError(oserror.sentence(exc)) from exc


def _changes(folders: Sequence[str]) -> list[Change]:
    with view.of_layers(folders[1:]) as below:
        own = os.open(folders[0], _DIRECTORY)
        try:
            return compare(own, below)
        finally:
            os.close(own)


class _Name(NamedTuple):
    """A name in a directory, and what the listing says it is: "" if that has to be looked at."""

    name: str
    kind: str = ""


class _Directory:
    """One of its own directories, and what is left of it. `told` is where it stands in the list if
    something beneath it has changed and it has not."""

    __slots__ = ("has_lower", "names", "path", "told")

    def __init__(self, path: str, names: list[_Name], told: int | None, *, has_lower: bool) -> None:
        self.path = path
        self.names = names
        self.told = told
        self.has_lower = has_lower


def compare(own: int, below: int) -> list[Change]:
    """Changes of the upper directory `own` of overlayfs against the root `below`."""
    return _Comparison(own, below).run()


class _Comparison:
    def __init__(self, own: int, below: int) -> None:
        self._own = own
        self._below = below
        self._found: list[Change] = []
        self._pending: list[_Directory] = []

    def run(self) -> list[Change]:
        self._enter("", is_listed=True, has_lower=True)
        while self._pending:
            directory = self._pending[-1]
            if not directory.names:
                self._leave()
                continue
            name, kind = directory.names.pop()
            path = f"{directory.path}/{name}"
            if directory.has_lower or not kind:
                self._entry(directory, path)
                continue
            self._found.append(Change(path, ChangeKind.ADDED))  # there is nothing to compare with
            if kind == _FOLDER:
                self._enter(path, is_listed=True, has_lower=False)
        return self._found

    def _enter(self, path: str, *, is_listed: bool, has_lower: bool) -> None:
        fd = _open(self._own, path)
        if fd is None:
            return
        try:
            names = _listed(fd)
            if has_lower and overlay.is_opaque(fd):
                for name in self._listed_below(path):
                    names.setdefault(name, _Name(name))
        finally:
            os.close(fd)
        told = None if is_listed else len(self._found)
        ordered = sorted(names.values(), key=lambda each: os.fsencode(each.name), reverse=True)
        self._pending.append(_Directory(path, ordered, told, has_lower=has_lower))

    def _listed_below(self, path: str) -> list[str]:
        fd = _open(self._below, path)
        if fd is None:
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _leave(self) -> None:
        """A directory is told of for what has changed beneath it, before that."""
        directory = self._pending.pop()
        if directory.told is not None and len(self._found) > directory.told:
            self._found.insert(directory.told, Change(directory.path, ChangeKind.MODIFIED))

    def _entry(self, directory: _Directory, path: str) -> None:
        now = _status(self._own, path)
        before = _status(self._below, path) if directory.has_lower else None
        if now is None or (stat.S_ISCHR(now.status.st_mode) and now.status.st_rdev == 0):
            if before is not None:
                self._found.append(Change(path, ChangeKind.DELETED))
            return
        is_listed = before is None or now.differs(before)
        if is_listed:
            kind = ChangeKind.ADDED if before is None else ChangeKind.MODIFIED
            self._found.append(Change(path, kind))
        if stat.S_ISDIR(now.status.st_mode):
            has_lower = before is not None and stat.S_ISDIR(before.status.st_mode)
            self._enter(path, is_listed=is_listed, has_lower=has_lower)


class _Entry:
    __slots__ = ("capability", "status")

    def __init__(self, fd: int) -> None:
        self.status = os.fstat(fd)
        self.capability = _xattr(f"/proc/self/fd/{fd}", pack.CAPABILITY)

    def differs(self, before: _Entry) -> bool:
        """Not by what a copy changes: inode, blocks, times but the last modification.

        Of a directory neither size nor time count; some file systems and archives know whole
        seconds only.
        """
        new, old = self.status, before.status
        if self.capability != before.capability:
            return True
        if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (
            old.st_mode,
            old.st_uid,
            old.st_gid,
            old.st_rdev,
        ):
            return True
        if stat.S_ISDIR(new.st_mode):
            return False
        return new.st_size != old.st_size or not _same_time(new.st_mtime_ns, old.st_mtime_ns)


def _listed(fd: int) -> dict[str, _Name]:
    with os.scandir(fd) as entries:
        return {entry.name: _Name(entry.name, _kind(entry)) for entry in entries}


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    return _OTHER if entry.is_file(follow_symlinks=False) or entry.is_symlink() else ""


def _same_time(a: int, b: int) -> bool:
    if a == b:
        return True
    is_whole = a % _SECOND_NS == 0 or b % _SECOND_NS == 0
    return is_whole and a // _SECOND_NS == b // _SECOND_NS


def _open(root: int, path: str) -> int | None:
    return _beneath(root, path, _DIRECTORY)


def _status(root: int, path: str) -> _Entry | None:
    fd = _beneath(root, path, os.O_PATH | os.O_NOFOLLOW)
    if fd is None:
        return None
    try:
        return _Entry(fd)
    finally:
        os.close(fd)


def _beneath(root: int, path: str, flags: int) -> int | None:
    """None if nothing is there, or no longer what was listed."""
    try:
        return paths.open_plainly(root, path[1:], flags)
    except OSError as exc:
        if exc.errno in pack.GONE:
            return None
        raise


def _xattr(target: int | str, name: str) -> bytes | None:
    try:
        return os.getxattr(target, name)
    except OSError:
        return None
