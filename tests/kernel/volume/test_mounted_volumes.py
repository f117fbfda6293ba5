"""Volumes whose options put a file system on them, in a mount namespace of their own."""

from __future__ import annotations

import asyncio
import errno
import os
from unittest import mock

import pytest

from engine import offload
from engine.errors import EngineError
from engine.events import EventBus
from engine.linux import syscalls
from engine.storage.database import Database
from engine.volume import local
from engine.volume.manager import Volumes
from tests.kernel.network.fake_host import FakeHost, in_fake_host


async def opened(host: FakeHost) -> Volumes:
    config = host.config()
    database = await offload.disk(Database, f"{config.data_root}/wharf.db")
    volumes = Volumes(config, database, EventBus())
    await volumes.open_engine()
    return volumes


async def is_mounted(path: str) -> bool:
    return await asyncio.to_thread(os.path.ismount, path)


@in_fake_host
async def test_what_is_mounted_next_is_not_unmounted(host: FakeHost) -> None:
    """Who unmounts may have been given up long ago, while it wrote out what was left."""
    volumes = await opened(host)
    options = {"type": "tmpfs", "device": "tmpfs"}
    volume = await volumes.create("ram", "", options)
    await volumes.acquire("ram", "one")

    def slowly(path: str) -> None:
        syscalls.umount2(path)
        local.attach(options, path)  # as the next who has it does meanwhile

    with mock.patch.object(local, "_unmount", slowly):
        await volumes.release("ram", "one")
    assert await is_mounted(volume.mountpoint)
    await offload.kernel(local.detach, volume.mountpoint)
    assert not await is_mounted(volume.mountpoint)


@in_fake_host
async def test_a_file_system_is_there_while_somebody_holds_it(host: FakeHost) -> None:
    volumes = await opened(host)
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,noexec"}
    volume = await volumes.create("ram", "", options)
    assert not await is_mounted(volume.mountpoint)
    assert await volumes.acquire("ram", "one") == volume.mountpoint
    await volumes.acquire("ram", "two")
    found = [line.split() for line in host.read("/proc/thread-self/mounts").splitlines()]
    (mounted,) = [words for words in found if words[1] == volume.mountpoint]
    assert mounted[2] == "tmpfs"
    assert {"noexec", "size=1024k"} <= set(mounted[3].split(","))
    await volumes.release("ram", "one")
    assert await is_mounted(volume.mountpoint)
    await volumes.release("ram", "two")
    assert not await is_mounted(volume.mountpoint)


@in_fake_host
async def test_a_bound_directory_is_the_volume(host: FakeHost) -> None:
    volumes = await opened(host)
    source = f"{host.folder}/source"
    os.makedirs(f"{source}/sub")
    options = {"type": "none", "device": source, "o": "bind,ro"}
    volume = await volumes.create("bound", "", options)
    path = await volumes.acquire("bound", "one")
    assert os.listdir(path) == ["sub"]
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir(f"{path}/more")
    await volumes.release("bound", "one")
    await volumes.remove("bound")
    assert os.listdir(source) == ["sub"]
    assert volumes.find(volume.name) is None


@in_fake_host
async def test_what_is_bound_by_many_outlives_the_volume(host: FakeHost) -> None:
    """The directory may be on the file system of the volume that it is bound to."""
    volumes = await opened(host)
    source = f"{host.folder}/source"
    os.makedirs(f"{source}/sub")
    volume = await volumes.create("bound", "", {"type": "none", "device": source, "o": "bind"})
    for number in range(4):
        await volumes.acquire("bound", f"c{number}")
    assert host.read("/proc/thread-self/mounts").count(f" {volume.mountpoint} ") == 1
    for number in range(4):
        await volumes.release("bound", f"c{number}")
    assert volume.mountpoint not in host.read("/proc/thread-self/mounts")
    await volumes.remove("bound")
    assert os.listdir(source) == ["sub"]


@in_fake_host
async def test_the_next_engine_unmounts_what_nobody_holds(host: FakeHost) -> None:
    first = await opened(host)
    options = {"type": "tmpfs", "device": "tmpfs"}
    for name in ("held", "left"):
        await first.create(name, "", options)
        await first.acquire(name, "c")
    second = await opened(host)
    held = await second.acquire("held", "c")
    await second.settle()
    assert await is_mounted(held)
    assert not await is_mounted((await second.get("left")).mountpoint)
    await second.release("held", "c")


@in_fake_host
async def test_what_is_bound_outlives_a_volume_whose_row_cannot_be_read(host: FakeHost) -> None:
    first = await opened(host)
    source = f"{host.folder}/source"
    os.makedirs(f"{source}/sub")
    await first.create("bound", "", {"type": "none", "device": source, "o": "bind"})
    path = await first.acquire("bound", "one")
    await offload.disk(first._table.put, "bound", b"no row", name="bound")
    second = await opened(host)
    await second.settle()
    assert os.listdir(path) == ["sub"]
    await second.remove("bound", force=True)
    assert os.listdir(source) == ["sub"]
    assert not os.path.exists(path)


@in_fake_host
async def test_a_busy_volume_is_unmounted_all_the_same(host: FakeHost) -> None:
    volumes = await opened(host)
    volume = await volumes.create("ram", "", {"type": "tmpfs", "device": "tmpfs"})
    for verb in (volumes.release("ram", "one"), volumes.remove("ram")):
        await volumes.acquire("ram", "one")
        volumes._holders["ram"] = {"one"} if verb.__name__ == "release" else set()
        with open(f"{volume.mountpoint}/file", "w+", encoding="ascii") as file:
            await verb
            assert not await is_mounted(volume.mountpoint)
            file.write("goes on")
    assert os.listdir(f"{host.folder}/data/volumes") == []


@in_fake_host
async def test_what_is_bound_with_its_mounts_keeps_them(host: FakeHost) -> None:
    """Also where both sides tell each other of their mounts."""
    volumes = await opened(host)
    source = f"{host.folder}/source"
    os.makedirs(f"{source}/sub")
    syscalls.mount(source, source, None, syscalls.MS_BIND, None)
    syscalls.mount(None, source, None, syscalls.MS_SHARED, None)
    syscalls.mount("tmpfs", f"{source}/sub", "tmpfs", 0, None)
    volume = await volumes.create("bound", "", {"type": "none", "device": source, "o": "rbind"})
    await volumes.acquire("bound", "one")
    assert await is_mounted(f"{volume.mountpoint}/sub")
    await volumes.release("bound", "one")
    assert not await is_mounted(volume.mountpoint)
    assert await is_mounted(f"{source}/sub")
    syscalls.umount2(source, syscalls.MNT_DETACH)


@in_fake_host
async def test_a_volume_that_stays_mounted_stays_a_volume(
    host: FakeHost,
) -> None:
    volumes = await opened(host)
    volume = await volumes.create("ram", "", {"type": "tmpfs", "device": "tmpfs"})
    await volumes.acquire("ram", "one")
    volumes._holders.clear()

    def refuse(path: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with (
        mock.patch.object(local, "detach", refuse),
        pytest.raises(EngineError, match="remove ram: operation not permitted"),
    ):
        await volumes.remove("ram")
    assert volumes.find("ram") is not None
    assert await is_mounted(volume.mountpoint)
    await volumes.remove("ram")
    assert not os.path.exists(volume.mountpoint)


@in_fake_host
async def test_rubbish_with_something_mounted_goes_at_boot(host: FakeHost) -> None:
    volumes = await opened(host)
    await volumes.create("ram", "", {"type": "tmpfs", "device": "tmpfs"})
    await volumes.acquire("ram", "one")
    root = f"{host.folder}/data/volumes"
    os.rename(f"{root}/ram", f"{root}/.removed-0123456789abcdef")
    await offload.disk(volumes._table.delete, "ram")
    await opened(host)
    assert os.listdir(root) == []


@in_fake_host
async def test_a_mount_that_fails_says_why_and_no_secret(host: FakeHost) -> None:
    volumes = await opened(host)

    async def refusal(options: dict[str, str]) -> tuple[str, str]:
        """What is said of a volume with these options, and where it would have been."""
        volume = await volumes.create("bad", "", options)
        with pytest.raises(EngineError) as refused:
            await volumes.acquire("bad", "one")
        await volumes.remove("bad")
        begin = f"error while mounting volume '{volume.mountpoint}': failed to mount local volume: "
        assert str(refused.value).startswith(begin)
        return str(refused.value).removeprefix(begin), volume.mountpoint

    share = {"type": "nosuchfs", "device": "//server/share", "o": "password=secret"}
    said, where = await refusal(share)
    assert said == f"mount //server/share:{where}, data: password=********: no such device"
    said, where = await refusal({"type": "none", "device": "/nosuch", "o": "bind"})
    assert said == f"mount /nosuch:{where}, flags: 0x1000: no such file or directory"
