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
import sys

from engine.linux import capability, cgroup, process, syscalls
from engine.runtime import protocol
from engine.runtime.monitor import server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_UMASK = 0o022


def main(fd: int, exec_root: str) -> NoReturn:
    """Serve the daemon at the other end of socket `fd` until it is gone."""
    # The executable came along as a descriptor too.
    process.keep_only([fd])
    os.set_inheritable(fd, False)
    channel = protocol.Channel(socket.socket(fileno=fd))
    _settle()
    _serve(channel, exec_root)
    sys.exit(0)


def _settle() -> None:
    """Do once what every monitor would do."""
    syscalls.set_name("wharf-launcher")
    # What a container could read of a process on its way into it (CVE-2019-5736) starts here.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.umask(_UMASK)
    # The kernel reaps monitors; a terminal's Ctrl-C is for the daemon.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cgroup.version()
    capability.last_cap()
    protocol.warm()
    gc.collect()
    gc.freeze()


def _serve(channel: protocol.Channel, exec_root: str) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        poll.poll()
        try:
            messages = channel.receive()
        except (OSError, protocol.ProtocolError):
            return
        if messages is None:
            return
        for message, fds in messages:
            if isinstance(message, protocol.Launch) and len(fds) == 1:
                _launch(channel, message.id, fds[0], exec_root)
            for fd in fds:
                os.close(fd)


def _launch(channel: protocol.Channel, container_id: str, control: int, exec_root: str) -> None:
    try:
        pid = os.fork()
    except OSError as exc:
        failed = protocol.Failed(step="fork", errno=exc.errno or 0, text=f"fork: {exc.strerror}")
        channel.send(failed)
        return
    if pid == 0:
        try:
            channel.sock.close()
            server.main(socket.socket(fileno=os.dup(control)), exec_root, container_id)
        finally:
            os._exit(1)
