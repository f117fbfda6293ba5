"""Control groups as the kernel has them, under names of this test alone. v1 and v2 alike."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.linux import cgroup
from engine.linux.cgroup import setup, v1, v2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MIB = 1 << 20


@pytest.fixture
def parent() -> Iterator[str]:
    """The path of a group that is ready to hold others; everything in it goes at the end."""
    path = cgroup.open_parent(f"wharf-test-{secrets.token_hex(4)}")
    yield path
    assert cgroup.kill(path)
    cgroup.remove(path)
    assert not cgroup.exists(path)


@pytest.fixture
def group(parent: str) -> str:
    path = f"{parent}/{secrets.token_hex(8)}"
    cgroup.create(path)
    return path


@contextlib.contextmanager
def child(group: str, run: Callable[[], object]) -> Iterator[int]:
    """A process that enters the group and then runs; killed and reaped at the end."""
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.enter(group)
            run()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        cgroup.kill(group)
        with contextlib.suppress(ChildProcessError):  # the test has reaped it
            os.waitpid(pid, 0)


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def value(group: str, controller: str, name_v1: str, name_v2: str) -> str:
    if cgroup.version() == 1:
        file = os.path.join(v1.directory(controller, group), name_v1)
    else:
        file = os.path.join(v2.directory(group), name_v2)
    with open(file, encoding="ascii") as opened:
        return opened.read().strip()


def needs(*controllers: str) -> None:
    missing = set(controllers) - cgroup.controllers()
    if missing:
        pytest.skip(f"no cgroup controller {', '.join(sorted(missing))}")


def test_limits_reach_the_kernel(group: str) -> None:
    needs("memory", "pids", "cpu", "cpuset")
    cgroup.apply(
        group,
        {
            "memory": {"limit": 64 * MIB, "reservation": 32 * MIB},
            "pids": {"limit": 7},
            "cpu": {"shares": 1024, "quota": 20_000, "period": 100_000, "cpus": "0"},
        },
    )
    assert value(group, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert value(group, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 * MIB)
    assert value(group, "pids", "pids.max", "pids.max") == "7"
    assert value(group, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    if cgroup.version() == 1:
        assert value(group, "cpu", "cpu.cfs_quota_us", "") == "20000"
    else:
        assert value(group, "cpu", "", "cpu.max") == "20000 100000"
        assert value(group, "cpu", "", "cpu.weight") == "100"


def test_limits_move_up_and_down_in_any_order(group: str) -> None:
    needs("memory", "cpu")
    if not cgroup.supported()["swap_limit"]:
        pytest.skip("swap is not accounted")
    for limit, swap in ((64, 128), (256, 512), (32, 32), (100, -1), (48, 96), (-1, 0), (64, 64)):
        amount = swap * MIB if swap > 0 else swap
        limit_bytes = limit * MIB if limit > 0 else limit
        cgroup.apply(group, {"memory": {"limit": limit_bytes, "swap": amount}})
        if limit > 0:
            limit_now = value(group, "memory", "memory.limit_in_bytes", "memory.max")
            assert limit_now == str(limit_bytes)
            assert _swap_of(group) == (
                str(amount if cgroup.version() == 1 else amount - limit_bytes)
                if amount > 0
                else _NO_LIMIT[cgroup.version()]
            )
    for quota, period in ((50_000, 100_000), (1_000, 1_000), (900_000, 1_000_000), (-1, 100_000)):
        cgroup.apply(group, {"cpu": {"quota": quota, "period": period}})
        assert _bandwidth(group) == (quota, period)


_NO_LIMIT = {1: str((1 << 63) - os.sysconf("SC_PAGE_SIZE")), 2: "max"}


def _swap_of(group: str) -> str:
    """With memory on version 1, without on version 2."""
    return value(group, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")


def _bandwidth(group: str) -> tuple[int, int]:
    if cgroup.version() == 1:
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = (int(value(group, "cpu", file, "")) for file in files)
        return quota, period
    amount, interval = value(group, "cpu", "", "cpu.max").split()
    return -1 if amount == "max" else int(amount), int(interval)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"pids": {"limit": 5_000_000_000}}, 'failed to write "5000000000": write {}/pids.max: '),
        ({"cpu": {"cpus": "9999"}}, 'failed to write "9999": write {}/cpuset.cpus: '),
    ],
)
def test_refused_limits_read_as_the_runtimes(
    group: str, resources: dict[str, dict[str, object]], sentence: str
) -> None:
    controller = "pids" if "pids" in resources else "cpuset"
    needs(controller)
    where = v1.directory(controller, group) if cgroup.version() == 1 else v2.directory(group)
    with pytest.raises(cgroup.LimitError) as caught:
        cgroup.apply(group, resources)
    assert str(caught.value).startswith(sentence.format(where))
    assert str(caught.value).split(": ")[-1].islower()


def test_shares_out_of_range_are_named_on_version_1(group: str) -> None:
    if cgroup.version() != 1:
        pytest.skip("version 2 converts them")
    for shares, sentence in (
        (1, "the minimum allowed cpu-shares is 2"),
        (3_000_000, "the maximum allowed cpu-shares is 262144"),
    ):
        with pytest.raises(cgroup.LimitError) as caught:
            cgroup.apply(group, {"cpu": {"shares": shares}})
        assert str(caught.value) == sentence


def test_too_little_memory_for_what_is_used(group: str) -> None:
    if cgroup.version() != 1:
        pytest.skip("version 2 kills instead")
    ready, tell = os.pipe()

    def hold() -> None:
        held = bytearray(os.urandom(16 * MIB))
        os.write(tell, b"x")
        signal.pause()
        del held

    with child(group, hold):
        os.read(ready, 1)
        # Anonymous memory cannot go to where there is no swap.
        cgroup.apply(group, {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
        with pytest.raises(cgroup.LimitError, match=r"^unable to set memory limit to \d+ \(curr"):
            cgroup.apply(group, {"memory": {"limit": MIB, "swap": MIB}})
    os.close(ready)
    os.close(tell)


_CHANGED = (
    ("cpu", "cpu.shares", "cpu.weight"),
    ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    ("memory", "memory.limit_in_bytes", "memory.max"),
    ("memory", "memory.soft_limit_in_bytes", "memory.low"),
    ("pids", "pids.max", "pids.max"),
    ("cpuset", "cpuset.cpus", "cpuset.cpus"),
)


@pytest.mark.parametrize("has_limits", [False, True])
def test_a_change_that_is_refused_leaves_all_as_it_was(group: str, has_limits: bool) -> None:
    needs("memory", "pids", "cpu", "cpuset")
    if has_limits:
        cgroup.apply(
            group,
            {
                "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": MIB},
                "pids": {"limit": 7},
                "cpu": {"shares": 2048, "quota": 20_000, "period": 100_000, "cpus": "0"},
            },
        )
    before = [value(group, *names) for names in _CHANGED]
    for cpu, pids in (({"cpus": "9999"}, 9), ({"cpus": "0"}, 5_000_000_000)):
        for limit in (32, 128):
            memory = {"limit": limit * MIB, "swap": limit * MIB, "reservation": 2 * MIB}
            bandwidth = {"shares": 512, "quota": 50_000, "period": 50_000}
            changes = {"memory": memory, "pids": {"limit": pids}, "cpu": {**bandwidth, **cpu}}
            with pytest.raises(cgroup.LimitError):
                cgroup.change(group, changes)
            assert [value(group, *names) for names in _CHANGED] == before
    cgroup.change(group, {"cpu": {"shares": 512}, "pids": {"limit": 9}})
    assert value(group, "pids", "pids.max", "pids.max") == "9"


def test_a_process_is_moved_with_its_children(group: str) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        cgroup.attach(group, pid)
        assert cgroup.processes(group) == [pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_number_of_processes_is_held(group: str) -> None:
    needs("pids")
    cgroup.apply(group, {"pids": {"limit": 3}})
    ready, tell = os.pipe()

    def bomb() -> None:
        for _ in range(50):
            try:
                if os.fork() == 0:
                    signal.pause()
            except BlockingIOError:
                os.write(tell, b"x")
                signal.pause()

    with child(group, bomb):
        os.read(ready, 1)
        assert len(cgroup.processes(group)) == 3
        assert cgroup.stats(group)["pids"] == {"current": 3, "limit": 3}
        assert cgroup.kill(group)
    os.close(ready)
    os.close(tell)


def test_a_fork_bomb_is_ended(group: str) -> None:
    needs("pids")
    cgroup.apply(group, {"pids": {"limit": 100}})

    def bomb() -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                os.fork()

    with child(group, bomb):
        assert wait_for(lambda: len(cgroup.processes(group)) > 50)
        assert cgroup.kill(group, 15.0)
        assert wait_for(lambda: cgroup.processes(group) == [])


def test_freeze_stops_and_thaw_goes_on(group: str) -> None:
    ticks, tick = os.pipe()
    os.set_blocking(ticks, False)

    def run() -> None:
        while True:
            os.write(tick, b".")
            time.sleep(0.001)

    def has_ticked() -> bool:
        try:
            return bool(os.read(ticks, 65536))
        except BlockingIOError:
            return False

    with child(group, run):
        assert wait_for(has_ticked)
        cgroup.freeze(group)
        assert cgroup.is_frozen(group)
        has_ticked()
        time.sleep(0.05)
        assert not has_ticked()
        cgroup.thaw(group)
        assert not cgroup.is_frozen(group)
        assert wait_for(has_ticked)
        # And what is frozen can be ended.
        cgroup.freeze(group)
        assert cgroup.kill(group)
    os.close(ticks)
    os.close(tick)


def test_remove_takes_what_was_made_inside_and_can_be_repeated(group: str) -> None:
    cgroup.create(f"{group}/a/b")
    cgroup.remove(group)
    assert not cgroup.exists(group)
    cgroup.remove(group)
    assert cgroup.kill(group)
    assert cgroup.processes(group) == []


def test_deeply_nested_groups_are_removed(group: str) -> None:
    where = setup.join(v1.directories("")[0] if cgroup.version() == 1 else v2.root(), group)
    for _ in range(1100):
        where += "/d"
        os.mkdir(where)
    assert cgroup.processes(group) == []
    cgroup.remove(group, 10.0)
    assert not cgroup.exists(group)


def test_remove_waits_for_no_one_without_end(group: str) -> None:
    with child(group, signal.pause) as pid:
        assert wait_for(lambda: cgroup.processes(group) == [pid])
        started = time.monotonic()
        with pytest.raises(OSError, match="busy"):
            cgroup.remove(group, 0.1)
        assert time.monotonic() - started < 5


def _eat() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(MIB)))


def test_running_out_of_memory_is_told(group: str) -> None:
    needs("memory")
    cgroup.apply(group, {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    watch = cgroup.oom_watch(group)
    try:
        with select.epoll() as poll:
            poll.register(watch.fileno(), watch.events)
            assert poll.poll(0) == []
            with child(group, _eat) as pid:
                assert poll.poll(60)
                _, status = os.waitpid(pid, 0)
                assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
                assert wait_for(lambda: cgroup.oom_count(group) == 1)
                assert watch.read() == 1
                assert watch.read() == 0
                assert poll.poll(0) == []
            cgroup.remove(group)
            assert watch.read() == 0
    finally:
        watch.close()


def test_stats_grow_with_work(group: str) -> None:
    def work() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    with child(group, work) as pid:
        os.waitpid(pid, 0)
    stats = cgroup.stats(group)
    assert stats["version"] == cgroup.version()
    assert stats["cpu"]["usage_ns"] >= 150_000_000
    assert stats["memory"]["max_usage"] > 0
    assert stats["memory"]["stat"]


def _is_allowed(path: str, flags: int) -> bool:
    """Whether the group lets it be opened; there need be no such device."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
    except OSError as exc:
        return exc.errno != errno.EPERM
    return True


def _ask_in(group: str, *asked: tuple[str, int]) -> list[bool]:
    """What processes in the group may open."""
    answers, answer = os.pipe()
    try:
        with child(group, lambda: os.write(answer, bytes(_is_allowed(*one) for one in asked))):
            os.close(answer)
            return [bool(byte) for byte in os.read(answers, len(asked))]
    finally:
        os.close(answers)


@pytest.fixture
def nodes() -> Iterator[Path]:
    """Nodes of devices, on the file system that has the host's own."""
    directory = Path("/dev") / f"wharf-test-{secrets.token_hex(4)}"
    directory.mkdir()
    os.mknod(directory / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(directory / "kmsg", 0o600 | stat.S_IFCHR, os.makedev(1, 11))
    os.mknod(directory / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    yield directory
    shutil.rmtree(directory)


def test_only_allowed_devices_open(group: str, nodes: Path) -> None:
    asked = (
        (f"{nodes}/null", os.O_RDWR),
        (f"{nodes}/kmsg", os.O_RDONLY),
        (f"{nodes}/kmsg", os.O_RDWR),
        (f"{nodes}/disk", os.O_RDONLY),
    )
    deny = {"allow": False, "access": "rwm"}
    kmsg = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    cgroup.devices(group, [deny, kmsg])
    assert _ask_in(group, *asked) == [True, True, False, False]
    # What is set later replaces what was set before.
    cgroup.devices(group, [deny])
    assert _ask_in(group, *asked) == [True, False, False, False]


def test_nodes_are_made_without_being_opened(group: str, nodes: Path) -> None:
    cgroup.devices(group, [{"allow": False, "access": "rwm"}])
    made = nodes / "made"
    with child(group, lambda: os.mknod(made, 0o600 | stat.S_IFBLK, os.makedev(7, 250))) as pid:
        os.waitpid(pid, 0)
    assert made.is_block_device()


def test_all_devices_for_the_privileged(group: str, nodes: Path) -> None:
    cgroup.devices(group, [{"allow": True, "access": "rwm"}])
    asked = ((f"{nodes}/kmsg", os.O_RDWR), (f"{nodes}/disk", os.O_RDONLY))
    assert _ask_in(group, *asked) == [True, True]


def test_what_is_supported_is_there(parent: str) -> None:
    supported = cgroup.supported()
    assert supported["devices"]
    assert supported["memory_limit"] == ("memory" in cgroup.controllers())
    assert cgroup.available_cpus()


def test_a_manager_inside_does_not_keep_others_out(group: str) -> None:
    """systemd in a container moves everyone down and enables controllers: exec still enters."""
    if cgroup.version() == 1:
        pytest.skip("version 1 has no such rule")
    inner = f"{group}/init.scope"
    cgroup.create(inner)
    with child(inner, signal.pause) as pid:
        assert wait_for(lambda: cgroup.processes(group) == [pid])
        v2.enable_controllers(v2.directory(group))
        other = os.fork()
        if other == 0:
            signal.pause()
            os._exit(0)
        try:
            cgroup.attach(group, other)
            assert sorted(cgroup.processes(inner)) == sorted([pid, other])
        finally:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
        with child(group, signal.pause) as third:
            assert wait_for(lambda: sorted(cgroup.processes(inner)) == sorted([pid, third]))


def test_roots_are_those_of_the_host() -> None:
    roots = setup.roots()
    for directory in [*roots.hierarchies(), *([roots.unified] if roots.unified else [])]:
        assert os.path.exists(os.path.join(directory, "cgroup.procs"))
