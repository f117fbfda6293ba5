"""What compiled filters answer, asked of a machine that runs them as the kernel would."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from engine.config import EngineConfig
from engine.container import seccomp
from engine.container.seccomp import profile
from engine.errors import EngineError, SeccompProfileRefused
from engine.linux import capability
from engine.linux import seccomp as libseccomp
from engine.linux.seccomp import stub
from tests.support import bpf

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64" or not libseccomp.is_available(),
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


@functools.cache
def compiled(capabilities: frozenset[str] = DEFAULT_CAPABILITIES) -> bytes:
    return seccomp.compile(profile.default(), capabilities=capabilities)


def answer(
    name: str, *args: int, capabilities: frozenset[str] = DEFAULT_CAPABILITIES, arch: int = X86_64
) -> int:
    number = NUMBERS[name]
    return bpf.run_seccomp(compiled(capabilities), arch=arch, number=number, args=args)


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
    program = compiled()
    for arch, number in ((X86_64, 9999), (X86_64, X32_BIT | 9999), (X86, 9999)):
        assert bpf.run_seccomp(program, arch=arch, number=number) == ENOSYS


def test_32_bit_programs_are_filtered_too() -> None:
    program = compiled()
    assert bpf.run_seccomp(program, arch=X86, number=3) == ALLOW  # read
    assert bpf.run_seccomp(program, arch=X86, number=21) == EPERM  # mount
    assert bpf.run_seccomp(program, arch=X86_64, number=X32_BIT | 0) == ALLOW  # x32 read
    assert bpf.run_seccomp(program, arch=X86_64, number=X32_BIT | 165) == EPERM  # x32 mount


def test_a_foreign_architecture_gets_nowhere() -> None:
    program = compiled()
    assert bpf.run_seccomp(program, arch=0xC00000B7, number=63) not in (ALLOW, ENOSYS)


def test_a_filter_fits_the_kernel() -> None:
    program = compiled(frozenset(capability.NAMES))
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096


def test_whatever_changes_a_filter_changes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    default = profile.default()

    def name(of: profile.Profile = default, *more: str) -> str:
        return seccomp.fingerprint(of, capabilities=DEFAULT_CAPABILITIES | {*more})

    assert name() == name()
    fixed = profile.parse(default.text.replace("socket", "socketcall", 1))
    names = {name(), name(fixed), name(default, "CAP_BPF")}
    monkeypatch.setattr(seccomp, "VERSION", "0.0.0")
    names.add(name())
    monkeypatch.setattr(
        libseccomp, "_loaded_file", lambda: ("/usr/lib/libseccomp.so.2.9.9", "1", "2")
    )
    names.add(name())
    assert len(names) == 5


# The files that starts share


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    (tmp_path / "seccomp").mkdir()
    return EngineConfig(exec_root=str(tmp_path))


def test_a_second_start_of_a_kind_compiles_nothing(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seccomp.prepare(config, "", DEFAULT_CAPABILITIES)
    assert first is not None
    with open(first.file, "rb") as file:
        assert file.read() == compiled()
    monkeypatch.setattr(libseccomp, "compile", None)
    assert seccomp.prepare(config, "", DEFAULT_CAPABILITIES) == first
    assert seccomp.prepare(config, "builtin", DEFAULT_CAPABILITIES) == first


def test_whose_profile_it_is(config: EngineConfig, tmp_path: Path) -> None:
    def prepared(asked: str, setting: str) -> seccomp.Filter | None:
        changed = dataclasses.replace(config, seccomp_profile=setting)
        return seccomp.prepare(changed, asked, frozenset())

    own = tmp_path / "own.json"
    own.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert prepared("unconfined", str(own)) is None
    assert prepared("", "unconfined") is None
    assert prepared("{}", str(own)) is None  # no filter at all
    assert prepared("", str(own)) == prepared(own.read_text(), "builtin")
    assert prepared("builtin", str(own)) == prepared("", "")
    with pytest.raises(EngineError, match="opening seccomp profile"):
        prepared("", str(tmp_path / "none"))


def test_a_rule_that_the_library_refuses() -> None:
    same = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
    rules = [
        {"names": ["chmod"], "action": action, "args": same}
        for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRAP")
    ]
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    with pytest.raises(SeccompProfileRefused) as caught:
        seccomp.compile(profile.parse(json.dumps(document)), capabilities=frozenset())
    assert str(caught.value).endswith(
        "error during container init: "
        "error adding seccomp filter rule for syscall chmod: file exists"
    )


def test_a_host_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(EngineError, match="need libseccomp, which is not installed"):
        seccomp.compile(profile.default(), capabilities=frozenset())
