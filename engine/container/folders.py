"""Being told of changes in folders: one inotify descriptor for all who wait.

The kernel allows a user 128 of those and thousands of watches, so whoever follows a log gets a
watch of its own folder, and two who follow the same one share it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from engine.linux import inotify, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_MASK = syscalls.IN_MODIFY | syscalls.IN_CREATE | syscalls.IN_MOVED_TO


class Folders:
    """The descriptor is open as long as anybody watches; all of it happens on one event loop."""

    def __init__(self) -> None:
        self._inotify: inotify.Inotify | None = None
        self._told: dict[int, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def watch(self, path: str) -> Iterator[asyncio.Event]:
        """An event that is set when something has changed in a folder; to be cleared before what
        is there is read. Raises OSError.
        """
        changed = asyncio.Event()
        watch = self._add(path, changed)
        try:
            yield changed
        finally:
            self._remove(watch, changed)

    def _add(self, path: str, changed: asyncio.Event) -> int:
        if self._inotify is None:
            self._inotify = inotify.Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_changes)
        try:
            watch = self._inotify.add(path, _MASK)
        except OSError:
            self._close_unused()
            raise
        self._told.setdefault(watch, set()).add(changed)
        return watch

    def _remove(self, watch: int, changed: asyncio.Event) -> None:
        told = self._told[watch]
        told.discard(changed)
        if told or self._inotify is None:
            return
        del self._told[watch]
        with contextlib.suppress(OSError):  # the folder is gone, and the watch with it
            self._inotify.remove(watch)
        self._close_unused()

    def _close_unused(self) -> None:
        if self._inotify is not None and not self._told:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _on_changes(self) -> None:
        if self._inotify is None:
            return
        for change in self._inotify.read():
            if change.mask & syscalls.IN_Q_OVERFLOW:
                for told in self._told.values():
                    _tell(told)
            else:
                _tell(self._told.get(change.watch, set()))


def _tell(told: set[asyncio.Event]) -> None:
    for changed in told:
        changed.set()
