"""Work that several wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from engine.errors import EngineError, Unavailable
from engine.image.joint import Joint, Joints, all_done

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from engine.image.model import Progress


def begun(work: Coroutine[object, object, str], key: str = "key") -> Joint[str]:
    joint = Joint[str](key, key)
    joint.begin(work, "test")
    return joint


async def never() -> str:
    await asyncio.Event().wait()
    return ""


async def fails(text: str) -> str:
    raise EngineError(text)


async def says(text: str) -> str:
    return text


def test_all_hear_of_it_and_those_who_come_later_where_it_stands() -> None:
    async def run() -> None:
        first: list[Progress] = []
        later: list[Progress] = []
        joint = begun(never())
        joint.join(first.append)
        joint.report("Downloading", 1, 10)
        joint.join(later.append)
        joint.report("Downloading", 2, 10)
        assert [p.current for p in first] == [1, 2]
        assert [p.current for p in later] == [1, 2]
        await joint.end()

    asyncio.run(run())


def test_the_last_to_leave_ends_it() -> None:
    async def run() -> None:
        joints = Joints[Joint[str]]()
        joint = begun(never())
        joints.add(joint)
        one, two = [].append, [].append  # type: ignore[var-annotated]
        joint.join(one)
        joint.join(two)
        assert not await joints.leave(joint, one)
        assert joints.get("key") is joint
        assert await joints.leave(joint, two)
        assert joints.get("key") is None
        assert joint.task is not None
        assert joint.task.cancelled()

    asyncio.run(run())


def test_a_failure_is_not_shared_with_who_comes_after_it() -> None:
    """Not even in the instant before the loop tells that it has ended."""

    async def run() -> None:
        joints = Joints[Joint[str]]()
        joint = begun(fails("no"))
        joints.add(joint)
        assert joint.task is not None
        await asyncio.wait((joint.task,))
        assert joints.get("key") is None
        with pytest.raises(EngineError, match="no"):
            await joint.result()

    asyncio.run(run())


def test_a_newer_one_of_the_same_key_is_not_forgotten() -> None:
    async def run() -> None:
        joints = Joints[Joint[str]]()
        old = begun(says("old"))
        joints.add(old)
        new = begun(never())
        joints.add(new)
        await old.result()
        await asyncio.sleep(0)
        assert joints.get("key") is new
        await joints.close()

    asyncio.run(run())


def test_waiting_ends_with_the_first_failure() -> None:
    async def run() -> None:
        running = begun(never())
        with pytest.raises(EngineError, match="second"):
            await all_done([running, begun(fails("second")), begun(says("third"))])
        assert running.task is not None
        assert not running.task.done()
        await running.end()

    asyncio.run(run())


def test_nothing_to_wait_for() -> None:
    asyncio.run(all_done([]))


def test_an_engine_that_ends_is_no_cancellation_of_who_waits() -> None:
    async def run() -> None:
        joints = Joints[Joint[str]]()
        joint = begun(never())
        joints.add(joint)
        waiting = asyncio.ensure_future(all_done([joint]))
        await asyncio.sleep(0)
        await joints.close()
        with pytest.raises(Unavailable):
            await waiting

    asyncio.run(run())
