"""The text of docker-default, and what follows from what the host has of AppArmor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from engine.container import apparmor

if TYPE_CHECKING:
    from pathlib import Path

OFF = apparmor.Host(is_on=False, has_default=False, parser="/sbin/apparmor_parser")
READY = apparmor.Host(is_on=True, has_default=True, parser="/sbin/apparmor_parser")
LOADED_ONLY = apparmor.Host(is_on=True, has_default=True, parser="")
HELPLESS = apparmor.Host(is_on=True, has_default=False, parser="")


@pytest.fixture(autouse=True)
def no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)


def host(root: Path, *, enabled: str = "Y\n", loaded: str = "", parser: str | None = None) -> str:
    """A tree that looks like such a host."""
    files = {
        "sys/module/apparmor/parameters/enabled": enabled,
        "sys/kernel/security/apparmor/profiles": loaded,
    }
    if parser is not None:
        files["sbin/apparmor_parser"] = parser
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if parser is not None:
        (root / "sbin/apparmor_parser").chmod(0o755)
    return str(root)


# The host


def test_what_a_host_has(tmp_path: Path) -> None:
    root = host(tmp_path, loaded="/usr/bin/man (enforce)\ndocker-default (enforce)\n", parser="")
    found = apparmor.look(root)
    assert (found.is_on, found.has_default, found.is_usable) == (True, True, True)
    assert found.parser == str(tmp_path / "sbin/apparmor_parser")


def test_a_longer_name_is_another_profile(tmp_path: Path) -> None:
    root = host(tmp_path, loaded="docker-default-2 (enforce)\n")
    assert not apparmor.look(root).has_default


def test_where_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not apparmor.look(str(tmp_path / "nothing")).is_on
    assert not apparmor.look(host(tmp_path, enabled="N\n")).is_on
    monkeypatch.setenv("container", "docker")
    assert not apparmor.look(host(tmp_path)).is_on


@pytest.mark.parametrize(
    ("found", "asked", "privileged", "name"),
    [
        (OFF, "", False, ""),
        (OFF, "mine", False, ""),
        (READY, "", False, "docker-default"),
        (READY, "", True, "unconfined"),
        (READY, "mine", True, "mine"),
        (READY, "unconfined", False, "unconfined"),
        (LOADED_ONLY, "", False, "docker-default"),
        (HELPLESS, "", False, ""),
    ],
)
def test_the_profile_of_a_container(
    found: apparmor.Host, asked: str, privileged: bool, name: str
) -> None:
    assert apparmor.profile(asked, privileged=privileged, host=found) == name


def test_the_parser_reads_the_text(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    root = host(tmp_path, parser=f'#!/bin/sh\necho "$@" > {kept}; exec /bin/cat >> {kept}\n')
    assert apparmor.profile("", privileged=False, host=apparmor.look(root)) == "docker-default"
    assert kept.read_text() == "-Kr\n" + apparmor.default_text(apparmor.own_label())


def test_what_cannot_be_loaded_is_refused_in_dockerd_s_words(tmp_path: Path) -> None:
    root = host(tmp_path, parser="#!/bin/sh\necho no such syntax >&2; exit 1\n")
    found = apparmor.look(root)
    with pytest.raises(apparmor.CannotLoad) as caught:
        apparmor.profile("", privileged=False, host=found)
    assert str(caught.value) == (
        "AppArmor enabled on system but the docker-default profile could not be loaded: running "
        f"`{found.parser} -Kr` failed with output: no such syntax: exit status 1"
    )
    # What does not need it runs all the same.
    assert apparmor.profile("", privileged=True, host=found) == "unconfined"


# The text

RULE = re.compile(r"^  deny (/\S+) ([rwklx]+),$", re.MULTILINE)


def matcher(pattern: str) -> re.Pattern[str]:
    """apparmor.d(5), globbing: * and ? and [^…] stop at a slash, ** does not."""
    parts = {
        "**": ".*",
        "*": "[^/]*",
        "?": "[^/]",
        "{": "(?:",
        "}": ")",
        ",": "|",
    }
    words = re.findall(r"\*\*|\[[^]]*\]|.", pattern)
    text = "".join(
        parts.get(word) or (word[:2] + "/" + word[2:] if word[0] == "[" else re.escape(word))
        for word in words
    )
    return re.compile(text)


def denied(path: str) -> set[str]:
    rules = RULE.findall(apparmor.default_text())
    return {
        letter for pattern, access in rules if matcher(pattern).fullmatch(path) for letter in access
    }


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger",
        "/proc/meminfo",
        "/proc/irq/1/smp_affinity",
        "/proc/scsi/scsi",
        "/proc/s/x",
        "/proc/sysvipc/shm",
        "/proc/fs/nfsd/threads",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/s",
        "/proc/sys/kernel/random/boot_id",
        "/proc/sys/kernelx/a",
        "/sys/kernel/uevent_helper",
        "/sys/block/sda/queue/scheduler",
        "/sys/fs/bpf/x",
        "/sys/fs/cgroups/x",
        "/sys/f/x",
        "/sys/firmware/efi/vars",
    ],
)
def test_what_reaches_the_host_is_not_written(path: str) -> None:
    assert "w" in denied(path)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/oom_score_adj",
        "/proc/4711/task/4711/attr/exec",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/shm_rmid_forced",
        "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
        "/etc/passwd",
        "/dev/shm/x",
    ],
)
def test_what_is_the_container_s_own_is_written(path: str) -> None:
    assert not denied(path)


@pytest.mark.parametrize(
    "path",
    ["/proc/kcore", "/sys/firmware/acpi/tables", "/sys/devices/virtual/powercap/x/energy_uj"],
)
def test_what_tells_of_the_host_is_not_read(path: str) -> None:
    assert "r" in denied(path)


def test_reading_the_rest_goes_on() -> None:
    assert "r" not in denied("/proc/meminfo") | denied("/sys/block/sda/size")


def test_what_is_allowed_and_between_whom() -> None:
    lines = {line.strip() for line in apparmor.default_text().splitlines()}
    assert {"network,", "capability,", "file,", "umount,", "deny mount,"} <= lines
    assert "signal (receive) peer=unconfined," in lines
    assert "signal (send, receive) peer=docker-default," in lines
    assert "ptrace (trace, read, tracedby, readby) peer=docker-default," in lines
    assert apparmor.default_text().startswith("profile docker-default flags=(")


def test_a_confined_daemon_may_signal_too() -> None:
    assert 'signal (receive) peer="/usr/bin/wharfd",' in apparmor.default_text("/usr/bin/wharfd")
