"""The bridge to blocking code: what hangs waits alone, what must not be left halfway is not."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from engine import offload
from engine.errors import EngineError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _cancelled_meanwhile(
    ends: Callable[[], object], undo: Callable[[object], Awaitable[object]] | None = None
) -> None:
    """Cancel a caller while its call, which `ends` so, is under way."""

    async def main() -> None:
        gate = asyncio.Event()

        async def call() -> object:
            await gate.wait()
            return ends()

        caller = asyncio.create_task(offload.to_the_end(call(), undo))
        await asyncio.sleep(0)
        for _ in range(3):
            caller.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not caller.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(main())


def test_a_cancelled_caller_goes_on_when_its_call_has_ended() -> None:
    ended: list[str] = []
    _cancelled_meanwhile(lambda: ended.append("done"))
    assert ended == ["done"]


def test_what_a_call_made_for_a_cancelled_caller_is_undone() -> None:
    undone: list[object] = []

    async def undo(made: object) -> None:
        undone.append(made)

    _cancelled_meanwhile(lambda: "made", undo)
    assert undone == ["made"]


def test_a_call_that_failed_made_nothing_to_undo() -> None:
    undone: list[object] = []

    async def undo(made: object) -> None:
        undone.append(made)

    def fail() -> None:
        raise OSError("no")

    _cancelled_meanwhile(fail, undo)
    assert undone == []


def test_an_undoing_that_fails_leaves_the_caller_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def undo(_made: object) -> None:
        raise OSError("no")

    _cancelled_meanwhile(lambda: "made", undo)
    assert "cannot undo" in caplog.text


def test_a_caller_that_waits_gets_the_result_and_the_failure() -> None:
    async def fail() -> None:
        raise OSError("no")

    async def main() -> None:
        assert await offload.to_the_end(asyncio.sleep(0, "result")) == "result"
        with pytest.raises(OSError, match="no"):
            await offload.to_the_end(fail())

    asyncio.run(main())


def test_lookups_that_hang_wait_alone() -> None:
    gate = threading.Event()

    async def main() -> list[str]:
        hanging = [asyncio.create_task(offload.foreign(gate.wait)) for _ in range(40)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            answers = [await offload.foreign(str, 1), await offload.disk(str, 2)]
        assert not any(task.done() for task in hanging)
        gate.set()
        assert all(await asyncio.gather(*hanging))
        return answers

    assert asyncio.run(main()) == ["1", "2"]
    offload.close()


def test_a_lookup_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "FOREIGN_TIMEOUT_S", 0.05)
    gate = threading.Event()
    with pytest.raises(EngineError, match=r"has not answered for 0\.05 seconds"):
        asyncio.run(offload.foreign(gate.wait))
    offload.close()  # does not wait for it either
    gate.set()


def test_what_a_lookup_raises_is_raised_here() -> None:
    def late() -> None:
        raise TimeoutError("the server's own")

    with pytest.raises(TimeoutError, match="own"):
        asyncio.run(offload.foreign(late))


def test_hundreds_that_hang_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "_MOST_ALONE", 2)
    gate = threading.Event()

    async def main() -> None:
        hanging = [asyncio.create_task(offload.alone(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="have not come back yet"):
            await offload.alone(gate.wait)
        gate.set()
        await asyncio.gather(*hanging)
        assert await offload.alone(str, 1) == "1"

    asyncio.run(main())
