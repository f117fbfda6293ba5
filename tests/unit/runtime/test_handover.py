"""What a maker leaves to the monitor, over a real pair of sockets."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from engine.runtime.monitor import handover

if TYPE_CHECKING:
    from engine.runtime.monitor.handover import Handover


def passed(facts: dict[str, Any], fds: list[int]) -> Handover | None:
    ours, theirs = handover.make_pair()
    found: list[Handover | None] = []
    taker = threading.Thread(target=lambda: found.append(handover.receive(ours)))
    taker.start()
    with socket.socket(fileno=theirs) as sock:
        handover.send(sock, facts, fds)
    taker.join(10)
    return found[0]


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 20])
def test_facts_and_descriptors_arrive(size: int) -> None:
    reading, writing = os.pipe()
    taken = passed({"text": "x" * size, "pipe": 0, "none": -1}, [reading])
    assert taken is not None
    assert (len(taken.facts["text"]), taken.fd(taken.facts["none"])) == (size, -1)
    os.write(writing, b"through")
    assert os.read(taken.fd(taken.facts["pipe"]), 10) == b"through"
    for fd in (reading, writing, *taken.fds):
        os.close(fd)


def test_a_maker_that_ends_without_a_word_leaves_nothing() -> None:
    ours, theirs = handover.make_pair()
    os.close(theirs)
    assert handover.receive(ours) is None


def test_whoever_has_all_of_it_may_leave_at_once() -> None:
    """The sender must not find the receiver gone after its last byte."""

    class Gone(socket.SocketType):
        def sendall(self, data: Any, flags: int = 0) -> None:
            raise BrokenPipeError(32, os.strerror(32))

    ours, theirs = handover.make_pair()
    sock = Gone(fileno=theirs)
    handover.send(sock, {"a": 1}, [])
    sock.close()
    taken = handover.receive(ours)
    assert taken is not None
    assert taken.facts == {"a": 1}
