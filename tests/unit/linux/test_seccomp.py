from __future__ import annotations

import errno
import os
import sys
from typing import Any

import pytest

from engine.linux import seccomp
from engine.linux.seccomp import Arg, Rule, RuleError, stub
from tests.support import bpf

X86_64 = stub.AUDIT_ARCH_X86_64
X86 = 0x40000003
X32_BIT = stub.X32_BIT
ALLOW = 0x7FFF0000
EPERM = 0x00050001
ENOSYS = 0x00050000 | errno.ENOSYS
READ, CHMOD = 0, 90

needs_library = pytest.mark.skipif(
    os.uname().machine != "x86_64" or not seccomp.is_available(),
    reason="the numbers are those of x86-64, and libseccomp is needed",
)


def compiled(*rules: Rule, default: str = "SCMP_ACT_ALLOW", **more: Any) -> bytes:
    return seccomp.compile(rules, architectures=(), default_action=default, **more)


def answer(program: bytes, number: int, *args: int) -> int:
    return bpf.run_seccomp(program, arch=X86_64, number=number, args=args)


@needs_library
def test_a_list_of_forbidden_calls() -> None:
    rule = Rule(names=("chmod", "nosuchcall"), action="SCMP_ACT_ERRNO", errno_ret=99)
    program = compiled(rule)
    assert answer(program, CHMOD) == 0x00050000 | 99
    assert answer(program, 9999) == ALLOW


@needs_library
def test_one_argument_compared_twice_means_either() -> None:
    both = tuple(Arg(index=0, value=value, op="SCMP_CMP_EQ") for value in (5, 7))
    program = compiled(Rule(names=("chmod",), action="SCMP_ACT_ERRNO", args=both))
    assert [answer(program, CHMOD, value) for value in (5, 6, 7)] == [EPERM, ALLOW, EPERM]


@needs_library
def test_calls_above_those_that_rules_name_are_missing() -> None:
    program = compiled(Rule(names=("chmod",), action="SCMP_ACT_ALLOW"), default="SCMP_ACT_ERRNO")
    assert [answer(program, n) for n in (READ, CHMOD, CHMOD + 1)] == [EPERM, ALLOW, ENOSYS]


@needs_library
def test_default_of_enosys_needs_no_stub() -> None:
    rule = Rule(names=("read",), action="SCMP_ACT_ALLOW")
    program = compiled(rule, default="SCMP_ACT_ERRNO", default_errno_ret=errno.ENOSYS)
    assert answer(program, CHMOD) == ENOSYS


@needs_library
def test_a_refused_rule_is_told_with_its_call() -> None:
    same = (Arg(index=0, value=1, op="SCMP_CMP_EQ"),)
    rules = [
        Rule(names=("chmod",), action=action, args=same)
        for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRAP")
    ]
    with pytest.raises(RuleError) as caught:
        compiled(*rules)
    assert (caught.value.syscall, caught.value.errno) == ("chmod", errno.EEXIST)


def test_a_host_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert not seccomp.is_available()
    assert seccomp.library_facts() == ()
    with pytest.raises(OSError, match="libseccomp") as caught:
        compiled()
    assert caught.value.errno == errno.ELIBACC


def test_the_stub_alone() -> None:
    program = stub.build({X86_64: 400, X86: 300}, None) + bytes.fromhex("060000000000ff7f")
    cases = {
        (X86_64, 400): ALLOW,
        (X86_64, 401): ENOSYS,
        (X86_64, X32_BIT | 401): ALLOW,
        (X86, 300): ALLOW,
        (X86, 301): ENOSYS,
        (0xC00000B7, 9999): ALLOW,
    }
    for (arch, number), result in cases.items():
        assert bpf.run_seccomp(program, arch=arch, number=number) == result


@needs_library
def test_the_library_is_known_by_its_file() -> None:
    path, size, changed = seccomp._loaded_file()
    assert "libseccomp.so" in path
    assert int(size) > 0
    assert int(changed) > 0
