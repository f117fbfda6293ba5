"""A monitor without descriptors to spare, and one whose maker was killed."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engine.runtime import protocol
from engine.runtime.monitor import handover, rehearsal
from engine.runtime.monitor.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


class Monitor:
    """A server with a container that is none, and the daemon's end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.daemon = protocol.Channel(ours)
        facts, fds = rehearsal._facts(theirs.detach())
        children = os.eventfd(0)
        self.listener = fds[facts["listener"]]
        self.server = Server(children, "/", handover.Handover(facts, fds))
        self.fds = [children, *(fd for fd in fds if fd != fds[facts["control"]])]

    def close(self) -> None:
        self.daemon.close()
        self.server._drop_channel()
        self.server._loop._epoll.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    monitor = Monitor()
    yield monitor
    monitor.close()


def _exhausted(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_state_that_cannot_be_told_is_a_failure_and_no_more(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", _exhausted)
        monitor.server._dispatch(protocol.State(seq=3), [])
    ((answer, _),) = monitor.daemon.receive() or ()
    assert isinstance(answer, protocol.Failed)
    assert (answer.seq, answer.errno) == (3, errno.EMFILE)


def test_a_daemon_that_cannot_be_let_in_waits(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = monitor.server._loop
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", _exhausted)
        monitor.server._on_connect(0)
    assert monitor.listener not in loop._handlers
    ((_, _, timer),) = loop._timers
    assert timer.callback is not None
    timer.callback()
    assert monitor.listener in loop._handlers


def test_what_a_killed_maker_leaves_is_ended() -> None:
    program = (
        "import subprocess\n"
        "from engine.linux import syscalls\n"
        "from engine.runtime.monitor import server\n"
        "syscalls.set_child_subreaper(True)\n"
        "left = subprocess.Popen(['sh', '-c', 'sleep 1000 & sleep 1000'])\n"
        "assert left.pid in server._children()\n"
        "server._end_orphans()\n"
        "assert not server._children()\n"
        "left.returncode = 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
