"""A creation whose daemon leaves is given up without a word: nothing has failed."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from engine.runtime.monitor import creation
from engine.runtime.protocol import Channel, Hello

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, int]]:
    """The daemon's end, and the other as a descriptor that the creation owns."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        yield ours, theirs.detach()


@pytest.mark.parametrize("is_greeted", [False, True])
def test_a_daemon_that_leaves_ends_it_quietly(tmp_path: Path, is_greeted: bool) -> None:
    folder = tmp_path / "container"
    with connected() as (daemon, control), connected() as (_monitor, successor):
        if is_greeted:
            daemon.shutdown(socket.SHUT_WR)
        else:
            daemon.close()
        creation.run(control, successor, str(folder), "id")
        if is_greeted:
            ((hello, _fds),) = Channel(daemon).receive() or ()
            assert isinstance(hello, Hello)
        socket.socket(fileno=successor).close()
    assert not folder.exists()
