"""The file that holds the daemon's process id, and keeps a second daemon from starting.

Its holder has the file locked, so that the kernel itself forgets a daemon that was killed. A file
without a lock was written by something else (another engine): its process counts as running if it
is alive and is not younger than the file, for then the number was given to another process since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# How much younger than its file a process may seem: /proc counts in ticks since a boot time that is
# itself rounded to a second.
_SLACK_S = 2.0


class StillRunning(Exception):
    """The daemon that wrote the file is there; `str()` is dockerd's sentence."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(
            f"failed to start daemon, ensure docker is not running or delete {path}: "
            f"process with PID {pid} is still running"
        )
        self.pid = pid


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Have this process's id in the file for as long as the block runs; "" for no file at all."""
    if not path:
        yield
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        _claim(path, fd)
        try:
            yield
        finally:
            _remove(path, fd)
    finally:
        os.close(fd)


def _claim(path: str, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StillRunning(path, _read(fd)) from None
    pid = _read(fd)
    if pid not in {0, os.getpid()} and is_running(pid, since=os.fstat(fd).st_mtime):
        raise StillRunning(path, pid)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)


def _remove(path: str, fd: int) -> None:
    """Remove the file if it is still the one that is held."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            os.unlink(path)


def _read(fd: int) -> int:
    """The process id in the file, 0 if there is none."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def is_running(pid: int, *, since: float) -> bool:
    """Whether the process that had this id at time `since` (in seconds, as a file's) lives."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    if fields[0] in {b"Z", b"X"}:
        return False
    # proc(5): starttime is field 22, in clock ticks after boot; these begin with field 3.
    started_after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + started_after_boot <= since + _SLACK_S
