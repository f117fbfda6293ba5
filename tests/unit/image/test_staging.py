"""Unpacking for a caller that leaves."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from engine.image.staging import stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.storage.snapshots import Snapshots


class Slow:
    """Snapshots that unpack for a while though told to stop, and give a layer all the same."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.discarded_by: list[str] = []

    def stage_layer(self, stream: Any, *, is_cancelled: Callable[[], bool], **_: object) -> Slow:
        self.has_begun.set()
        self.may_end.wait(10)
        assert is_cancelled()
        with pytest.raises(InterruptedError):
            stream.read(1)
        return self

    def discard(self) -> None:
        self.discarded_by.append(threading.current_thread().name)


def test_a_layer_that_nobody_waits_for_is_discarded_in_a_thread() -> None:
    slow = Slow()

    async def scenario() -> None:
        task = asyncio.create_task(stage(cast("Snapshots", slow), io.BytesIO(b"layer")))
        assert await asyncio.to_thread(slow.has_begun.wait, 10)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.02)
        assert not task.done()
        slow.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(scenario())
    finally:
        slow.may_end.set()
    (thread,) = slow.discarded_by
    assert thread.startswith("disk")
