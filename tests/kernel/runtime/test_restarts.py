"""Containers that their monitors start again, whoever listens or dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.linux import cgroup
from engine.runtime.client import Entry, Exit, Runtime
from engine.runtime.protocol import Restart
from tests.kernel.runtime.harness import Box, Recorder, attach, is_alive, read_all, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.runtime.client import Bundle, Task

    InBox = Callable[[Any], Any]

ALWAYS = Restart(name="always").to_json()
ONCE = Restart(name="on-failure", maximum_retry_count=1).to_json()


async def last_exit(box: Box, bundle: Bundle) -> Exit:
    return await asyncio.wait_for(box.events.exit_of(bundle.id), 10)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                status = (each / "status").read_text()
            except OSError:
                continue
            if f"\nPPid:\t{pid}\n" in status:
                found.append(int(each.name))
    return found


async def held_maker(box: Box, bundle: Bundle, task: Task) -> int:
    """The pid of a maker that waits for somebody to read the log: it has become a pipe."""
    await until(lambda: len(box.events.ends) == 1)
    os.unlink(bundle.log["path"])
    os.mkfifo(bundle.log["path"])
    await until(lambda: bool(children(task.monitor_pid)))
    return children(task.monitor_pid)[0]


def test_it_is_started_again_as_often_as_its_policy_says(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        restart = Restart(name="on-failure", maximum_retry_count=2).to_json()
        bundle = box.bundle("sh", "-c", "echo run; exit 3", restart=restart)
        await box.start(bundle)
        exit = await last_exit(box, bundle)
        assert (exit.code, exit.again_ns, exit.count) == (3, None, 2)
        assert [each.again_ns for each in box.events.ends] == [10**8, 2 * 10**8]
        assert [count for _, count in box.events.restarts] == [1, 2]
        assert box.output(bundle) == "run\n" * 3
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def test_it_goes_on_while_nobody_listens(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "echo run; sleep 0.2; exit 1", restart=ALWAYS)
        first = await box.start(bundle)
        await box.runtime.close()
        await until(lambda: box.output(bundle) == "run\n" * 3)
        runtime = Runtime(box.exec_root, events=box.events)
        await runtime.open()
        task = await runtime.adopt(bundle.id)
        assert task is not None
        assert task.restarts is not None
        assert task.restarts >= 2
        assert task.pid != first.pid
        await task.give_up()
        exit = await last_exit(box, bundle)
        assert (exit.code, exit.again_ns) == (1, None)
        events = [entry.event for entry in runtime.recorded(bundle.id)]
        assert events.count(Entry.EXITED) >= 3
        await runtime.close()

    in_box(scenario)


def test_giving_up_ends_the_wait(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "exit 4", restart=ALWAYS)
        task = await box.start(bundle)
        await until(lambda: len(box.events.ends) == 4)
        await task.give_up()
        exit = await last_exit(box, bundle)
        assert (exit.code, exit.again_ns, exit.count) == (4, None, 4)
        await until(lambda: not is_alive(task.monitor_pid))

    in_box(scenario)


def test_giving_up_while_a_run_is_made_ends_that(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        command = "test -f /second && exec sleep 1000; touch /second; exit 1"
        bundle = box.bundle("sh", "-c", command, restart=ALWAYS)
        task = await box.start(bundle)
        await held_maker(box, bundle, task)
        await task.give_up()
        assert not box.events.exit_of(bundle.id).done()
        with open(bundle.log["path"], "rb"):
            exit = await last_exit(box, bundle)
        assert (exit.code, exit.again_ns) == (137, None)
        assert [count for _, count in box.events.restarts] == [1]

    in_box(scenario)


def test_a_maker_that_is_killed_ends_the_container(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "exit 1", restart=ALWAYS)
        task = await box.start(bundle)
        os.kill(await held_maker(box, bundle, task), signal.SIGKILL)
        exit = await last_exit(box, bundle)
        assert exit.failure is not None
        assert (exit.code, exit.again_ns) == (1, None)
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def test_a_maker_ends_with_its_monitor(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "exit 1", restart=ALWAYS)
        task = await box.start(bundle)
        maker = await held_maker(box, bundle, task)
        os.kill(task.monitor_pid, signal.SIGKILL)
        await until(lambda: not is_alive(maker))
        await until(lambda: box.events.lost == [bundle.id])
        last = box.runtime.recorded(bundle.id)[-1]
        assert (last.event, last.facts["again_ns"]) == (Entry.EXITED, 10**8)

    in_box(scenario)


def test_what_cannot_be_started_again_ends_with_the_reason(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "rm /bin/sh; exit 5", restart=ALWAYS)
        (box.lower / "bin" / "rm").symlink_to("busybox")
        await box.start(bundle)
        exit = await last_exit(box, bundle)
        assert exit.failure == {
            "step": "exec",
            "text": 'exec: "sh": executable file not found in $PATH',
        }
        assert (exit.code, exit.count) == (5, 1)
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def test_clients_get_the_end_of_the_run_they_attached_to(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "echo run; exit 1", restart=ONCE)
        attachment, client = attach(stdin=False)
        await box.start(bundle, attachment)
        with client:
            assert await read_all(client) == b"run\n"
        await last_exit(box, bundle)
        assert box.output(bundle) == "run\n" * 2

    in_box(scenario)


def test_a_terminal_and_a_stdin_of_the_next_run(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle(
            "sh", "-c", "read x; echo got $x; exit 1", restart=ONCE, open_stdin=True, tty=True
        )
        task = await box.start(bundle)
        for word in (b"one", b"two"):
            attachment, client = attach()
            await task.attach(attachment)
            with client:
                client.send(word + b"\n")
                assert b"got " + word in await read_all(client)
            await until(lambda: bool(box.events.restarts))
        assert (await last_exit(box, bundle)).code == 1

    in_box(scenario)


def test_changes_reach_the_next_run(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle(
            "sh", "-c", "test -f /stop && exec sleep 1000; sleep 0.3; touch /stop; exit 2"
        )
        task = await box.start(bundle)
        await task.amend({"pids": {"limit": 77}})
        await task.change_policy(ALWAYS)
        await until(lambda: bool(box.events.restarts))
        group = bundle.spec["linux"]["cgroupsPath"]
        assert cgroup.processes(group) == [task.pid]
        assert limit_of_pids(group) == "77"
        await task.end(5)

    in_box(scenario)


def limit_of_pids(group: str) -> str:
    found = [
        *Path("/sys/fs/cgroup").glob(f"*/{group}/pids.max"),
        Path(f"/sys/fs/cgroup/{group}/pids.max"),
    ]
    return found[0].read_text().strip()


def test_one_without_a_policy_is_understood_by_earlier_daemons(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        plain = box.bundle("sleep", "1000")
        policed = box.bundle("sleep", "1000", restart=ALWAYS)
        for bundle in (plain, policed):
            await box.start(bundle)
        await box.runtime.close()
        runtime = Runtime(box.exec_root, events=Recorder())
        await runtime.open()
        versions: list[int] = []
        for bundle in (plain, policed):
            task = await runtime.adopt(bundle.id)
            assert task is not None
            versions.append(task._version)
            await task.end(5)
        assert versions == [1, 2]
        await runtime.close()

    in_box(scenario)
