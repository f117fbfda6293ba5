"""A volume is filled whole or not at all: whoever is killed, fails, or comes at the same time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.container import populate
from engine.container.model import Config, CreateRequest, HostConfig
from engine.linux import attributes, syscalls
from engine.volume import filling, local
from tests.kernel.container.engine import House, in_house

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files need root")

SCENARIO = """
import os, sys
from engine.container import populate
from engine.volume import filling

left = int(sys.argv[2])

def watch(frame, event, called):
    global left
    if event == "c_call" and "/engine/" in frame.f_code.co_filename:
        if called.__name__ in CHANGING or "rename" in frame.f_code.co_name:
            left -= 1
            if left < 0:
                os._exit(77)

CHANGING = {
    "rename", "unlink", "mkdir", "rmdir", "symlink", "link", "mknod", "sendfile", "open",
    "utime", "chown", "fchown", "chmod", "fchmod", "setxattr",
}
if sys.argv[3] == "inside":
    filling._can_move = lambda beside, target: False
root = os.open(sys.argv[1] + "/image", os.O_PATH)
sys.setprofile(watch)
populate.populate(root, "/data", sys.argv[1] + "/volumes/v1/_data")
sys.setprofile(None)
"""


def _image(folder: Path) -> None:
    data = folder / "image/data"
    (data / "sub").mkdir(parents=True)
    (data / "a").write_text("a")
    (data / "sub/b").write_text("b" * 70000)
    os.link(data / "a", data / "sub/same")
    os.symlink("a", data / "link")
    os.chown(data, 7, 8)
    os.chmod(data, 0o711)
    os.utime(data, (1, 2))


def _is_whole(data: Path) -> bool:
    """False where there is nothing at all; anything in between fails."""
    names = sorted(os.listdir(data))
    if not names:
        return False
    assert names == ["a", "link", "sub"]
    assert (data / "sub/b").read_text() == "b" * 70000
    assert os.path.samefile(data / "a", data / "sub/same")
    assert os.readlink(data / "link") == "a"
    info = os.stat(data)
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (7, 8, 0o711)
    return True


def _populate(folder: Path) -> None:
    root = os.open(folder / "image", os.O_PATH)
    try:
        populate.populate(root, "/data", str(folder / "volumes/v1/_data"))
    finally:
        os.close(root)


def _deaths(folder: Path, where: str) -> Iterator[None]:
    """Fill an empty volume, killed before the n-th change, for growing n until it is done."""
    for count in range(1000):
        local.create(str(folder / "volumes"), "v1")
        command = [sys.executable, "-c", SCENARIO, str(folder), str(count), where]
        tree = Path(__file__).parents[3]
        ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        assert ended.returncode in (0, 77), ended.stderr
        yield
        if ended.returncode == 0:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["beside", "inside"])
def test_killed_between_any_two_changes(tmp_path: Path, where: str) -> None:
    _image(tmp_path)
    volumes = tmp_path / "volumes"
    data = volumes / "v1/_data"
    found: list[bool] = []
    for _ in _deaths(tmp_path, where):
        if where == "beside":
            local.sweep(str(volumes))
            found.append(_is_whole(data))
            assert os.listdir(volumes / "v1") == ["_data"]
        _populate(tmp_path)
        assert _is_whole(data)
        assert os.listdir(volumes / "v1") == ["_data"]
        local.remove(str(volumes), "v1")
    if where == "beside":
        assert found == sorted(found)
        assert set(found) == {False, True}


def test_the_volume_takes_over_the_time(tmp_path: Path) -> None:
    _image(tmp_path)
    local.create(str(tmp_path / "volumes"), "v1")
    _populate(tmp_path)
    assert os.stat(tmp_path / "volumes/v1/_data").st_mtime == 2


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_failure_keeps_what_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A container that has the volume writes to it while it is being filled."""
    _image(tmp_path)
    local.create(str(tmp_path / "volumes"), "v1")
    data = tmp_path / "volumes/v1/_data"

    def fail(source: int, target: int, name: str) -> None:
        (data / "theirs").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(populate, "_copy_file", fail)
    if where == "inside":
        monkeypatch.setattr(filling, "_can_move", lambda beside, target: False)
    with pytest.raises(OSError, match="No space left"):
        _populate(tmp_path)
    assert os.listdir(data) == ["theirs"]
    assert os.listdir(data.parent) == ["_data"]


def test_who_came_first_keeps_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _image(tmp_path)
    local.create(str(tmp_path / "volumes"), "v1")
    data = tmp_path / "volumes/v1/_data"
    copy = attributes.copy

    def write_meanwhile(source: int, target: int) -> None:
        (data / "theirs").write_text("x")
        copy(source, target)

    monkeypatch.setattr(attributes, "copy", write_meanwhile)
    _populate(tmp_path)
    assert os.listdir(data) == ["theirs"]
    assert os.listdir(data.parent) == ["_data"]


def test_who_takes_a_name_in_the_last_moment_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(tmp_path)
    local.create(str(tmp_path / "volumes"), "v1")
    data = tmp_path / "volumes/v1/_data"
    move = filling._move

    def write_before(name: str, source: int, target: int) -> None:
        if not (data / "a").exists():
            (data / "a").write_text("theirs")
        move(name, source, target)

    monkeypatch.setattr(filling, "_move", write_before)
    _populate(tmp_path)
    assert (data / "a").read_text() == "theirs"
    assert (data / "sub/b").stat().st_size == 70000
    assert os.listdir(data.parent) == ["_data"]


def test_what_is_called_like_a_copy_is_a_file_like_any_other(tmp_path: Path) -> None:
    _image(tmp_path)
    local.create(str(tmp_path / "volumes"), "v1")
    data = tmp_path / "volumes/v1/_data"
    (data / filling.DECIDED).symlink_to("/etc")
    (data / filling.UNFINISHED).touch()
    _populate(tmp_path)
    assert sorted(os.listdir(data)) == sorted((filling.DECIDED, filling.UNFINISHED))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two volumes that are one directory, on which a file system is mounted."""
    device = tmp_path / "device"
    device.mkdir()
    names = [str(tmp_path / name) for name in ("one/_data", "two/_data")]
    for name in names:
        os.makedirs(name)
        syscalls.mount(str(device), name, None, syscalls.MS_BIND, None)
    yield names[0], names[1]
    for name in names:
        syscalls.umount2(name)


def _made(fd: int, *names: str) -> None:
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))


def test_two_engines_on_one_device_begin_as_one_of_them(
    two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes the other's folder for rubbish; who is first decides."""
    monkeypatch.setattr(filling, "_turn", lambda _: threading.Lock())  # nothing is shared
    under_way, may_go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        os.mkdir("etc", dir_fd=fd)
        under_way.set()
        may_go_on.wait(10)
        _made(fd, "etc/passwd", "slow")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(filling.fill, two[0], slow)
        under_way.wait(10)
        filling.fill(two[1], lambda fd: _made(fd, "quick"))
        assert "quick" in os.listdir(two[0])
        may_go_on.set()
        first.result()
    assert os.listdir(two[0]) == ["quick"]


def test_who_comes_while_it_is_put_in_place_waits(
    two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, may_go_on = threading.Event(), threading.Event()
    move = filling._move

    def slowly(name: str, source: int, target: int) -> None:
        under_way.set()
        may_go_on.wait(10)
        move(name, source, target)

    monkeypatch.setattr(filling, "_move", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(filling.fill, two[0], lambda fd: _made(fd, "a", "b"))
        under_way.wait(10)
        second = pool.submit(filling.fill, two[1], lambda fd: _made(fd, "c"))
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        may_go_on.set()
        first.result()
        second.result()
    assert sorted(os.listdir(two[0])) == ["a", "b"]


def test_many_at_once_on_one_device(two: tuple[str, str]) -> None:
    def fill(number: int) -> None:
        names = [f"{number}-{part}" for part in range(5)]
        filling.fill(two[number % 2], lambda fd: _made(fd, *names))
        found = [name for name in os.listdir(two[0]) if not filling._is_ours(name)]
        assert len(found) == 5

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fill, range(8)))
        assert len({name.split("-")[0] for name in os.listdir(two[0])}) == 1
        for name in os.listdir(two[0]):
            os.unlink(f"{two[0]}/{name}")


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_the_copy_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    local.create(str(tmp_path), "v1")
    steps: list[str] = []
    syncfs, rename = syscalls.syncfs, syscalls.renameat2

    def sync(fd: int) -> None:
        steps.append("sync")
        syncfs(fd)

    def to(source: int, name: str, target: int, new: str, flags: int) -> None:
        steps.append(new)
        rename(source, name, target, new, flags)

    monkeypatch.setattr(syscalls, "syncfs", sync)
    monkeypatch.setattr(syscalls, "renameat2", to)
    if where == "inside":
        monkeypatch.setattr(filling, "_can_move", lambda beside, target: False)
    filling.fill(local.mountpoint(str(tmp_path), "v1"), lambda fd: _made(fd, "a"))
    assert steps == ["sync", filling.DECIDED, "a"]


@in_house
async def test_two_at_once_fill_it_once(house: House) -> None:
    """The second one waits for the first, and finds its files whole."""
    under_way: list[int] = []
    fill = filling.fill

    def watched(*args: object) -> None:
        under_way.append(1)
        assert len(under_way) == 1
        fill(*args)  # type: ignore[arg-type]
        assert len(os.listdir(args[0])) > 0  # type: ignore[call-overload]
        under_way.pop()

    filling.fill = watched
    try:
        request = CreateRequest(
            config=Config(image="busybox", cmd=("true",)),
            host_config=HostConfig(binds=("shared:/bin",)),
        )
        await asyncio.gather(*(house.engine.containers.create(request) for _ in range(4)))
    finally:
        filling.fill = fill
    volume = await house.engine.volumes.get("shared")
    assert await asyncio.to_thread(os.listdir, os.path.dirname(volume.mountpoint)) == ["_data"]


def test_nobody_waits_for_a_lock_that_a_container_can_take(tmp_path: Path) -> None:
    """What it makes by a name of ours is its own affair."""
    volume = tmp_path / "v1/_data"
    (volume / filling.DECIDED).mkdir(parents=True)
    copied: list[str] = []
    held = os.open(volume / filling.DECIDED, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        filler = threading.Thread(
            target=filling.fill,
            args=(str(volume), lambda _: copied.append("copied")),
            daemon=True,
        )
        filler.start()
        filler.join(20)
        assert not filler.is_alive()
        assert copied == ["copied"]
    finally:
        os.close(held)
