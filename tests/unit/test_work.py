"""Work outlives whoever asked for it, and the engine waits for it."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import Unavailable
from engine.work import Work


def test_a_caller_that_leaves_does_not_end_the_work() -> None:
    async def main() -> list[str]:
        work, done = Work(), []
        gate = asyncio.Event()

        async def change() -> None:
            await gate.wait()
            done.append("changed")

        caller = asyncio.create_task(work.do(change(), what="change"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.set()
        await work.close(5)
        return done

    assert asyncio.run(main()) == ["changed"]


def test_the_result_and_the_failure_reach_the_caller() -> None:
    async def main() -> int:
        work = Work()

        async def fail() -> None:
            raise ValueError("no")

        async def give() -> int:
            return 5

        with pytest.raises(ValueError, match=r"^no$"):
            await work.do(fail(), what="fail")
        return await work.do(give(), what="give")

    assert asyncio.run(main()) == 5


def test_a_failure_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        work = Work()

        async def fail() -> None:
            raise ValueError("lost")

        work.spawn(fail(), what="the job")
        await work.close(5)

    asyncio.run(main())
    assert "the job failed" in caplog.text


def test_nothing_begins_after_the_end() -> None:
    async def main() -> None:
        work = Work()
        await work.close(0)

        async def late() -> None:
            raise AssertionError("must not run")

        with pytest.raises(Unavailable, match="shutting down"):
            await work.do(late(), what="late")

    asyncio.run(main())


def test_what_outlasts_the_time_is_given_up() -> None:
    async def main() -> bool:
        work = Work()
        task = work.spawn(asyncio.sleep(3600), what="endless")
        await work.close(0)
        return task.cancelled()

    assert asyncio.run(main())


def test_what_has_no_end_ends_with_the_rest_and_is_not_waited_for() -> None:
    async def main() -> tuple[bool, float]:
        work = Work()
        task = work.keep_running(asyncio.sleep(3600), what="watch")
        await asyncio.sleep(0)
        begin = asyncio.get_running_loop().time()
        await work.close(60)
        return task.cancelled(), asyncio.get_running_loop().time() - begin

    was_cancelled, took_s = asyncio.run(main())
    assert was_cancelled
    assert took_s < 30


def test_what_has_no_end_and_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        work = Work()

        async def fail() -> None:
            raise ValueError("no")

        work.keep_running(fail(), what="the watch")
        await asyncio.sleep(0)
        await work.close(5)

    asyncio.run(main())
    assert "the watch failed" in caplog.text
