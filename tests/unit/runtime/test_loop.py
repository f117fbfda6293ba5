"""Timers of the monitor's loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.runtime.monitor.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made._epoll.close()


def test_a_timer_of_years_can_be_waited_for(loop: Loop) -> None:
    loop.call_later(90_000 * 3600, lambda: None)

    def stop() -> None:
        loop.is_running = False

    loop.call_later(0.01, stop)
    loop.run()
    # Nothing else is left, so this is what the next round would wait for.
    timeout_s = loop._timeout_s()
    assert timeout_s is not None
    assert timeout_s * 1000 < 2**31


def test_timers_that_were_cancelled_do_not_pile_up(loop: Loop) -> None:
    kept = [loop.call_later(3600, lambda: None) for _ in range(10)]
    for _ in range(10_000):
        loop.call_later(3600, lambda: None).cancel()
    assert len(loop._timers) < 200
    assert all(timer.callback is not None for timer in kept)
    assert {id(timer) for timer in kept} <= {id(timer) for _, _, timer in loop._timers}
