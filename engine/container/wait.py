"""Waiting for a container: until it does not run, until its next exit, until it is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.container.model import WaitCondition, WaitResult
from engine.container.state import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.container.model import State


class Waiters:
    """Those who wait for one container. A waiter that is cancelled takes itself out."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[WaitResult], WaitCondition] = {}

    def register(self, condition: WaitCondition, state: State) -> Awaitable[WaitResult]:
        """Wait from this call on, not from the await on: nothing between is missed."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if condition is WaitCondition.NOT_RUNNING and state.status not in ACTIVE:
            future.set_result(result(state))
        else:
            self._waiting[future] = condition
            future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[WaitResult]) -> None:
        self._waiting.pop(future, None)

    def stopped(self, state: State) -> None:
        """The container ended: wakes all but those who wait for its removal."""
        self._wake(state, {WaitCondition.NOT_RUNNING, WaitCondition.NEXT_EXIT})

    def removed(self, state: State) -> None:
        """It is gone, perhaps without ever having run: wakes everyone."""
        self._wake(state, set(WaitCondition))

    def _wake(self, state: State, conditions: set[WaitCondition]) -> None:
        for future, condition in list(self._waiting.items()):
            if condition in conditions and not future.done():
                future.set_result(result(state))


def result(state: State) -> WaitResult:
    return WaitResult(exit_code=state.exit_code, error=state.error)
