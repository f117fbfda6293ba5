"""engine.linux.tree: directories of any shape go, and nothing else."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.linux import tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_deep(path: Path, depth: int) -> None:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_deeper_than_recursion_and_descriptors_reach(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 3000)
    tree.remove(str(tmp_path / "deep"))
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("here")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "to-directory").symlink_to(kept)
    (doomed / "to-file").symlink_to(kept / "file")
    (doomed / "hard").hardlink_to(kept / "file")
    os.mkfifo(doomed / "fifo")
    tree.remove(str(doomed))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "here"


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(NotADirectoryError):
        tree.remove(str(tmp_path / "link"))
    assert (tmp_path / "kept").is_dir()


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    tree.remove(str(tmp_path / "nothing"))


Shape = dict[str, "Shape | None"]
names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20)
shapes = st.recursive(
    st.dictionaries(names.filter(lambda n: n not in {".", ".."}), st.none(), max_size=4),
    lambda inner: st.dictionaries(names.filter(lambda n: n not in {".", ".."}), inner, max_size=4),
    max_leaves=20,
)


def build(path: str, shape: Shape) -> None:
    os.mkdir(path)
    for name, inner in shape.items():
        below = os.path.join(path, name)
        if inner is None:
            os.close(os.open(below, os.O_CREAT))
        else:
            build(below, inner)


@settings(max_examples=50)
@given(shapes)
def test_any_shape_goes(tmp_path_factory: pytest.TempPathFactory, shape: Shape) -> None:
    folder = tmp_path_factory.mktemp("any")
    build(str(folder / "tree"), shape)
    tree.remove(str(folder / "tree"))
    assert list(folder.iterdir()) == []
