from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import path, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a file beside it that nothing may reach."""
    (tmp_path / "secret").write_text("host")
    root = tmp_path / "root"
    root.mkdir()
    return root


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    fd = path.open_root(str(directory))
    try:
        yield fd
    finally:
        os.close(fd)


def place(fd: int) -> str:
    """Where a descriptor leads; closes it."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_links_are_followed_inside_the_root(tree: Path) -> None:
    (tree / "etc").mkdir()
    (tree / "etc" / "passwd").write_text("root")
    (tree / "absolute").symlink_to("/etc/passwd")
    (tree / "up").symlink_to("../../../../etc/passwd")
    with opened(tree) as root:
        for name in ("absolute", "up", "/../../etc/passwd", "etc/../etc/passwd"):
            assert path.read_in_root(root, name, limit_bytes=100) == b"root"


def test_beneath_refuses_what_leads_out(tree: Path) -> None:
    (tree / "out").symlink_to("../secret")
    (tree / "inside").write_text("")
    with opened(tree) as root:
        os.close(path.open_beneath(root, "inside"))
        for name in ("out", "../secret", "/inside"):
            with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
                path.open_beneath(root, name)


def test_magic_links_are_refused(tree: Path) -> None:
    with opened(Path("/")) as root, pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        path.open_in_root(root, f"proc/self/fd/{root}/etc")


def test_chmod_follows_no_link(tree: Path) -> None:
    (tree / "target").touch(0o600)
    (tree / "link").symlink_to("target")
    with opened(tree) as root:
        path.chmod(root, "target", 0o4751)
        with pytest.raises(OSError, match="symbolic links"):
            path.chmod(root, "link", 0o777)
    assert os.stat(tree / "target").st_mode & 0o7777 == 0o4751


def test_mkdir_makes_what_is_missing(tree: Path) -> None:
    with opened(tree) as root:
        assert place(path.mkdir_in_root(root, "/a/./b//c/")) == f"{tree}/a/b/c"
        assert place(path.mkdir_in_root(root, "a/b/c/../d")) == f"{tree}/a/b/d"
        assert place(path.mkdir_in_root(root, "..")) == str(tree)


def test_mkdir_follows_links_even_to_what_is_not_there(tree: Path) -> None:
    (tree / "run").mkdir()
    (tree / "var").mkdir()
    (tree / "var" / "run").symlink_to("/run")
    (tree / "data").symlink_to("/mnt/../srv/data")
    with opened(tree) as root:
        assert place(path.mkdir_in_root(root, "var/run/x")) == f"{tree}/run/x"
        assert place(path.mkdir_in_root(root, "data/y")) == f"{tree}/srv/data/y"


def test_mkdir_stops_at_a_file_and_at_a_loop(tree: Path) -> None:
    (tree / "file").write_text("")
    (tree / "loop").symlink_to("loop")
    with opened(tree) as root:
        with pytest.raises(NotADirectoryError):
            path.mkdir_in_root(root, "file/x")
        with pytest.raises(OSError, match="symbolic links"):
            path.mkdir_in_root(root, "loop/x")


def test_create_keeps_what_is_there(tree: Path) -> None:
    (tree / "there").write_text("x")
    (tree / "link").symlink_to("/new/file")
    with opened(tree) as root:
        assert place(path.create_in_root(root, "there")) == f"{tree}/there"
        assert place(path.create_in_root(root, "a/b/file")) == f"{tree}/a/b/file"
        assert (tree / "a/b/file").is_file()
        os.close(path.mkdir_in_root(root, "new"))
        assert place(path.create_in_root(root, "link")) == f"{tree}/new/file"
    assert (tree / "there").read_text() == "x"


@pytest.mark.parametrize("size", [0, 1, 10])
def test_read_up_to_a_size(tree: Path, size: int) -> None:
    (tree / "file").write_bytes(b"x" * size)
    with opened(tree) as root:
        assert path.read_in_root(root, "file", limit_bytes=10) == b"x" * size


def test_read_refuses_more(tree: Path) -> None:
    with (tree / "huge").open("wb") as file:
        file.truncate(10 << 30)
    with opened(tree) as root, pytest.raises(OSError, match="huge") as caught:
        path.read_in_root(root, "huge", limit_bytes=1 << 20)
    assert caught.value.errno == errno.EFBIG


def test_read_refuses_what_is_no_file(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "zero").symlink_to("/dev/zero")
    (tree / "directory").mkdir()
    with opened(tree) as root:
        with pytest.raises(OSError, match="not a regular file"):
            path.read_in_root(root, "fifo", limit_bytes=10)
        with pytest.raises(IsADirectoryError):
            path.read_in_root(root, "directory", limit_bytes=10)
        with pytest.raises(FileNotFoundError):
            path.read_in_root(root, "zero", limit_bytes=10)


def test_read_of_a_link_to_the_host(tree: Path) -> None:
    (tree / "passwd").symlink_to("../secret")
    with opened(tree) as root, pytest.raises(FileNotFoundError):
        path.read_in_root(root, "passwd", limit_bytes=10)


NAMES = st.sampled_from(["a", "b", "c", "..", ".", "", "secret", "root"])
PATHS = st.lists(NAMES, min_size=1, max_size=6).map("/".join)
MADE = st.lists(
    st.one_of(
        st.tuples(st.just("dir"), PATHS, st.just("")),
        st.tuples(st.just("link"), PATHS, PATHS.map(lambda p: p or ".")),
    ),
    max_size=8,
)


def _build(root: Path, entries: list[tuple[str, str, str]]) -> None:
    """Only names that lie in the root as text; a link may be reached through another's parent,
    so each is made by descriptors of real directories alone."""
    for kind, name, target in entries:
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts:
            continue
        parent = root
        for part in parts[:-1]:
            parent = parent / part
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                break
            parent.mkdir(exist_ok=True)
        else:
            entry = parent / parts[-1]
            if entry.is_symlink() or entry.exists():
                continue
            entry.mkdir() if kind == "dir" else entry.symlink_to(target)


def _inside(root: Path) -> set[tuple[int, int]]:
    found = {(root.stat().st_dev, root.stat().st_ino)}
    for directory, names, files in os.walk(root):
        for name in names + files:
            status = os.lstat(os.path.join(directory, name))
            found.add((status.st_dev, status.st_ino))
    return found


@given(MADE, PATHS, st.sampled_from(["open", "mkdir", "create"]))
def test_nothing_ever_leads_out(entries: list[tuple[str, str, str]], asked: str, verb: str) -> None:
    with tempfile.TemporaryDirectory() as outside:
        host = Path(outside)
        (host / "secret").write_text("host")
        root = host / "root"
        root.mkdir()
        _build(root, entries)
        before = sorted(os.listdir(host))
        with opened(root) as fd:
            try:
                match verb:
                    case "open":
                        reached = path.open_in_root(fd, asked, syscalls.O_PATH)
                    case "mkdir":
                        reached = path.mkdir_in_root(fd, asked)
                    case _:
                        reached = path.create_in_root(fd, asked)
            except OSError:
                reached = -1
            if reached >= 0:
                status = os.fstat(reached)
                os.close(reached)
                assert (status.st_dev, status.st_ino) in _inside(root)
        assert sorted(os.listdir(host)) == before
        assert (host / "secret").read_text() == "host"


def test_a_trace_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("/a/b/../new/../other")
    root = path.open_root(str(tmp_path))
    try:
        assert path.trace_in_root(root, "/a/b") == (["a", "b"], [])
        assert path.trace_in_root(root, "/link/x") == (["a"], ["other", "x"])
        assert path.trace_in_root(root, "/n/../../../a/c") == (["a"], ["c"])
    finally:
        os.close(root)
    assert not (tmp_path / "a/new").exists()
