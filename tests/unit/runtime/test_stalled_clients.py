"""Clients that do not read: whom they delay, for how long, and what they get in the end."""

from __future__ import annotations

import os
import socket
import struct
import types
from typing import TYPE_CHECKING

import pytest

from engine.runtime.monitor import stdio
from engine.runtime.monitor.loop import EPOLLIN, EPOLLOUT, Loop, Timer
from engine.runtime.monitor.stdio import Stdio
from engine.runtime.protocol import AttachOptions
from engine.stdcopy import STDOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE = 1 << 20
CHUNK = b"x" * 65536


class FakeLoop(Loop):
    """Runs what a test tells it to: descriptors are ready, and time passes, at its word."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Timer]] = []

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self.handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        assert fd in self.handlers

    def remove(self, fd: int) -> None:
        self.handlers.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        self.timers.append((self.now_s + seconds, timer))
        return timer

    def pass_time(self, seconds: float) -> None:
        end = self.now_s + seconds
        while due := [each for each in self.timers if each[0] <= end]:
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.now_s = max(self.now_s, first[0])
            if first[1].callback is not None:
                first[1].callback()
        self.now_s = end


class Process:
    """A process that writes, with its streams."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.stdio = Stdio(
            self.loop,
            log=None,
            tty=False,
            stdin_once=False,
            on_detach=lambda: None,
            on_change=lambda: None,
        )
        self.out, self._end = os.pipe()
        self._readers: list[Reader] = []
        self.stdio.take(stdin=-1, outputs=[(self.out, STDOUT)])

    def attach(self, *, stdin: bool = False) -> Reader:
        ours, theirs = socket.socketpair()
        options = AttachOptions(stdin=stdin, multiplexed=True)
        fd = theirs.detach()
        self.stdio.attach(socket.SocketType(fileno=fd), options)
        self._readers.append(Reader(ours, fd, self.loop))
        return self._readers[-1]

    def close(self) -> None:
        self.stdio.forgo()
        self.loop.pass_time(60)  # one that has all is closed a little later
        os.close(self._end)
        for reader in self._readers:
            reader.sock.close()

    @property
    def is_held(self) -> bool:
        return self.out not in self.loop.handlers

    def write(self, bytes_wanted: int) -> int:
        """Write until so many bytes were taken or none are; how many were."""
        taken = 0
        while taken < bytes_wanted and not self.is_held:
            os.write(self._end, CHUNK)
            self.loop.handlers[self.out](EPOLLIN)
            taken += len(CHUNK)
        return taken


class Reader:
    """The client's end."""

    def __init__(self, sock: socket.socket, fd: int, loop: FakeLoop) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._fd = fd
        self._loop = loop

    def take(self, wanted: int) -> bytes:
        """A little, and let the monitor send as much again."""
        data = self.sock.recv(wanted)
        self._loop.handlers[self._fd](EPOLLOUT)
        return data

    def read(self) -> bytes:
        """All that the monitor has for it."""
        data = bytearray()
        while True:
            try:
                piece = self.sock.recv(1 << 20)
            except BlockingIOError:
                handler = self._loop.handlers.get(self._fd)
                if handler is not None:
                    handler(EPOLLOUT)
                try:
                    piece = self.sock.recv(1 << 20)
                except BlockingIOError:
                    return bytes(data)
            if not piece:
                return bytes(data)
            data += piece


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process()
    clock = types.SimpleNamespace(monotonic=lambda: process.loop.now_s)
    monkeypatch.setattr(stdio, "time", clock)
    yield process
    process.close()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while data:
        stream, length = struct.unpack_from(">B3xI", data)
        assert len(data) >= 8 + length
        found.append((stream, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def test_a_full_client_holds_the_process_until_it_is_let_go(process: Process) -> None:
    process.attach()
    taken = process.write(8 * MEGABYTE)
    assert MEGABYTE < taken < 2 * MEGABYTE
    process.loop.pass_time(29)
    assert process.is_held
    process.loop.pass_time(1)
    assert not process.is_held
    assert process.write(4 * MEGABYTE) == 4 * MEGABYTE


def test_who_was_let_go_gets_what_waited_and_an_error_at_its_end(process: Process) -> None:
    reader = process.attach()
    taken = process.write(8 * MEGABYTE)
    process.loop.pass_time(100)
    process.write(MEGABYTE)
    *output, (stream, text) = frames(reader.read())
    assert sum(len(part) for _stream, part in output) == taken
    assert {stream for stream, _part in output} == {STDOUT}
    assert (stream, text.split(b":")[0]) == (3, b"output was lost")
    assert reader.sock.recv(1) == b""


def test_one_that_reads_slowly_loses_nothing(process: Process) -> None:
    reader = process.attach()
    taken, written = 0, process.write(8 * MEGABYTE)
    for _ in range(20):
        taken += len(reader.take(2 * len(CHUNK)))
        process.loop.pass_time(29)
        written += process.write(len(CHUNK))
    rest = reader.read()
    assert taken + len(rest) >= written
    assert b"output was lost" not in rest


def test_one_with_stdin_holds_the_process_however_long(process: Process) -> None:
    process.attach(stdin=True)
    process.write(8 * MEGABYTE)
    process.loop.pass_time(1000)
    assert process.is_held


def test_one_that_is_not_full_is_left_alone(process: Process) -> None:
    reader = process.attach()
    taken = process.write(MEGABYTE // 2)
    process.loop.pass_time(1000)
    assert sum(len(part) for _stream, part in frames(reader.read())) == taken


def test_after_the_end_nobody_is_waited_for_longer_than_half_a_minute(process: Process) -> None:
    process.attach()
    process.write(8 * MEGABYTE)
    process.stdio.finish()
    process.loop.pass_time(29)
    assert process.stdio.has_clients
    process.loop.pass_time(1)
    assert not process.stdio.has_clients


def test_one_that_idled_before_it_was_full_has_as_long_as_any(process: Process) -> None:
    process.attach()
    process.write(MEGABYTE // 2)
    process.loop.pass_time(100)
    process.write(8 * MEGABYTE)
    process.loop.pass_time(29)
    assert process.is_held
    process.loop.pass_time(1)
    assert not process.is_held


def test_one_that_idled_and_caught_up_has_as_long_as_any_at_the_end(process: Process) -> None:
    reader = process.attach()
    written = process.write(MEGABYTE // 2)
    process.loop.pass_time(100)
    taken = reader.read()
    written += process.write(MEGABYTE // 2)
    process.stdio.finish()
    process.loop.pass_time(25)
    taken += reader.read()
    assert sum(len(part) for _stream, part in frames(taken)) == written
