"""What init reads from a bundle once, for all processes of a container."""

from __future__ import annotations

import pytest

from engine.linux import syscalls
from engine.runtime.init import Confinement
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
