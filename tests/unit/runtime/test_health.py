"""Probes of a container's health, with a clock and programs that are made up."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from engine.runtime.monitor import health
from engine.runtime.protocol import Failed, Health, Healthcheck, Probed, Probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.runtime import protocol

SECOND = 10**9


class Timer:
    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[Timer] = []
        self.handlers: dict[int, Callable[[int], None]] = {}

    def add(self, fd: int, _events: int, handler: Callable[[int], None]) -> None:
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        self.handlers.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now_s + seconds, callback))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := [t for t in self.timers if t.callback and t.at_s <= end_s + 1e-9]:
            first = min(due, key=lambda t: t.at_s)
            callback, first.callback = first.callback, None
            self.now_s = max(self.now_s, first.at_s)
            assert callback is not None
            callback()
        self.now_s = end_s


class Program:
    """An exec that does what the test tells it to."""

    made: list[Program]

    def __init__(
        self, container: Container, owner: Any, request: protocol.Exec, fds: list[int]
    ) -> None:
        if container.is_out_of_processes:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.owner = owner
        self.id = request.exec_id
        self.pid = 77
        self.code: int | None = None
        self.signals: list[int] = []
        self.output = socket.socket(fileno=fds.pop())
        self._loop = container.loop
        self.made.append(self)

    def signal(self, signo: int) -> None:
        self.signals.append(signo)

    def write(self, data: bytes) -> None:
        self.output.sendall(data)
        self._deliver()

    def end(self, code: int) -> None:
        self.code = code
        self.owner.on_exec_exit(self)
        self.hang_up()

    def hang_up(self) -> None:
        self.output.close()
        self._deliver()

    def _deliver(self) -> None:
        for handler in list(self._loop.handlers.values()):
            handler(1)


class Container:
    reaper = None
    pidfd = -1
    confinement = None

    def __init__(self) -> None:
        self.loop = Loop()
        self.is_frozen = False
        self.is_out_of_processes = False
        self.said: list[protocol.Message] = []
        self.probers: list[health.Prober] = []

    def say(self, message: protocol.Message) -> None:
        self.said.append(message)


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    made = Container()
    monkeypatch.setattr(health, "Exec", Program)
    monkeypatch.setattr(health.time, "monotonic", lambda: made.loop.now_s)
    Program.made = []
    yield made
    for each in made.probers:
        each.close()
    for program in Program.made:
        program.output.close()


def prober(container: Container, **given: Any) -> health.Prober:
    settings: dict[str, Any] = {
        "process": {"args": ["probe"]},
        "interval_ns": 30 * SECOND,
        "timeout_ns": 10 * SECOND,
        "start_period_ns": 0,
        "start_interval_ns": 5 * SECOND,
        "retries": 3,
        "late": "too late",
    }
    made = health.Prober(container, Healthcheck(**{**settings, **given}))  # type: ignore[arg-type]
    container.probers.append(made)
    return made


def results(container: Container) -> list[Probed]:
    return [message for message in container.said if isinstance(message, Probed)]


def test_the_next_probe_is_an_interval_after_the_end_of_the_last(container: Container) -> None:
    prober(container)
    container.loop.pass_time(29)
    assert not Program.made
    container.loop.pass_time(1)
    container.loop.pass_time(9)
    Program.made[0].end(0)
    container.loop.pass_time(29)
    assert len(Program.made) == 1
    container.loop.pass_time(1)
    assert len(Program.made) == 2


def test_one_success_makes_it_healthy_and_failures_count_in_a_row(container: Container) -> None:
    looked_after = prober(container)
    seen: list[tuple[str, int]] = []
    for code in (1, 1, 0, 1, 2, 3, 0):
        container.loop.pass_time(30)
        Program.made[-1].end(code)
        seen.append((looked_after.health.status, looked_after.health.failing_streak))
    assert seen == [
        ("starting", 1),
        ("starting", 2),
        ("healthy", 0),
        ("healthy", 1),
        ("healthy", 2),
        ("unhealthy", 3),
        ("healthy", 0),
    ]


def test_five_results_are_kept_earlier_runs_among_them(container: Container) -> None:
    earlier = [
        {"start_ns": n, "end_ns": n, "exit_code": 0, "output": str(n), "has_run": True}
        for n in range(5)
    ]
    looked_after = prober(container, health=Health(log=earlier).to_json())
    for _ in range(2):
        container.loop.pass_time(30)
        Program.made[-1].write(b"new")
        Program.made[-1].end(0)
    assert [each["output"] for each in looked_after.health.log] == ["2", "3", "4", "new", "new"]


def test_while_it_starts_it_is_probed_more_often_and_failures_do_not_count(
    container: Container,
) -> None:
    looked_after = prober(container, start_period_ns=12 * SECOND, retries=1)
    for _ in range(2):
        container.loop.pass_time(5)
        Program.made[-1].end(1)
    assert looked_after.health.status == Health.STARTING
    assert looked_after.health.failing_streak == 0
    container.loop.pass_time(5)  # 15 s: asked for before the period ended, probed after
    Program.made[-1].end(1)
    assert looked_after.health.status == Health.UNHEALTHY
    container.loop.pass_time(29)
    assert len(Program.made) == 3


def test_once_healthy_the_start_period_is_over(container: Container) -> None:
    looked_after = prober(container, start_period_ns=3600 * SECOND, retries=1)
    container.loop.pass_time(5)
    Program.made[-1].end(0)
    container.loop.pass_time(5)
    assert len(Program.made) == 1
    container.loop.pass_time(25)
    Program.made[-1].end(1)
    assert looked_after.health.status == Health.UNHEALTHY


def test_who_takes_too_long_is_killed_and_has_failed(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    program = Program.made[0]
    program.write(b"begun")
    container.loop.pass_time(10)
    assert program.signals == [signal.SIGKILL]
    assert not results(container)
    program.end(137)
    (result,) = looked_after.health.log
    assert (result["exit_code"], result["output"]) == (-1, "too late: begun")
    assert results(container)[0].code == 137


def test_output_that_goes_on_after_the_end_is_waited_for(container: Container) -> None:
    prober(container)
    container.loop.pass_time(30)
    program = Program.made[0]
    program.code = 0
    program.owner.on_exec_exit(program)
    assert not results(container)
    program.write(b"last")
    program.hang_up()
    assert results(container)[0].health is not None
    assert results(container)[0].health["log"][0]["output"] == "last"


def test_output_is_cut(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    for _ in range(3):
        Program.made[0].write(b"x" * 3000)
    Program.made[0].end(0)
    assert looked_after.health.log[0]["output"] == "x" * 4096 + "..."


def test_a_program_that_cannot_be_started(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    program = Program.made[0]
    program.owner.on_exec_failed(program, Failed(step="exec", text='exec: "x": not there'))
    program.owner.on_exec_gone(program)
    (result,) = looked_after.health.log
    assert (result["exit_code"], result["output"]) == (-1, 'exec: "x": not there')
    assert result["has_run"] is False
    assert [type(message) for message in container.said] == [Probing, Probed]
    assert results(container)[0].code is None


def test_a_host_without_room_for_a_process(container: Container) -> None:
    looked_after = prober(container)
    container.is_out_of_processes = True
    container.loop.pass_time(30)
    assert looked_after.health.log[0]["exit_code"] == -1
    assert not container.loop.handlers
    container.is_out_of_processes = False
    container.loop.pass_time(30)
    Program.made[0].end(0)
    assert looked_after.health.status == Health.HEALTHY


def test_a_frozen_container_is_left_alone(container: Container) -> None:
    prober(container)
    container.is_frozen = True
    container.loop.pass_time(100)
    assert not Program.made
    container.is_frozen = False
    container.loop.pass_time(30)
    assert len(Program.made) == 1


def test_what_froze_in_the_middle_does_not_count(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    container.is_frozen = True
    container.loop.pass_time(10)
    container.is_frozen = False
    Program.made[0].end(137)
    assert looked_after.health.log == []
    assert (results(container)[0].code, results(container)[0].health) == (137, None)
    container.loop.pass_time(30)
    assert len(Program.made) == 2


def test_while_nobody_is_to_look_it_is_unhealthy_until_a_success(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    Program.made[0].end(0)
    looked_after.watch(False)
    assert looked_after.health.status == Health.UNHEALTHY
    container.loop.pass_time(100)
    assert len(Program.made) == 1
    looked_after.watch(True)
    looked_after.watch(True)
    container.loop.pass_time(29)
    assert len(Program.made) == 1
    container.loop.pass_time(1)
    Program.made[1].end(1)
    assert (looked_after.health.status, looked_after.health.failing_streak) == ("unhealthy", 1)
    container.loop.pass_time(30)
    Program.made[2].end(0)
    assert looked_after.health.status == Health.HEALTHY
    assert len(Program.made) == 3


def test_what_is_under_way_when_nobody_is_to_look_comes_to_nothing(container: Container) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    looked_after.watch(False)
    assert Program.made[0].signals == [signal.SIGKILL]
    looked_after.watch(True)
    container.loop.pass_time(100)
    assert len(Program.made) == 1
    Program.made[0].end(137)
    assert looked_after.health.log == []
    container.loop.pass_time(30)
    assert len(Program.made) == 2


@pytest.mark.parametrize("is_born", [False, True])
def test_what_was_being_born_when_it_ended_is_not_told_of(
    container: Container, is_born: bool
) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30)
    program = Program.made[0]
    looked_after.close()
    if is_born:
        program.owner.on_exec_started(program)
    else:
        program.owner.on_exec_failed(program, Failed(step="init", text="it ended"))
    assert [type(message) for message in container.said] == [Probed]


@pytest.mark.parametrize("is_running", [False, True])
def test_with_the_container_all_of_it_ends(container: Container, is_running: bool) -> None:
    looked_after = prober(container)
    container.loop.pass_time(30 if is_running else 10)
    looked_after.close()
    if is_running:
        assert (results(container)[0].code, results(container)[0].health) == (137, None)
        Program.made[0].end(137)
    container.loop.pass_time(1000)
    assert len(Program.made) == is_running
    assert len(results(container)) == is_running
    assert not container.loop.handlers


def test_every_probe_has_an_id_of_its_own(container: Container) -> None:
    prober(container)
    for _ in range(3):
        container.loop.pass_time(30)
        Program.made[-1].owner.on_exec_started(Program.made[-1])
        Program.made[-1].end(0)
    told = [message.exec_id for message in container.said if isinstance(message, Probing)]
    over = [message.exec_id for message in results(container)]
    assert told == over
    assert len(set(told)) == 3
    assert all(len(each) == 64 for each in told)
