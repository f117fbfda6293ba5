"""What happened to a container, appended as it happens: a line of JSON an event.

The file lies under the exec-root, which does not survive a reboot, nor does what it tells of; so a
line is written with one write(2) and never synced. Where there is no room for a whole line none of
it stays, so that the next one stands on a line of its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os

from engine.runtime.protocol import Entry, dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self

# Past this size, what the daemon has taken note of is left out, and what earlier runs left.
_COMPACT_BYTES = 256 << 10
_ONCE_A_RUN = (Entry.STARTED, Entry.EXITED, Entry.OOM, Entry.LOG_LOST)


class Journal:
    __slots__ = ("_fd", "_open_execs", "_path", "_size")

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._size = 0
        self._open_execs: set[str] = set()

    @classmethod
    def begin(cls, path: str) -> Self:
        """A new journal; one of an earlier run is replaced. Raises OSError."""
        fd = _create(path + ".new")
        os.rename(path + ".new", path)
        return cls(path, fd)

    def fileno(self) -> int:
        return self._fd

    def append(self, event: str, at_ns: int, facts: dict[str, Any]) -> bool:
        """False if it could not be written: an exec-root without room stops no container."""
        line = _line(Entry(event=event, at_ns=at_ns, facts=facts))
        exec_id = facts.get("exec_id")
        if self._size > _COMPACT_BYTES and (exec_id is not None or event == Entry.STARTED):
            self._compact()
        if exec_id is not None:
            self._open_execs.add(exec_id)
        return self._write(line)

    def acknowledge(self, exec_id: str) -> None:
        """The daemon knows how an exec ended: its lines may go."""
        self._open_execs.discard(exec_id)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: bytes) -> bool:
        try:
            written = os.write(self._fd, line)
        except OSError:
            return False
        if written < len(line):
            with contextlib.suppress(OSError):  # a reader skips what stays of it
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            return False
        self._size += written
        return True

    def _compact(self) -> None:
        """Write anew what is about the container itself or not acknowledged yet.

        Whatever keeps that from being done leaves the journal as it is, until it has grown again.
        """
        self._size = 0
        fresh = self._path + ".new"
        fd = -1
        try:
            kept = self._worth_keeping()
            fd = _create(fresh)
            if os.write(fd, kept) < len(kept):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fresh)
            os.rename(fresh, self._path)
        except OSError:
            if fd >= 0:
                os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            return
        os.close(self._fd)
        self._fd = fd
        self._size = len(kept)

    def _worth_keeping(self) -> bytes:
        with open(self._path, "rb") as file:
            return b"".join(self._kept(file))

    def _kept(self, lines: Iterable[bytes]) -> list[bytes]:
        """Of what comes once a run only the last: those before are over."""
        kept: list[bytes] = []
        last: dict[str, int] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                event, exec_id = entry["event"], entry["facts"].get("exec_id")
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn
            if exec_id is not None and exec_id not in self._open_execs:
                continue
            if event in _ONCE_A_RUN:
                if event in last:
                    kept[last[event]] = b""
                last[event] = len(kept)
            kept.append(line)
        return kept


def _create(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _line(entry: Entry) -> bytes:
    return dump(entry.to_json()).encode() + b"\n"
