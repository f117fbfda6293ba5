"""Control groups: what a container sees of its own, what it may do in it, and limits that hold."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.e2e.conftest import eventually
from tests.support import host

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
UNIFIED = host.has_unified_cgroup()
OWN = "/sys/fs/cgroup" if UNIFIED else "/sys/fs/cgroup/memory"


def limit(engine: Engine, ref: str, controller: str, version_1: str, version_2: str) -> str:
    """A limit of a running container as the kernel has it."""
    group = host.cgroup_of(engine.inspect(ref)["State"]["Pid"], controller)
    return (group / (version_2 if UNIFIED else version_1)).read_text().strip()


def test_the_namespace_is_private_on_version_2(engine: Engine) -> None:
    def inside(*flags: str) -> tuple[bool, list[str]]:
        script = "readlink /proc/self/ns/cgroup; cut -d: -f3- /proc/self/cgroup"
        namespace, *paths = engine.out("run", "--rm", *flags, "busybox", "sh", "-c", script).split()
        return namespace == os.readlink("/proc/self/ns/cgroup"), paths

    is_hosts, paths = inside()
    assert is_hosts is not UNIFIED
    assert (set(paths) == {"/"}) is UNIFIED
    assert inside("--privileged")[0] is not UNIFIED
    is_hosts, paths = inside("--cgroupns", "private")
    assert (is_hosts, set(paths)) == (False, {"/"})
    is_hosts, paths = inside("--cgroupns", "host")
    assert is_hosts
    assert any(len(path) > 64 for path in paths)


def test_the_group_is_read_only(engine: Engine) -> None:
    probe = ("busybox", "mkdir", f"{OWN}/own")
    done = engine.docker("run", "--rm", *probe, check=False)
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    # A privileged container may; what it has made goes with it.
    engine.docker("run", "--rm", "--privileged", "--cgroupns", "private", *probe)


def test_an_exec_is_in_the_group(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    engine.docker("exec", "-d", name, "sleep", "61")
    engine.docker("exec", "-d", "--privileged", "-u", "1", name, "sleep", "62")
    pids = [int(row.split()[1]) for row in engine.out("top", name).splitlines()[1:]]
    assert len(pids) == 3
    for controller in ("memory", "pids", "devices"):
        assert len({host.cgroup_of(pid, controller) for pid in pids}) == 1


def test_device_rules(engine: Engine) -> None:
    """There need be no such device: what is let through fails with another reason."""

    def is_refused(access: str, *flags: str) -> bool:
        script = f"mknod /x c 10 254 && true {access} /x"
        done = engine.docker("run", "--rm", *flags, "busybox", "sh", "-c", script, check=False)
        return b"peration not permitted" in done.stderr

    assert is_refused("<")
    assert not is_refused("<", "--device-cgroup-rule", "c 10:254 r")
    assert is_refused(">", "--device-cgroup-rule", "c 10:254 r")
    assert is_refused("<>", "--device-cgroup-rule", "c 10:254 r")
    assert not is_refused("<>", "--device-cgroup-rule", "c 10:* rw")
    assert is_refused("<", "--device-cgroup-rule", "b 10:254 rwm")
    assert not is_refused("<>", "--privileged")


def test_a_device_opens_only_as_far_as_given(engine: Engine) -> None:
    device = "/dev/kmsg:/dev/log-of-kernel"

    def writes(permissions: str) -> bool:
        script = "echo written by a test > /dev/log-of-kernel"
        flags = ("--device", f"{device}:{permissions}")
        done = engine.docker("run", "--rm", *flags, "busybox", "sh", "-c", script, check=False)
        return done.returncode == 0

    assert not writes("r")
    assert writes("w")


def test_all_that_update_changes_reaches_the_kernel(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    flags = ("-m", "64m", "--memory-swap", "128m", "--memory-reservation", "32m")
    flags += ("--pids-limit", "40", "--cpu-period", "50000", "--cpu-quota", "20000")
    flags += ("--cpuset-cpus", "0", "--cpu-shares", "262144")
    engine.docker("update", *flags, name)

    def now(controller: str, version_1: str, version_2: str) -> str:
        return limit(engine, name, controller, version_1, version_2)

    assert now("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert now("memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert now("pids", "pids.max", "pids.max") == "40"
    assert now("cpu", "cpu.cfs_quota_us", "cpu.max") == ("20000 50000" if UNIFIED else "20000")
    assert now("cpu", "cpu.shares", "cpu.weight") == ("10000" if UNIFIED else "262144")
    assert now("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    engine.docker("update", "-m", "32m", "--pids-limit", "-1", name)
    assert now("memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    assert now("pids", "pids.max", "pids.max") == "max"


@pytest.mark.parametrize(
    ("run", "update", "version_1", "version_2"),
    [
        (
            ("--cpu-quota", "20000"),
            ("--cpu-period", "50000"),
            {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "50000"},
            {"cpu.max": "20000 50000"},
        ),
        (
            ("--cpu-period", "50000", "--cpu-quota", "20000"),
            ("--cpu-quota", "30000"),
            {"cpu.cfs_quota_us": "30000", "cpu.cfs_period_us": "50000"},
            {"cpu.max": "30000 50000"},
        ),
        (
            ("-m", "64m", "--memory-swap", "128m"),
            ("-m", "128m"),
            {"memory.limit_in_bytes": "134217728", "memory.memsw.limit_in_bytes": "134217728"},
            {"memory.max": "134217728"},
        ),
        pytest.param(
            ("-m", "64m", "--memory-swap", "128m"),
            ("--memory-swap", "200m"),
            {"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "209715200"},
            {"memory.max": "67108864", "memory.swap.max": "142606336"},
            marks=pytest.mark.beyond if UNIFIED else (),
        ),
    ],
)
def test_an_update_of_one_limit_leaves_the_others(
    engine: Engine,
    name: str,
    run: tuple[str, ...],
    update: tuple[str, ...],
    version_1: dict[str, str],
    version_2: dict[str, str],
) -> None:
    engine.docker("run", "-d", "--name", name, *run, "busybox", "sleep", "60")
    engine.docker("update", *update, name)
    for file, expected in (version_2 if UNIFIED else version_1).items():
        assert limit(engine, name, file.partition(".")[0], file, file) == expected


@pytest.mark.skipif(not UNIFIED, reason="version 1 counts memory and swap together")
def test_swap_is_what_exceeds_memory(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "-m", "64m", "--memory-swap", "96m", "busybox", "sleep", "60"
    )
    assert limit(engine, name, "memory", "", "memory.swap.max") == str(32 << 20)
    engine.docker("update", "-m", "32m", "--memory-swap", "-1", name)
    assert limit(engine, name, "memory", "", "memory.swap.max") == "max"


def test_the_number_of_processes_is_held(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all"
    done = engine.docker(
        "run", "--rm", "--pids-limit", "5", "busybox", "sh", "-c", script, check=False
    )
    assert done.returncode != 0
    assert b"can't fork" in done.stderr


def test_the_share_of_the_cpu_is_held(engine: Engine, name: str) -> None:
    busy = ("sh", "-c", "while true; do true; done")
    engine.docker("run", "-d", "--name", name, "--cpus", "0.1", "busybox", *busy)

    def throttled() -> int:
        lines = limit(engine, name, "cpu", "cpu.stat", "cpu.stat").splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])

    assert eventually(throttled, lambda count: count > 3) > 3


def test_out_of_memory_is_told_although_the_first_process_lives(engine: Engine, name: str) -> None:
    since = time.time()
    filters = quote(json.dumps({"container": [name], "event": ["oom", "die"]}))
    script = "(x=a; while true; do x=$x$x; done); echo it ended with $?"
    out = engine.out(
        "run", "--name", name, "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", script
    )
    assert out == "it ended with 137"
    state = engine.inspect(name)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, True)

    def told() -> list[str]:
        reply = engine.call("GET", f"/events?since={since}&until={time.time()}&filters={filters}")
        return [json.loads(line)["Action"] for line in reply.body.splitlines()]

    assert eventually(told, lambda actions: len(actions) == 2) == ["oom", "die"]


def test_what_is_paused_is_frozen(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    for verb, version_1, version_2 in (("pause", "FROZEN", "1"), ("unpause", "THAWED", "0")):
        engine.docker(verb, name)
        frozen = limit(engine, name, "freezer", "freezer.state", "cgroup.freeze")
        assert frozen == (version_2 if UNIFIED else version_1)


@pytest.mark.skipif(not UNIFIED, reason="version 1 has no such rule")
def test_a_container_that_divides_its_group(engine: Engine, name: str) -> None:
    """As systemd or an engine in a container does: then no process may be in the group itself."""
    engine.docker("run", "-d", "--name", name, "--privileged", "busybox", "sleep", "60")
    group = host.cgroup_of(engine.inspect(name)["State"]["Pid"], "memory")
    script = (
        "cd /sys/fs/cgroup; mkdir -p init/deeper; echo 1 > init/cgroup.procs;"
        " echo $$ > init/cgroup.procs; echo +memory +pids > cgroup.subtree_control"
    )
    engine.docker("exec", name, "sh", "-c", script)
    assert engine.out("exec", name, "cat", "/proc/self/cgroup") == "0::/init"
    engine.docker("update", "--pids-limit", "30", name)
    engine.docker("pause", name)
    engine.docker("unpause", name)
    engine.docker("rm", "-f", name)
    assert not group.exists()


def test_swappiness_is_version_1s(engine: Engine, name: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"MemorySwappiness": 101}}
    reply = engine.call("POST", f"/containers/create?name={name}", body)
    if UNIFIED:
        assert reply.status == 201
        assert reply.json()["Warnings"] == [
            "Your kernel does not support memory swappiness capabilities or the cgroup is not "
            "mounted. Memory swappiness discarded."
        ]
    else:
        assert reply.status == 400
        assert reply.message == "Invalid value: 101, valid memory swappiness range is 0-100"
