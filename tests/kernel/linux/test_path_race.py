"""Someone inside exchanges a directory and a link to the host as fast as it can."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from engine.linux import path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RENAME_EXCHANGE = 2
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        names = (os.fsencode(one), os.fsencode(other))
        while True:
            _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("target", ["/host", "../../host", "../root/../../host"])
def test_nothing_of_the_host_is_read_or_made(tmp_path: Path, target: str) -> None:
    host, root = tmp_path / "host", tmp_path / "root"
    host.mkdir()
    (host / "file").write_text("host")
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "file").write_text("container")
    (root / "link").symlink_to(target if target != "/host" else str(host))
    before = sorted(os.listdir(host))
    fd = path.open_root(str(root))
    read = set()
    with exchanging(root / "dir", root / "link"):
        deadline = time.monotonic() + 1.5
        count = 0
        while time.monotonic() < deadline:
            count += 1
            with contextlib.suppress(OSError):
                read.add(path.read_in_root(fd, "dir/file", limit_bytes=100))
            with contextlib.suppress(OSError):
                os.close(path.mkdir_in_root(fd, f"dir/../dir/new{count}/x"))
            with contextlib.suppress(OSError):
                os.close(path.create_in_root(fd, f"dir/made{count}"))
    os.close(fd)
    assert count > 100
    assert read <= {b"container"}
    assert read
    assert sorted(os.listdir(host)) == before
    assert (host / "file").read_text() == "host"
