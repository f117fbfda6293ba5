from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux.cgroup import parent, setup

LINE = "30 24 0:26 / {target} rw,relatime shared:4 - {fstype} {source} {options}\n"


def mountinfo(*mounts: tuple[str, str, str]) -> list[bytes]:
    return [
        LINE.format(target=target, fstype=fstype, source=fstype, options=options).encode()
        for target, fstype, options in mounts
    ]


def test_unified_host_is_version_2() -> None:
    roots = setup.roots_of(mountinfo(("/sys/fs/cgroup", "cgroup2", "rw,nsdelegate")))
    assert (roots.version, roots.unified) == (2, "/sys/fs/cgroup")


def test_systemd_v1_shares_mounts_between_controllers() -> None:
    roots = setup.roots_of(
        mountinfo(
            ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            ("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
        )
    )
    assert roots.version == 1
    assert roots.controllers["cpu"] == roots.controllers["cpuacct"]
    assert roots.hierarchies() == ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"]


def test_hybrid_host_counts_as_version_1() -> None:
    roots = setup.roots_of(
        mountinfo(
            ("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            ("/sys/fs/cgroup/unified", "cgroup2", "rw"),
        )
    )
    assert (roots.version, roots.unified) == (1, "/sys/fs/cgroup/unified")


def test_only_a_named_hierarchy_beside_v2_is_version_2() -> None:
    roots = setup.roots_of(
        mountinfo(
            ("/sys/fs/cgroup/unified", "cgroup2", "rw"),
            ("/sys/fs/cgroup/systemd", "cgroup", "rw,name=systemd"),
        )
    )
    assert roots.version == 2


def test_standard_mounts_win_over_copies() -> None:
    roots = setup.roots_of(
        mountinfo(
            ("/srv/chroot/sys/fs/cgroup/pids", "cgroup", "rw,pids"),
            ("/sys/fs/cgroup/pids", "cgroup", "rw,pids"),
        )
    )
    assert roots.controllers == {"pids": "/sys/fs/cgroup/pids"}


def test_escaped_mount_points_are_read() -> None:
    roots = setup.roots_of(mountinfo(("/mnt/a\\040b", "cgroup2", "rw")))
    assert roots.unified == "/mnt/a b"


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("wharf-1/abc", "/root/wharf-1/abc"),
        ("/docker/abc", "/root/docker/abc"),
        ("../../etc/abc", "/root/etc/abc"),
        ("a//./b/", "/root/a/b"),
        ("//a", "/root/a"),
        ("", "/root"),
    ],
)
def test_join(path: str, directory: str) -> None:
    assert setup.join("/root", path) == directory


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "...", "/"]), max_size=8).map("/".join))
def test_join_never_leaves_the_root(path: str) -> None:
    directory = setup.join("/root", path)
    assert directory == "/root" or directory.startswith("/root/")
    assert ".." not in directory.split("/")


def test_parents_are_listed_from_the_top() -> None:
    assert setup.parents("/a/b/../c/d") == ["a", "a/c", "a/c/d"]
    assert setup.parents("/") == []


def test_own_group_is_the_line_of_version_2() -> None:
    text = "4:memory:/x\n0::/system.slice/wharfd.service/daemon\n"
    assert parent.own_group(text) == "system.slice/wharfd.service/daemon"
    assert parent.own_group("4:memory:/x\n") == ""
