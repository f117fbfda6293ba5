"""The fork server: a small interpreter that has everything a monitor needs and forks one on demand.

It has one thread, holds nothing but its socket, and ends when the daemon closes that; monitors live
on. A monitor shares its pages, so what is imported here costs once, and `gc.freeze` keeps the
collector from touching them. Started by `client` as `python -I -S` from a sealed copy of the
interpreter; importable without any third-party module.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from engine.linux import capability, cgroup, process, syscalls
from engine.runtime import protocol
from engine.runtime.monitor import server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_UMASK = 0o022
_SIGINFO_BYTES = 128
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
    channel = protocol.Channel(socket.socket(fileno=fd))
    children = _settle()
    _serve(channel, children, os.path.join(exec_root, "containers"))
    sys.exit(0)


def _settle() -> int:
    """Do once what every monitor would do; the signalfd of children that ended."""
    syscalls.set_name("wharf-launcher")
    # What a container could read of a process on its way into it (CVE-2019-5736) starts here.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.umask(_UMASK)
    # A terminal's Ctrl-C is for the daemon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    # A signalfd shows each process its own signals: monitors inherit it.
    children = syscalls.signalfd(-1, {signal.SIGCHLD})
    cgroup.version()
    capability.last_cap()
    protocol.warm()
    _settle_memory()
    return children


# What `_settle_memory` holds for good.
_fillers: list[object] = []


def _settle_memory() -> None:
    """Leave the heap so that a fork writes to few of the pages that it shares.

    A fork's first object of each size would go into some half empty page among those of long ago;
    with their gaps filled, all new objects lie together in fresh ones. And a lookup of an
    attribute would drop a reference to whatever name was last in its place of the method cache.
    """
    gc.collect()
    for size in range(_ALIGNMENT, _SMALL_REQUEST_THRESHOLD + 1, _ALIGNMENT):
        _fill_gaps(size)
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    gc.freeze()


def _fill_gaps(size: int) -> None:
    """Take blocks of a size until three in a row come from the start of a fresh pool."""
    overhead = sys.getsizeof(b"")
    in_a_row, last = 0, 0
    for _ in range(_MAX_FILLERS):
        if in_a_row == _ENOUGH_IN_A_ROW:
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


def _serve(channel: protocol.Channel, children: int, folders: str) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        ready = {fd for fd, _events in poll.poll()}
        if children in ready:
            _reap(children)
        if channel.fileno() not in ready:
            continue
        try:
            messages = channel.receive()
        except (OSError, protocol.ProtocolError):
            return
        if messages is None:
            return
        for message, fds in messages:
            if isinstance(message, protocol.Launch) and len(fds) == 1:
                _launch(channel, fds[0], children, os.path.join(folders, message.id))
            for fd in fds:
                os.close(fd)


def _reap(children: int) -> None:
    os.read(children, _SIGINFO_BYTES)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def _launch(channel: protocol.Channel, control: int, children: int, folder: str) -> None:
    ours, theirs = (sock.detach() for sock in socket.socketpair())
    try:
        pid = os.fork()
    except OSError as exc:
        failed = protocol.Failed(step="fork", errno=exc.errno or 0, text=f"fork: {exc.strerror}")
        channel.send(failed)
    else:
        if pid == 0:
            os.close(channel.fileno())
            server.main(control, (ours, theirs), children, folder)
    os.close(ours)
    os.close(theirs)
