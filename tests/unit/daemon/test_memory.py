"""When free memory goes back to the host."""

from __future__ import annotations

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


def test_resident_memory_is_in_bytes() -> None:
    before = memory.resident_bytes()
    with mmap.mmap(-1, 64 * MB) as touched:
        for at in range(0, 64 * MB, mmap.PAGESIZE):
            touched[at] = 1
        assert memory.resident_bytes() - before > 60 * MB
