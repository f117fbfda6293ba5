"""engine.linux.tree: what is mounted in a directory, when it is removed and when it is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

ROOT = Path(__file__).parents[2]
PRIVATE = """
import errno, os, sys
from engine.linux import syscalls, tree
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
"""
REMOVED = """
doomed = sys.argv[1]
if sys.argv[2] == "tmpfs":
    syscalls.mount("tmpfs", doomed + "/a/mounted", "tmpfs", 0, None)
else:
    syscalls.mount(doomed + "/../kept", doomed + "/a/mounted", None, syscalls.MS_BIND, None)
open(doomed + "/a/mounted/precious", "w").close()
try:
    tree.remove(doomed)
except OSError as exc:
    assert exc.errno == errno.EBUSY, exc
else:
    sys.exit("removed what is mounted")
open(doomed + "/a/mounted/precious").close()
"""
# Each tmpfs counts its inodes from the same number.
MEASURED = """
inodes = set()
for name in ("one", "other"):
    path = sys.argv[1] + "/" + name
    os.mkdir(path)
    syscalls.mount("tmpfs", path, "tmpfs", 0, None)
    with open(path + "/file", "w") as file:
        file.write("12345")
    os.link(path + "/file", path + "/same")
    inodes.add(os.stat(path + "/file").st_ino)
assert len(inodes) == 1, inodes
assert tree.usage(sys.argv[1]) == 10, tree.usage(sys.argv[1])
"""


def run(program: str, folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE + program, str(folder), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "doomed" / "a" / "mounted").mkdir(parents=True)
    run(REMOVED, tmp_path / "doomed", kind)


def test_files_of_the_same_number_on_two_file_systems_both_count(tmp_path: Path) -> None:
    run(MEASURED, tmp_path)
