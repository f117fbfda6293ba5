"""When free memory goes back to the host."""

from __future__ import annotations

import asyncio
import errno
import mmap

import pytest

from compat.daemon import memory

MB = 1 << 20


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The next readings, last first."""
    readings: list[int] = []
    monkeypatch.setattr(memory, "resident_bytes", readings.pop)
    return readings


def test_only_what_has_grown_and_grows_no_more_is_looked_after(resident: list[int]) -> None:
    #                 start  same grows  rest  after  same  a bit  more
    resident += reversed([50, 50, 90, 91, 60, 60, 66, 67])
    resident[:] = [megabytes * MB for megabytes in resident]
    keeper = memory.Keeper()
    assert [keeper.look() for _ in range(6)] == [False, False, True, False, False, False]
    assert not resident


def test_what_cannot_go_back_is_not_tried_for_ever(resident: list[int]) -> None:
    resident += [size * MB for size in reversed([50, 90, 90, 89, 89, 90])]
    keeper = memory.Keeper()
    assert [keeper.look() for _ in range(4)] == [False, True, False, False]


def test_a_time_without_descriptors_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: asyncio.AbstractEventLoop
    looks: list[str] = []
    third = asyncio.Event()

    def look(_self: memory.Keeper) -> bool:
        looks.append("look")
        if len(looks) == 3:
            loop.call_soon_threadsafe(third.set)
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        keeping = asyncio.create_task(memory.keep_small())
        await asyncio.wait_for(third.wait(), 10)
        keeping.cancel()

    monkeypatch.setattr(memory, "_EVERY_S", 0)
    monkeypatch.setattr(memory.Keeper, "look", look)
    asyncio.run(main())


def test_resident_memory_is_in_bytes() -> None:
    before = memory.resident_bytes()
    with mmap.mmap(-1, 64 * MB) as touched:
        for at in range(0, 64 * MB, mmap.PAGESIZE):
            touched[at] = 1
        assert memory.resident_bytes() - before > 60 * MB
