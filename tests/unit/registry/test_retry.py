"""When a registry is asked again, without a registry and without waiting."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import EngineError, WharfError
from engine.registry import failure, retry
from engine.registry.retry import Policy


class Clock:
    """Of a loop whose sleeps are remembered and take no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept: list[float] = []
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(retry, "BRIEF_DELAYS_S", (0.5, 1.0, 2.0))
    return Clock(monkeypatch)


def status(code: int, after_s: int = 0) -> failure.UnexpectedStatus:
    made = failure.UnexpectedStatus(code, "")
    made.retry_after_s = after_s
    return made


def too_many(after_s: int = 0) -> failure.Refusal:
    made = failure.refusal("TOOMANYREQUESTS")
    made.retry_after_s = after_s
    return made


def broken(reason: str = "EOF", *, is_passing: bool = True) -> failure.Unreachable:
    return failure.Unreachable("get", "https://x", reason, is_passing=is_passing)


def briefly(*failures: WharfError) -> str:
    left = list(failures)

    async def ask() -> str:
        if left:
            raise left.pop(0)
        return "found"

    return asyncio.run(retry.briefly(ask))


@pytest.mark.parametrize(
    ("failures", "slept"),
    [
        ((), []),
        ((status(503),), [0.5]),
        ((status(500), too_many(), broken()), [0.5, 1.0, 2.0]),
        ((too_many(7),), [7]),
        ((failure.within(too_many(3), "get", "https://x"),), [3]),
        ((failure.Unprepared("x", status(502, 2)),), [2]),
    ],
)
def test_what_passes_is_waited_for(
    clock: Clock, failures: tuple[WharfError, ...], slept: list[float]
) -> None:
    assert briefly(*failures) == "found"
    assert clock.slept == slept


@pytest.mark.parametrize(
    "final",
    [
        failure.refusal("MANIFEST_UNKNOWN"),
        failure.refusal("DENIED"),
        status(503, 300),
        too_many(300),
        failure.within(too_many(300), "get", "https://x"),
        status(501),
        broken("tls: failed to verify certificate", is_passing=False),
        failure.Stray("get", "https://x", "stopped after 10 redirects"),
        failure.VerificationFailed("manifest", "sha256:0"),
        EngineError("anything else"),
    ],
)
def test_what_does_not_pass_is_told_at_once(clock: Clock, final: WharfError) -> None:
    with pytest.raises(type(final)) as caught:
        briefly(final)
    assert caught.value is final
    assert clock.slept == []


def test_after_four_times_it_is_enough(clock: Clock) -> None:
    last = status(503)
    with pytest.raises(failure.UnexpectedStatus) as caught:
        briefly(status(503), status(503), status(503), last)
    assert caught.value is last
    assert len(clock.slept) == 3


def test_the_countdown_is_told_by_the_second(clock: Clock) -> None:
    told: list[str] = []
    attempt = retry.count_down(Policy(), 2, status(500), lambda text, *_: told.append(text))
    asyncio.run(attempt)
    assert told[0] == "Retrying in 10 seconds"
    assert told[-1] == "Retrying in 1 second"
    assert clock.slept == [1.0] * 10


@pytest.mark.parametrize(("after_s", "seconds"), [(3, 5), (30, 30), (3600, 60)])
def test_a_registry_may_ask_for_more_time(clock: Clock, after_s: int, seconds: int) -> None:
    asyncio.run(retry.count_down(Policy(), 1, too_many(after_s), lambda *_: None))
    assert len(clock.slept) == seconds
