from __future__ import annotations

import asyncio

import pytest

from engine.container.model import State, Status, WaitCondition, WaitResult
from engine.container.wait import Waiters

RUNNING = State(status=Status.RUNNING)
EXITED = State(status=Status.EXITED, exit_code=4)


def test_what_does_not_run_is_answered_at_once() -> None:
    async def main() -> WaitResult:
        return await Waiters().register(WaitCondition.NOT_RUNNING, EXITED)

    assert asyncio.run(main()) == WaitResult(exit_code=4)


def test_each_condition_has_its_own_moment() -> None:
    async def main() -> list[list[bool]]:
        waiters = Waiters()
        futures = [
            asyncio.ensure_future(waiters.register(condition, RUNNING))
            for condition in WaitCondition
        ]
        seen = [[f.done() for f in futures]]
        waiters.stopped(EXITED)
        seen.append([f.done() for f in futures])
        waiters.removed(EXITED)
        seen.append([f.done() for f in futures])
        assert {f.result().exit_code for f in futures} == {4}
        return seen

    # not-running, next-exit, removed
    assert asyncio.run(main()) == [[False] * 3, [True, True, False], [True] * 3]


def test_a_removal_without_a_run_wakes_everyone() -> None:
    async def main() -> WaitResult:
        waiters = Waiters()
        future = waiters.register(WaitCondition.NEXT_EXIT, State())
        waiters.removed(State())
        return await future

    assert asyncio.run(main()) == WaitResult(exit_code=0)


def test_a_waiter_that_leaves_is_forgotten() -> None:
    async def main() -> None:
        waiters = Waiters()
        future = asyncio.ensure_future(waiters.register(WaitCondition.REMOVED, RUNNING))
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        await asyncio.sleep(0)
        assert waiters._waiting == {}

    asyncio.run(main())
