"""Namespaces of other containers are opened from a process that is theirs for certain."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from engine.container import start
from engine.errors import Conflict


def _handle(pid: int, pidfd: int) -> Any:
    return SimpleNamespace(id="x", task=SimpleNamespace(pid=pid, pidfd=pidfd))


def test_the_namespace_is_the_processs_own() -> None:
    pidfd = os.pidfd_open(os.getpid())
    fd = start._open_namespace(_handle(os.getpid(), pidfd), "ipc")
    assert os.fstat(fd).st_ino == os.stat("/proc/self/ns/ipc").st_ino
    os.close(fd)
    os.close(pidfd)


def test_a_pid_that_has_gone_to_another_is_not_joined() -> None:
    process = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Conflict, match="failed to join IPC namespace: container x is not running"):
        start._open_namespace(_handle(os.getpid(), pidfd), "ipc")
    with pytest.raises(Conflict, match="failed to join PID namespace: container x is not running"):
        start._open_namespace(_handle(process.pid, pidfd), "pid")
    assert os.listdir("/proc/self/fd") == before
    os.close(pidfd)
