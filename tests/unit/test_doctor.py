from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest

from engine import doctor
from engine.doctor import Level
from engine.doctor.probe import Facts

GOOD = Facts(
    python=(3, 13),
    kernel="6.12.1",
    machine="x86_64",
    is_root=True,
    missing_capabilities=(),
    openat2_errno=0,
    mount_api_errno=0,
    missing_namespaces=(),
    cgroup_version=2,
    cgroup_controllers=frozenset(["cpu", "memory"]),
    cgroup_base="",
    has_cgroup_kill=True,
    limits=dict.fromkeys(
        (
            "devices",
            "memory_limit",
            "swap_limit",
            "cpu_cfs_quota",
            "cpu_shares",
            "cpuset",
            "pids_limit",
            "blkio_weight",
        ),
        True,
    ),
    overlay_errno=0,
    data_root="/var/lib/wharf",
    free_bytes=100 << 30,
    bridge_errno=0,
    veth_errno=0,
    nat_errno=0,
    ipv4_forward=True,
    dropping_chains=(),
    legacy_drops=(),
    has_ipv6=True,
    has_seccomp=True,
    has_libseccomp=True,
    has_apparmor=True,
    has_apparmor_profile=True,
    apparmor_parser="/sbin/apparmor_parser",
    is_selinux_enforcing=False,
    open_files=1 << 20,
    exec_root="/run/wharf",
    exec_root_errno=0,
    socket_group="docker",
    has_socket_group=True,
)


def test_a_good_host() -> None:
    checks = doctor.judge(GOOD)
    assert {check.level for check in checks} == {Level.OK}
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"python": (3, 10)}, "python", Level.MISSING, "3.11"),
        ({"is_root": False}, "user", Level.MISSING, "not root"),
        ({"missing_capabilities": ("CAP_SYS_TIME",)}, "user", Level.WARN, "CAP_SYS_TIME"),
        ({"missing_capabilities": ("CAP_SYS_ADMIN",)}, "user", Level.MISSING, "CAP_SYS_ADMIN"),
        ({"openat2_errno": errno.ENOSYS}, "kernel", Level.MISSING, "5.6"),
        ({"mount_api_errno": errno.ENOSYS}, "kernel", Level.MISSING, "5.2"),
        ({"missing_namespaces": ("cgroup",)}, "namespaces", Level.MISSING, "cgroup"),
        ({"cgroup_controllers": frozenset()}, "cgroup", Level.MISSING, "no control groups"),
        ({"cgroup_base": "system.slice/x"}, "cgroup", Level.OK, "below system.slice/x"),
        ({"limits": {**GOOD.limits, "devices": False}}, "cgroup devices", Level.MISSING, "devices"),
        ({"limits": {**GOOD.limits, "swap_limit": False}}, "cgroup limits", Level.WARN, "swap"),
        ({"has_cgroup_kill": False}, "cgroup kill", Level.WARN, "5.14"),
        ({"overlay_errno": errno.ENODEV}, "overlay", Level.MISSING, "no overlay file system"),
        ({"overlay_errno": errno.EINVAL}, "overlay", Level.MISSING, "Invalid argument"),
        ({"free_bytes": 1 << 20}, "disk", Level.WARN, "may fail"),
        ({"bridge_errno": errno.EOPNOTSUPP}, "bridge", Level.MISSING, "--network host"),
        ({"nat_errno": errno.ENOENT}, "nf_tables", Level.MISSING, "no published ports"),
        ({"dropping_chains": ("filter FORWARD",)}, "forwarding", Level.WARN, "filter FORWARD"),
        ({"legacy_drops": ("IPv4",)}, "iptables", Level.WARN, "legacy iptables"),
        ({"ipv4_forward": False}, "forwarding", Level.OK, "turns it on"),
        ({"has_ipv6": False}, "ipv6", Level.WARN, "IPv4 only"),
        ({"has_libseccomp": False}, "seccomp", Level.MISSING, "libseccomp is not installed"),
        (
            {"has_apparmor_profile": False, "apparmor_parser": ""},
            "apparmor",
            Level.WARN,
            "no apparmor_parser",
        ),
        (
            {"has_apparmor_profile": False},
            "apparmor",
            Level.OK,
            "loads docker-default with /sbin/apparmor_parser",
        ),
        ({"is_selinux_enforcing": True}, "selinux", Level.WARN, "labels"),
        ({"open_files": 1024}, "open files", Level.WARN, "1024: 2 a container"),
        ({"open_files": 1024}, "open files", Level.WARN, "LimitNOFILE=1048576"),
        ({"exec_root_errno": errno.EROFS}, "exec root", Level.MISSING, "Read-only"),
        ({"has_socket_group": False}, "socket group", Level.WARN, "only root"),
        ({"has_socket_group": False, "socket_group": "us"}, "socket group", Level.MISSING, "us"),
        ({"socket_group": ""}, "socket group", Level.OK, "root's"),
    ],
)
def test_what_is_not_as_it_should_be(
    changes: dict[str, Any], name: str, level: Level, words: str
) -> None:
    checks = {check.name: check for check in doctor.judge(dataclasses.replace(GOOD, **changes))}
    check = checks.pop(name)
    assert check.level is level
    assert check.is_fatal == (level is Level.MISSING)
    assert words in check.text
    assert all(other.level is Level.OK for other in checks.values())


def test_a_finding_is_a_line() -> None:
    check = doctor.Check("overlay", Level.OK, "mounts at /x")
    assert doctor.lines([check]) == "ok       overlay        mounts at /x\n"
