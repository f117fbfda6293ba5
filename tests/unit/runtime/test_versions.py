"""Daemons and monitors of different versions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from engine import offload
from engine.runtime import protocol
from engine.runtime.client import MonitorUnreached, NewerMonitor, Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "a" * 64


@pytest.fixture(autouse=True)
def _pools() -> Iterator[None]:
    yield
    offload.close()


async def _adopt(exec_root: Path, greeting: bytes) -> int | None:
    """The pid of a container whose monitor says that first; None if it is taken for dead."""
    folder = exec_root / "containers" / ID
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with contextlib.chdir(folder):
            listener.bind("monitor.sock")
        listener.listen()
        serving = offload.disk(_serve, listener, greeting)
        runtime = Runtime(str(exec_root), events=None)  # type: ignore[arg-type]
        pid, _ = await asyncio.gather(_adopt_and_close(runtime), serving)
        return pid


async def _adopt_and_close(runtime: Runtime) -> int | None:
    try:
        task = await runtime.adopt(ID)
        return None if task is None else task.pid
    finally:
        await runtime.close()


def _serve(listener: socket.socket, greeting: bytes) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.sendall(greeting)
        while sock.recv(1 << 16):
            sock.sendall(protocol.encode(STATE, 0))


STATE = protocol.StateReply(seq=1, status=protocol.StateReply.RUNNING, pid=7)


@pytest.mark.parametrize("version", [protocol.VERSION, protocol.VERSION - 1])
def test_monitors_of_this_version_and_earlier_ones_are_adopted(
    tmp_path: Path, version: int
) -> None:
    hello = protocol.encode(protocol.Hello(id=ID, pid=1, version=version), 0)
    assert asyncio.run(_adopt(tmp_path, hello)) == 7


def test_a_newer_monitor_is_refused_not_taken_for_dead(tmp_path: Path) -> None:
    hello = protocol.encode(protocol.Hello(id=ID, pid=1, version=protocol.VERSION + 1), 0)
    with pytest.raises(NewerMonitor, match="runs under a newer version"):
        asyncio.run(_adopt(tmp_path, hello))


def test_one_that_breaks_off_is_not_taken_for_dead_while_it_listens(tmp_path: Path) -> None:
    with pytest.raises(MonitorUnreached):
        asyncio.run(_adopt(tmp_path, b"\xff" * 8))


def test_one_that_nobody_listens_for_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "containers" / ID
    folder.mkdir(parents=True)
    runtime = Runtime(str(tmp_path), events=None)  # type: ignore[arg-type]
    assert asyncio.run(runtime.adopt(ID)) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ended, contextlib.chdir(folder):
        ended.bind("monitor.sock")
        ended.listen()
    assert asyncio.run(runtime.adopt(ID)) is None
