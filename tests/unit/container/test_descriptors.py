"""What is opened on the way is closed, however it goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from engine import offload
from engine.container import commit, populate

if TYPE_CHECKING:
    from pathlib import Path


def _open() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    before = _open()

    def fail(_: int) -> list[str]:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(populate.os, "listdir", fail)
        with pytest.raises(OSError, match="no"):
            populate._copy_tree(fd, fd)
    assert _open() == before
    os.close(fd)


def test_a_commit_that_is_cancelled_while_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = SimpleNamespace(upper=lambda _: str(tmp_path))
    rooms: Any = SimpleNamespace(snapshots=snapshots)
    handle: Any = SimpleNamespace(container=SimpleNamespace(snapshot_key="key"))
    gate, opening, opened = threading.Event(), os.open, []

    def slowly(*how: Any) -> int:
        gate.wait(10)
        opened.append(opening(*how))
        return opened[-1]

    async def main() -> None:
        async def enter() -> None:
            async with commit._files(rooms, handle):
                raise AssertionError("must not come here")

        entering = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        entering.cancel()
        asyncio.get_running_loop().call_later(0.05, gate.set)
        with pytest.raises(asyncio.CancelledError):
            await entering

    monkeypatch.setattr(commit.os, "open", slowly)
    asyncio.run(main())
    monkeypatch.undo()
    offload.close()
    assert opened
    assert not os.path.exists(f"/proc/self/fd/{opened[0]}")
