"""What compiled filters answer, asked of a machine that runs them as the kernel would."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from engine.linux import capability, seccomp
from engine.linux.seccomp import stub
from tests.support import bpf

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64" or not seccomp.is_available(),
    reason="the numbers are those of x86-64, and libseccomp is needed",
)

X86_64 = stub.AUDIT_ARCH_X86_64
X86 = 0x40000003
X32_BIT = stub.X32_BIT
ALLOW = 0x7FFF0000
EPERM = 0x00050001
ENOSYS = 0x00050000 | 38
NUMBERS = {
    "read": 0,
    "mmap": 9,
    "socket": 41,
    "clone": 56,
    "personality": 135,
    "ptrace": 101,
    "chmod": 90,
    "mount": 165,
    "reboot": 169,
    "add_key": 248,
    "keyctl": 250,
    "unshare": 272,
    "setns": 308,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "clone3": 435,
    "openat2": 437,
}
CLONE_NEWUSER = 0x10000000
DEFAULT_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
        "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
)  # fmt: skip


def answer(
    name: str, *args: int, capabilities: frozenset[str] = DEFAULT_CAPABILITIES, arch: int = X86_64
) -> int:
    program = seccomp.compile(seccomp.default_profile(), capabilities=capabilities)
    return bpf.run_seccomp(program, arch=arch, number=NUMBERS[name], args=args)


@pytest.mark.parametrize("name", ["read", "mmap", "ptrace", "chmod", "openat2"])
def test_ordinary_calls_pass(name: str) -> None:
    assert answer(name) == ALLOW


@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "reboot",
        "add_key",
        "keyctl",
        "unshare",
        "setns",
        "bpf",
        "userfaultfd",
        "io_uring_setup",
    ],
)
def test_dangerous_calls_are_refused(name: str) -> None:
    assert answer(name) == EPERM


@pytest.mark.parametrize(
    ("family", "result"),
    [
        (1, ALLOW),
        (2, ALLOW),
        (16, ALLOW),
        (37, ALLOW),
        (38, EPERM),
        (39, ALLOW),
        (40, EPERM),
        (44, ALLOW),
    ],
)
def test_socket_families(family: int, result: int) -> None:
    assert answer("socket", family, 1, 0) == result


def test_crypto_sockets_stay_closed_to_all_but_unconfined() -> None:
    every = frozenset(capability.NAMES)
    assert answer("socket", 38, capabilities=every) == EPERM


@pytest.mark.parametrize(
    ("persona", "result"),
    [(0, ALLOW), (8, ALLOW), (0x20000, ALLOW), (0x20008, ALLOW), (0xFFFFFFFF, ALLOW), (1, EPERM)],
)
def test_personality(persona: int, result: int) -> None:
    assert answer("personality", persona) == result


def test_clone_makes_processes_but_no_namespaces() -> None:
    assert answer("clone", 0x1200011) == ALLOW
    assert answer("clone", CLONE_NEWUSER) == EPERM
    assert answer("clone3") == ENOSYS


def test_the_admin_may_make_namespaces_and_mounts() -> None:
    admin = DEFAULT_CAPABILITIES | {"CAP_SYS_ADMIN"}
    for name in ("mount", "unshare", "setns", "clone3", "bpf"):
        assert answer(name, capabilities=admin) == ALLOW
    assert answer("clone", CLONE_NEWUSER, capabilities=admin) == ALLOW
    assert answer("io_uring_setup", capabilities=admin) == EPERM


def test_calls_younger_than_the_profile_are_missing_not_forbidden() -> None:
    program = seccomp.compile(seccomp.default_profile(), capabilities=DEFAULT_CAPABILITIES)
    for arch, number in ((X86_64, 9999), (X86_64, X32_BIT | 9999), (X86, 9999)):
        assert bpf.run_seccomp(program, arch=arch, number=number) == ENOSYS


def test_32_bit_programs_are_filtered_too() -> None:
    program = seccomp.compile(seccomp.default_profile(), capabilities=DEFAULT_CAPABILITIES)
    assert bpf.run_seccomp(program, arch=X86, number=3) == ALLOW  # read
    assert bpf.run_seccomp(program, arch=X86, number=21) == EPERM  # mount
    assert bpf.run_seccomp(program, arch=X86_64, number=X32_BIT | 0) == ALLOW  # x32 read
    assert bpf.run_seccomp(program, arch=X86_64, number=X32_BIT | 165) == EPERM  # x32 mount


def test_a_foreign_architecture_gets_nowhere() -> None:
    program = seccomp.compile(seccomp.default_profile(), capabilities=DEFAULT_CAPABILITIES)
    assert bpf.run_seccomp(program, arch=0xC00000B7, number=63) not in (ALLOW, ENOSYS)


def compiled(**document: Any) -> bytes:
    return seccomp.compile(seccomp.parse(json.dumps(document)), capabilities=frozenset())


def test_a_list_of_forbidden_calls() -> None:
    program = compiled(
        defaultAction="SCMP_ACT_ALLOW",
        syscalls=[{"names": ["chmod", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
    )
    assert bpf.run_seccomp(program, arch=X86_64, number=NUMBERS["chmod"]) == 0x00050000 | 99
    assert bpf.run_seccomp(program, arch=X86_64, number=9999) == ALLOW


def test_one_argument_compared_twice_means_either() -> None:
    both = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (5, 7)]
    program = compiled(
        defaultAction="SCMP_ACT_ALLOW",
        syscalls=[{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": both}],
    )
    chmod = NUMBERS["chmod"]
    answers = [
        bpf.run_seccomp(program, arch=X86_64, number=chmod, args=(value,)) for value in (5, 6, 7)
    ]
    assert answers == [EPERM, ALLOW, EPERM]


def test_default_of_enosys_needs_no_stub() -> None:
    rules = [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    program = compiled(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=38, syscalls=rules)
    assert bpf.run_seccomp(program, arch=X86_64, number=NUMBERS["mount"]) == ENOSYS


def test_a_filter_fits_the_kernel() -> None:
    program = seccomp.compile(seccomp.default_profile(), capabilities=frozenset(capability.NAMES))
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096


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


def test_whatever_changes_a_filter_changes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    default = seccomp.default_profile()

    def name(profile: seccomp.Profile = default, *more: str) -> str:
        return seccomp.fingerprint(profile, capabilities=DEFAULT_CAPABILITIES | {*more})

    assert name() == name()
    fixed = seccomp.parse(default.text.replace("socket", "socketcall", 1))
    names = {name(), name(fixed), name(default, "CAP_BPF")}
    monkeypatch.setattr(seccomp, "VERSION", "0.0.0")
    names.add(name())
    monkeypatch.setattr(seccomp, "_loaded_file", lambda: ("/usr/lib/libseccomp.so.2.9.9", "1", "2"))
    names.add(name())
    assert len(names) == 5


def test_the_library_is_known_by_its_file() -> None:
    path, size, changed = seccomp._loaded_file()
    assert "libseccomp.so" in path
    assert int(size) > 0
    assert int(changed) > 0
