"""The local driver's grammar and its directories."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from engine.errors import InvalidParameter
from engine.volume import local

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["ab", "a-b_c.d", "0x", "A" * 64])
def test_names(name: str) -> None:
    local.check_name(name)


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", "a b", "-x", "a\n", "ä1"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        local.check_name(name)
    assert str(refused.value) == (
        f'"{name}" includes invalid characters for a local volume name, only '
        '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use '
        "absolute path"
    )


def test_a_short_name_has_its_own_sentence() -> None:
    with pytest.raises(InvalidParameter, match="volume name is too short, names should be at"):
        local.check_name("a")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"foo": "x"}, 'invalid option: "foo"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"o": "ro"}, 'missing required option: "device"'),
        ({"size": "1m"}, "quota size requested but no quota support"),
        ({"uid": "root"}, 'invalid option: "uid=root" is not a numeric id'),
        ({"gid": "-1"}, 'invalid option: "gid=-1" is not a numeric id'),
        ({"gid": "4294967295"}, 'invalid option: "gid=4294967295" is not a numeric id'),
        ({"mode": "0800"}, 'invalid option: "mode=0800" is not an octal mode'),
        ({"mode": "10000"}, 'invalid option: "mode=10000" is not an octal mode'),
        (
            {"type": "tmpfs", "device": "tmpfs", "uid": "1"},
            'option "uid" is for a volume that is a directory and nothing else; what a file '
            'system knows of owners and modes is said in "o"',
        ),
    ],
)
def test_bad_options(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        local.check_options(options)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("addr=1.2.3.4,vers=4", "addr=1.2.3.4,vers=4"),
        ("user=u,password=a,,b=c,addr=x", "user=u,password=********,addr=x"),
        ("pass=a", "pass=********"),
        ("pass=,password2=b", "pass=********,password2=********"),
        ("name=admin,secret=AQ==", "name=admin,secret=********"),
        ("bypass=1", "bypass=1"),
    ],
)
def test_options_are_shown_without_secrets(data: str, shown: str) -> None:
    assert local._without_secrets(data) == shown


def test_a_directory_has_the_mode_it_is_given(tmp_path: Path) -> None:
    root = str(tmp_path / "volumes")
    local.create(root, "data", {"mode": "3751", "uid": str(os.getuid())})
    assert stat.S_IMODE(os.stat(local.mountpoint(root, "data")).st_mode) == 0o3751


def test_directories_are_made_once_and_removed_whole(tmp_path: Path) -> None:
    root = str(tmp_path / "volumes")
    local.create(root, "data")
    path = local.mountpoint(root, "data")
    (tmp_path / "volumes/data/_data/file").write_text("kept")
    local.create(root, "data")
    assert os.listdir(path) == ["file"]
    assert os.stat(path).st_mode & 0o777 == 0o755
    assert local.names(root) == ["data"]
    local.remove(root, "data")
    local.remove(root, "data")
    assert os.listdir(root) == []


def test_a_removal_that_a_crash_interrupted_is_finished(tmp_path: Path) -> None:
    root = str(tmp_path)
    local.create(root, "kept")
    os.makedirs(tmp_path / ".removed-0123/_data/deep")
    local.sweep(root)
    assert os.listdir(root) == ["kept"]
    assert local.names(root) == ["kept"]
    local.sweep(str(tmp_path / "nowhere"))


def test_removing_follows_no_link_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    root = str(tmp_path / "volumes")
    local.create(root, "data")
    os.symlink(outside, tmp_path / "volumes/data/_data/link")
    local.remove(root, "data")
    assert (outside / "precious").exists()


def test_sizes_count_a_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c").write_bytes(b"y" * 50)
    assert local.size_bytes(str(tmp_path)) == 1050
    assert local.size_bytes(str(tmp_path / "nowhere")) == 0
