"""Changing what runs: row, kernel and /etc/hosts agree, whoever is killed and whatever fails."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.container import create, remove
from engine.container.model import Config, CreateRequest, HostConfig, Resources
from engine.errors import EngineError, NoSpace, NoSuchNetwork
from engine.linux import cgroup, netns
from engine.linux.cgroup import v1
from engine.network.model import EndpointConfig, NetworkRequest
from tests.kernel.container import changing_engine
from tests.kernel.container.engine import House, in_house

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.container.model import Container
    from engine.container.store import Handle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MIB = 1 << 20


def _inside() -> tuple[set[str], bool]:
    """The addresses of a network namespace, and whether a default route leads out of it."""
    found = subprocess.run(
        ["cat", "/proc/thread-self/net/fib_trie", "/proc/thread-self/net/route"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    addresses = {
        before.split()[-1] for before, line in itertools.pairwise(found) if "/32 host LOCAL" in line
    }
    routes = [line.split() for line in found if line.startswith("eth")]
    return addresses - {"127.0.0.1"}, any(words[1] == "00000000" for words in routes)


def _is_consistent(house: House, ref: str) -> None:
    container = house.engine.containers._rooms.store.find(ref).container
    wanted = {e.ipv4_address for e in container.endpoints}
    assert container.unsettled_endpoint == ""
    addresses, has_default = netns.enter(container.sandbox_key, lambda _: _inside())
    assert addresses == wanted
    assert has_default
    lines = Path(container.hosts_path).read_text().splitlines()
    own = [line.split()[0] for line in lines if container.config.hostname in line.split()]
    assert sorted(own) == sorted(wanted)
    networks = {e.network_id: e for e in container.endpoints}
    for name in ("aaa", "bbb"):
        network = house.engine.networks._view(house.engine.networks.find(name))
        assert len(network.members) == (network.network.id in networks)


def _memory_limit(container: Container) -> int:
    path = container.cgroup_path
    if cgroup.version() == 2:
        return int(Path("/sys/fs/cgroup", path, "memory.max").read_text())
    return int(Path("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes").read_text())


@pytest.mark.parametrize("when", ["after 1", "before 2", "after 2"])
@pytest.mark.parametrize("verb", ["connect", "disconnect", "update"])
def test_killed_in_between(verb: str, when: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="wharf-kernel-"))
    house = House(root)
    side, number = when.split()
    command = [sys.executable, "-m", changing_engine.__name__, str(root), verb, number, side]

    async def after() -> None:
        await house.open()
        try:
            container = house.engine.containers._rooms.store.find("changing").container
            _is_consistent(house, container.id)
            joined = {e.network_name for e in container.endpoints}
            is_over = when == "after 2"
            assert joined == ({"aaa", "bbb"} if verb == "connect" and is_over else {"bbb"})
            wanted = (32 if verb == "update" else 64) * MIB
            assert container.host_config.resources.memory_bytes == wanted
            assert _memory_limit(container) == wanted
            # It can be joined and left like any other.
            if "aaa" not in joined:
                await house.engine.containers.connect(container.id, "aaa", EndpointConfig())
            _is_consistent(house, container.id)
            await house.engine.containers.disconnect(container.id, "aaa")
            _is_consistent(house, container.id)
        finally:
            await house.close()

    try:
        tree = Path(__file__).parents[3]
        ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        assert ended.returncode == changing_engine.ENDED, ended.stderr
        asyncio.run(after())
    finally:
        house.remove()


class FullDisk:
    """The n-th row of a container that is to be written, and every later one, is not."""

    def __init__(self, house: House, number: int) -> None:
        self._store = house.engine.containers._rooms.store
        self._save = self._store.save
        self._left = number

    def __enter__(self) -> None:
        self._store.save = self._refuse  # type: ignore[method-assign]

    def __exit__(self, *exc_info: object) -> None:
        self._store.save = self._save  # type: ignore[method-assign]

    async def _refuse(self, handle: Handle, container: Container) -> None:
        self._left -= 1
        if self._left <= 0:
            raise NoSpace("wharf.db")
        await self._save(handle, container)


async def _started(house: House) -> str:
    for name in ("aaa", "bbb"):
        await house.engine.networks.create(NetworkRequest(name=name))
    host = HostConfig(network_mode="bbb", resources=Resources(memory_bytes=64 * MIB))
    return await house.start("sleep", "1000", host=host)


@pytest.mark.parametrize("number", [1, 2])
def test_a_network_is_not_joined_where_no_row_can_say_so(number: int) -> None:
    @in_house
    async def test(house: House) -> None:
        ref = await _started(house)
        with FullDisk(house, number), pytest.raises(NoSpace):
            await house.engine.containers.connect(ref, "aaa", EndpointConfig())
        _is_consistent(house, ref)
        await house.engine.containers.connect(ref, "aaa", EndpointConfig())
        _is_consistent(house, ref)

    test()


@in_house
async def test_a_network_is_not_left_where_no_row_can_say_so(house: House) -> None:
    ref = await _started(house)
    await house.engine.containers.connect(ref, "aaa", EndpointConfig())
    with FullDisk(house, 1), pytest.raises(NoSpace):
        await house.engine.containers.disconnect(ref, "aaa")
    _is_consistent(house, ref)
    # Once the row says that it is going, it goes; should the rest not be written, at the next boot.
    with FullDisk(house, 2):
        await house.engine.containers.disconnect(ref, "aaa")
    _is_consistent(house, ref)
    await house.engine.close()
    await house.open()
    _is_consistent(house, ref)
    assert len((await house.view(ref)).container.endpoints) == 1


@in_house
async def test_limits_stay_where_no_row_can_say_so(house: House) -> None:
    ref = await _started(house)
    limits = Resources(memory_bytes=32 * MIB, memory_swap_bytes=64 * MIB)
    with FullDisk(house, 1), pytest.raises(NoSpace):
        await house.engine.containers.update(ref, limits)
    container = (await house.view(ref)).container
    assert container.host_config.resources.memory_bytes == 64 * MIB
    assert _memory_limit(container) == 64 * MIB
    with FullDisk(house, 2):
        await house.engine.containers.update(ref, limits)
    container = (await house.view(ref)).container
    assert container.host_config.resources.memory_bytes == 32 * MIB
    assert _memory_limit(container) == 32 * MIB


@in_house
async def test_limits_that_the_kernel_refuses_are_those_from_before(house: House) -> None:
    ref = await _started(house)

    def refuse(path: str, document: object) -> None:
        raise OSError(16, "Device or resource busy")

    change, cgroup.change = cgroup.change, refuse
    try:
        with pytest.raises(Exception, match="Device or resource busy"):
            await house.engine.containers.update(ref, Resources(memory_bytes=32 * MIB))
    finally:
        cgroup.change = change
    container = (await house.view(ref)).container
    assert container.host_config.resources.memory_bytes == 64 * MIB
    assert not container.has_unsettled_limits


@in_house
async def test_a_network_that_is_gone_is_left_by_force(house: House) -> None:
    """And what could not start because of it starts again."""
    networks, containers = house.engine.networks, house.engine.containers
    for name in ("aaa", "bbb"):
        await networks.create(NetworkRequest(name=name))
    ref = await house.create("sleep", "1000", host=HostConfig(network_mode="bbb"))
    await containers.connect(ref, "aaa", EndpointConfig())
    await containers.start(ref)
    catalogue = networks._catalogue
    gone = catalogue.find("aaa")
    del catalogue._networks[gone.id]
    with pytest.raises(NoSuchNetwork, match="network aaa not found"):
        await containers.disconnect(ref, "aaa")
    await containers.disconnect(ref, "aaa", force=True)
    catalogue._networks[gone.id] = gone
    _is_consistent(house, ref)
    await containers.connect(ref, "aaa", EndpointConfig())
    await containers.stop(ref, timeout_s=0)
    del catalogue._networks[gone.id]
    with pytest.raises(NoSuchNetwork, match=f"network {gone.id} not found"):
        await containers.start(ref)
    with pytest.raises(EngineError, match="is not connected to the network nosuch"):
        await containers.disconnect(ref, "nosuch")
    await containers.disconnect(ref, "aaa")
    await containers.start(ref)
    catalogue._networks[gone.id] = gone
    _is_consistent(house, ref)


@pytest.mark.skipif(cgroup.version() == 2, reason="version 2 kills where memory is too little")
@in_house
async def test_a_limit_never_set_is_unset_again_where_another_is_refused(house: House) -> None:
    hold = "head -c 31457280 /dev/zero >/dev/shm/held; exec sleep 1000"
    ref = await house.start("sh", "-c", hold)
    container = (await house.view(ref)).container
    path = container.cgroup_path
    shares = Path(v1.directory("cpu", path), "cpu.shares")
    usage = Path(v1.directory("memory", path), "memory.usage_in_bytes")
    unlimited = _memory_limit(container)
    for _ in range(1000):
        if int(usage.read_text()) >= 31457280:
            break
        await asyncio.sleep(0.01)
    limits = Resources(cpu_shares=512, memory_bytes=8 * MIB, memory_swap_bytes=8 * MIB)
    with pytest.raises(EngineError, match="unable to set memory limit"):
        await house.engine.containers.update(ref, limits)
    assert (await house.view(ref)).container == container
    assert shares.read_text() == "1024\n"
    assert _memory_limit(container) == unlimited


class Gate:
    """Stands in for a step of work in a thread, and keeps it until it is opened."""

    def __init__(self, step: Callable[..., object]) -> None:
        self._step = step
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *args: object) -> object:
        self.entered.set()
        assert self.opened.wait(10)
        return self._step(*args)


async def _is_entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 10)


async def _given_up(house: House, request: CreateRequest, gate: Gate) -> asyncio.Future[object]:
    """A create whose caller leaves while it stands at the gate."""
    making = asyncio.ensure_future(create.create(house.engine.containers._rooms, request))
    await _is_entered(gate)
    making.cancel()
    return making


@in_house
async def test_what_is_being_made_as_the_engine_closes_is_taken_back_at_its_end(
    house: House,
) -> None:
    """A thread is not to fill volumes that are gone, nor to write a row that nobody knows."""
    request = CreateRequest(
        name="late", config=Config(image="busybox", cmd=("true",), volumes=("/etc",))
    )
    gate = Gate(create._look_inside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "_look_inside", gate)
        making = await _given_up(house, request, gate)
        await asyncio.wait((making,), timeout=0.2)
        assert not making.done()
        assert len(await house.engine.volumes.list()) == 1
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await making
    assert await house.engine.volumes.list() == ()
    assert os.listdir(house.root / "data" / "containers") == []
    await house.create("true", name="late")


@in_house
async def test_what_cannot_be_taken_back_at_once_has_no_row(house: House) -> None:
    request = CreateRequest(name="late", config=Config(image="busybox", cmd=("true",)))
    gate = Gate(create._insert)

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "_insert", gate)
        patch.setattr(remove, "remove_from_disk", refuse)
        making = await _given_up(house, request, gate)
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await making
    await house.engine.close()
    await house.open()
    assert house.engine.containers._rooms.store.all() == []
    assert os.listdir(house.root / "data" / "containers") == []


@in_house
async def test_no_row_comes_of_a_thread_that_nobody_waits_for(house: House) -> None:
    """A volume's own file system may not answer: then closing does not wait for it."""
    options = {"type": "tmpfs", "device": "tmpfs"}
    await house.engine.volumes.create("far", options=options)
    request = CreateRequest(
        name="late",
        config=Config(image="busybox", cmd=("true",)),
        host_config=HostConfig(binds=("far:/etc",)),
    )
    gate = Gate(create._look_inside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "_look_inside", gate)
        making = await _given_up(house, request, gate)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(making, 5)
        gate.opened.set()
    await asyncio.sleep(0.2)
    await house.engine.close()
    await house.open()
    assert os.listdir(house.root / "data" / "containers") == []
    await house.create("true", name="late")
