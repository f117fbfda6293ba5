from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import capability


@pytest.mark.parametrize(
    ("name", "number"),
    [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_SETFCAP", 31), ("CAP_CHECKPOINT_RESTORE", 40)],
)
def test_numbers_are_those_of_the_header(name: str, number: int) -> None:
    assert capability.number(name) == number


@given(st.frozensets(st.sampled_from(capability.NAMES)))
def test_names_and_sets_are_the_same(names: frozenset[str]) -> None:
    assert set(capability.from_set(capability.to_set(names))) == names


def test_no_name_is_guessed() -> None:
    with pytest.raises(KeyError):
        capability.to_set(["cap_chown"])


def test_the_kernel_says_what_it_knows() -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        assert capability.last_cap() == int(file.read())
    assert capability.known()[0] == "CAP_CHOWN"


def test_own_sets_are_read() -> None:
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    assert capability.available() == int(fields["CapPrm"], 16)
