"""Watching files and directories for change: inotify(7)."""

from __future__ import annotations

import os
import struct

from engine.linux import syscalls

_HEADER = struct.Struct("iIII")
# Room for many events; one never takes more than the header and a name of 255 bytes and its NUL.
_BUFFER_BYTES = 16 * 1024


class Change:
    """`mask` as the kernel set it; `name` within the watched directory, "" for itself.

    A mask with IN_Q_OVERFLOW has `watch` -1 and means: some changes were not told.
    """

    __slots__ = ("mask", "name", "watch")

    def __init__(self, watch: int, mask: int, name: str) -> None:
        self.watch = watch
        self.mask = mask
        self.name = name


class Inotify:
    """One descriptor, ready to be read when something changed; not blocking."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = syscalls.inotify_init1()

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str, mask: int) -> int:
        """Watch `path`, which is followed; the number that its changes carry."""
        return syscalls.inotify_add_watch(self._fd, path, mask)

    def remove(self, watch: int) -> None:
        syscalls.inotify_rm_watch(self._fd, watch)

    def read(self) -> list[Change]:
        """What changed since; nothing where nothing did."""
        try:
            return changes(os.read(self._fd, _BUFFER_BYTES))
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._fd)


def changes(data: bytes) -> list[Change]:
    """An array of `struct inotify_event`, each with its name padded by NULs."""
    result: list[Change] = []
    offset = 0
    while offset < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        result.append(Change(watch, mask, os.fsdecode(name)))
    return result
