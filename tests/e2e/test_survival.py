"""The daemon dies at any moment; what runs goes on, and the next daemon tells the truth."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually, own_wharf, wait_for_nothing
from tests.e2e.test_hostile_clients import reuse
from tests.e2e.test_network import SERVER, answers
from tests.support import host, leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Wharf

pytestmark = pytest.mark.beyond
ROUNDS = int(os.environ.get("WHARF_TEST_KILLS", "10"))


LOST = "the monitor of the container has died, and the container was killed with it"


@pytest.fixture
def engine() -> Iterator[Wharf]:
    with own_wharf() as wharf:
        yield wharf


def state(engine: Wharf, ref: str) -> dict[str, object]:
    return dict(engine.inspect(ref)["State"])


def test_a_start_and_a_stop_clear_the_host_after_all_was_killed(engine: Wharf) -> None:
    engine.docker("network", "create", "mine")
    for more in (("--network", "mine"), ("-p", "80")):
        engine.docker("run", "-d", *more, "busybox", "sleep", "1000")
    engine.kill()
    found = leftovers.of(engine.root, engine.instance)
    assert {line.split()[0] for line in found} >= {"link", "nft", "process", "mount", "cgroup"}
    leftovers.kill(engine.root, engine.instance)
    engine.start()
    assert engine.out("ps", "-q") == ""
    engine.stop()
    assert wait_for_nothing(lambda: leftovers.of(engine.root, engine.instance)) == []


def test_a_running_container_does_not_notice(engine: Wharf) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        "tick",
        "busybox",
        "sh",
        "-c",
        "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done",
    )
    pid = state(engine, "tick")["Pid"]
    engine.kill()
    time.sleep(1)
    engine.start()
    after = state(engine, "tick")
    assert (after["Status"], after["Pid"]) == ("running", pid)
    time.sleep(0.3)
    numbers = [int(x) for x in engine.out("logs", "tick").split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 10
    assert engine.out("exec", "tick", "echo", "still") == "still"
    engine.docker("stop", "-t", "0", "tick")
    assert state(engine, "tick")["Status"] == "exited"


def test_exit_codes_while_down_are_known(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "seven", "busybox", "sh", "-c", "sleep 0.7; exit 7")
    engine.docker(
        "run",
        "-d",
        "--name",
        "oom",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        "sleep 0.7; x=a; while true; do x=$x$x; done",
    )
    engine.docker("run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "0.7")
    engine.kill()
    time.sleep(3)
    engine.start()
    seven = state(engine, "seven")
    assert (seven["Status"], seven["ExitCode"], seven["Pid"]) == ("exited", 7, 0)
    oom = state(engine, "oom")
    assert (oom["Status"], oom["ExitCode"], oom["OOMKilled"]) == ("exited", 137, True)
    gone = eventually(
        lambda: engine.call("GET", "/containers/gone/json").status, lambda status: status == 404
    )
    assert gone == 404


def test_ports_answer_while_the_daemon_is_down(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "web", "-p", "127.0.0.1:45301:80", "busybox", *SERVER)
    assert answers("127.0.0.1", 45301) == "served\n"
    engine.kill()
    assert answers("127.0.0.1", 45301) == "served\n"
    engine.start()
    assert answers("127.0.0.1", 45301) == "served\n"
    assert engine.out("port", "web") == "80/tcp -> 127.0.0.1:45301"
    engine.docker("rm", "-f", "web")
    engine.docker("run", "-d", "--name", "next", "-p", "127.0.0.1:45301:80", "busybox", *SERVER)
    assert answers("127.0.0.1", 45301) == "served\n"


def test_an_exec_goes_on_and_can_be_inspected_after(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    created = engine.call(
        "POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "sleep 1; echo x > /done; exit 5"]}
    )
    identifier = created.json()["Id"]
    assert engine.call("POST", f"/exec/{identifier}/start", {"Detach": True}).status == 200
    engine.kill()
    time.sleep(1.5)
    engine.start()
    assert engine.out("exec", "box", "cat", "/done") == "x"
    found = engine.call("GET", f"/exec/{identifier}/json").json()
    assert (found["Running"], found["ExitCode"]) == (False, 5)


def test_what_is_paused_stays_so(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    engine.docker("pause", "box")
    engine.kill()
    engine.start()
    after = state(engine, "box")
    assert (after["Status"], after["Paused"]) == ("paused", True)
    engine.docker("unpause", "box")
    assert engine.out("exec", "box", "echo", "awake") == "awake"


def test_an_adopted_container_is_held_as_before(engine: Wharf) -> None:
    limits = ("-m", "64m", "--memory-swap", "64m", "--pids-limit", "20")
    engine.docker("run", "-d", "--name", "box", *limits, "busybox", "sleep", "60")
    engine.kill()
    engine.start()
    pid = int(str(state(engine, "box")["Pid"]))
    group = host.cgroup_of(pid, "memory")
    hog = "x=a; while true; do x=$x$x; done"
    assert engine.docker("exec", "box", "sh", "-c", hog, check=False).returncode == 137
    assert state(engine, "box")["Status"] == "running"
    engine.docker("exec", "-d", "box", "sleep", "61")
    pids = [int(row.split()[1]) for row in engine.out("top", "box").splitlines()[1:]]
    assert {host.cgroup_of(pid, "memory") for pid in pids} == {group}
    assert len(pids) == 2
    engine.docker("update", "--pids-limit", "30", "box")
    assert (host.cgroup_of(pid, "pids") / "pids.max").read_text() == "30\n"


def with_monitor(engine: Wharf, ref: str) -> tuple[int, int]:
    """The container's first process and its parent."""
    pid = int(str(state(engine, ref)["Pid"]))
    with open(f"/proc/{pid}/stat") as stat:
        return pid, int(stat.read().rsplit(") ", 1)[1].split()[1])


@pytest.mark.parametrize("verb", [("stop", "-t", "1"), ("kill",), ("rm", "-f")])
def test_a_monitor_that_hangs_keeps_nobody_from_ending_its_container(
    engine: Wharf, verb: tuple[str, ...]
) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    pid, monitor = with_monitor(engine, "box")
    os.kill(monitor, signal.SIGSTOP)
    try:
        engine.docker(*verb, "box", timeout=15)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(monitor, signal.SIGCONT)
    if verb[0] != "rm":
        after = state(engine, "box")
        assert (after["Status"], after["ExitCode"], after["Pid"]) == ("exited", 137, 0)
    for number in (pid, monitor):
        assert not eventually(lambda n=number: Path(f"/proc/{n}").exists(), lambda there: not there)


def test_a_dead_monitor_takes_its_container_along(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    pid, monitor = with_monitor(engine, "box")
    os.kill(monitor, 9)
    after = eventually(lambda: state(engine, "box"), lambda s: s["Status"] == "exited")
    assert after["Status"] == "exited"
    assert (after["ExitCode"], after["Error"]) == (137, LOST)
    gone = eventually(lambda: Path(f"/proc/{pid}").exists(), lambda exists: not exists)
    assert not gone

    engine.docker("start", "box")
    assert (state(engine, "box")["ExitCode"], state(engine, "box")["Error"]) == (0, "")


def test_why_it_ended_is_told_although_the_daemon_was_away(engine: Wharf) -> None:
    for name, *flags in (("box",), ("again", "--restart", "always"), ("gone", "--rm")):
        engine.docker("run", "-d", "--name", name, *flags, "busybox", "sleep", "60")
    first = [with_monitor(engine, name) for name in ("box", "again", "gone")]
    engine.kill()
    for _, monitor in first:
        os.kill(monitor, 9)
    engine.start()
    for pid, _ in first:
        assert not eventually(lambda n=pid: Path(f"/proc/{n}").exists(), lambda there: not there)
    box = eventually(lambda: state(engine, "box"), lambda s: s["Status"] == "exited")
    assert (box["Status"], box["ExitCode"], box["Error"]) == ("exited", 137, LOST)
    again = eventually(lambda: state(engine, "again"), lambda s: s["Status"] == "running")
    assert (again["Status"], again["Error"]) == ("running", "")
    names = eventually(
        lambda: engine.out("ps", "-a", "--format", "{{.Names}}"), lambda n: "gone" not in n
    )
    assert sorted(names.split()) == ["again", "box"]


def test_sigterm_leaves_containers_running(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    pid = state(engine, "box")["Pid"]
    engine.stop()
    assert os.path.exists(f"/proc/{pid}")
    engine.start()
    assert state(engine, "box")["Pid"] == pid


def test_stopped_containers_and_images_are_still_there(engine: Wharf) -> None:
    engine.docker(
        "run",
        "--name",
        "old",
        "-v",
        "vol:/v",
        "--label",
        "a=b",
        "busybox",
        "sh",
        "-c",
        "echo kept > /v/x; exit 3",
        check=False,
    )
    before = engine.inspect("old")
    engine.kill()
    engine.start()
    assert engine.inspect("old") == before
    assert engine.out("run", "--rm", "-v", "vol:/v", "busybox", "cat", "/v/x") == "kept"


class Load:
    """One client that starts, stops, enters and removes containers, whatever becomes of it.

    Each container ends with a code of its own, which stands in a label; those that were asked to
    stop are kept in `stopped`, as they may end with the signal's code instead.
    """

    def __init__(self, engine: Wharf, number: int, seed: int) -> None:
        self.engine = engine
        self.number = number
        self.own = random.Random(seed + number)
        self.stopped: set[str] = set()
        self.count = 0

    def step(self) -> None:
        self.count += 1
        verb = self.own.choice([self.run, self.run, self.run_and_remove, self.stop, self.rm])
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.engine.docker(*verb(), check=False, timeout=20)
            if self.own.random() < 0.4:
                self.engine.docker("exec", self.some(), "true", check=False, timeout=20)

    def some(self) -> str:
        return f"load-{self.number}-{self.own.randint(max(1, self.count - 5), self.count)}"

    def run(self) -> list[str]:
        code = self.own.randint(1, 99)
        script = f"sleep {self.own.choice([0, 0.3, 1, 60])}; exit {code}"
        name = f"load-{self.number}-{self.count}"
        flags = ["-d", "--name", name, "--label", f"code={code}", "-p", "80", "-v", "/anon"]
        return ["run", *flags, "busybox", "sh", "-c", script]

    def run_and_remove(self) -> list[str]:
        return ["run", "--rm", "-v", "/anon", "busybox", "true"]

    def stop(self) -> list[str]:
        name = self.some()
        self.stopped.add(name)
        return ["stop", "-t", "0", name]

    def rm(self) -> list[str]:
        name = self.some()
        self.stopped.add(name)
        return ["rm", "-fv", name]


@pytest.mark.timeout(max(180, ROUNDS * 8))
def test_kill_at_random_moments_under_load(engine: Wharf) -> None:
    """After every crash the list is true, and at the end nothing is left over."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    over = threading.Event()
    loads = [Load(engine, number, seed) for number in range(3)]

    def work(load: Load) -> None:
        while not over.is_set():
            load.step()

    threads = [threading.Thread(target=work, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.1, 1.2))
            engine.kill()
            engine.start()
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    stopped = {name for load in loads for name in load.stopped}
    found = eventually(lambda: untruths(engine, stopped), lambda found: not found, 15)
    assert not found, (seed, found)
    engine.kill()
    engine.start()
    found = eventually(lambda: untruths(engine, stopped), lambda found: not found, 15)
    assert not found, (seed, found)
    total = sum(load.count for load in loads)
    rows = len(engine.call("GET", "/containers/json?all=1").json())
    print(f"{ROUNDS} kills, {total} commands, {rows} containers at the end, seed {seed}")


def untruths(engine: Wharf, stopped: set[str]) -> list[str]:
    """What the engine says of its containers and the host does not, or the other way round."""
    rows = engine.call("GET", "/containers/json?all=1").json()
    found = [engine.call("GET", f"/containers/{row['Id']}/json").json() for row in rows]
    wrong = [text for one in found for text in untruths_of(engine, one, stopped)]
    alive = {str(one["Id"]) for one in found if one["State"]["Running"]}
    named = {mount["Name"] for one in found for mount in one["Mounts"]}
    volumes = {v["Name"] for v in engine.call("GET", "/volumes").json()["Volumes"] or []}
    nets = {path.name[:12] for path in (engine.exec_root / "netns").iterdir()}
    wrong += [f"volume {name} of no container" for name in volumes - named]
    wrong += [f"volume {name} is gone" for name in named - volumes]
    wrong += [f"netns {name}" for name in nets ^ {ref[:12] for ref in alive}]
    wrong += [f"cgroup {name[:12]}" for name in control_groups(engine) ^ alive]
    return wrong + [f"unknown {text}" for text in sleepers(engine, alive)]


def untruths_of(engine: Wharf, one: dict[str, Any], stopped: set[str]) -> list[str]:
    state, name, wrong = one["State"], one["Name"][1:], []
    if state["Status"] not in ("running", "exited", "created"):
        wrong.append(f"{name} is {state['Status']}")
    if state["Running"] != Path(f"/proc/{state['Pid'] or 'none'}").exists():
        wrong.append(f"{name} is {state['Status']} with pid {state['Pid']}")
    code = int((one["Config"]["Labels"] or {}).get("code", 0))
    allowed = {code} | ({137, 143} if name in stopped else set())
    if state["Status"] == "exited" and state["ExitCode"] not in allowed:
        wrong.append(f"{name} ended with {state['ExitCode']} ({state['Error']}), not {allowed}")
    for ref in one["ExecIDs"] or []:
        run = engine.call("GET", f"/exec/{ref}/json").json()
        if run.get("Running"):
            wrong.append(f"exec {ref[:12]} of {name} still runs")
    return wrong


def control_groups(engine: Wharf) -> set[str]:
    """Ids of the containers that have a control group, by the folders' names."""
    own = (Path(text.removeprefix("cgroup ")) for text in leftovers.cgroups(engine.instance))
    names = {path.name for folder in own for path in folder.rglob("*") if path.is_dir()}
    return {match[0] for name in names if (match := re.search(r"[0-9a-f]{64}", name))}


def sleepers(engine: Wharf, alive: set[str]) -> list[str]:
    """Processes of this instance that belong to no container that runs."""
    return [
        text
        for text in leftovers.processes(engine.root)
        if (match := re.search(r"[0-9a-f]{64}", text)) and match[0] not in alive
    ]


def test_a_number_used_again_is_not_taken_for_the_container(engine: Wharf) -> None:
    """R15: while the daemon is down the container ends, and its pid becomes another's."""
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "300")
    pid = int(str(state(engine, "box")["Pid"]))
    engine.kill()
    os.kill(pid, 9)
    eventually(lambda: Path(f"/proc/{pid}").exists(), lambda exists: not exists)
    other = reuse(pid)
    if other is None:
        engine.start()
        pytest.skip("this machine does not let a pid be chosen")
    try:
        engine.start()
        after = state(engine, "box")
        assert (after["Status"], after["ExitCode"], after["Pid"]) == ("exited", 137, 0)
        assert engine.call("POST", "/containers/box/kill").status == 409
        engine.docker("rm", "-f", "box")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
