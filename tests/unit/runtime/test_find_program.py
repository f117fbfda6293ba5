"""PATH lookup with the sentences that clients choose exit codes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.runtime.init import find_program
from engine.runtime.rootfs import StepFailed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "tool").write_text("not executable")
    (tmp_path / "b" / "tool").write_text("")
    (tmp_path / "b" / "tool").chmod(0o755)
    (tmp_path / "a" / "dir").mkdir()
    return tmp_path


def test_the_first_executable_in_path_is_taken(tree: Path) -> None:
    found = find_program("tool", f"{tree}/a:{tree}/b")
    assert found == f"{tree}/b/tool"


def test_a_path_is_taken_as_it_is(tree: Path) -> None:
    assert find_program(f"{tree}/b/tool", None) == f"{tree}/b/tool"


@pytest.mark.parametrize("search", [None, "", "{tree}/a"])
def test_not_found(tree: Path, search: str | None) -> None:
    search = None if search is None else search.format(tree=tree)
    with pytest.raises(StepFailed) as failure:
        find_program("tool", search)
    assert str(failure.value) == 'exec: "tool": executable file not found in $PATH'


def test_a_relative_entry_of_path_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "b")
    for search in ("", ".", ":/bin"):
        with pytest.raises(StepFailed, match="found relative to current directory"):
            find_program("tool", search or ":")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a/tool", "permission denied"),
        ("a/dir", "is a directory: permission denied"),
        ("a/none", "stat {name}: no such file or directory"),
        ("a/tool/x", "stat {name}: not a directory"),
    ],
)
def test_a_path_that_cannot_run(tree: Path, name: str, problem: str) -> None:
    name = f"{tree}/{name}"
    with pytest.raises(StepFailed) as failure:
        find_program(name, None)
    assert str(failure.value) == f'exec: "{name}": ' + problem.format(name=name)
