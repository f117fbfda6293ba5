from __future__ import annotations

import json
from typing import Any

import pytest

from engine.container import seccomp
from engine.container.seccomp import profile, resolve
from engine.errors import SeccompProfileInvalid, SeccompProfileRefused

DECODING = "Decoding seccomp profile failed: "
REFUSED = (
    "failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: "
)
IN_INIT = "unable to start container process: error during container init: "


def document(**rule: Any) -> dict[str, Any]:
    call = {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", **rule}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}


def condition(**changes: Any) -> list[dict[str, Any]]:
    return [{"index": 1, "value": 1, "op": "SCMP_CMP_EQ", **changes}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a":', "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ('{"a": 1,}', "invalid character '}' looking for beginning of object key string"),
        ("{} x", "invalid character 'x' after top-level value"),
        ('{"a": "\\q"}', "invalid escape sequence `\\q` in string"),
        ("[" * 10001, "exceeded max depth"),
    ],
)
def test_what_is_no_json_is_told_as_by_go(text: str, sentence: str) -> None:
    with pytest.raises(SeccompProfileInvalid) as caught:
        profile.parse(text)
    assert str(caught.value) == DECODING + sentence


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ([], "json: cannot unmarshal array into Go value of type seccomp.Seccomp"),
        ("x", "json: cannot unmarshal string into Go value of type seccomp.Seccomp"),
        (
            {"defaultAction": 5},
            "json: cannot unmarshal number into Go struct field Seccomp.defaultAction "
            "of type specs.LinuxSeccompAction",
        ),
        (
            document(args=condition(value=-1)),
            "json: cannot unmarshal number -1 into Go struct field "
            "Seccomp.syscalls.0.args.0.value of type uint64",
        ),
        (
            document(includes={"minKernel": "x"}),
            'invalid kernel version: "x", expected "<kernel>.<major>"',
        ),
        (
            document(includes={"minKernel": 4}),
            'invalid kernel version: 4, expected "<kernel>.<major>": '
            "json: cannot unmarshal number into Go value of type string",
        ),
        (
            document(includes={"minKernel": "300.1"}),
            'invalid kernel version: "300.1", expected "<kernel>.<major>": '
            'strconv.ParseUint: parsing "300": value out of range',
        ),
        (
            document(includes={"minKernel": "0.0"}),
            'invalid kernel version: "0.0", expected "<kernel>.<major>": version cannot be 0.0',
        ),
    ],
)
def test_what_cannot_be_decoded(bad: Any, sentence: str) -> None:
    with pytest.raises(SeccompProfileInvalid) as caught:
        profile.parse(json.dumps(bad))
    assert str(caught.value) == DECODING + sentence


@pytest.mark.parametrize("text", ["{bad", "", "[" * 100_000, "9" * 10_000, '"\ud800"'])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(SeccompProfileInvalid, match=DECODING):
        profile.parse(text)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (
            {**document(), "architectures": ["SCMP_ARCH_X86"], "archMap": [{}]},
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'",
        ),
        (
            document(name="chown"),
            "both 'name' and 'names' are specified in the seccomp profile, "
            "use either 'name' or 'names'",
        ),
    ],
)
def test_what_contradicts_itself(bad: Any, sentence: str) -> None:
    with pytest.raises(SeccompProfileInvalid) as caught:
        profile.parse(json.dumps(bad))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (
            {"defaultAction": "SCMP_ACT_FOO"},
            "string SCMP_ACT_FOO is not a valid action for seccomp",
        ),
        ({"syscalls": document()["syscalls"]}, "string  is not a valid action for seccomp"),
        (document(action="FOO"), "string FOO is not a valid action for seccomp"),
        (document(action=None), "string  is not a valid action for seccomp"),
        ({**document(), "architectures": ["FOO"]}, "string FOO is not a valid arch for seccomp"),
        (document(args=condition(op="FOO")), "string FOO is not a valid operator for seccomp"),
        ({**document(), "flags": ["FOO"]}, "seccomp flag FOO is not known to runc"),
        (document(names=[""]), IN_INIT + "empty string is not a valid syscall"),
        (document(action="SCMP_ACT_NOTIFY"), IN_INIT + "seccomp listenerPath is not set"),
        (
            {**document(), "defaultAction": "SCMP_ACT_NOTIFY"},
            IN_INIT + "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            document(args=condition(index=9)),
            IN_INIT + "error creating seccomp syscall condition for syscall chmod: "
            "syscalls only have up to 6 arguments (9 given)",
        ),
    ],
)
def test_what_the_runtime_refuses(bad: Any, sentence: str) -> None:
    parsed = profile.parse(json.dumps(bad))
    with pytest.raises(SeccompProfileRefused) as caught:
        seccomp.compile(parsed, capabilities=frozenset())
    assert str(caught.value) == REFUSED + sentence


def test_an_empty_profile_is_no_filter() -> None:
    assert seccomp.compile(profile.parse("{}"), capabilities=frozenset()) == b""
    assert seccomp.compile(profile.parse("null"), capabilities=frozenset()) == b""


def test_keys_in_any_case_and_unknown_ones() -> None:
    parsed = profile.parse(
        '{"DEFAULTACTION": "SCMP_ACT_ALLOW", "comment": 5,'
        ' "Syscalls": [null, {"name": "chmod", "ACTION": "SCMP_ACT_TRAP", "args": null}]}'
    )
    assert parsed.default_action == "SCMP_ACT_ALLOW"
    assert [(each.rule.names, each.rule.action) for each in parsed.rules] == [
        (("chmod",), "SCMP_ACT_TRAP")
    ]


def test_flags() -> None:
    assert seccomp.filter_flags(profile.default()) == 4
    assert seccomp.filter_flags(profile.parse('{"flags": []}')) == 0
    assert seccomp.filter_flags(profile.parse('{"flags": ["SECCOMP_FILTER_FLAG_LOG"]}')) == 2


@pytest.mark.parametrize(
    ("conditions", "is_chosen"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_A"]}}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, False),
        ({"excludes": {"caps": ["CAP_B"]}}, True),
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64", "arm64"]}}, False),
        ({"includes": {"minKernel": "5.10"}}, True),
        ({"includes": {"minKernel": "5.11"}}, False),
        ({"includes": {"minKernel": "4.19"}}, True),
        ({"excludes": {"minKernel": "5.10"}}, False),
        ({"includes": {"minKernel": ""}}, True),
    ],
)
def test_conditions(conditions: dict[str, Any], is_chosen: bool) -> None:
    parsed = profile.parse(json.dumps(document(**conditions)))
    chosen = resolve.select(
        parsed, capabilities=frozenset(["CAP_A"]), machine="x86_64", kernel=(5, 10)
    )
    assert bool(chosen) == is_chosen


@pytest.mark.parametrize(
    ("release", "kernel"),
    [("6.18.44-fc", (6, 18)), ("5.4", (5, 4)), ("3.12-1-amd64", (3, 12)), ("6.1-rc5", (6, 1))],
)
def test_kernel_of(release: str, kernel: tuple[int, int]) -> None:
    assert resolve.kernel_of(release) == kernel


def test_default_architectures() -> None:
    default = profile.default()
    assert resolve.architectures(default, "x86_64") == (
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
    )
    assert resolve.architectures(default, "aarch64") == ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
    assert resolve.architectures(default, "unknown") == ()
