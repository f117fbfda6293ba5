"""What every monitor does first, done in the launcher a few times before it forks any.

A function that is called for the first times is rewritten by the interpreter for what it meets, and
what it looks up is remembered: each a write to pages that a monitor would rather share. Done here,
it is found done by all of them. Nothing of it remains: its container is made of pipes to nobody.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import socket

from engine.linux import syscalls
from engine.runtime.monitor import handover
from engine.runtime.monitor.server import Server, set_name

# CPython adapts a function after it was called eight times, each place in it after a few more.
_TIMES = 24
_DESCRIPTORS = 24  # of one time, at most
_OTHER_DESCRIPTORS = 64


def rehearse(children: int, name: str) -> None:
    """`children` is the signalfd of SIGCHLD, `name` this process's own.

    Leaves descriptors open; the caller closes them.
    """
    # As often as there is room for: without it a monitor costs a little more, and nothing else.
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_DESCRIPTORS
    for _ in range(min(_TIMES, max(0, room // _DESCRIPTORS))):
        _rehearse_once(children, name)
    gc.collect()


def _rehearse_once(children: int, name: str) -> None:
    set_name(name)
    syscalls.set_child_subreaper(False)
    control, _daemon = _socket.socketpair()
    facts, fds = _facts(control.detach())
    ours, theirs = handover.make_pair()
    handover.send(socket.SocketType(fileno=theirs), facts, fds)
    taken = handover.receive(ours)
    assert taken is not None
    Server(children, "/", taken)


def _facts(control: int) -> tuple[handover.Facts, list[int]]:
    """A container with pipes and a log."""
    listener = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM)
    fds = [control, listener.detach(), *os.pipe(), *os.pipe(), os.pidfd_open(os.getpid())]
    fds += [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in range(2)]
    fds.append(os.eventfd(0, os.EFD_CLOEXEC))
    facts: handover.Facts = {
        "id": "",
        "pid": 0,
        "started_ns": 0,
        "cgroup": "",
        "bundle": "{}",
        "tty": False,
        "stdin_once": False,
        "health": None,
        "restart": None,
        "log": {"driver": "json-file", "path": "/"},
        "log_fd": 7,
        "control": 0,
        "listener": 1,
        "journal": 8,
        "pidfd": 6,
        "stdin": -1,
        "master": -1,
        "outputs": [(2, 1), (4, 2)],
        "oom": 9,
        "oom_events": 0,
        "relays": [],
        "resolver": [],
        "resolver_path": "",
        "clients": [],
        "unread": b"",
        "unread_fds": [],
    }
    return facts, fds
