"""The working directory of a container that was not started yet."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from engine.container import workdir
from engine.errors import EngineError
from tests.kernel.container.engine import in_house

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernel.container.engine import House

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    (tmp_path / "image/a/b").mkdir(parents=True)
    return tmp_path / "image"


def made(image: Path, where: str) -> bool:
    root = os.open(image, os.O_PATH | os.O_DIRECTORY)
    try:
        return workdir.make(root, str(image.parent / "upper"), where, merged="/merged")
    finally:
        os.close(root)


def test_folders_of_the_image_are_brought_up_as_they_are(image: Path) -> None:
    os.chown(image / "a/b", 5, 6)
    os.chmod(image / "a/b", 0o2751)
    os.utime(image / "a", ns=(1, 10**18))
    os.setxattr(image / "a", "trusted.note", b"x")
    assert made(image, "/a/b/c/d")
    upper = image.parent / "upper"
    info = os.stat(upper / "a/b")
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (5, 6, 0o2751)
    assert os.stat(upper / "a").st_mtime_ns == 10**18
    assert os.getxattr(upper / "a", "trusted.note") == b"x"
    for new in ("a/b/c", "a/b/c/d"):
        info = os.stat(upper / new)
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (0, 0, 0o755)


def test_nothing_is_written_where_it_is_there(image: Path) -> None:
    (image / "link").symlink_to("/a")
    assert not made(image, "/link/b")
    assert os.listdir(image.parent / "upper") == []


@pytest.mark.parametrize("target", ["/../../../tmp/out", "../../../../tmp/out", "/tmp/out"])
def test_a_link_leads_nowhere_but_beneath_the_root(image: Path, target: str) -> None:
    (image / "a/link").symlink_to(target)
    assert made(image, "/a/link/x")
    upper = image.parent / "upper"
    assert (upper / "tmp/out/x").is_dir()
    assert not (upper / "a").exists()
    assert not os.path.exists("/tmp/out/x")


def test_what_cannot_be_made_is_told(image: Path) -> None:
    with pytest.raises(EngineError, match=r"^lstat /merged/n{300}: file name too long$"):
        made(image, "/" + "n" * 300)
    shutil.rmtree(image.parent / "upper")
    (image.parent / "upper").mkdir()
    (image / "long").symlink_to("n" * 300)
    with pytest.raises(EngineError, match=r"file name too long$"):
        made(image, "/long/x")


@in_house
async def test_a_create_that_fails_leaves_no_folder(house: House) -> None:
    await house.create("true", name="taken")
    snapshots = house.engine.containers._rooms.snapshots
    before = sorted(os.listdir(snapshots.root))
    with pytest.raises(Exception, match="already in use"):
        await house.create("true", name="taken", working_dir="/new/deep")
    assert sorted(os.listdir(snapshots.root)) == before
