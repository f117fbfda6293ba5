"""Hearing of processes killed for want of memory as it happens."""

from __future__ import annotations

import errno
import os
import select

from engine.linux.cgroup import file, setup, v1, v2


class OomWatch:
    """A descriptor for an epoll loop, with the `events` to ask for.

    When it is ready, `read()` says how many processes the kernel killed in the group since the
    last call. Removing the group makes it ready too, with nothing to tell. v1 has an eventfd that
    cgroup-v1/memory.txt §9 ties to memory.oom_control; on v2 memory.events itself can be polled.
    The events are hints: whoever wants certainty at the end of a container calls `read()` then.
    """

    __slots__ = ("_fd", "_path", "_seen", "_version", "events")

    def __init__(self, path: str) -> None:
        self._path = path
        self._version = setup.roots().version
        self._seen = _count(path)
        if self._version == 1:
            self.events = select.EPOLLIN
            self._fd = _eventfd(path)
        else:
            self.events = select.EPOLLPRI
            self._fd = os.open(
                os.path.join(v2.directory(path), "memory.events"), os.O_RDONLY | os.O_CLOEXEC
            )
            self._rearm()

    def fileno(self) -> int:
        return self._fd

    def read(self) -> int:
        self._rearm()
        count = _count(self._path)
        new, self._seen = max(0, count - self._seen), max(count, self._seen)
        return new

    def _rearm(self) -> None:
        try:
            os.read(self._fd, 8) if self._version == 1 else os.pread(self._fd, 4096, 0)
        except BlockingIOError:
            return  # asked without having been ready
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise

    def close(self) -> None:
        os.close(self._fd)


def _count(path: str) -> int:
    return v1.oom_count(path) if setup.roots().version == 1 else v2.oom_count(path)


def _eventfd(path: str) -> int:
    group = v1.directory("memory", path)
    events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(os.path.join(group, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            file.write(os.path.join(group, "cgroup.event_control"), f"{events} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(events)
        raise
    return events
