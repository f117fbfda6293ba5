"""A container's life: states, verbs and the sentences that refuse them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.e2e.conftest import eventually, running

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
ZERO_TIME = "0001-01-01T00:00:00Z"
DEAF = ("sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done")
POLITE = ("sh", "-c", "trap 'exit 3' TERM; echo ready; while true; do sleep 0.1; done")


def status(engine: Engine, ref: str) -> str:
    return str(engine.inspect(ref)["State"]["Status"])


def wait_until_ready(engine: Engine, ref: str) -> None:
    """A first process has its handlers: before, the kernel would drop the signal."""
    text = eventually(lambda: engine.out("logs", ref), lambda text: "ready" in text)
    assert "ready" in text


def test_from_created_to_removed(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", *POLITE)
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("created", False, 0)
    assert (state["StartedAt"], state["FinishedAt"]) == (ZERO_TIME, ZERO_TIME)
    assert engine.out("start", name) == name
    wait_until_ready(engine, name)
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["Running"]) == ("running", True)
    assert state["Pid"] > 0
    assert engine.out("stop", name) == name
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 3, 0)
    assert state["FinishedAt"] > state["StartedAt"]
    assert engine.out("rm", name) == name
    done = engine.docker("inspect", name, check=False)
    assert done.returncode == 1
    assert b"No such object" in done.stderr


def test_found_by_name_id_and_prefix(engine: Engine, name: str) -> None:
    identifier = engine.out("create", "--name", name, "busybox", "true")
    for ref in (name, identifier, identifier[:12], identifier[:8]):
        assert engine.call("GET", f"/containers/{ref}/json").json()["Id"] == identifier


def test_stop_waits_then_kills(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", *DEAF)
    wait_until_ready(engine, name)
    started = time.monotonic()
    engine.docker("stop", "-t", "1", name)
    assert 0.9 < time.monotonic() - started < 6
    assert engine.inspect(name)["State"]["ExitCode"] == 137


def test_stop_signal_and_timeout_of_the_container(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "--stop-signal",
        "USR1",
        "--stop-timeout",
        "30",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' USR1; echo ready; while true; do sleep 0.1; done",
    )
    wait_until_ready(engine, name)
    engine.docker("stop", name)
    found = engine.inspect(name)
    assert found["State"]["ExitCode"] == 9
    assert (found["Config"]["StopSignal"], found["Config"]["StopTimeout"]) == ("USR1", 30)


def test_stop_twice_is_not_modified(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", *POLITE)
    wait_until_ready(engine, name)
    assert engine.call("POST", f"/containers/{name}/stop").status == 204
    assert engine.call("POST", f"/containers/{name}/stop").status == 304
    assert engine.call("POST", f"/containers/{name}/start").status == 204
    assert engine.call("POST", f"/containers/{name}/start").status == 304


def test_kill_with_a_signal(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "trap 'echo hup' HUP; echo ready; while true; do sleep 0.1; done",
    )
    wait_until_ready(engine, name)
    engine.docker("kill", "-s", "HUP", name)
    seen = eventually(lambda: engine.out("logs", name), lambda text: "hup" in text)
    assert seen.split() == ["ready", "hup"]
    assert status(engine, name) == "running"
    engine.docker("kill", name)
    assert eventually(lambda: status(engine, name), lambda s: s == "exited") == "exited"
    assert engine.inspect(name)["State"]["ExitCode"] == 137


def test_kill_refusals(engine: Engine, name: str) -> None:
    identifier = engine.out("create", "--name", name, "busybox", "true")
    reply = engine.call("POST", f"/containers/{name}/kill")
    assert reply.status == 409
    assert reply.message == f"cannot kill container: {name}: container {identifier} is not running"
    reply = engine.call("POST", f"/containers/{name}/kill?signal=NOPE")
    assert (reply.status, reply.message) == (
        400,
        f"cannot kill container: {name}: invalid signal: NOPE",
    )


def test_restart_gives_a_new_process(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", *POLITE)
    wait_until_ready(engine, name)
    first = engine.inspect(name)["State"]
    engine.docker("restart", "-t", "5", name)
    second = engine.inspect(name)["State"]
    assert second["Status"] == "running"
    assert second["Pid"] != first["Pid"]
    assert second["StartedAt"] > first["StartedAt"]


def test_writes_stay_over_a_restart(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "date >> /seen; wc -l < /seen")
    engine.docker("start", "-a", name)
    assert engine.out("logs", name).split() == ["1", "2"]


def test_pause_stops_time(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    engine.docker("pause", name)
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["Paused"], state["Running"]) == ("paused", True, True)
    reply = engine.call("POST", f"/containers/{name}/pause")
    identifier = engine.inspect(name)["Id"]
    assert (reply.status, reply.message) == (409, f"Container {identifier} is already paused")
    done = engine.docker("exec", name, "true", check=False)
    assert b"is paused, unpause the container before exec" in done.stderr
    engine.docker("unpause", name)
    assert status(engine, name) == "running"
    reply = engine.call("POST", f"/containers/{name}/unpause")
    assert (reply.status, reply.message) == (500, f"Container {identifier} is not paused")


def test_a_paused_container_can_be_stopped_and_removed(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", *POLITE)
    wait_until_ready(engine, name)
    engine.docker("pause", name)
    engine.docker("stop", "-t", "2", name)
    assert status(engine, name) == "exited"


def test_rename(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    engine.docker("rename", name, f"{name}-b")
    assert engine.inspect(f"{name}-b")["Name"] == f"/{name}-b"
    engine.docker("create", "--name", name, "busybox", "true")
    done = engine.docker("rename", name, f"{name}-b", check=False)
    assert f'The container name "/{name}-b" is already in use by container' in done.stderr.decode()


def test_name_in_use(engine: Engine, name: str) -> None:
    identifier = engine.out("create", "--name", name, "busybox", "true")
    reply = engine.call("POST", f"/containers/create?name={name}", {"Image": "busybox"})
    assert reply.status == 409
    assert reply.message == (
        f'Conflict. The container name "/{name}" is already in use by container "{identifier}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


def test_only_one_of_many_gets_the_name(engine: Engine, name: str) -> None:
    statuses: list[int] = []

    def create() -> None:
        reply = engine.call("POST", f"/containers/create?name={name}", {"Image": "busybox"})
        statuses.append(reply.status)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 7


def test_remove_refuses_what_runs(engine: Engine, name: str) -> None:
    identifier = engine.out("run", "-d", "--name", name, "busybox", "sleep", "60")
    reply = engine.call("DELETE", f"/containers/{name}")
    assert reply.status == 409
    assert reply.message == (
        f'cannot remove container "{name}": container is running: '
        "stop the container before removing or force remove"
    )
    assert engine.call("DELETE", f"/containers/{identifier}?force=1").status == 204
    assert engine.call("GET", f"/containers/{identifier}/json").status == 404


def test_wait_reports_the_exit_code(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sh", "-c", "sleep 0.5; exit 5")
    assert engine.out("wait", name) == "5"
    assert engine.out("wait", name) == "5"


@pytest.mark.parametrize("condition", ["next-exit", "removed", "not-running"])
def test_wait_conditions(engine: Engine, name: str, condition: str) -> None:
    engine.docker("create", "--name", name, "--rm", "busybox", "sh", "-c", "sleep 0.3; exit 4")
    replies: list[bytes] = []
    connection = engine.raw()
    connection.sendall(
        f"POST /containers/{name}/wait?condition={condition} HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    )
    # the headers come before anything has happened
    head = connection.recv(65536)
    assert b"200 OK" in head
    if condition != "not-running":
        engine.docker("start", name)
    while b"StatusCode" not in head:
        head += connection.recv(65536)
    connection.close()
    replies.append(head)
    expected = 0 if condition == "not-running" else 4
    assert json.loads(re.search(rb"\{.*\}", head)[0])["StatusCode"] == expected  # type: ignore[index]


def test_wait_with_an_unknown_condition(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true")
    reply = engine.call("POST", f"/containers/{name}/wait?condition=nope")
    assert (reply.status, reply.message) == (400, 'invalid condition: "nope"')


def test_top(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    answer = engine.call("GET", f"/containers/{name}/top").json()
    assert answer["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert [row[-1] for row in answer["Processes"]] == ["sleep 60"]
    assert int(answer["Processes"][0][1]) == engine.inspect(name)["State"]["Pid"]


def test_update_changes_a_living_limit(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "-m", "64m", "--memory-swap", "128m", "busybox", "sleep", "60"
    )
    assert engine.out("update", "-m", "32m", "--cpus", "0.25", name) == name
    host = engine.inspect(name)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (32 << 20, 250_000_000)
    limit = "/sys/fs/cgroup/memory"
    probe = f"cat {limit}/memory.limit_in_bytes 2>/dev/null || cat {limit}.max"
    assert engine.out("exec", name, "sh", "-c", probe) == str(32 << 20)


def test_update_refuses_less_than_is_possible(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "-m", "64m", "--memory-swap", "64m", "busybox", "true")
    reply = engine.call("POST", f"/containers/{name}/update", {"Memory": 128 << 20})
    assert reply.status == 409
    assert "Memory limit should be smaller than already set memoryswap limit" in reply.message


def test_list_and_its_filters(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", f"{name}-up", "--label", f"t={name}", "busybox", "sleep", "60"
    )
    engine.docker(
        "run",
        "--name",
        f"{name}-down",
        "--label",
        f"t={name}",
        "busybox",
        "sh",
        "-c",
        "exit 3",
        check=False,
    )
    engine.docker("create", "--name", f"{name}-new", "--label", f"t={name}", "busybox", "true")

    def names(*flags: str) -> list[str]:
        rows = engine.out("ps", "--format", "{{.Names}}", "--filter", f"label=t={name}", *flags)
        return [row.removeprefix(f"{name}-") for row in rows.split()]

    assert names() == ["up"]
    assert names("-a") == ["new", "down", "up"]
    assert names("-l") == ["new"]
    assert names("-n", "2") == ["new", "down"]
    assert names("-a", "--filter", "status=created") == ["new"]
    assert names("-a", "--filter", "status=exited", "--filter", "status=running") == ["down", "up"]
    assert names("-a", "--filter", "exited=3") == ["down"]
    assert names("-a", "--filter", f"before={name}-down") == ["up"]
    assert names("-a", "--filter", f"since={name}-up") == ["new", "down"]
    assert names("--filter", f"before={name}-down") == ["up"]
    assert names("--filter", f"since={name}-up") == []
    for version in ("1.24", "1.51"):  # once words of their own
        for word in (f"since={name}-new", "before=nosuch"):
            rows = engine.call("GET", f"/v{version}/containers/json?{word}")
            assert f"/{name}-up" in [row["Names"][0] for row in rows.json()]
    assert names("-a", "--filter", "ancestor=busybox") == ["new", "down", "up"]
    assert names("-a", "--filter", "ancestor=hello-world") == []
    reply = engine.call("GET", '/containers/json?filters={"nope":["x"]}')
    assert (reply.status, reply.message) == (400, "invalid filter 'nope'")
    reply = engine.call("GET", '/containers/json?filters={"status":["nope"]}')
    assert reply.status == 400
    assert "invalid filter 'status=nope'" in reply.message


def test_list_row(engine: Engine, name: str) -> None:
    identifier = engine.out(
        "run",
        "-d",
        "--name",
        name,
        "--label",
        "k=v",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "60",
    )
    filters = quote(json.dumps({"id": [identifier]}))
    (row,) = engine.call("GET", f"/containers/json?size=1&filters={filters}").json()
    assert row["Names"] == [f"/{name}"]
    assert (row["Image"], row["Command"], row["State"]) == ("busybox", "sleep 60", "running")
    assert re.fullmatch(r"Up (Less than a|\d+) seconds?", row["Status"])
    assert row["Labels"] == {"k": "v"}
    (port,) = row["Ports"]
    assert (port["IP"], port["PrivatePort"], port["Type"]) == ("127.0.0.1", 80, "tcp")
    assert row["SizeRootFs"] > 1_000_000
    assert row["HostConfig"] == {"NetworkMode": "bridge"}
    assert list(row["NetworkSettings"]["Networks"]) == ["bridge"]


def test_prune_removes_what_ended(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", f"{name}-old", "--label", name, "busybox", "true")
    engine.docker("run", "-d", "--name", f"{name}-up", "--label", name, "busybox", "sleep", "60")
    out = engine.out("container", "prune", "-f", "--filter", f"label={name}")
    assert "Total reclaimed space" in out
    assert (
        engine.out("ps", "-a", "--filter", f"name={name}", "--format", "{{.Names}}") == f"{name}-up"
    )


def test_auto_remove_after_detached_run(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--rm", "--name", name, "busybox", "sleep", "0.3")
    gone = eventually(
        lambda: engine.call("GET", f"/containers/{name}/json").status, lambda s: s == 404
    )
    assert gone == 404


def test_events_of_a_whole_life(engine: Engine, name: str) -> None:
    with running(
        engine.popen(
            "events",
            "--format",
            '{{.Action}} {{index .Actor.Attributes "name"}}',
            "--filter",
            "type=container",
            stdout=subprocess.PIPE,
        )
    ) as process:
        time.sleep(0.7)
        engine.docker("create", "--name", name, "busybox", *POLITE)
        engine.docker("start", name)
        wait_until_ready(engine, name)
        engine.docker("pause", name)
        engine.docker("unpause", name)
        engine.docker("pause", name)
        engine.docker("stop", name)
        engine.docker("rm", name)
        assert process.stdout is not None
        seen: list[str] = []
        while not seen or seen[-1] != "destroy":
            action, _, who = process.stdout.readline().decode().strip().partition(" ")
            if who == name:
                seen.append(action)
    first = ["create", "start", "pause", "unpause"]
    assert seen == [*first, "pause", "kill", "unpause", "stop", "die", "destroy"]


def test_events_since_and_until(engine: Engine, name: str) -> None:
    since = time.time() - 1
    engine.docker(
        "run",
        "--rm",
        "--name",
        name,
        "--label",
        "a=b",
        "busybox",
        "sh",
        "-c",
        "exit 6",
        check=False,
    )
    eventually(lambda: engine.call("GET", f"/containers/{name}/json").status, lambda s: s == 404)
    until = time.time() + 1
    filters = quote(json.dumps({"container": [name]}))
    reply = engine.call("GET", f"/events?since={since:.3f}&until={until:.3f}&filters={filters}")
    events = [json.loads(line) for line in reply.body.splitlines()]
    actions = [e["Action"] for e in events if e["Type"] == "container"]
    assert actions[0] == "create"
    assert actions[-1] == "destroy"
    assert actions.index("start") < actions.index("die")
    die = next(e for e in events if e["Action"] == "die")
    attributes = die["Actor"]["Attributes"]
    assert attributes["exitCode"] == "6"
    assert attributes["a"] == "b"
    assert attributes["image"] == "busybox"
    assert "execDuration" in attributes
    assert die["timeNano"] // 10**9 == die["time"]


def test_a_start_that_fails_later_keeps_the_exit_code(engine: Engine, name: str) -> None:
    engine.docker("network", "create", name)
    engine.docker(
        "run", "--name", name, "--network", name, "busybox", "sh", "-c", "exit 7", check=False
    )
    engine.docker("network", "rm", name)
    refused = engine.docker("start", name, check=False)
    assert refused.returncode == 1
    assert engine.inspect(name)["State"]["ExitCode"] == 7
