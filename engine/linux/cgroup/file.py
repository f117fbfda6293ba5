"""Reading and writing the files of a control group, and waiting for what the kernel does late."""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 64 * 1024
UNLIMITED = (1 << 64) - 1
"""What a limit of "max" is read as."""


def reason(number: int) -> str:
    """An errno as the reference runtime words it: libc's text in lower case."""
    return os.strerror(number).lower()


def write(path: str, value: str) -> None:
    """Write in one call: the kernel takes each write(2) as a command of its own."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno or 0), path) from None
    finally:
        os.close(fd)


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks: list[bytes] = []
        while chunk := os.read(fd, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    finally:
        os.close(fd)


def read_or(path: str, default: str) -> str:
    """`read`, or `default` where the file or the whole group is not there (any more)."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return default
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return default
        raise


def number(text: str, default: int = 0) -> int:
    text = text.strip()
    if text == "max":
        return UNLIMITED
    return int(text) if text else default


def read_int(path: str, default: int = 0) -> int:
    return number(read_or(path, ""), default)


def keyed(text: str) -> dict[str, int]:
    """ "low 0\\nhigh 3\\n" → {"low": 0, "high": 3}; lines of another shape are left out."""
    fields = (line.split() for line in text.splitlines())
    return {f[0]: int(f[1]) for f in fields if len(f) == 2 and f[1].isdigit()}


def descend(directory: str) -> list[str]:
    """The groups below and this one, deepest first; none where there is none.

    Not by recursion: who may make groups inside a container may nest a thousand of them.
    """
    found: list[str] = []
    pending = [directory]
    while pending:
        group = pending.pop()
        try:
            with os.scandir(group) as entries:
                pending += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.append(group)
    return found[::-1]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask again and again, first after 0.2 ms, then ever more rarely; False: time is up.

    The kernel tells of none of the things asked here (v1: frozen, empty) by an event.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.0002
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def pids_in(directory: str) -> list[int]:
    """The processes of this one group. A threaded v2 group tells only its threads."""
    try:
        text = read(os.path.join(directory, "cgroup.procs"))
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            text = read_or(os.path.join(directory, "cgroup.threads"), "")
        elif exc.errno in (errno.ENOENT, errno.ENODEV):
            return []
        else:
            raise
    return [int(pid) for pid in text.split()]


def rmdir_tree(directory: str, timeout_s: float) -> None:
    """Remove a group with those below it.

    Raises OSError EBUSY when a process is still inside at the end of the time: one that was just
    killed may need a moment to leave.
    """

    def is_gone() -> bool:
        for group in descend(directory):
            try:
                os.rmdir(group)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                return False
        return True

    if not wait_until(is_gone, timeout_s):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory)
