"""Which restarts are the engine's, and in which order they come."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import policy
from engine.container.model import (
    Config,
    Container,
    HostConfig,
    RestartPolicy,
    RestartPolicyName,
    State,
    Status,
)
from engine.ids import ContainerId
from engine.runtime.protocol import Exit


def with_policy(
    name: RestartPolicyName,
    maximum: int = 0,
    *,
    host: HostConfig | None = None,
    **state: int | bool,
) -> Container:
    restart_policy = RestartPolicy(name=name, maximum_retry_count=maximum)
    host = msgspec.structs.replace(host or HostConfig(), restart_policy=restart_policy)
    known = msgspec.structs.replace(State(status=Status.EXITED, started_ns=1), **state)
    return Container(
        id=ContainerId("1" * 64),
        name="sample",
        created_ns=1,
        image_id="",
        config=Config(),
        host_config=host,
        state=known,
    )


def test_the_monitor_is_told_of_a_policy() -> None:
    found = policy.for_monitor(with_policy(RestartPolicyName.ON_FAILURE, 3), count=2)
    assert found == {"name": "on-failure", "maximum_retry_count": 3, "count": 2}
    assert policy.for_monitor(with_policy(RestartPolicyName.NO)) is None


@pytest.mark.parametrize("kind", ["network_mode", "pid_mode", "ipc_mode"])
def test_one_that_shares_namespaces_is_the_engines(kind: str) -> None:
    host = msgspec.structs.replace(HostConfig(), **{kind: "container:other"})
    shared = with_policy(RestartPolicyName.ALWAYS, host=host)
    assert policy.for_monitor(shared) is None
    assert list(policy.donors(shared)) == ["other"]


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (with_policy(RestartPolicyName.ALWAYS, is_manually_stopped=True), True),
        (with_policy(RestartPolicyName.UNLESS_STOPPED), True),
        (with_policy(RestartPolicyName.UNLESS_STOPPED, is_manually_stopped=True), False),
        (with_policy(RestartPolicyName.ON_FAILURE, exit_code=1), True),
        (with_policy(RestartPolicyName.ON_FAILURE, 2, exit_code=1, restart_count=2), False),
        (with_policy(RestartPolicyName.ON_FAILURE), False),
        (with_policy(RestartPolicyName.ALWAYS, started_ns=0), False),
        (with_policy(RestartPolicyName.NO, exit_code=1), False),
    ],
)
def test_what_is_started_at_boot(known: Container, wanted: bool) -> None:
    assert policy.is_wanted(known) is wanted


ENDED = Exit(code=1, at_ns=2)


@pytest.mark.parametrize(
    ("known", "how", "count"),
    [
        (with_policy(RestartPolicyName.ALWAYS, restart_count=4), ENDED, 5),
        # The monitor was killed while the run went on, or while the restart it owed waited.
        (with_policy(RestartPolicyName.ALWAYS), Exit(code=137, at_ns=2, count=7, again_ns=0), 8),
        (with_policy(RestartPolicyName.ALWAYS), Exit(code=1, at_ns=2, count=7, again_ns=9), 7),
        # It decided against it, or could not do it.
        (with_policy(RestartPolicyName.ALWAYS), Exit(code=1, at_ns=2, count=7), None),
        (with_policy(RestartPolicyName.ALWAYS), Exit(code=1, at_ns=2, failure={"step": ""}), None),
        (with_policy(RestartPolicyName.ALWAYS, is_manually_stopped=True), ENDED, None),
        (with_policy(RestartPolicyName.ON_FAILURE, 2, restart_count=2), ENDED, None),
        (with_policy(RestartPolicyName.NO), ENDED, None),
    ],
)
def test_what_the_engine_restarts(known: Container, how: Exit, count: int | None) -> None:
    assert policy.next_count(known, how) == count


KEYS = st.sampled_from("abcdef")


@given(st.dictionaries(KEYS, st.frozensets(KEYS | st.just("elsewhere"))))
def test_what_is_needed_comes_first(needs: dict[str, frozenset[str]]) -> None:
    groups = policy.order(needs)
    assert sorted(key for group in groups for key in group) == sorted(needs)
    place = {key: number for number, group in enumerate(groups) for key in group}
    for key, wanted in needs.items():
        # Only those in a circle, and what needs them, stand beside or before what they need.
        if not is_in_a_circle(needs, key):
            assert all(place[each] < place[key] for each in wanted & needs.keys())


def is_in_a_circle(needs: dict[str, frozenset[str]], key: str) -> bool:
    """Or needs what is."""
    seen, path = set[str](), [key]
    while path:
        for each in needs.get(path.pop(), frozenset()) & needs.keys():
            if reaches(needs, each, each):
                return True
            if each not in seen:
                seen.add(each)
                path.append(each)
    return False


def reaches(needs: dict[str, frozenset[str]], start: str, end: str) -> bool:
    seen, path = set[str](), [start]
    while path:
        for each in needs.get(path.pop(), frozenset()):
            if each == end:
                return True
            if each not in seen:
                seen.add(each)
                path.append(each)
    return False
