"""When a monitor starts its container again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.monitor import restart
from engine.runtime.monitor.restart import Policy
from engine.runtime.protocol import Restart

SECOND = 10**9


def policy(name: str, maximum: int = 0, count: int = 0) -> Policy:
    return Policy(Restart(name=name, maximum_retry_count=maximum, count=count).to_json())


@pytest.mark.parametrize(
    ("name", "code", "is_stopped", "applies"),
    [
        ("always", 0, False, True),
        ("always", 1, True, True),
        ("unless-stopped", 0, False, True),
        ("unless-stopped", 1, True, False),
        ("on-failure", 0, False, False),
        ("on-failure", 1, True, True),
        ("on-failure", 137, False, True),
        ("no", 1, False, False),
    ],
)
def test_which_ends_call_for_a_restart(
    name: str, code: int, is_stopped: bool, applies: bool
) -> None:
    found = restart.applies(Restart(name=name), code=code, is_stopped=is_stopped)
    assert found is applies


def test_without_a_policy_there_is_none() -> None:
    assert not restart.applies(None, code=1, is_stopped=False)
    none = Policy(None)
    assert none.decide(code=1, ran_ns=0) is None
    assert not none.is_kept


def test_the_times_of_dockerd() -> None:
    always = policy("always")
    found = [always.decide(code=0, ran_ns=0) or 0 for _ in range(12)]
    tenths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert found == [each * SECOND // 10 for each in tenths]
    assert always.decide(code=0, ran_ns=10 * SECOND) == SECOND // 10
    assert always.count == 13


@given(st.lists(st.integers(min_value=0, max_value=100 * SECOND)))
def test_the_back_off_stays_within_its_bounds(runs: list[int]) -> None:
    before = 0
    for ran_ns in runs:
        now = restart.next_delay_ns(before, ran_ns)
        assert restart.FIRST_DELAY_NS <= now <= restart.LONGEST_DELAY_NS
        if before and ran_ns < restart.LONG_RUN_NS:
            assert now == min(2 * before, restart.LONGEST_DELAY_NS)
        else:
            assert now == restart.FIRST_DELAY_NS
        before = now


@given(st.integers(min_value=1, max_value=20), st.integers(min_value=0, max_value=20))
def test_on_failure_counts_those_of_earlier_monitors(maximum: int, count: int) -> None:
    limited = policy("on-failure", maximum, count)
    times = 0
    while limited.decide(code=1, ran_ns=0) is not None:
        times += 1
    assert times == max(0, maximum - count)
    assert limited.count == max(maximum, count)


def test_once_given_up_nothing_brings_it_back() -> None:
    always = policy("always")
    always.give_up()
    assert always.decide(code=1, ran_ns=0) is None
    always.change(Restart(name="always").to_json())
    assert always.decide(code=1, ran_ns=0) is None


def test_another_policy_goes_on_counting() -> None:
    changed = policy("always")
    for _ in range(3):
        changed.decide(code=0, ran_ns=0)
    changed.change(None)
    assert changed.decide(code=0, ran_ns=0) is None
    assert (changed.count, changed.is_kept) == (3, True)
    changed.change(Restart(name="on-failure", maximum_retry_count=4).to_json())
    assert changed.decide(code=1, ran_ns=0) is not None
    assert changed.decide(code=1, ran_ns=0) is None
