"""kill -9 of the engine, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import msgspec
import pytest

from engine.container import adoption, update
from engine.container.model import ExecConfig, HostConfig, ListQuery, Status
from engine.engine import AlreadyRunning, Engine
from engine.errors import NoSuchContainer, UnreadableContainer
from engine.ids import ContainerId
from engine.linux import cgroup, mountinfo, syscalls
from tests.kernel.container.engine import House, in_house, leftovers

if TYPE_CHECKING:
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


def _kill_the_first(root: Path) -> tuple[str, str]:
    """The ids of its two execs; it is dead when this returns, and its short runs have ended."""
    command = [sys.executable, "-m", "tests.kernel.container.first_engine", str(root)]
    tree = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tree) as first:
        assert first.stdout is not None
        lines = [first.stdout.readline().strip() for _ in range(3)]
        first.kill()
    assert lines[-1] == "ready", lines
    time.sleep(0.8)
    return lines[0], lines[1]


def test_what_ran_goes_on_and_what_ended_is_known() -> None:
    root = Path(tempfile.mkdtemp(prefix="wharf-kernel-"))
    house = House(root)

    async def after(short_exec: str, long_exec: str) -> None:
        started = time.monotonic()
        await house.open()
        assert time.monotonic() - started < 1.5
        try:
            await _check(house, short_exec, long_exec)
        finally:
            await house.close()
        for _ in range(60):
            if not (left := leftovers(house.config)):
                break
            await asyncio.sleep(0.05)
        assert not left

    try:
        asyncio.run(after(*_kill_the_first(root)))
    finally:
        house.remove()


async def _check(house: House, short_exec: str, long_exec: str) -> None:
    containers = house.engine.containers
    states = {
        v.container.name: v.container.state for v in await containers.list(ListQuery(all=True))
    }
    assert {name: state.status for name, state in states.items()} == {
        "lasting": Status.RUNNING,
        "ending": Status.EXITED,
        "waiting": Status.CREATED,
        "frozen": Status.PAUSED,
    }
    assert states["ending"].exit_code == 7
    short = await containers.exec_inspect(short_exec)
    long = await containers.exec_inspect(long_exec)
    assert (short.is_running, short.exit_code) == (False, 0)
    assert (long.is_running, long.exit_code) == (True, None)
    with pytest.raises(NoSuchContainer):
        await containers.inspect("vanishing")
    # Adopted ones are containers like any other.
    exec_id = await containers.exec_create("lasting", ExecConfig(cmd=("true",)))
    await containers.exec_start(exec_id, detach=True)
    await containers.stop("lasting", timeout_s=0)
    assert (await house.ended("lasting")).exit_code == 137


@in_house
async def test_a_create_that_never_came_to_its_row_is_swept(house: House) -> None:
    rooms = house.engine.containers._rooms
    stray = ContainerId("f" * 64)
    rooms.snapshots.prepare(stray, None)
    os.mkdir(rooms.folder(stray))
    await house.engine.close()
    await house.open()
    rooms = house.engine.containers._rooms
    assert not rooms.snapshots.exists(stray)
    assert ContainerId(stray) not in os.listdir(os.path.dirname(rooms.folder(stray)))


@in_house
async def test_a_removal_under_way_is_finished_as_it_was_asked_for(house: House) -> None:
    import msgspec

    for name, with_volumes in (("alone", False), ("whole", True)):
        ref = await house.create("true", name=name, volumes=("/data",))
        store = house.engine.containers._rooms.store
        handle = store.find(ref)
        (point,) = handle.container.mount_points
        state = msgspec.structs.replace(
            handle.state, status=Status.REMOVING, gives_up_volumes=with_volumes
        )
        await store.save_state(handle, state)
        await house.engine.close()
        await house.open()
        with pytest.raises(NoSuchContainer):
            await house.view(name)
        left = [volume.name for volume in await house.engine.volumes.list()]
        assert (point.name in left) is not with_volumes


@in_house
async def test_a_running_row_without_a_monitor_is_corrected(house: House) -> None:
    """No container is shown as running that is not."""
    ref = await house.create("true")
    store = house.engine.containers._rooms.store
    handle = store.find(ref)
    state = msgspec.structs.replace(handle.state, status=Status.RUNNING, pid=1, started_ns=1)
    await store.save_state(handle, state)
    await house.engine.close()
    await house.open()
    state = (await house.view(ref)).container.state
    assert (state.status, state.pid, state.exit_code) == (Status.EXITED, 0, 137)


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("is_held", [True, False])
def test_only_a_commit_s_own_pause_ends_with_its_engine(is_frozen: bool, is_held: bool) -> None:
    """It was killed between the row and the freezer, or behind both, or a user paused it."""

    @in_house
    async def test(house: House) -> None:
        ref = await house.create("sleep", "1000")
        await house.engine.containers.start(ref)
        store = house.engine.containers._rooms.store
        handle = store.find(ref)
        await store.save_state(handle, msgspec.structs.replace(handle.state, is_held=is_held))
        if is_frozen:
            cgroup.freeze(handle.container.cgroup_path)
        await house.engine.close()
        await house.open()
        state = (await house.view(ref)).container.state
        stays = is_frozen and not is_held
        assert (state.status, state.is_held) == (Status.PAUSED if stays else Status.RUNNING, False)
        assert cgroup.is_frozen(handle.container.cgroup_path) == stays
        await house.engine.containers.remove(ref, force=True)

    test()


@in_house
async def test_a_volume_that_cannot_be_had_again_takes_no_other_along(house: House) -> None:
    volumes = house.engine.volumes
    for name in ("one", "two"):
        device = house.root / name
        await asyncio.to_thread(device.mkdir)
        await volumes.create(name, "", {"type": "none", "device": str(device), "o": "bind"})
    host = HostConfig(binds=("one:/one", "two:/two"))
    ref = await house.start("sleep", "1000", host=host)
    one, two = [(await volumes.get(name)).mountpoint for name in ("one", "two")]
    await house.engine.close()
    syscalls.umount2(one)
    await asyncio.to_thread((house.root / "one").rmdir)
    settled: list[str] = []
    settle = update.settle

    async def watched(rooms: Rooms, handle: Handle) -> None:
        settled.append(handle.id)
        await settle(rooms, handle)

    with mock.patch.object(update, "settle", watched):
        await house.open()
    assert settled == [ref]
    assert not mountinfo.is_target(one)
    assert mountinfo.is_target(two)
    assert house.engine.volumes._holders == {"one": {ref}, "two": {ref}}
    await house.engine.containers.stop(ref, timeout_s=0)
    assert not mountinfo.is_target(two)
    assert house.engine.volumes._holders == {}


@in_house
async def test_what_ended_meanwhile_lets_go_of_no_volume_of_another(house: House) -> None:
    volumes = house.engine.volumes
    volume = await volumes.create("ram", "", {"type": "tmpfs", "device": "tmpfs"})
    host = HostConfig(binds=("ram:/data",))
    ended = await house.create("true", host=host)
    ref = await house.start("sleep", "1000", host=host)
    await asyncio.to_thread(Path(volume.mountpoint, "theirs").touch)
    store = house.engine.containers._rooms.store
    handle = store.find(ended)
    state = msgspec.structs.replace(handle.state, status=Status.RUNNING, pid=1, started_ns=1)
    await store.save_state(handle, state)
    await house.engine.close()
    attempt, is_over = adoption.attempt, asyncio.Event()

    async def in_turn(rooms: Rooms, handle: Handle, *, may_restart: bool) -> bool:
        if handle.id == ref:
            await is_over.wait()
        is_known = await attempt(rooms, handle, may_restart=may_restart)
        is_over.set()
        return is_known

    with mock.patch.object(adoption, "attempt", in_turn):
        await house.open()
    assert (await house.view(ended)).container.state.status is Status.EXITED
    assert os.listdir(volume.mountpoint) == ["theirs"]
    assert house.engine.volumes._holders == {"ram": {ref}}


@in_house
async def test_two_engines_never_share_a_root(house: House) -> None:
    with pytest.raises(AlreadyRunning):
        await Engine.open(house.config)
    elsewhere = os.path.join(os.path.dirname(house.config.exec_root), "elsewhere")
    with pytest.raises(AlreadyRunning):
        await Engine.open(dataclasses.replace(house.config, exec_root=elsewhere))
    assert not os.path.exists(elsewhere)


@in_house
async def test_directories_are_closed_to_others(house: House) -> None:
    for path in (house.config.data_root, house.config.exec_root):
        assert os.stat(path).st_mode & 0o007 == 0, path
    assert os.stat(os.path.join(house.config.data_root, "wharf.db")).st_mode & 0o077 == 0


@in_house
async def test_without_live_restore_everything_is_stopped_in_its_own_time(house: House) -> None:
    """However short the time for the whole, as in dockerd: a database writes down what it has."""
    slow = "trap 'sleep 1; exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    ref = await house.start("sh", "-c", slow, stop_timeout_s=20)
    deaf = await house.start("sleep", "1000", stop_timeout_s=0)
    while "ready" not in await house.output(ref):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    house.engine.config = dataclasses.replace(
        house.config, live_restore=False, shutdown_timeout_s=0
    )
    await house.engine.close()
    await house.open()
    state = (await house.view(ref)).container.state
    assert (state.status, state.exit_code) == (Status.EXITED, 5)
    assert (await house.view(deaf)).container.state.exit_code == 137


@in_house
async def test_a_container_whose_row_cannot_be_read_goes_on_and_keeps_what_it_may_use(
    house: House,
) -> None:
    ref = await house.start("sleep", "1000", volumes=("/data",))
    handle = house.engine.containers._rooms.store.find(ref)
    (point,) = handle.container.mount_points
    pid = handle.state.pid
    whole = _exchange_row(house, ref, b"\x93not a container")
    await house.engine.close()
    await house.open()
    try:
        assert os.path.exists(f"/proc/{pid}")
        with pytest.raises(NoSuchContainer):
            await house.view(ref)
        assert not (await house.engine.images.prune({"dangling": ("false",)})).removed
        assert not (await house.engine.volumes.prune({})).names
        assert point.name in [volume.name for volume in await house.engine.volumes.list()]
        assert any(ref in warning for warning in (await house.engine.system.info()).warnings)
    finally:
        _exchange_row(house, ref, whole)
        await house.engine.close()
        await house.open()
    state = (await house.view(ref)).container.state
    assert (state.status, state.pid) == (Status.RUNNING, pid)
    assert await house.engine.containers.exec_create(ref, ExecConfig(cmd=("true",)))


@in_house
async def test_a_container_whose_row_cannot_be_read_is_removed_by_force(house: House) -> None:
    ref = await house.start("sleep", "1000", volumes=("/data",))
    handle = house.engine.containers._rooms.store.find(ref)
    (point,) = handle.container.mount_points
    pid, key = handle.state.pid, handle.container.snapshot_key
    await house.engine.containers.exec_create(ref, ExecConfig(cmd=("true",)))
    _exchange_row(house, ref, b"\x93not a container")
    await house.engine.close()
    await house.open()
    with pytest.raises(UnreadableContainer, match=f"No such container: {ref}"):
        await house.engine.containers.remove(ref)
    assert os.path.exists(f"/proc/{pid}")
    await house.engine.containers.remove("whoever", force=True)
    rooms = house.engine.containers._rooms
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(rooms.folder(ref))
    assert not rooms.snapshots.exists(key)
    assert not rooms.store._execs.items()
    assert rooms.store._containers.get(ref) is None
    assert rooms.store.unreadable() == ()
    assert not os.path.exists(os.path.join(house.config.exec_root, "containers", ref))
    assert not cgroup.exists(handle.container.cgroup_path)
    with pytest.raises(NoSuchContainer):
        await house.engine.containers.remove("whoever", force=True)
    await house.engine.close()
    await house.open()
    assert house.engine.volumes.find(point.name), "only -v takes volumes"


@in_house
async def test_anonymous_volumes_of_a_container_whose_row_cannot_be_read(house: House) -> None:
    ref = await house.create("true", volumes=("/data",))
    (point,) = (await house.view(ref)).container.mount_points
    _exchange_row(house, ref, b"\x93not a container")
    await house.engine.close()
    await house.open()
    await house.engine.containers.remove(ref[:12], force=True, volumes=True)
    assert house.engine.volumes.find(point.name) is None
    await house.create("true", name="whoever")


def _exchange_row(house: House, container_id: str, document: bytes) -> bytes:
    """Write what is given; returns what was there."""
    table = house.engine.containers._rooms.store._containers
    before = table.get(container_id)
    assert before is not None
    table.put(container_id, document, name="whoever")
    return before
