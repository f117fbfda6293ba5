"""Volumes and binds of real containers."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.container import gather, populate, view
from engine.container.model import HostConfig, MountRequest, TmpfsOptions, VolumeOptions
from engine.errors import EngineError, InvalidParameter
from engine.linux import tree
from tests.kernel.container.engine import in_house

if TYPE_CHECKING:
    from tests.kernel.container.engine import House

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def _is_there(path: str) -> bool:
    return os.path.isdir(path)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


@in_house
async def test_a_new_volume_begins_as_a_copy_of_the_image(house: House) -> None:
    host = HostConfig(binds=("fresh:/etc",))
    _, output = await house.run("sh", "-c", "head -1 /etc/passwd; echo own > /etc/own", host=host)
    assert output.startswith("root:")
    _, output = await house.run("cat", "/etc/own", host=host)
    assert output == "own\n"


@in_house
async def test_nocopy(house: House) -> None:
    _, output = await house.run("ls", "/etc", host=HostConfig(binds=("bare:/etc:nocopy",)))
    assert "passwd" not in output


@in_house
async def test_anonymous_volumes_go_with_their_container(house: House) -> None:
    ref = await house.create("true", volumes=("/data",))
    (point,) = (await house.view(ref)).container.mount_points
    assert point.is_anonymous
    assert house.engine.volumes.find(point.name) is not None
    await house.engine.containers.remove(ref, volumes=True)
    assert house.engine.volumes.find(point.name) is None


@in_house
async def test_a_failed_create_takes_its_new_volumes_back(house: House) -> None:
    await house.create("true", name="taken")
    before = {v.name for v in await house.engine.volumes.list()}
    with pytest.raises(Exception, match="already in use"):
        await house.create("true", name="taken", host=HostConfig(binds=("mine:/data",)))
    assert {v.name for v in await house.engine.volumes.list()} == before


@in_house
async def test_volumes_from_another(house: House) -> None:
    host = HostConfig(binds=("shared:/data",))
    await house.run("sh", "-c", "echo kept > /data/x", host=host)
    await house.create("true", name="holder", host=host)
    _, output = await house.run(
        "sh",
        "-c",
        "cat /data/x; touch /data/y 2>&1 || true",
        host=HostConfig(volumes_from=("holder:ro",)),
    )
    assert "kept" in output
    assert "Read-only" in output


@in_house
async def test_a_bind_by_v_is_made_and_by_mount_is_not(house: House) -> None:
    missing = os.path.join(house.config.data_root, "missing")
    request = MountRequest(type="bind", source=missing, target="/m")
    with pytest.raises(InvalidParameter, match="bind source path does not exist"):
        await house.create("true", host=HostConfig(mounts=(request,)))
    assert not _is_there(missing)
    code, _ = await house.run("true", host=HostConfig(binds=(f"{missing}:/m",)))
    assert code == 0
    assert _is_there(missing)


@in_house
async def test_a_source_that_hangs_keeps_nothing_else_from_ending(house: House) -> None:
    """As on a server that does not answer: more of them than a pool has threads."""
    await house.start("sleep", "1000", name="other")
    answer, refs = threading.Event(), []
    for _ in range(10):
        binds = (f"{house.config.data_root}:/x",)
        refs.append(await house.create("true", host=HostConfig(binds=binds)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "_ensure_source", lambda *_: answer.wait(60))
        starts = [asyncio.ensure_future(house.engine.containers.start(ref)) for ref in refs]
        try:
            await asyncio.sleep(0.2)
            await asyncio.wait_for(house.engine.containers.kill("other"), 10)
            await asyncio.wait_for(house.ended("other"), 10)
        finally:
            answer.set()
            await asyncio.gather(*starts)


@in_house
async def test_tmpfs_as_mount(house: House) -> None:
    request = MountRequest(
        type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=1 << 20)
    )
    _, output = await house.run(
        "sh", "-c", "mount | grep ' /t '", host=HostConfig(mounts=(request,))
    )
    assert "size=1024k" in output
    assert "noexec" in output


def _part(volume: str, subpath: str) -> HostConfig:
    options = VolumeOptions(subpath=subpath)
    request = MountRequest(type="volume", source=volume, target="/x", volume_options=options)
    return HostConfig(mounts=(request,))


_FILL = (
    "mkdir /v/a; echo hi > /v/a/f; ln -s a /v/in; ln -s /etc /v/abs; "
    "ln -s ../../../../../../etc /v/rel; ln -s loop /v/loop"
)


@in_house
async def test_a_part_of_a_volume(house: House) -> None:
    await house.run("sh", "-c", _FILL, host=HostConfig(binds=("parts:/v",)))
    for subpath, file in (("a", "/x/f"), ("in", "/x/f"), ("a/f", "/x")):
        _, output = await house.run("cat", file, host=_part("parts", subpath))
        assert output == "hi\n"
    for subpath, sentence in (
        ("abs", "path concatenation escapes the base directory, base: .*, subpath: abs"),
        ("rel", "path concatenation escapes the base directory, base: .*, subpath: rel"),
        ("none", "cannot access path .*/none: lstat .*/none: no such file or directory"),
        ("loop", 'error while resolving symlinks in combined path ".*/loop": EvalSymlinks: too'),
        ("a/f/g", 'error while resolving symlinks in combined path ".*/a/f/g": not a directory'),
    ):
        with pytest.raises(InvalidParameter, match=sentence):
            await house.run("true", host=_part("parts", subpath))


@in_house
async def test_a_part_of_a_volume_that_is_exchanged_before_it_is_mounted(house: House) -> None:
    """Whoever has the volume may put a link to the host there after it was looked at."""
    await house.run("sh", "-c", "mkdir /v/a", host=HostConfig(binds=("parts:/v",)))
    looked_at = gather._look_at

    def exchange(folders: list[str], subpath: str) -> None:
        looked_at(folders, subpath)
        os.rmdir(os.path.join(folders[0], subpath))
        os.symlink("/etc", os.path.join(folders[0], subpath))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "_look_at", exchange)
        with pytest.raises(EngineError, match="error mounting"):
            await house.run("true", host=_part("parts", "a"))


@in_house
async def test_shared_memory_between_two(house: House) -> None:
    await house.start("sleep", "1000", name="donor", host=HostConfig(ipc_mode="shareable"))
    code, _ = await house.run(
        "sh", "-c", "echo seen > /dev/shm/x", host=HostConfig(ipc_mode="container:donor")
    )
    assert code == 0
    _, output = await house.run("cat", "/dev/shm/x", host=HostConfig(ipc_mode="container:donor"))
    assert output == "seen\n"


@in_house
async def test_processes_and_queues_of_another(house: House) -> None:
    donor = HostConfig(ipc_mode="shareable")
    ref = await house.start("sleep", "1000", name="donor", host=donor)
    pid = (await house.view(ref)).container.state.pid
    wanted = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "ipc")]
    joining = HostConfig(pid_mode="container:donor", ipc_mode="container:donor")
    script = "cd /proc/self/ns; readlink pid; readlink ipc; ls /proc/self/fd | wc -l"
    _, output = await house.run("sh", "-c", script, host=joining)
    assert output.split() == [*wanted, "4"]  # 0, 1, 2 and the folder itself


@in_house
async def test_a_passwd_that_is_a_fifo(house: House) -> None:
    """An error at once, not a wait for a writer."""
    ref = await house.create("true", user="bob")
    upper = house.engine.containers._rooms.snapshots.upper(ref)
    os.makedirs(os.path.join(upper, "etc"), exist_ok=True)
    os.mkfifo(os.path.join(upper, "etc/passwd"))
    with pytest.raises(InvalidParameter, match="cannot read /etc/passwd"):
        await house.engine.containers.start(ref)


@in_house
async def test_a_passwd_that_points_at_the_host(house: House) -> None:
    """Links are resolved within the container."""
    ref = await house.create("true", user="hostuser")
    secret = os.path.join(house.config.data_root, "secret")
    _write(secret, "hostuser:x:0:0::/:/bin/sh\n")
    upper = house.engine.containers._rooms.snapshots.upper(ref)
    os.makedirs(os.path.join(upper, "etc"), exist_ok=True)
    os.symlink(secret, os.path.join(upper, "etc/passwd"))
    with pytest.raises(InvalidParameter, match="unable to find user hostuser"):
        await house.engine.containers.start(ref)


# Without an engine


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Two lowers and an upper that hides a file of one."""
    for name in ("low", "high", "upper", "work"):
        (tmp_path / name / "etc").mkdir(parents=True)
    (tmp_path / "low/etc/old").write_text("low")
    (tmp_path / "low/etc/gone").write_text("low")
    (tmp_path / "high/etc/new").write_text("high")
    os.mknod(tmp_path / "upper/etc/gone", 0o600 | 0o020000, 0)  # a whiteout
    return [str(tmp_path / name) for name in ("upper", "high", "low")]


def test_a_view_shows_all_layers_and_mounts_nothing(layers: list[str], tmp_path: Path) -> None:
    with view.of_layers(layers) as root:
        assert view.read_file(root, "/etc/old") == b"low"
        assert view.read_file(root, "/etc/new") == b"high"
        assert view.read_file(root, "/etc/gone") == b""
        with open("/proc/self/mountinfo") as mounts:
            assert str(tmp_path) not in mounts.read()


@pytest.mark.parametrize("above", ["plain", "a:b,c\\d"])
def test_a_view_on_kernels_without_lowerdir_plus(
    layers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, above: str
) -> None:
    def refuse(_: list[str]) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(view, "_detached_overlay", refuse)
    (tmp_path / above).mkdir()
    moved = [str(tmp_path / above / os.path.basename(folder)) for folder in layers]
    for folder, place in zip(layers, moved, strict=True):
        os.rename(folder, place)
    with view.of_layers(moved) as root:
        assert view.read_file(root, "/etc/new") == b"high"
        assert view.read_file(root, "/etc/gone") == b""


def test_a_link_without_end_is_refused(layers: list[str], tmp_path: Path) -> None:
    (tmp_path / "upper/etc/passwd").symlink_to("passwd")
    sentence = r"too many links in /etc/passwd$"
    with view.of_layers(layers) as root, pytest.raises(InvalidParameter, match=sentence):
        view.read_file(root, "/etc/passwd")


def test_a_large_file_is_refused(layers: list[str]) -> None:
    with view.of_layers(layers) as root:
        assert view.read_file(root, "/etc/new", 4) == b"high"
        with pytest.raises(InvalidParameter):
            view.read_file(root, "/etc/new", 3)


def test_populate_keeps_what_files_are(tmp_path: Path) -> None:
    source, volume = tmp_path / "root/data", tmp_path / "volume"
    (source / "sub").mkdir(parents=True)
    volume.mkdir()
    (source / "file").write_text("x")
    os.chown(source / "file", 1000, 1001)
    os.chmod(source / "file", 0o4750)
    os.link(source / "file", source / "sub/same")
    os.symlink("../file", source / "sub/link")
    os.mkfifo(source / "fifo", 0o640)
    os.chown(source, 7, 8)
    os.chmod(source, 0o711)
    os.setxattr(source / "file", "user.note", b"kept")
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        populate.populate(root, "/data", str(volume))
    finally:
        os.close(root)
    info, own = os.stat(volume / "file"), os.stat(volume)
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1000, 1001, 0o4750)
    assert info.st_ino == os.stat(volume / "sub/same").st_ino
    assert os.readlink(volume / "sub/link") == "../file"
    assert os.getxattr(volume / "file", "user.note") == b"kept"
    assert (own.st_uid, own.st_gid, own.st_mode & 0o777) == (7, 8, 0o711)
    assert (volume / "fifo").is_fifo()


def test_populate_links_only_within_the_volume(tmp_path: Path) -> None:
    """A container that has the volume may put a link to the host in a directory's place."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    for folder in (volume / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "file").write_text(folder.name)
    root = os.open(volume, os.O_PATH)
    top, sub = (populate._Level(os.open(volume, os.O_RDONLY), os.dup(root), w) for w in ("", "sub"))
    links, info = populate._Links(root), os.stat(volume / "sub/file")
    try:
        assert not links.link(info, sub, "file")
        assert links.link(info, top, "same")
        assert (volume / "same").read_text() == "sub"
        os.rename(volume / "sub", volume / "moved")
        os.symlink(outside, volume / "sub")
        with pytest.raises(OSError, match="cross-device"):
            links.link(info, top, "other")
    finally:
        top.close()
        sub.close()
        os.close(root)


def test_populate_leaves_a_volume_that_has_something(tmp_path: Path) -> None:
    (tmp_path / "root/data").mkdir(parents=True)
    (tmp_path / "root/data/new").touch()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/old").touch()
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        populate.populate(root, "/data", str(tmp_path / "volume"))
    finally:
        os.close(root)
    assert os.listdir(tmp_path / "volume") == ["old"]


def test_populate_follows_no_link_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").touch()
    os.symlink(tmp_path / "outside", tmp_path / "root/data")
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        populate.populate(root, "/data", str(tmp_path / "volume"))
    finally:
        os.close(root)
    assert os.listdir(tmp_path / "volume") == []


def test_populate_copies_trees_however_deep(tmp_path: Path) -> None:
    """Attack case I2."""
    depth = 450  # a recursion would need more frames, and 1024 descriptors are enough
    (tmp_path / "root").mkdir()
    (tmp_path / "volume").mkdir()
    _nest(tmp_path / "root", depth)
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        populate.populate(root, "/", str(tmp_path / "volume"))
        assert _depth(tmp_path / "volume") == depth
    finally:
        os.close(root)
        tree.remove(str(tmp_path / "root"))
        tree.remove(str(tmp_path / "volume"))


def _nest(place: Path, depth: int) -> None:
    fd = os.open(place, os.O_PATH)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def _depth(place: Path) -> int:
    fd, depth = os.open(place, os.O_RDONLY), 0
    while os.listdir(fd):
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, depth = below, depth + 1
    os.close(fd)
    return depth


def test_populate_takes_a_failed_copy_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root/data/sub").mkdir(parents=True)
    (tmp_path / "root/data/a").touch()
    (tmp_path / "volume").mkdir()

    def fail(source: int, target: int, name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(populate, "_copy_file", fail)
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        with pytest.raises(OSError, match="No space left"):
            populate.populate(root, "/data", str(tmp_path / "volume"))
    finally:
        os.close(root)
    assert os.listdir(tmp_path / "volume") == []
