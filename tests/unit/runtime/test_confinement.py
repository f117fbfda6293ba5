"""What init reads from a bundle once, for all processes of a container."""

from __future__ import annotations

import pytest

from engine.linux import syscalls
from engine.runtime.init import Confinement, label_of
from engine.runtime.protocol import Bundle


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        (0, 0),
        (2, 2),
    ],
)
def test_the_filter_is_loaded_with_the_flags_of_its_profile(
    flags: int | None, expected: int
) -> None:
    sent = Bundle(id="x", spec={"process": {}}, seccomp="/filter", seccomp_flags=flags).to_json()
    assert Confinement(Bundle.from_json(sent)).flags == expected


@pytest.mark.parametrize(
    ("wanted", "stays", "label", "place"),
    [
        ({"apparmorProfile": "mine"}, False, "exec mine", "attr/apparmor/exec"),
        ({"apparmorProfile": "mine"}, True, "changeprofile mine", "attr/apparmor/current"),
        ({"selinuxLabel": "a:b:c"}, False, "a:b:c", "attr/exec"),
        ({}, True, "", "attr/exec"),
    ],
)
def test_an_init_that_stays_changes_its_profile_at_once(
    wanted: dict[str, str], stays: bool, label: str, place: str
) -> None:
    text, places = label_of(wanted, stays=stays)
    assert text == label
    assert places[0].endswith(place)
