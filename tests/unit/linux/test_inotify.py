from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from engine.linux import inotify, syscalls

if TYPE_CHECKING:
    from pathlib import Path


def test_changes_are_told_by_name(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    try:
        watch = watcher.add(str(tmp_path), syscalls.IN_CREATE | syscalls.IN_MOVED_TO)
        assert watcher.read() == []
        (tmp_path / "new").write_text("")
        (tmp_path / "new").rename(tmp_path / "renamed")
        told = [(change.watch, change.mask, change.name) for change in watcher.read()]
        assert told == [
            (watch, syscalls.IN_CREATE, "new"),
            (watch, syscalls.IN_MOVED_TO, "renamed"),
        ]
        watcher.remove(watch)
        assert [change.mask for change in watcher.read()] == [syscalls.IN_IGNORED]
    finally:
        watcher.close()


def test_names_are_padded_and_may_be_any_bytes() -> None:
    data = struct.pack("iIII16s", 1, 2, 0, 16, b"caf\xe9") + struct.pack("iIII", 1, 4, 0, 0)
    first, second = inotify.changes(data)
    assert first.name == "caf\udce9"
    assert (second.mask, second.name) == (4, "")
