"""Health checks, as `docker ps`, Compose and orchestrating scripts wait for them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually, own_wharf

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock

FAST = ("--health-interval", "300ms")


def run(engine: Engine, name: str, *args: str) -> str:
    return engine.out("run", "-d", "--name", name, *args, "busybox", "sleep", "1000")


def health(engine: Engine, name: str) -> dict[str, Any]:
    return dict(engine.inspect(name)["State"]["Health"])


def has(engine: Engine, name: str, status: str) -> dict[str, Any]:
    return eventually(lambda: health(engine, name), lambda now: now["Status"] == status)


def has_probed(engine: Engine, name: str, times: int = 1) -> list[dict[str, Any]]:
    return list(eventually(lambda: health(engine, name)["Log"], lambda found: len(found) >= times))


def test_a_container_begins_as_starting(engine: Engine, name: str) -> None:
    run(engine, name, "--health-cmd", "true", "--health-interval", "1h")
    assert health(engine, name) == {"Status": "starting", "FailingStreak": 0, "Log": []}
    shown = engine.out("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    assert shown.endswith("(health: starting)")


def test_without_a_check_there_is_no_health(engine: Engine, name: str) -> None:
    run(engine, name)
    assert "Health" not in engine.inspect(name)["State"]


def test_it_becomes_healthy(engine: Engine, name: str) -> None:
    run(engine, name, *FAST, "--health-cmd", "echo fine")
    now = has(engine, name, "healthy")
    assert now["FailingStreak"] == 0
    assert (now["Log"][0]["ExitCode"], now["Log"][0]["Output"]) == (0, "fine\n")
    assert now["Log"][0]["Start"] < now["Log"][0]["End"]
    shown = engine.out("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    assert shown.endswith("(healthy)")
    assert name in engine.out("ps", "--filter", "health=healthy", "--format", "{{.Names}}")
    assert name not in engine.out("ps", "--filter", "health=starting", "--format", "{{.Names}}")


def test_so_many_failures_in_a_row_make_it_unhealthy(engine: Engine, name: str) -> None:
    check = "echo out; echo err >&2; test -f /fine"
    run(engine, name, *FAST, "--health-retries", "3", "--health-cmd", check)
    now = has(engine, name, "unhealthy")
    assert now["FailingStreak"] >= 3
    assert now["Log"][0]["ExitCode"] == 1
    assert sorted(now["Log"][0]["Output"].split()) == ["err", "out"]
    engine.docker("exec", name, "touch", "/fine")
    assert has(engine, name, "healthy")["FailingStreak"] == 0


def test_the_last_five_results_are_kept(engine: Engine, name: str) -> None:
    run(engine, name, "--health-interval", "50ms", "--health-cmd", "cat /proc/uptime")
    first = has_probed(engine, name)[0]
    eventually(lambda: health(engine, name)["Log"], lambda log: first not in log)
    log = health(engine, name)["Log"]
    assert len(log) == 5
    assert log == sorted(log, key=lambda each: str(each["Start"]))


def test_a_probe_that_takes_too_long_is_killed(engine: Engine, name: str) -> None:
    check = ("--health-cmd", "echo begun; sleep 600", "--health-timeout", "1s")
    run(engine, name, *FAST, "--health-retries", "1", *check)
    result = has(engine, name, "unhealthy")["Log"][0]
    assert result["ExitCode"] == -1
    assert result["Output"] == "Health check exceeded timeout (1s): begun\n"


def test_a_program_that_is_not_there(engine: Engine, name: str) -> None:
    body = {"Test": ["CMD", "/nope"], "Interval": 300_000_000, "Retries": 1}
    create(engine, name, body)
    result = has(engine, name, "unhealthy")["Log"][0]
    assert result["ExitCode"] == -1
    assert result["Output"] == (
        "OCI runtime exec failed: exec failed: unable to start container process: "
        'exec: "/nope": stat /nope: no such file or directory'
    )


def events(engine: Engine, since: float, *filters: str) -> list[dict[str, Any]]:
    more = [part for each in filters for part in ("--filter", each)]
    span = ("--since", f"{since:.6f}", "--until", f"{time.time():.6f}")
    lines = engine.out("events", *span, *more, "--format", "{{json .}}").splitlines()
    return [json.loads(line) for line in lines]


def create(engine: Engine, name: str, check: dict[str, object]) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "Healthcheck": check}
    made = engine.call("POST", f"/containers/create?name={name}", body)
    assert made.status == 201, made.message
    engine.docker("start", name)


@pytest.mark.parametrize("test", [["NONE"], ["FOO", "true"], []], ids=str)
def test_forms_that_mean_no_probe(engine: Engine, name: str, test: list[str]) -> None:
    create(engine, name, {"Test": test, "Interval": 100_000_000})
    time.sleep(0.5)
    assert "Health" not in engine.inspect(name)["State"]


@pytest.mark.beyond
def test_no_command_means_no_probe(engine: Engine, name: str) -> None:
    """dockerd ends with a panic when the first probe is due."""
    create(engine, name, {"Test": ["CMD"], "Interval": 100_000_000})
    time.sleep(0.3)
    state = engine.inspect(name)["State"]
    assert state["Running"]
    assert "Health" not in state


def test_it_runs_as_the_container_does(engine: Engine, name: str) -> None:
    options = ("-u", "1000:50", "-w", "/tmp", "-e", "A=b", "--cap-drop", "ALL")
    check = "id -u; id -g; pwd; echo $A $HOME; grep CapEff /proc/self/status"
    run(engine, name, *options, *FAST, "--health-cmd", check)
    output = has(engine, name, "healthy")["Log"][0]["Output"]
    assert output.split() == ["1000", "50", "/tmp", "b", "/", "CapEff:", "0" * 16]


def test_its_output_is_cut(engine: Engine, name: str) -> None:
    run(engine, name, *FAST, "--health-cmd", "head -c 100000 /dev/zero | tr '\\0' x")
    assert has(engine, name, "healthy")["Log"][0]["Output"] == "x" * 4096 + "..."


def test_bytes_that_are_no_text(engine: Engine, name: str) -> None:
    run(engine, name, *FAST, "--health-cmd", "printf '\\377\\376a'; kill -9 $$")
    result = has_probed(engine, name)[0]
    assert (result["ExitCode"], result["Output"]) == (137, "\ufffd\ufffda")


def test_failures_in_the_start_period_do_not_count(engine: Engine, name: str) -> None:
    period = ("--health-start-period", "3s", "--health-start-interval", "200ms")
    check = ("--health-cmd", "false", "--health-retries", "1")
    run(engine, name, *period, "--health-interval", "1s", *check)
    has_probed(engine, name, 3)  # in less time than three intervals
    now = health(engine, name)
    assert (now["Status"], now["FailingStreak"]) == ("starting", 0)
    assert has(engine, name, "unhealthy")["FailingStreak"] >= 1


def test_one_success_ends_the_start_period(engine: Engine, name: str) -> None:
    period = ("--health-start-period", "1h", "--health-start-interval", "200ms")
    check = ("--health-cmd", "test ! -f /bad", "--health-retries", "1")
    run(engine, name, *period, *FAST, *check)
    has(engine, name, "healthy")
    engine.docker("exec", name, "touch", "/bad")
    has(engine, name, "unhealthy")


def test_a_paused_container_is_not_probed(engine: Engine, name: str) -> None:
    run(engine, name, *FAST, "--health-cmd", "true")
    has(engine, name, "healthy")
    engine.docker("pause", name)
    assert health(engine, name)["Status"] == "unhealthy"
    time.sleep(0.2)  # what was under way
    before = health(engine, name)["Log"]
    time.sleep(1)
    assert health(engine, name)["Log"] == before
    engine.docker("unpause", name)
    has(engine, name, "healthy")


def test_a_failure_after_a_pause_does_not_make_it_healthy(engine: Engine, name: str) -> None:
    since = time.time()
    check = ("--health-cmd", "test -f /fine", "--health-retries", "50")
    run(engine, name, *FAST, *check)
    engine.docker("exec", name, "touch", "/fine")
    has(engine, name, "healthy")
    engine.docker("exec", name, "rm", "/fine")
    engine.docker("pause", name)
    engine.docker("unpause", name)
    eventually(lambda: health(engine, name)["FailingStreak"], lambda streak: streak >= 2)
    assert health(engine, name)["Status"] == "unhealthy"
    seen = events(engine, since, f"container={name}", "event=health_status")
    assert [event["Action"] for event in seen] == ["health_status: healthy"]


@pytest.mark.parametrize("option", ["interval", "timeout", "start-period"])
def test_times_of_years(engine: Engine, name: str, option: str) -> None:
    """Longer than poll(2) can wait in one call."""
    rest = FAST if option != "interval" else ()
    run(engine, name, "--health-cmd", "true", f"--health-{option}", "90000h", *rest)
    if option == "timeout":
        has(engine, name, "healthy")
    time.sleep(0.5)
    assert engine.inspect(name)["State"]["Running"]


def test_the_log_stays_over_a_stop_and_a_start(engine: Engine, name: str) -> None:
    run(engine, name, "--health-interval", "1s", "--health-cmd", "true")
    has(engine, name, "healthy")
    engine.docker("stop", "-t", "0", name)
    now = health(engine, name)
    assert now["Status"] == "unhealthy"
    engine.docker("start", name)
    again = health(engine, name)
    assert (again["Status"], again["FailingStreak"]) == ("starting", 0)
    assert again["Log"][: len(now["Log"])] == now["Log"]


def test_the_check_of_an_image(engine: Engine, name: str, built: Callable[..., str]) -> None:
    check = {"Test": ["CMD-SHELL", "echo of the image"], "Interval": 300_000_000}
    image = built(Healthcheck=check, Cmd=["sleep", "1000"])
    engine.docker("run", "-d", "--name", name, image)
    assert has(engine, name, "healthy")["Log"][0]["Output"] == "of the image\n"
    engine.docker("rm", "-f", name)
    engine.docker("run", "-d", "--name", name, "--no-healthcheck", image)
    assert "Health" not in engine.inspect(name)["State"]


def test_events(engine: Engine, name: str) -> None:
    since = time.time()
    run(engine, name, *FAST, "--health-retries", "1", "--health-cmd", "test -f /fine")
    has(engine, name, "unhealthy")
    engine.docker("rm", "-f", name)
    seen = events(engine, since, f"container={name}")
    actions = [event["Action"] for event in seen]
    words = " /bin/sh -c test -f /fine"
    start = actions.index(f"exec_create:{words}")
    seen = seen[start : start + 4]
    assert actions[start : start + 4] == [
        f"exec_create:{words}",
        f"exec_start:{words}",
        "exec_die",
        "health_status: unhealthy",
    ]
    ids = {event["Actor"]["Attributes"]["execID"] for event in seen[:3]}
    assert len(ids) == 1
    assert seen[2]["Actor"]["Attributes"]["exitCode"] == "1"
    assert "execID" not in seen[3]["Actor"]["Attributes"]
    found = events(engine, since, f"container={name}", "event=health_status")
    assert [event["Action"] for event in found] == ["health_status: unhealthy"]


def test_a_probe_is_an_exec_while_it_runs(engine: Engine, name: str) -> None:
    run(engine, name, *FAST, "--health-cmd", "sleep 600")
    (exec_id,) = eventually(lambda: engine.inspect(name)["ExecIDs"] or [], lambda ids: bool(ids))
    seen = engine.call("GET", f"/exec/{exec_id}/json").json()
    assert seen["Running"]
    assert seen["Pid"] > 0
    assert seen["ProcessConfig"]["entrypoint"] == "/bin/sh"
    assert seen["ProcessConfig"]["arguments"] == ["-c", "sleep 600"]
    assert "sleep 600" in engine.out("top", name)


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        ({"Interval": 1}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Timeout": -1}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"StartPeriod": 999_999}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"StartInterval": 5}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"Retries": -1}, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_what_makes_no_sense(
    engine: Engine, name: str, check: dict[str, int], sentence: str
) -> None:
    body = {"Image": "busybox", "Healthcheck": {"Test": ["CMD", "true"], **check}}
    answer = engine.call("POST", f"/containers/create?name={name}", body)
    assert (answer.status, answer.message) == (400, sentence)


# While the daemon is away


@pytest.mark.beyond
def test_probes_go_on_without_the_daemon() -> None:
    with own_wharf() as wharf:
        check = ("--health-cmd", "echo probed >> /probes; test -f /fine", "--health-retries", "1")
        program = ("busybox", "sh", "-c", "sleep 4; touch /fine; exec sleep 1000")
        wharf.docker("run", "-d", "--name", "box", *FAST, *check, *program)
        has(wharf, "box", "unhealthy")
        wharf.kill()
        time.sleep(7)
        since = time.time()
        wharf.start()
        now = health(wharf, "box")
        assert now["Status"] == "healthy"
        assert len(now["Log"]) == 5
        assert all(each["ExitCode"] == 0 for each in now["Log"])
        seen = events(wharf, since, "event=health_status")
        assert [event["Action"] for event in seen] == ["health_status: healthy"]
        wharf.docker("exec", "box", "rm", "/fine")
        has(wharf, "box", "unhealthy")


@pytest.mark.beyond
def test_what_was_probed_last_is_known_of_one_that_ended_meanwhile() -> None:
    with own_wharf() as wharf:
        command = ("busybox", "sh", "-c", "while ! test -f /end; do sleep 0.1; done")
        check = (*FAST, "--health-cmd", "test -f /later && touch /end; echo $((2 + 2))")
        wharf.docker("run", "-d", "--name", "box", *check, *command)
        has_probed(wharf, "box")
        wharf.docker("exec", "box", "touch", "/later")
        wharf.kill()
        time.sleep(1.5)
        wharf.start()
        state = wharf.inspect("box")["State"]
        assert state["Status"] == "exited"
        assert state["Health"]["Status"] == "unhealthy"
        assert state["Health"]["Log"][-1]["Output"] == "4\n"
