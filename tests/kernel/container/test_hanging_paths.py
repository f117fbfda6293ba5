"""Paths of the host on a file system that never answers: who names them waits alone."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from engine import offload
from engine.container.model import DeviceMapping, HostConfig, Resources, Status, ThrottleDevice
from engine.errors import EngineError, InvalidParameter
from engine.linux import syscalls
from tests.kernel.container.engine import House, in_house

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE"),
]

_MORE_THAN_A_POOL_HAS = 9


class Silent:
    """A directory of which nothing is ever told, until `refuse`."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="wharf-silent-")
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        syscalls.mount("silent", self.path, "fuse", syscalls.MS_NOSUID | syscalls.MS_NODEV, data)

    def refuse(self) -> None:
        if self._device >= 0:
            os.close(self._device)
            self._device = -1


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.refuse()
    syscalls.umount2(made.path, syscalls.MNT_DETACH)
    os.rmdir(made.path)


def _given(path: str) -> list[HostConfig]:
    """Each way by which a start comes to look at a path of the host."""
    limited = Resources(blkio_device_read_bps=(ThrottleDevice(path=path, rate=1 << 20),))
    mapped = Resources(devices=(DeviceMapping(path_on_host=path, path_in_container="/dev/x"),))
    return [
        HostConfig(resources=limited),
        HostConfig(resources=mapped),
        *[HostConfig(binds=(f"{path}:/data",))] * _MORE_THAN_A_POOL_HAS,
    ]


def test_starts_that_hang_keep_no_other_waiting(silent: Silent) -> None:
    @in_house
    async def test(house: House) -> None:
        containers = house.engine.containers
        given = _given(f"{silent.path}/x")
        refs = [await house.create("true", host=host) for host in given]
        starts = [asyncio.create_task(containers.start(ref)) for ref in refs]
        try:
            await asyncio.sleep(0.5)
            host = HostConfig(binds=("/etc/hostname:/name",))
            async with asyncio.timeout(20):
                assert (await house.run("cat", "/name", host=host))[0] == 0
                assert (await house.run("echo", "x")) == (0, "x\n")
            assert not any(start.done() for start in starts)
        finally:
            silent.refuse()
            outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert all(isinstance(outcome, EngineError | InvalidParameter) for outcome in outcomes)

    test()


def test_volumes_that_hang_keep_no_other_waiting(silent: Silent) -> None:
    @in_house
    async def test(house: House) -> None:
        options = {"type": "none", "o": "bind", "device": f"{silent.path}/x"}
        hanging: list[asyncio.Task[object]] = []
        for number in range(_MORE_THAN_A_POOL_HAS):
            await house.engine.volumes.create(f"far{number}", "", options)
            # One waits at its start, the next already where it is to begin as a copy.
            host = HostConfig(binds=(f"far{number}:{('/data', '/bin')[number % 2]}",))
            hanging.append(asyncio.create_task(house.start("true", host=host)))
        try:
            await asyncio.sleep(0.5)
            async with asyncio.timeout(20):
                assert (await house.run("echo", "x", volumes=("/data",))) == (0, "x\n")
                await house.engine.volumes.remove((await house.engine.volumes.create()).name)
            assert not any(task.done() for task in hanging)
        finally:
            silent.refuse()
            outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(outcome, EngineError) for outcome in outcomes)

    test()


def test_a_start_that_hangs_is_given_up_in_time(silent: Silent) -> None:
    @in_house
    async def test(house: House) -> None:
        _, mapped, *_ = _given(f"{silent.path}/x")
        ref = await house.create("true", host=mapped)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(offload, "FOREIGN_TIMEOUT_S", 0.5)
            with pytest.raises(EngineError, match="has not answered"):
                await house.engine.containers.start(ref)
        state = (await house.view(ref)).container.state
        assert (state.status, state.exit_code) == (Status.CREATED, 128)
        await house.engine.containers.remove(ref)

    test()
