"""Work outlives whoever asked for it, and the engine waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from engine.errors import Unavailable
from engine.linux.fd import OwnedFd
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


def test_what_was_given_to_work_is_closed_once_whatever_comes() -> None:
    async def main() -> None:
        work = Work()
        taken: list[int] = []

        async def take(client: OwnedFd) -> None:
            taken.append(client.take())

        async def close(client: OwnedFd) -> None:
            client.close()
            raise Unavailable("of its own")

        for job in (take, close):
            client = OwnedFd(os.open(os.devnull, os.O_RDONLY))
            with contextlib.suppress(Unavailable):
                await work.do(job(client), what="job", given=client)
            await asyncio.sleep(0)
            assert not client
        assert _is_open(taken[0])
        os.close(taken[0])

        client = OwnedFd(os.open(os.devnull, os.O_RDONLY))
        fd = client.fileno()
        caller = asyncio.create_task(work.do(take(client), what="late", given=client))
        await asyncio.sleep(0)  # its work is to begin with the next turn
        for task in work._tasks:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert len(taken) == 1
        assert not _is_open(fd)

        await work.close(0)
        client = OwnedFd(os.open(os.devnull, os.O_RDONLY))
        fd = client.fileno()
        with pytest.raises(Unavailable):
            await work.do(take(client), what="refused", given=client)
        assert not _is_open(fd)

    asyncio.run(main())


def _is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


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
