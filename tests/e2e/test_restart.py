"""Restart policies: what starts again by itself, how often, and what ends that."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually, own_wharf
from tests.support import leftovers

if TYPE_CHECKING:
    from tests.support.engine import Engine, Wharf

pytestmark = pytest.mark.stock

# Ends at once the first times that it runs, and then no more.
TWICE = "echo run >> /runs; test $(wc -l < /runs) -gt 2 || exit 3; exec sleep 1000"


def run(engine: Engine, name: str, policy: str, *args: str, command: str) -> str:
    return engine.out(
        "run", "-d", "--name", name, "--restart", policy, *args, "busybox", "sh", "-c", command
    )


def state(engine: Engine, name: str) -> dict[str, Any]:
    return dict(engine.inspect(name)["State"])


def count(engine: Engine, name: str) -> int:
    return int(engine.inspect(name)["RestartCount"])


def has(engine: Engine, name: str, status: str, timeout_s: float = 15) -> dict[str, Any]:
    found = eventually(lambda: state(engine, name), lambda now: now["Status"] == status, timeout_s)
    assert found["Status"] == status, found
    return found


def backs_off(engine: Engine, name: str) -> None:
    """Of one that ends at once: it waits for 3.2 s now."""
    eventually(lambda: count(engine, name), lambda times: times == 6, 30)
    has(engine, name, "restarting")


def settled(engine: Engine, name: str) -> dict[str, Any]:
    """Of TWICE: when it runs for good."""
    eventually(lambda: count(engine, name), lambda times: times == 2)
    return has(engine, name, "running")


def events(engine: Engine, since: float, *filters: str) -> list[str]:
    flags = [word for each in filters for word in ("--filter", each)]
    until = f"{time.time() + 1:.9f}"
    lines = engine.out(
        "events", "--since", f"{since:.9f}", "--until", until, *flags, "--format", "{{json .}}"
    )
    found = [json.loads(line) for line in lines.splitlines()]
    return [f"{each['Type']} {each['Action']}" for each in found]


def test_on_failure_ends_after_so_many_times(engine: Engine, name: str) -> None:
    since = time.time()
    run(engine, name, "on-failure:2", command="exit 3")
    eventually(lambda: state(engine, name), lambda now: now["Status"] == "exited")
    now = state(engine, name)
    assert (now["ExitCode"], now["Running"], now["Restarting"]) == (3, False, False)
    assert count(engine, name) == 2
    told = events(engine, since, f"container={name}")
    assert told == ["container create", *["container start", "container die"] * 3]
    engine.docker("start", name)
    eventually(lambda: state(engine, name), lambda now: now["Status"] == "exited")
    assert count(engine, name) == 2


def test_on_failure_leaves_a_success_alone(engine: Engine, name: str) -> None:
    run(engine, name, "on-failure", command="exit 0")
    assert has(engine, name, "exited")["ExitCode"] == 0
    assert count(engine, name) == 0


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
def test_it_runs_again_with_what_it_had(engine: Engine, name: str, policy: str) -> None:
    run(engine, name, policy, command=TWICE)
    first = engine.out("logs", name)
    now = settled(engine, name)
    assert (now["ExitCode"], now["Restarting"], now["Error"]) == (0, False, "")
    assert now["Pid"] > 0
    assert now["StartedAt"] > now["FinishedAt"]
    assert engine.out("exec", name, "wc", "-l", "/runs").split()[0] == "3"
    assert first == ""


def test_networks_volumes_and_log_over_restarts(engine: Engine, name: str) -> None:
    engine.docker("network", "create", name)
    engine.docker("volume", "create", name)
    since = time.time()
    command = "echo $(wc -l < /v/runs) $(hostname -i); " + TWICE.replace("/runs", "/v/runs")
    run(engine, name, "always", "--network", name, "-v", f"{name}:/v", command=command)
    settled(engine, name)
    address = engine.inspect(name)["NetworkSettings"]["Networks"][name]["IPAddress"]
    lines = [line.split() for line in engine.out("logs", name).splitlines() if line]
    assert [each[-1] for each in lines[-2:]] == [address, address]
    assert [each[0] for each in lines[-2:]] == ["1", "2"]
    again = events(engine, since)
    begins, ends = (
        ["volume mount", "network connect", "container start"],
        [
            "network disconnect",
            "volume unmount",
            "container die",
        ],
    )
    mine = [each for each in again if each in (*begins, *ends)]
    assert mine == (begins + ends) * 2 + begins


def test_a_published_port_answers_after_a_restart(engine: Engine, name: str) -> None:
    command = "echo hello > /index.html; " + TWICE.replace("exec sleep 1000", "exec httpd -f -h /")
    run(engine, name, "always", "-p", "127.0.0.1::80", command=command)
    settled(engine, name)
    assert engine.out("exec", name, "wget", "-qO-", "http://127.0.0.1/") == "hello"
    ports = engine.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"]
    assert ports[0]["HostIp"] == "127.0.0.1"


class TestBetweenTwoRuns:
    """A container that ended and waits to be started again counts as running."""

    @pytest.fixture
    def waiting(self, engine: Engine, name: str) -> str:
        run(engine, name, "always", "-p", "127.0.0.1::80", command="exit 1")
        backs_off(engine, name)
        return name

    def test_how_it_is_shown(self, engine: Engine, waiting: str) -> None:
        found = engine.inspect(waiting)
        now = found["State"]
        assert (now["Running"], now["Restarting"], now["Pid"]) == (True, True, 0)
        assert now["ExitCode"] == 1
        assert found["RestartCount"] >= 5
        assert found["NetworkSettings"]["Ports"] == {}
        assert found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == ""
        shown = engine.out(
            "ps", "--filter", f"name={waiting}", "--format", "{{.Status}}|{{.Ports}}"
        )
        assert shown.startswith("Restarting (1) ")
        assert shown.endswith(" ago|")
        assert waiting in engine.out(
            "ps", "--filter", "status=restarting", "--format", "{{.Names}}"
        )

    def test_what_is_refused(self, engine: Engine, waiting: str) -> None:
        identity = engine.inspect(waiting)["Id"]
        wait = f"Container {identity} is restarting, wait until the container is running"
        for command in (("pause",), ("exec", waiting, "true"), ("top",)):
            args = command if waiting in command else (*command, waiting)
            done = engine.docker(*args, check=False)
            assert (done.returncode, wait in done.stderr.decode()) == (1, True), done.stderr
        done = engine.docker("attach", waiting, check=False)
        assert b"You cannot attach to a restarting container" in done.stderr
        done = engine.docker("rm", waiting, check=False)
        assert b"container is restarting: stop the container before removing or force remove" in (
            done.stderr
        )

    def test_stop(self, engine: Engine, waiting: str) -> None:
        since = time.time()
        waiter = engine.popen("wait", waiting, stdout=-1)
        time.sleep(0.3)
        engine.docker("stop", waiting)
        now = state(engine, waiting)
        assert (now["Status"], now["ExitCode"], now["Running"]) == ("exited", 1, False)
        assert waiter.communicate(timeout=10)[0].strip() == b"1"
        assert events(engine, since, f"container={waiting}") == ["container stop"]
        assert engine.docker("stop", waiting).returncode == 0

    def test_kill(self, engine: Engine, waiting: str) -> None:
        engine.docker("kill", "-s", "USR1", waiting)
        assert has(engine, waiting, "exited", 5)["ExitCode"] == 1

    def test_restart(self, engine: Engine, waiting: str) -> None:
        engine.docker("restart", waiting)
        assert count(engine, waiting) < 3

    def test_remove(self, engine: Engine, waiting: str) -> None:
        engine.docker("rm", "-f", waiting)
        assert engine.docker("inspect", waiting, check=False).returncode == 1

    def test_another_policy_counts_from_the_next_end_on(self, engine: Engine, waiting: str) -> None:
        before = count(engine, waiting)
        engine.docker("update", "--restart", "no", waiting)
        assert has(engine, waiting, "exited")["ExitCode"] == 1
        assert count(engine, waiting) == before


def test_a_policy_for_one_that_runs(engine: Engine, name: str) -> None:
    run(engine, name, "no", command=TWICE.replace("exit 3", "{ sleep 1; exit 3; }"))
    engine.docker("update", "--restart", "on-failure:5", name)
    settled(engine, name)


def test_limits_of_an_update_hold_after_a_restart(engine: Engine, name: str) -> None:
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
    run(engine, name, "always", command=f"({limit}) 2>/dev/null; sleep 2; exit 1")
    engine.docker("update", "--memory", "64m", "--memory-swap", "64m", name)
    eventually(lambda: len(engine.out("logs", name).split()), lambda lines: lines > 1)
    assert engine.out("logs", name).split()[1] == str(64 << 20)


@pytest.mark.parametrize("verb", [("stop", "-t", "0"), ("kill",)])
@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_what_a_user_ends_stays_ended(
    engine: Engine, name: str, verb: tuple[str, ...], policy: str
) -> None:
    run(engine, name, policy, command="sleep 1000")
    engine.docker(*verb, name)
    assert has(engine, name, "exited")["ExitCode"] == 137
    time.sleep(0.5)
    assert state(engine, name)["Status"] == "exited"
    assert count(engine, name) == 0
    engine.docker("start", name)
    has(engine, name, "running")


def test_other_signals_and_policies(engine: Engine, name: str) -> None:
    command = "trap 'exit 3' USR1; while :; do sleep 0.1; done"
    for policy, status in (("always", "running"), ("unless-stopped", "exited")):
        own = f"{name}-{policy}"
        run(engine, own, policy, "--stop-signal", "TERM", command=command)
        time.sleep(0.3)
        engine.docker("kill", "-s", "USR1", own)
        time.sleep(1)
        assert (policy, state(engine, own)["Status"]) == (policy, status)


def test_waiting_for_one_that_starts_again(engine: Engine, name: str) -> None:
    run(engine, name, "always", command="sleep 1; exit 4")
    assert engine.out("wait", name) == "4"
    assert engine.call("POST", f"/containers/{name}/wait?condition=next-exit").json() == {
        "StatusCode": 4
    }


def test_following_the_log_ends_with_the_run(engine: Engine, name: str) -> None:
    run(engine, name, "always", command="echo begin; sleep 1.5; echo end; exit 1")
    assert engine.out("logs", "-f", name).split() == ["begin", "end"]


def test_a_restart_that_cannot_be_done(engine: Engine, name: str) -> None:
    run(engine, name, "always", command="rm /bin/sh; exit 5")
    now = has(engine, name, "exited")
    assert now["ExitCode"] == 5
    assert now["Error"].endswith('exec: "sh": executable file not found in $PATH')
    assert count(engine, name) == 1


def test_health_begins_anew_and_its_log_stays(engine: Engine, name: str) -> None:
    check = ("--health-cmd", "true", "--health-interval", "300ms")
    run(engine, name, "always", *check, command="sleep 2; exit 1")
    eventually(lambda: state(engine, name)["Health"]["Status"], lambda now: now == "healthy")
    eventually(lambda: count(engine, name), lambda times: times == 1)
    now = has(engine, name, "running")["Health"]
    assert now["Log"]


def test_it_joins_the_network_of_another_again(engine: Engine, name: str) -> None:
    run(engine, f"{name}-a", "no", command="sleep 1000")
    run(engine, name, "always", "--network", f"container:{name}-a", command=TWICE)
    settled(engine, name)


def test_auto_remove_excludes_a_policy(engine: Engine, name: str) -> None:
    done = engine.docker(
        "run", "-d", "--rm", "--name", name, "--restart", "always", "busybox", check=False
    )
    assert done.returncode == 125


# While no daemon is there


def lose_everything(wharf: Wharf) -> None:
    """As a reboot does."""
    wharf.kill()
    leftovers.remove(wharf.root, wharf.instance)
    shutil.rmtree(wharf.exec_root)


def is_running(wharf: Wharf, name: str) -> bool:
    return bool(state(wharf, name)["Running"])


@pytest.mark.beyond
def test_policies_go_on_without_a_daemon() -> None:
    with own_wharf() as wharf:
        run(wharf, "again", "always", command="sleep 0.7; echo run >> /runs; sleep 0.3; exit 1")
        run(wharf, "ends", "on-failure:3", command="sleep 0.2; echo run; exit 7")
        run(wharf, "stays", "always", command=TWICE)
        wharf.kill()
        time.sleep(5)
        wharf.start()
        assert count(wharf, "again") >= 2
        now = state(wharf, "ends")
        assert (now["Status"], now["ExitCode"], count(wharf, "ends")) == ("exited", 7, 3)
        assert wharf.out("logs", "ends").split() == ["run"] * 4
        assert count(wharf, "stays") == 2
        now = has(wharf, "stays", "running")
        assert wharf.out("exec", "stays", "cat", "/runs").split() == ["run"] * 3
        with open(f"/proc/{now['Pid']}/cmdline") as file:
            assert "sleep" in file.read()
        wharf.docker("stop", "-t", "0", "again", "stays")
        assert not is_running(wharf, "again")


@pytest.mark.beyond
def test_one_that_waits_is_found_waiting() -> None:
    with own_wharf() as wharf:
        run(wharf, "waits", "always", command="exit 9")
        backs_off(wharf, "waits")
        wharf.kill()
        wharf.start()
        now = state(wharf, "waits")
        assert now["Status"] in ("restarting", "running")
        has(wharf, "waits", "restarting")
        times = count(wharf, "waits")
        eventually(lambda: count(wharf, "waits"), lambda now: now > times)
        assert count(wharf, "waits") > times
        wharf.docker("stop", "waits")
        assert state(wharf, "waits")["ExitCode"] == 9


@pytest.mark.beyond
def test_after_a_reboot() -> None:
    with own_wharf() as wharf:
        for policy in ("no", "always", "unless-stopped", "on-failure"):
            run(wharf, policy, policy, command="exec sleep 1000")
            run(wharf, f"stopped-{policy}", policy, command="exec sleep 1000")
            wharf.docker("stop", "-t", "0", f"stopped-{policy}")
        wharf.docker("create", "--name", "never", "--restart", "always", "busybox", "true")
        run(wharf, "joins", "always", "--network", "container:always", command="exec sleep 1000")
        run(wharf, "links", "always", "--link", "unless-stopped:u", command="exec sleep 1000")
        lose_everything(wharf)
        wharf.start()
        up = wharf.out("ps", "--format", "{{.Names}}").split()
        assert sorted(up) == [
            "always",
            "joins",
            "links",
            "on-failure",
            "stopped-always",
            # it ended by a signal, which is a failure, and dockerd does not ask who sent it
            "stopped-on-failure",
            "unless-stopped",
        ]
        assert {count(wharf, each) for each in up} == {0}


@pytest.mark.beyond
@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_with_live_restore_off_what_ran_runs_again(policy: str) -> None:
    with own_wharf(config={"live-restore": False}) as wharf:
        run(wharf, "ran", policy, command="exec sleep 1000")
        run(wharf, "plain", "no", command="exec sleep 1000")
        wharf.stop()
        wharf.start()
        assert wharf.out("ps", "--format", "{{.Names}}") == "ran"


@pytest.mark.beyond
def test_one_whose_monitor_was_killed_is_started_again() -> None:
    with own_wharf() as wharf:
        run(wharf, "mine", "always", command="exec sleep 1000")
        identity, before = wharf.inspect("mine")["Id"], state(wharf, "mine")["Pid"]
        kill_monitor(identity)
        eventually(lambda: count(wharf, "mine"), lambda times: times == 1)
        assert has(wharf, "mine", "running")["Pid"] != before
        wharf.kill()
        kill_monitor(identity)
        wharf.start()
        has(wharf, "mine", "running")
        run(wharf, "waits", "always", command="exit 9")
        backs_off(wharf, "waits")
        kill_monitor(wharf.inspect("waits")["Id"])
        eventually(lambda: count(wharf, "waits"), lambda times: times > 6)
        assert count(wharf, "waits") > 6
        wharf.docker("stop", "waits")
        assert state(wharf, "waits")["ExitCode"] == 9


def kill_monitor(identity: str) -> None:
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if each.name.isdigit() and (each / "comm").read_text() == f"wharf-{identity[:9]}\n":
                os.kill(int(each.name), signal.SIGKILL)


@pytest.mark.beyond
def test_a_daemon_killed_again_and_again_loses_no_count() -> None:
    with own_wharf() as wharf:
        for index in range(4):
            run(wharf, f"c{index}", "always", command="echo run; sleep 0.2; exit 1")
        for _ in range(5):
            time.sleep(0.4)
            wharf.kill()
            wharf.start()
        for index in range(4):
            wharf.docker("stop", "-t", "0", f"c{index}")
            runs = len(wharf.out("logs", f"c{index}").split())
            # One more may have been counted and not begun.
            assert runs - 1 <= count(wharf, f"c{index}") <= runs
