"""What must not be left halfway ends before a caller that is cancelled goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from engine import offload

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
        caller.cancel()
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
