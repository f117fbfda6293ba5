"""The daemon dies at any moment; what runs goes on, and the next daemon tells the truth."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually, wait_for_nothing
from tests.e2e.test_network import SERVER, answers
from tests.support import images, leftovers
from tests.support.engine import Wharf, named_by_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.beyond
ROUNDS = int(os.environ.get("WHARF_TEST_KILLS", "8"))


@pytest.fixture
def engine() -> Iterator[Wharf]:
    """An instance of its own, whose end checks that nothing is left."""
    if named_by_environment() is not None:
        pytest.skip("only Wharf is asked for this")
    wharf = Wharf()
    try:
        wharf.start()
        base = {"busybox:latest": images.busybox()}
        wharf.docker("load", input=images.docker_archive(base), timeout=120)
        yield wharf
        if wharf.process is None:
            wharf.start()
        wharf.remove_everything()
        wharf.stop()
        left = wait_for_nothing(lambda: leftovers.of(wharf.root, wharf.instance))
        assert not left, "left behind:\n" + "\n".join(left) + "\n" + wharf.log_tail()
    finally:
        if wharf.process is not None:
            wharf.kill()
        wharf.close()


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


def test_a_dead_monitor_takes_its_container_along(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    pid = int(str(state(engine, "box")["Pid"]))
    with open(f"/proc/{pid}/stat") as stat:
        monitor = int(stat.read().rsplit(") ", 1)[1].split()[1])
    os.kill(monitor, 9)
    after = eventually(lambda: state(engine, "box"), lambda s: s["Status"] == "exited")
    assert after["Status"] == "exited"
    assert after["ExitCode"] != 0
    gone = eventually(lambda: Path(f"/proc/{pid}").exists(), lambda exists: not exists)
    assert not gone


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


def test_kill_at_random_moments_under_load(engine: Wharf) -> None:
    """After every crash the list is true, and at the end nothing is left over."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    over = threading.Event()

    def load(number: int) -> None:
        own = random.Random(seed + number)
        count = 0
        while not over.is_set():
            count += 1
            name = f"load-{number}-{count % 4}"
            verb = own.choice(["run", "run", "runrm", "stop", "rm", "exec"])
            command = {
                "run": [
                    "run",
                    "-d",
                    "--name",
                    name,
                    "-p",
                    "80",
                    "-v",
                    "/anon",
                    "busybox",
                    "sleep",
                    str(own.choice([1, 30])),
                ],
                "runrm": ["run", "--rm", "busybox", "true"],
                "stop": ["stop", "-t", "0", name],
                "rm": ["rm", "-fv", name],
                "exec": ["exec", name, "true"],
            }[verb]
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.docker(*command, check=False, timeout=20)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
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
    assert_the_list_is_true(engine, seed)


def assert_the_list_is_true(engine: Wharf, seed: int) -> None:
    rows = engine.call("GET", "/containers/json?all=1").json()
    for row in rows:
        found = engine.inspect(row["Id"])["State"]
        if found["Status"] == "running":
            assert os.path.exists(f"/proc/{found['Pid']}"), (seed, row)
        else:
            assert found["Pid"] == 0, (seed, row)
        assert found["Status"] in ("running", "exited", "created"), (seed, row)
    alive = [p for p in leftovers.processes(engine.root) if row_of(p, rows) is None]
    unknown = [p for p in alive if "sleep" in p]
    assert not unknown, (seed, json.dumps(unknown))


def row_of(process: str, rows: list[dict[str, object]]) -> object:
    return next((r for r in rows if str(r["Id"])[:12] in process), None)
