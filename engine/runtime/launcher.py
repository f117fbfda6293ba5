"""The fork server: a small interpreter that has everything a monitor needs and forks one on demand.

It has one thread, holds nothing but its socket, and ends when the daemon closes that; monitors live
on. A monitor shares its pages, so what is imported here costs once, and `gc.freeze` keeps the
collector from touching them. Started by `client` as `python -I -S` from a sealed copy of the
interpreter; importable without any third-party module.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys

from engine.linux import capability, cgroup, process, syscalls, title
from engine.runtime import protocol
from engine.runtime.monitor import rehearsal, server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NAME = "wharf-launcher"
_UMASK = 0o022
_SIGINFO_BYTES = 128
_ID_BYTES = 64
_FD = struct.Struct("i")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FD.size)
# CPython's Objects/obmalloc.c; where they are others, gaps stay, and nothing else is lost.
_ALIGNMENT = 16
_POOL_OVERHEAD = 48
_POOL_SIZE = 16 << 10
_SMALL_REQUEST_THRESHOLD = 512
_ENOUGH_IN_A_ROW = 3
_MAX_FILLERS = 5000


def main(fd: int, exec_root: str) -> NoReturn:
    """Serve the daemon at the other end of socket `fd` until it is gone."""
    # The executable came along as a descriptor too.
    process.keep_only([fd])
    os.set_inheritable(fd, False)
    sock = socket.SocketType(fileno=fd)
    children = _settle(fd)
    _serve(sock, children, os.path.join(exec_root, "containers"))
    sys.exit(0)


def _settle(fd: int) -> int:
    """Do once what every monitor would do; the signalfd of children that ended.

    Every descriptor but that and `fd` is closed.
    """
    # A process on its way into a container is seen there: no path of the host may be in its name.
    title.learn()
    title.write([_NAME])
    # What a container could read of a process on its way into it (CVE-2019-5736) starts here.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.umask(_UMASK)
    process.settle_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    # A signalfd shows each process its own signals: monitors inherit it.
    children = syscalls.signalfd(-1, {signal.SIGCHLD})
    cgroup.version()
    capability.last_cap()
    protocol.warm()
    rehearsal.rehearse(children, _NAME)
    # The rehearsal leaves what it opened.
    process.keep_only([fd, children])
    _settle_memory()
    return children


# What `_settle_memory` holds for good.
_fillers: list[object] = []


def _settle_memory() -> None:
    """Leave the heap so that a fork writes to few of the pages that it shares.

    A fork's first object of each size would go into some half empty page among those of long ago;
    with their gaps filled, all new objects lie together in fresh ones.
    """
    gc.collect()
    for size in range(_ALIGNMENT, _SMALL_REQUEST_THRESHOLD + 1, _ALIGNMENT):
        _fill_gaps(size)
    gc.freeze()


def _fill_gaps(size: int) -> None:
    """Take blocks of a size until three in a row come from the start of a fresh pool."""
    overhead = sys.getsizeof(b"")
    last = in_a_row = 0
    for _ in range(_MAX_FILLERS):
        if in_a_row >= _ENOUGH_IN_A_ROW:
            return
        filler = bytes(size - overhead) if size > overhead else _small_object(size)
        _fillers.append(filler)
        place = id(filler)
        if place % _POOL_SIZE < _POOL_OVERHEAD + size:
            in_a_row = 1
        else:
            in_a_row = in_a_row + 1 if in_a_row and place == last + size else 0
        last = place


def _small_object(size: int) -> object:
    return object() if size <= sys.getsizeof(object()) else float(len(_fillers))


def _serve(sock: socket.SocketType, children: int, folders: str) -> None:
    """Fork at each message: an id, and the monitor's socket beside it.

    As little as possible is done here, and nothing of Python's own: what this loop writes to, no
    monitor shares with the next.
    """
    fd = sock.fileno()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        for ready, _events in poll.poll():
            if ready == children:
                _reap(children)
                continue
            data, ancillary, _flags, _address = sock.recvmsg(
                _ID_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                return
            (control,) = _FD.unpack(ancillary[0][2])
            if os.fork() == 0:
                server.main(control, fd, children, f"{folders}/{data.decode('ascii')}")
            os.close(control)


def _reap(children: int) -> None:
    os.read(children, _SIGINFO_BYTES)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
