"""Where containers' groups go on version 2, on a tree of plain files in place of the kernel's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.linux.cgroup import parent, setup, support, v2

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = "system.slice/wharfd.service"


class Tree:
    """`delegated` are the groups that systemd has marked so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delegated: set[str] = set()
        self.make("")

    def make(self, path: str, *, limits: tuple[str, ...] = ()) -> None:
        group = self.root / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.controllers").write_text("cpu memory pids\n")
        for name in ("cgroup.subtree_control", *limits):
            (group / name).write_text("")

    def divided(self) -> list[str]:
        """The groups for whose members controllers were enabled."""
        files = self.root.rglob("cgroup.subtree_control")
        return sorted(str(f.parent.relative_to(self.root)) for f in files if f.read_text())

    def getxattr(self, path: str, name: str) -> bytes:
        if name == "trusted.delegate" and os.path.relpath(path, self.root) in self.delegated:
            return b"1"
        raise OSError(errno.ENODATA, name)

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
        """Have the daemon find itself in that group."""
        read = v2.file.read

        def of_process(path: str) -> str:
            return f"0::/{own}\n" if path == "/proc/self/cgroup" else read(path)

        monkeypatch.setattr(v2.file, "read", of_process)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    made = Tree(tmp_path)
    setup.use(setup.Roots(2, {}, str(tmp_path)))
    monkeypatch.setattr("os.getxattr", made.getxattr)
    yield made
    setup.use(None)


def test_in_a_leaf_of_its_unit_the_daemon_builds_beside_itself(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("system.slice", UNIT, f"{UNIT}/{parent.LEAF}", f"{UNIT}/wharf-1"):
        tree.make(path)
    tree.delegated = {UNIT}
    tree.stand_in(monkeypatch, f"{UNIT}/{parent.LEAF}")
    assert parent.open_parent("wharf-1") == f"{UNIT}/wharf-1"
    # The root and the slice are systemd's, and the leaf has members of no kind but processes.
    assert tree.divided() == [UNIT, f"{UNIT}/wharf-1"]
    tree.make(f"{UNIT}/wharf-1/abc")
    v2.create(f"{UNIT}/wharf-1/abc")
    assert tree.divided() == [UNIT, f"{UNIT}/wharf-1"]


def test_in_the_unit_s_own_group_it_builds_at_the_top(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd before 254 starts it there, and must be able to start the next one there too."""
    for path in ("system.slice", UNIT, "wharf-1"):
        tree.make(path)
    tree.delegated = {UNIT}
    tree.stand_in(monkeypatch, UNIT)
    assert parent.open_parent("wharf-1") == "wharf-1"
    assert tree.divided() == [".", "wharf-1"]


def test_without_delegation_it_builds_at_the_top(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.make("wharf-1")
    tree.stand_in(monkeypatch, "user.slice/session-1.scope")
    assert parent.open_parent("wharf-1") == "wharf-1"


def test_the_unit_file_names_that_leaf() -> None:
    import compat

    unit = Path(compat.__file__).parent / "systemd" / "wharfd.service"
    lines = unit.read_text().splitlines()
    assert f"DelegateSubgroup={parent.LEAF}" in lines
    assert {"Delegate=yes", "KillMode=process"} <= set(lines)


@pytest.mark.parametrize(
    ("of_unit", "of_leaf", "is_accounted"),
    [
        (("memory.max", "memory.swap.max"), (), True),
        (("memory.max",), (), False),
        (("memory.max",), ("memory.max",), False),
        ((), (), True),
    ],
)
def test_swap_is_told_by_the_nearest_group_with_limits(
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    of_unit: tuple[str, ...],
    of_leaf: tuple[str, ...],
    is_accounted: bool,
) -> None:
    leaf = f"{UNIT}/{parent.LEAF}"
    for path, limits in (("system.slice", ()), (UNIT, of_unit), (leaf, of_leaf)):
        tree.make(path, limits=limits)
    tree.stand_in(monkeypatch, leaf)
    assert support.supported()["swap_limit"] is is_accounted
