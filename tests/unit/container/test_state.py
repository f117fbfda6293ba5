"""The table of what may happen next, and its refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container.model import Status
from engine.container.state import ACTIVE, TRANSITIONS, Event, next_status
from engine.errors import Conflict, EngineError, NotModified, WharfError

ID = "c" * 64


def refusal(status: Status, event: Event, ref: str = "web") -> WharfError:
    with pytest.raises(WharfError) as caught:
        next_status(status, event, ID, ref=ref)
    return caught.value


def test_every_status_has_a_row() -> None:
    assert set(TRANSITIONS) == set(Status)


@given(st.sampled_from(Status), st.sampled_from(Event))
def test_a_pair_leads_somewhere_or_is_refused_with_a_sentence(status: Status, event: Event) -> None:
    if event in TRANSITIONS[status]:
        assert next_status(status, event, ID) is TRANSITIONS[status][event]
    else:
        assert str(refusal(status, event))


def test_every_status_can_be_left_for_removal() -> None:
    """By the container's own events, from everywhere: nothing is stuck for good."""
    reachable = {Status.REMOVING}
    while True:
        more = {s for s, row in TRANSITIONS.items() if set(row.values()) & reachable}
        if more <= reachable:
            break
        reachable |= more
    assert reachable == set(Status)


def test_starting_what_runs_changes_nothing() -> None:
    for status in (Status.RUNNING, Status.RESTARTING):
        assert isinstance(refusal(status, Event.START), NotModified)


def test_starting_a_paused_container() -> None:
    error = refusal(Status.PAUSED, Event.START)
    assert isinstance(error, Conflict)
    assert str(error) == "cannot start a paused container, try unpause instead"


def test_stopping_what_does_not_run_changes_nothing() -> None:
    for status in set(Status) - ACTIVE:
        assert isinstance(refusal(status, Event.STOP), NotModified)


@pytest.mark.parametrize(
    ("status", "event", "sentence"),
    [
        (Status.CREATED, Event.KILL, f"container {ID} is not running"),
        (Status.EXITED, Event.PAUSE, f"container {ID} is not running"),
        (Status.PAUSED, Event.PAUSE, f"Container {ID} is already paused"),
        (
            Status.PAUSED,
            Event.EXEC,
            "Container web is paused, unpause the container before exec",
        ),
        (
            Status.PAUSED,
            Event.ATTACH,
            "container web is paused, unpause the container before attach",
        ),
        (
            Status.RESTARTING,
            Event.EXEC,
            f"Container {ID} is restarting, wait until the container is running",
        ),
        (
            Status.RUNNING,
            Event.REMOVE,
            'cannot remove container "web": container is running: '
            "stop the container before removing or force remove",
        ),
        (
            Status.PAUSED,
            Event.REMOVE,
            'cannot remove container "web": container is paused and must be unpaused first',
        ),
        (Status.REMOVING, Event.REMOVE, "removal of container web is already in progress"),
        (
            Status.REMOVING,
            Event.COMMIT,
            f"You cannot commit container {ID} which is being removed",
        ),
        (Status.DEAD, Event.COMMIT, f"You cannot commit container {ID} which is Dead"),
        (Status.DEAD, Event.EXPORT, f"You cannot export container {ID} which is Dead"),
        (
            Status.DEAD,
            Event.LOGS,
            "can not get logs from container which is dead or marked for removal",
        ),
    ],
)
def test_conflicts_read_as_dockerds(status: Status, event: Event, sentence: str) -> None:
    error = refusal(status, event)
    assert isinstance(error, Conflict)
    assert str(error) == sentence


def test_unpausing_what_is_not_paused_is_the_engines_fault_in_dockerds_eyes() -> None:
    error = refusal(Status.RUNNING, Event.UNPAUSE)
    assert isinstance(error, EngineError)
    assert str(error) == f"Container {ID} is not paused"
