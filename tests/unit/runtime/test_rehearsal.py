"""What a launcher does before its first fork, on a host that lets it have little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import resource, signal, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
from engine.linux import syscalls
from engine.runtime.monitor import rehearsal
rehearsal.rehearse(syscalls.signalfd(-1, {signal.SIGCHLD}), "rehearsing")
"""


@pytest.mark.parametrize("descriptors", [32, 64, 100, 256, 400])
def test_there_is_room_for_what_it_opens(descriptors: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(descriptors)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
