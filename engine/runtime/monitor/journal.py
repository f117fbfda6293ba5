"""What happened to a container, appended as it happens: a line of JSON an event.

The file lies under the exec-root, which does not survive a reboot, nor does what it tells of; so a
line is written with one write(2) and never synced.
"""

from __future__ import annotations

import json
import os

from engine.runtime.protocol import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Past this size, what the daemon has taken note of is left out.
_COMPACT_BYTES = 256 << 10


class Journal:
    __slots__ = ("_fd", "_open_execs", "_path", "_size")

    def __init__(self, path: str) -> None:
        """Begin a new journal; one of an earlier run is replaced."""
        self._path = path
        self._fd = self._create(path)
        self._size = 0
        self._open_execs: dict[str, list[bytes]] = {}

    def append(self, event: str, at_ns: int, facts: dict[str, Any]) -> None:
        line = _line(Entry(event=event, at_ns=at_ns, facts=facts))
        exec_id = facts.get("exec_id")
        if exec_id is not None:
            if self._size > _COMPACT_BYTES:
                self._compact()
            self._open_execs.setdefault(exec_id, []).append(line)
        self._write(line)

    def acknowledge(self, exec_id: str) -> None:
        """The daemon knows how an exec ended: its lines may go."""
        self._open_execs.pop(exec_id, None)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: bytes) -> None:
        # An exec-root without room cannot stop a container; the daemon, if there, is told anyway.
        try:
            self._size += os.write(self._fd, line)
        except OSError:
            self._size += 0

    def _create(self, path: str) -> int:
        temporary = path + ".new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        os.rename(temporary, path)
        return fd

    def _compact(self) -> None:
        """Write anew what is about the container itself or not acknowledged yet."""
        kept: list[bytes] = []
        with open(self._path, "rb") as file:
            for line in file:
                exec_id = json.loads(line)["facts"].get("exec_id")
                if exec_id is None or exec_id in self._open_execs:
                    kept.append(line)
        old = self._fd
        temporary = self._path + ".new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(temporary, flags, 0o600)
        self._size = 0
        self._write(b"".join(kept))
        os.rename(temporary, self._path)
        os.close(old)


def _line(entry: Entry) -> bytes:
    return json.dumps(entry.to_json(), separators=(",", ":")).encode() + b"\n"
