from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import cgroup
from engine.linux.cgroup import device_policy, device_program
from engine.linux.cgroup.device_policy import ANY, MKNOD, READ, WRITE, Policy
from tests.support import bpf

DENY_ALL = {"allow": False, "access": "rwm"}
TYPES = {"b": 1, "c": 2}


def rule(kind: str, major: int, minor: int, access: str = "rwm", *, allow: bool = True) -> Any:
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


def allows(policy: Policy, kind: str, major: int, minor: int, access: int) -> bool:
    """As devices cgroup v1 decides: wholly in one exception, or touched by none."""
    matching = [
        bits
        for (type_, major_, minor_), bits in policy.exceptions.items()
        if type_ == kind and major_ in (ANY, major) and minor_ in (ANY, minor)
    ]
    if policy.is_allowed_by_default:
        return not any(bits & access for bits in matching)
    return any(bits & access == access for bits in matching)


def test_later_rules_take_back_what_earlier_ones_gave() -> None:
    policy = device_policy.policy(
        [DENY_ALL, rule("c", 1, 3), rule("c", 1, 3, "w", allow=False), rule("c", 1, 5, "r")]
    )
    assert policy.exceptions == {("c", 1, 3): MKNOD | READ, ("c", 1, 5): READ}


def test_a_rule_for_all_clears_the_others() -> None:
    policy = device_policy.policy([rule("c", 1, 3), {"allow": True, "type": "a"}])
    assert policy.is_allowed_by_default
    assert policy.exceptions == {}


def test_denying_what_was_never_allowed_is_nothing() -> None:
    assert device_policy.policy([DENY_ALL, rule("c", 10, 229, allow=False)]).exceptions == {}


def test_a_hole_in_a_wildcard_is_refused() -> None:
    with pytest.raises(cgroup.LimitError, match=r"c 10:229 rwm cannot be taken out .* c 10:\* rwm"):
        device_policy.policy([DENY_ALL, rule("c", 10, ANY), rule("c", 10, 229, allow=False)])


@pytest.mark.parametrize(
    "bad",
    [rule("x", 1, 3), rule("c", 1, 3, "rx"), rule("c", 1 << 31, 0), rule("c", -2, 0)],
)
def test_malformed_rules_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(cgroup.LimitError, match="invalid"):
        device_policy.policy([DENY_ALL, bad])


def test_commands_of_version_1_begin_with_the_default() -> None:
    policy = device_policy.policy([DENY_ALL, rule("c", 1, ANY, "rm"), rule("b", 8, 0)])
    assert device_policy.commands(policy) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:* rm"),
        ("devices.allow", "b 8:0 rwm"),
    ]
    inverse = device_policy.policy([{"allow": True}, rule("c", 1, 3, "w", allow=False)])
    assert device_policy.commands(inverse) == [
        ("devices.allow", "a"),
        ("devices.deny", "c 1:3 w"),
    ]


NUMBERS = st.sampled_from([0, 1, 3, 8, 255, 4095])
WILD = st.sampled_from([ANY, 0, 1, 3, 8, 255, 4095])
ACCESSES = st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])
RULES = st.lists(
    st.one_of(
        st.builds(rule, st.sampled_from("bc"), WILD, WILD, ACCESSES, allow=st.booleans()),
        st.builds(lambda allow: {"allow": allow, "type": "a"}, st.booleans()),
    ),
    max_size=8,
)


@given(RULES, st.sampled_from("bc"), NUMBERS, NUMBERS, st.integers(1, 7))
def test_the_program_decides_as_version_1_does(
    rules: list[Any], kind: str, major: int, minor: int, access: int
) -> None:
    try:
        policy = device_policy.policy(rules)
    except cgroup.LimitError:
        return
    program = device_program.assemble(policy)
    answer = bpf.run_device(program, kind=TYPES[kind], major=major, minor=minor, access=access)
    assert answer == allows(policy, kind, major, minor, access)


def test_every_container_has_its_basic_devices_and_no_disk() -> None:
    program = device_program.assemble(device_policy.policy([*device_policy.RUNTIME_RULES]))

    def may(kind: str, major: int, minor: int, access: int) -> int:
        return bpf.run_device(program, kind=TYPES[kind], major=major, minor=minor, access=access)

    assert may("c", 1, 3, READ | WRITE)
    assert may("c", 136, 77, READ | WRITE)
    assert may("b", 8, 0, MKNOD)
    assert not may("b", 8, 0, READ)
    assert not may("c", 1, 1, READ)  # /dev/mem
    assert not may("c", 10, 229, READ | WRITE)  # /dev/fuse
