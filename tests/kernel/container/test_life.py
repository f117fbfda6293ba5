"""Containers from create to remove, with a real runtime, network and storage."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from engine.container import exec
from engine.container.model import (
    AttachOptions,
    Config,
    Created,
    CreateRequest,
    ExecConfig,
    HostConfig,
    ListQuery,
    LogsQuery,
    MountRequest,
    Resources,
    Status,
    WaitCondition,
)
from engine.errors import (
    Conflict,
    ContainerNameInUse,
    EngineError,
    InvalidParameter,
    NoSpace,
    NoSuchContainer,
    WharfError,
)
from engine.linux import cgroup
from engine.linux.fd import OwnedFd
from tests.kernel.container.engine import in_house, read_all, socket_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.container.model import Exec
    from engine.container.store import Handle
    from tests.kernel.container.engine import House

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


def _unframed(data: bytes) -> bytes:
    """The payload of Docker's frames: a header of eight bytes, the length in the last four."""
    payload = b""
    while data:
        size = int.from_bytes(data[4:8], "big")
        payload, data = payload + data[8 : 8 + size], data[8 + size :]
    return payload


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


@in_house
async def test_a_command_runs_and_its_output_is_kept(house: House) -> None:
    code, output = await house.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert code == 3
    assert sorted(output.split()) == ["err", "out"]


@in_house
async def test_a_command_that_is_not_there(house: House) -> None:
    containers = house.engine.containers
    ref = await house.create("nope")
    with pytest.raises(InvalidParameter, match=r'exec: "nope": executable file not found in'):
        await containers.start(ref)
    state = (await house.view(ref)).container.state
    assert (state.status, state.exit_code, state.pid) == (Status.CREATED, 127, 0)
    assert 'exec: "nope"' in state.error


@in_house
async def test_a_directory_as_command(house: House) -> None:
    ref = await house.create("/etc")
    with pytest.raises(InvalidParameter, match=r"permission denied$"):
        await house.engine.containers.start(ref)
    assert (await house.view(ref)).container.state.exit_code == 126


@in_house
async def test_a_failed_start_leaves_nothing_and_can_be_tried_again(house: House) -> None:
    missing = os.path.join(house.config.data_root, "later")
    request = MountRequest(type="bind", source=missing, target="/m")
    os.mkdir(missing)
    ref = await house.create("true", host=HostConfig(mounts=(request,)))
    os.rmdir(missing)
    with pytest.raises(InvalidParameter, match="bind source path does not exist"):
        await house.engine.containers.start(ref)
    assert os.listdir(os.path.join(house.config.exec_root, "containers")) == []
    os.mkdir(missing)
    await house.engine.containers.start(ref)
    assert (await house.ended(ref)).exit_code == 0


@in_house
async def test_auto_remove_after_a_failed_start(house: House) -> None:
    ref = await house.create("nope", host=HostConfig(auto_remove=True))
    removed = await house.engine.containers.waiter(ref, WaitCondition.REMOVED)
    with pytest.raises(InvalidParameter):
        await house.engine.containers.start(ref)
    result = await house.within(removed)
    assert (result.exit_code, result.error) == (127, "")


@in_house
async def test_the_three_waits(house: House) -> None:
    containers = house.engine.containers
    ref = await house.create("sh", "-c", "exit 5", host=HostConfig(auto_remove=True))
    not_running = await containers.waiter(ref, WaitCondition.NOT_RUNNING)
    assert (await not_running).exit_code == 0  # created is not running either
    next_exit = await containers.waiter(ref, WaitCondition.NEXT_EXIT)
    removed = await containers.waiter(ref, WaitCondition.REMOVED)
    await containers.start(ref)
    assert (await house.within(next_exit)).exit_code == 5
    assert (await house.within(removed)).exit_code == 5
    with pytest.raises(NoSuchContainer):
        await house.view(ref)


@in_house
async def test_stop_asks_and_then_kills(house: House) -> None:
    containers = house.engine.containers
    polite = await house.start("sh", "-c", 'trap "exit 4" TERM; while :; do sleep 0.05; done')
    await asyncio.sleep(0.3)
    await containers.stop(polite, timeout_s=20)
    assert (await house.view(polite)).container.state.exit_code == 4
    deaf = await house.start("sh", "-c", 'trap "" TERM; while :; do sleep 0.05; done')
    await asyncio.sleep(0.3)
    await containers.stop(deaf, timeout_s=0)
    assert (await house.view(deaf)).container.state.exit_code == 137


@in_house
async def test_a_pause_that_comes_after_the_end(house: House) -> None:
    """Its group is gone, and the word of its exit is on the way."""
    ref = await house.start("sleep", "1000")
    for number in (errno.ENOENT, errno.ENODEV):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cgroup, "freeze", _fail_with(number))
            with pytest.raises(EngineError) as caught:
                await house.engine.containers.pause(ref)
        assert str(caught.value) == (
            f"cannot pause container {ref}: OCI runtime pause failed: container not running"
        )


def _fail_with(number: int) -> Callable[[str], None]:
    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return fail


@in_house
async def test_a_paused_container_can_be_killed(house: House) -> None:
    containers = house.engine.containers
    ref = await house.start("sleep", "1000")
    await containers.pause(ref)
    assert (await house.view(ref)).container.state.status is Status.PAUSED
    with pytest.raises(Conflict, match="is paused"):
        await containers.exec_create(ref, ExecConfig(cmd=("true",)))
    await containers.kill(ref)
    assert (await house.view(ref)).container.state.status is Status.EXITED


@in_house
async def test_restart_keeps_the_container_of_rm(house: House) -> None:
    containers = house.engine.containers
    ref = await house.start("sleep", "1000", host=HostConfig(auto_remove=True))
    before = (await house.view(ref)).container.state.pid
    await containers.restart(ref, timeout_s=0)
    state = (await house.view(ref)).container.state
    assert state.status is Status.RUNNING
    assert state.pid != before


@in_house
async def test_attach_before_the_start_misses_nothing(house: House) -> None:
    ref = await house.create("cat", open_stdin=True, stdin_once=True)
    client, fd = socket_pair()
    options = AttachOptions(stdin=True, stdout=True, stderr=True, stream=True)
    await house.engine.containers.attach(ref, options, OwnedFd(fd), b"first ")
    client.send(b"then\n")
    client.shutdown(1)
    await house.engine.containers.start(ref)
    assert _unframed(await read_all(client)) == b"first then\n"


@in_house
async def test_exec_code_is_known_when_the_stream_ends(house: House) -> None:
    containers = house.engine.containers
    ref = await house.start("sleep", "1000")
    for _ in range(10):
        exec_id = await containers.exec_create(
            ref, ExecConfig(cmd=("sh", "-c", "echo x; exit 6"), attach_stdout=True)
        )
        client, fd = socket_pair()
        await containers.exec_start(exec_id, fd=OwnedFd(fd))
        assert b"x" in await read_all(client)
        assert (await containers.exec_inspect(exec_id)).exit_code == 6


@in_house
async def test_an_exec_starts_once(house: House) -> None:
    containers = house.engine.containers
    ref = await house.start("sleep", "1000")
    exec_id = await containers.exec_create(ref, ExecConfig(cmd=("sleep", "0.2")))
    outcomes = await asyncio.gather(
        *(containers.exec_start(exec_id, detach=True) for _ in range(5)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(o, Conflict) for o in outcomes if o is not None)


@in_house
async def test_one_of_many_gets_the_name(house: House) -> None:
    """Attack case A9."""
    request = CreateRequest(name="same", config=Config(image="busybox"))
    outcomes = await asyncio.gather(
        *(house.engine.containers.create(request) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Created) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ContainerNameInUse) for outcome in outcomes) == 19
    folders = os.listdir(os.path.join(house.config.data_root, "containers"))
    assert len(folders) == 1  # the losers left nothing


@in_house
async def test_creates_of_one_name_that_share_a_new_volume(house: House) -> None:
    """Attack case A9: the losers hear of the name, and the winner keeps the volume."""
    host = HostConfig(binds=("shared:/data",))
    outcomes = await asyncio.gather(
        *(house.create("true", name="one", host=host) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ContainerNameInUse) for outcome in outcomes) == 19
    assert house.engine.volumes.find("shared") is not None


@in_house
async def test_start_and_forced_removal_at_once(house: House) -> None:
    """Attack case A9: whoever wins, the container is gone in the end."""
    containers = house.engine.containers
    for _ in range(5):
        ref = await house.create("sleep", "1000")
        await asyncio.gather(
            containers.start(ref), containers.remove(ref, force=True), return_exceptions=True
        )
        with pytest.raises(NoSuchContainer):
            await house.view(ref)


@in_house
async def test_short_lives_are_never_lost(house: House) -> None:
    """Attack case R14, a hundred times."""

    async def one(number: int) -> int:
        code, output = await house.run("sh", "-c", f"echo {number}; exit {number}")
        assert output == f"{number}\n"
        return code

    assert await asyncio.gather(*(one(n) for n in range(100))) == list(range(100))


@in_house
async def test_a_client_that_leaves_does_not_stop_a_start(house: House) -> None:
    ref = await house.create("sleep", "1000")
    start = asyncio.create_task(house.engine.containers.start(ref))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    for _ in range(500):
        if (await house.view(ref)).container.state.status is Status.RUNNING:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the start was given up with its client")


@in_house
async def test_logs_follow_until_the_end_and_across_rotation(house: House) -> None:
    from engine.container.model import LogConfig

    rotated = LogConfig(type="json-file", config={"max-size": "2k", "max-file": "5"})
    ref = await house.create(
        "sh",
        "-c",
        "for i in $(seq 60); do echo line$i; sleep 0.01; done",
        host=HostConfig(log_config=rotated),
    )
    await house.engine.containers.start(ref)
    query = LogsQuery(stdout=True, follow=True)
    output = await asyncio.wait_for(house.output(ref, query), 30)
    assert output.split() == [f"line{n}" for n in range(1, 61)]


@in_house
async def test_the_tail_of_the_log(house: House) -> None:
    ref = await house.start("seq", "1000")
    await house.ended(ref)
    assert (await house.output(ref, LogsQuery(stdout=True, tail=2))).split() == ["999", "1000"]
    assert await house.output(ref, LogsQuery(stdout=True, tail=0)) == ""


@in_house
async def test_limits_change_while_it_runs(house: House) -> None:
    containers = house.engine.containers
    ref = await house.start("sleep", "1000")
    await containers.update(ref, Resources(pids_limit=33))
    path = (await house.view(ref)).container.cgroup_path
    places = [
        f"/sys/fs/cgroup/pids/{path}/pids.max",
        f"/sys/fs/cgroup/{path}/pids.max",
    ]
    assert [value for place in places if (value := _read(place))] == ["33"]
    assert (await house.view(ref)).container.host_config.resources.pids_limit == 33


@in_house
async def test_top_shows_the_containers_processes_alone(house: House) -> None:
    ref = await house.start("sleep", "4711")
    shown = await house.engine.containers.top(ref)
    assert shown.titles == ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
    assert [row[-1] for row in shown.rows] == ["sleep 4711"]


@in_house
async def test_rename_and_find(house: House) -> None:
    containers = house.engine.containers
    ref = await house.create("true", name="old-name")
    await containers.rename("old-name", "new-name")
    assert (await house.view("new-name")).container.id == ref
    with pytest.raises(NoSuchContainer):
        await house.view("old-name")
    listed = await containers.list(ListQuery(all=True, filters={"name": ("^/new",)}))
    assert [view.container.id for view in listed] == [ref]


@in_house
async def test_events_of_a_run_in_dockers_order(house: House) -> None:
    with house.engine.events.subscribe() as subscription:
        ref = await house.start("sleep", "1000", host=HostConfig(network_mode="none"))
        await house.engine.containers.remove(ref, force=True)
        seen = [
            event.action
            for event in house.engine.events.past(since_ns=0)
            if event.type == "container" and event.actor_id == ref
        ]
        subscription.close()
    assert seen == ["create", "start", "kill", "die", "destroy"]


@in_house
async def test_a_stop_is_told_before_the_death(house: House) -> None:
    """As dockerd has it, for each of those who asked."""
    containers = house.engine.containers
    host = HostConfig(network_mode="none")
    ref = await house.start("sleep", "1000", host=host, stop_signal="KILL")
    await asyncio.gather(containers.stop(ref), containers.stop(ref))
    await containers.start(ref)
    await containers.restart(ref)
    await containers.kill(ref)
    seen = [
        event.action
        for event in house.engine.events.past(since_ns=0)
        if event.type == "container" and event.actor_id == ref and event.action != "kill"
    ]
    restarted = ["stop", "die", "start", "restart"]
    assert seen == ["create", "start", "stop", "stop", "die", "start", *restarted, "die"]


@in_house
async def test_an_exit_that_cannot_be_written_keeps_nobody_waiting(house: House) -> None:
    """A full disk: the process is gone all the same."""
    ref = await house.create("sh", "-c", "sleep 0.2; exit 3")
    ended = await house.engine.containers.waiter(ref, WaitCondition.NEXT_EXIT)
    await house.engine.containers.start(ref)
    store = house.engine.containers._rooms.store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", _full_disk)
        assert (await house.within(ended)).exit_code == 3
    assert (await house.view(ref)).container.state.status is Status.EXITED


@in_house
async def test_of_two_restarts_the_one_that_fails_does_not_let_the_other_lose_it(
    house: House,
) -> None:
    """`--rm` waits for the last of them."""

    async def refuse(*_: object, **__: object) -> None:
        raise EngineError("no")

    containers = house.engine.containers
    ref = await house.start("sleep", "1000", host=HostConfig(auto_remove=True))
    lasting = asyncio.create_task(containers.restart(ref, timeout_s=1))
    await asyncio.sleep(0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.container.stop.stop", refuse)
        with pytest.raises(EngineError, match="no"):
            await containers.restart(ref)
    await lasting
    assert (await house.view(ref)).container.state.status is Status.RUNNING


@in_house
async def test_execs_that_could_not_start_are_forgotten_in_time(house: House) -> None:
    containers = house.engine.containers
    store = containers._rooms.store
    ref = await house.start("sleep", "1000")
    failing = await containers.exec_create(ref, ExecConfig(cmd=("/not/there",)))
    with pytest.raises(WharfError, match="no such file"):
        await containers.exec_start(failing, detach=True)
    killed = await containers.exec_create(ref, ExecConfig(cmd=("sleep", "1000")))
    await containers.exec_start(killed, detach=True)
    await containers.kill(ref)
    await containers.start(ref)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.container.store.EXEC_KEPT_S", 0)
        fresh = await containers.exec_create(ref, ExecConfig(cmd=("true",)))
    assert [key for key, _ in store._execs.items()] == [fresh]
    assert list(store.find(ref).execs) == [fresh]


@in_house
async def test_no_exec_outlives_its_container(house: House) -> None:
    """Neither one made while the container goes, nor one that an engine before left behind."""
    containers = house.engine.containers
    store = containers._rooms.store
    ref = await house.start("sleep", "1000")
    handle = store.find(ref)
    left = await containers.exec_create(ref, ExecConfig(cmd=("true",)))
    row = store._execs.get(left)
    assert row is not None
    await handle.lock.acquire()
    late = asyncio.create_task(containers.exec_create(ref, ExecConfig(cmd=("true",))))
    await asyncio.sleep(0.1)
    removing = asyncio.create_task(containers.remove(ref, force=True))
    await asyncio.sleep(0)
    handle.lock.release()
    await asyncio.gather(late, removing, return_exceptions=True)
    assert store._execs.items() == []
    with pytest.raises(Conflict):
        await exec.create(containers._rooms, handle, ExecConfig(cmd=("true",)), ref=ref)
    store._execs.put(left, row)
    await house.engine.close()
    await house.open()
    assert house.engine.containers._rooms.store._execs.items() == []


@in_house
async def test_a_start_that_cannot_be_written_is_undone(house: House) -> None:
    ref = await house.create("sleep", "1000")
    store = house.engine.containers._rooms.store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", _full_disk)
        with pytest.raises(EngineError, match="database or disk is full"):
            await house.engine.containers.start(ref)
    assert (await house.view(ref)).container.state.status is Status.CREATED
    assert os.listdir(os.path.join(house.config.exec_root, "containers")) == []
    await house.engine.containers.start(ref)


@in_house
async def test_a_full_disk_does_not_keep_the_volumes(house: House) -> None:
    """Nor the container, although no row can say that it is being removed."""
    ref = await house.create("true", volumes=("/data",))
    store = house.engine.containers._rooms.store
    (point,) = (await house.view(ref)).container.mount_points

    async def full(*_: object) -> None:
        raise NoSpace("wharf.db")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", full)
        await house.engine.containers.remove(ref, volumes=True)
    assert house.engine.volumes.find(point.name) is None
    assert not await asyncio.to_thread(os.path.exists, os.path.dirname(point.source))
    with pytest.raises(NoSuchContainer):
        await house.view(ref)


@in_house
async def test_an_undone_start_is_over_before_the_next(house: House) -> None:
    """The monitor of the first would end the group of the second, which has the same name."""
    ref = await house.create("sleep", "1000")
    store = house.engine.containers._rooms.store

    async def save(handle: Handle, _container: object) -> None:
        if handle.task is not None:
            os.kill(handle.task.monitor_pid, signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            loop.call_later(1, os.kill, handle.task.monitor_pid, signal.SIGCONT)
        raise NoSpace("wharf.db")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", save)
        with pytest.raises(NoSpace):
            await house.engine.containers.start(ref)
    await house.engine.containers.start(ref)
    await asyncio.sleep(1.5)
    assert (await house.view(ref)).container.state.status is Status.RUNNING


@in_house
async def test_an_exec_that_cannot_be_written_runs_and_ends(house: House) -> None:
    """A full disk: once it runs, and its streams are handed over, there is no way back."""
    containers = house.engine.containers
    store = containers._rooms.store
    ref = await house.start("sleep", "1000")
    cmd = ("sh", "-c", "echo x; cat; exit 6")
    config = ExecConfig(cmd=cmd, attach_stdin=True, attach_stdout=True)
    exec_id = await containers.exec_create(ref, config)
    client, fd = socket_pair()
    save, saved = store.save_exec, 0

    async def save_once(handle: Handle, exec: Exec) -> None:
        nonlocal saved
        saved += 1
        if saved > 1:
            raise NoSpace("wharf.db")
        await save(handle, exec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_exec", save_once)
        await containers.exec_start(exec_id, fd=OwnedFd(fd))
        known = await containers.exec_inspect(exec_id)
        assert known.is_running
        assert known.pid > 0
        client.shutdown(1)
        assert b"x" in await read_all(client)
        known = await containers.exec_inspect(exec_id)
        assert (known.is_running, known.exit_code, saved) == (False, 6, 3)


async def _full_disk(*_: object) -> None:
    raise OSError(28, "database or disk is full")
