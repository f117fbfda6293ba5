"""What the creating process leaves to the one that stays: facts and descriptors, in one message.

Both are of one launcher, so the facts are marshalled as they are. The waiting process shares its
memory with the launcher as long as it touches nothing: reading this costs it a tenth of what a JSON
document would.
"""

from __future__ import annotations

import _socket
import marshal
import os
import socket
import struct

from engine.runtime.protocol import MAX_FDS, pack_fds, unpack_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]


class Handover:
    """`facts` of plain values; where a descriptor is meant, its place in `fds` or -1."""

    __slots__ = ("facts", "fds")

    def __init__(self, facts: Facts, fds: list[int]) -> None:
        self.facts = facts
        self.fds = fds

    def fd(self, place: int) -> int:
        return -1 if place < 0 else self.fds[place]


_HEADER = struct.Struct("<II")
_READ_BYTES = 1 << 16


def make_pair() -> tuple[int, int]:
    """Two connected sockets as descriptors: (to receive from, to send to)."""
    # Python's own socketpair() wraps each in a class with enumerations: 60 KB of pages touched.
    ours, theirs = _socket.socketpair()
    return ours.detach(), theirs.detach()


def send(sock: socket.SocketType, facts: Facts, fds: list[int]) -> None:
    """Blocks; the descriptors stay the caller's."""
    body = marshal.dumps(facts)
    data = memoryview(_HEADER.pack(len(body), len(fds)) + body)
    rest = fds
    while len(rest) > MAX_FDS:
        sock.sendmsg([data[:1]], pack_fds(rest[:MAX_FDS]))
        data, rest = data[1:], rest[MAX_FDS:]
    data = data[sock.sendmsg([data], pack_fds(rest)) :]
    if data:  # sending nothing would fail where the other side has all of it and is gone
        sock.sendall(data)


def receive(fd: int) -> Handover | None:
    """Wait for it; None if the other side ended without."""
    receiver = Receiver(fd)
    while receiver.read():
        continue
    return receiver.handover


class Receiver:
    """Takes what comes, a piece at a time; `handover` stands once all of it is there.

    Owns the descriptor, which it closes when nothing more is to come.
    """

    __slots__ = ("_data", "_fds", "_sock", "handover")

    def __init__(self, fd: int) -> None:
        self._sock = socket.SocketType(fileno=fd)
        self._data = bytearray()
        self._fds: list[int] = []
        self.handover: Handover | None = None

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bool:
        """Take one piece, waiting for it; False if it was the last."""
        chunk, ancillary, _flags, _address = self._sock.recvmsg(
            _READ_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        self._fds += unpack_fds(ancillary)
        if not chunk:
            self.close()
            return False
        data = self._data
        data += chunk
        size = _HEADER.size
        if len(data) < size or len(data) < size + _HEADER.unpack_from(data)[0]:
            return True
        self._sock.close()
        self.handover = Handover(marshal.loads(memoryview(data)[size:]), self._fds)
        return False

    def close(self) -> None:
        """Whatever of it has come is of no use."""
        for taken in self._fds:
            os.close(taken)
        self._fds.clear()
        self._sock.close()
