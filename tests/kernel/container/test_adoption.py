"""A monitor that is not reached is not dead: its container goes on, and can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from engine.container.model import ExecConfig, Status
from engine.errors import Conflict, EngineError, NoSuchContainer
from engine.linux import cgroup
from engine.runtime import client
from engine.runtime.protocol import Channel
from tests.kernel.container.engine import House, in_house

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from engine.container.store import Handle
    from engine.runtime.client import Task
    from engine.runtime.protocol import Message

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


def _handle(house: House, ref: str) -> Handle:
    return house.engine.containers._rooms.store.find(ref)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def _standing_still(task: Task) -> Iterator[None]:
    """The task's monitor is stopped, and not waited for; it goes on afterwards."""
    os.kill(task.monitor_pid, signal.SIGSTOP)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "_ADOPTION_TIMEOUT_S", 0.3)
            yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.monitor_pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def _found_standing_still(house: House, ref: str) -> AsyncIterator[int]:
    """A new engine meets the container's monitor stopped. Its pid."""
    task = _handle(house, ref).task
    assert task is not None
    with _standing_still(task):
        await house.engine.close()
        await house.open()
        yield task.monitor_pid


async def _is_whole(house: House, ref: str, pid: int) -> None:
    """It runs as before, and its streams, execs and end are the engine's affair."""
    state = (await house.view(ref)).container.state
    assert (state.status, state.pid) == (Status.RUNNING, pid)
    exec_id = await house.engine.containers.exec_create(ref, ExecConfig(cmd=("true",)))
    await house.engine.containers.exec_start(exec_id, detach=True)
    os.kill(pid, signal.SIGKILL)
    assert (await house.ended(ref)).exit_code == 137


@in_house
async def test_a_monitor_that_stands_still_at_boot_is_found_once_it_answers(house: House) -> None:
    ref = await house.start("sleep", "1000")
    pid = _handle(house, ref).state.pid
    async with _found_standing_still(house, ref):
        state = (await house.view(ref)).container.state
        assert (state.status, state.pid) == (Status.RUNNING, pid)
        assert os.path.exists(f"/proc/{pid}")
    await _until(lambda: _handle(house, ref).is_connected)
    await _is_whole(house, ref, pid)


@pytest.mark.parametrize("verb", ["kill", "stop", "remove"])
def test_what_cannot_be_adopted_can_be_ended(verb: str) -> None:
    @in_house
    async def test(house: House) -> None:
        ref = await house.start("sleep", "1000")
        pid = _handle(house, ref).state.pid
        async with _found_standing_still(house, ref) as monitor:
            containers = house.engine.containers
            if verb == "remove":
                await containers.remove(ref, force=True)
                with pytest.raises(NoSuchContainer):
                    await containers.inspect(ref)
            else:
                await (
                    containers.kill(ref) if verb == "kill" else containers.stop(ref, timeout_s=1)
                )
                state = (await house.view(ref)).container.state
                assert (state.status, state.exit_code) == (Status.EXITED, 137)
            await _until(lambda: not any(os.path.exists(f"/proc/{p}") for p in (pid, monitor)))

    test()


@in_house
async def test_an_exec_says_that_the_monitor_does_not_answer(house: House) -> None:
    """It has an exit code then: clients take none for success."""
    ref = await house.start("sleep", "1000")
    async with _found_standing_still(house, ref):
        containers = house.engine.containers
        exec_id = await containers.exec_create(ref, ExecConfig(cmd=("true",)))
        with pytest.raises(EngineError, match=r"^the monitor of container .* does not answer$"):
            await containers.exec_start(exec_id, detach=True)
        known = _handle(house, ref).execs[exec_id]
        assert (known.is_running, known.exit_code) == (False, 126)
        with pytest.raises(Conflict, match="has already run"):
            await containers.exec_start(exec_id, detach=True)
        assert _handle(house, ref).execs[exec_id].exit_code == 126


@in_house
async def test_what_cannot_be_adopted_is_told_to_stop(house: House) -> None:
    """Not only killed: a database writes down what it has."""
    cmd = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    ref = await house.start("sh", "-c", cmd)
    while "ready" not in await house.output(ref):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    async with _found_standing_still(house, ref) as monitor:
        stopping = asyncio.create_task(house.engine.containers.stop(ref, timeout_s=30))
        await asyncio.sleep(0.3)
        os.kill(monitor, signal.SIGCONT)
        await stopping
    assert (await house.view(ref)).container.state.exit_code == 5


@in_house
async def test_one_that_ended_meanwhile_is_known_to_have(house: House) -> None:
    ref = await house.start("sleep", "1000")
    pid = _handle(house, ref).state.pid
    async with _found_standing_still(house, ref):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGKILL)
    assert (await house.ended(ref)).exit_code == 137


@in_house
async def test_an_engine_short_of_descriptors_takes_nothing_for_dead(house: House) -> None:
    ref = await house.start("sleep", "1000")
    pid = _handle(house, ref).state.pid
    connect, tries = client._connect, 0

    def exhausted_at_first(*args: str) -> object:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return connect(*args)

    await house.engine.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_connect", exhausted_at_first)
        await house.open()
        assert not _handle(house, ref).is_connected
        await _until(lambda: _handle(house, ref).is_connected)
    await _is_whole(house, ref, pid)


@in_house
async def test_a_connection_that_breaks_ends_no_container(house: House) -> None:
    """The kernel drops descriptors that find no room in our table, and with them the message."""
    ref = await house.start("sleep", "1000")
    handle = _handle(house, ref)
    task, pid = handle.task, handle.state.pid
    assert task is not None
    receive, broken = Channel.receive, 0

    def break_once(channel: Channel) -> list[tuple[Message, list[int]]] | None:
        nonlocal broken
        if channel is not task._connection._channel:
            return receive(channel)
        broken += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "receive", break_once)
        with pytest.raises(client.RuntimeFailure):
            await task.state()
        await _until(lambda: handle.is_connected)
    assert broken == 1
    assert handle.task is not task
    await _is_whole(house, ref, pid)


@in_house
async def test_an_exec_after_a_connection_broke_says_so_too(house: House) -> None:
    ref = await house.start("sleep", "1000")
    handle = _handle(house, ref)
    task, pid = handle.task, handle.state.pid
    assert task is not None
    exec_id = await house.engine.containers.exec_create(ref, ExecConfig(cmd=("true",)))
    with _standing_still(task):
        with socket.socket(fileno=os.dup(task._connection._channel.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        await _until(lambda: not handle.is_connected)
        with pytest.raises(EngineError, match="does not answer"):
            await house.engine.containers.exec_start(exec_id, detach=True)
        assert not handle.execs[exec_id].is_running
    await _until(lambda: handle.is_connected)
    await _is_whole(house, ref, pid)


@in_house
async def test_a_dead_monitor_takes_its_container_along(house: House) -> None:
    ref = await house.start("sleep", "1000")
    handle = _handle(house, ref)
    assert handle.task is not None
    os.kill(handle.task.monitor_pid, signal.SIGKILL)
    assert (await house.ended(ref)).exit_code == 137
    assert not cgroup.exists(handle.container.cgroup_path)


@in_house
async def test_a_paused_container_whose_row_cannot_be_read_is_removed(house: House) -> None:
    """Its first process has to wake up to take the signal that ends it."""
    ref = await house.start("sleep", "1000")
    handle = _handle(house, ref)
    await house.engine.containers.pause(ref)
    table = house.engine.containers._rooms.store._containers
    table.put(ref, b"\x93not a container", name="whoever")
    await house.engine.close()
    await house.open()
    before = time.monotonic()
    await house.engine.containers.remove(ref, force=True)
    assert time.monotonic() - before < 5
    assert not cgroup.exists(handle.container.cgroup_path)
