"""engine.linux.tree: what is mounted in a doomed directory is not emptied with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import errno, sys
from engine.linux import syscalls, tree
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
doomed = sys.argv[1]
syscalls.mount("tmpfs", doomed + "/a/mounted", "tmpfs", 0, None)
open(doomed + "/a/mounted/precious", "w").close()
try:
    tree.remove(doomed)
except OSError as exc:
    assert exc.errno == errno.EBUSY, exc
else:
    sys.exit("removed what is mounted")
open(doomed + "/a/mounted/precious").close()
"""


def test_a_mount_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doomed" / "a" / "mounted").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "doomed")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
