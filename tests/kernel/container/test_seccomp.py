"""The compiled default filter in the kernel, on a child of this test."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from engine.container import seccomp
from engine.container.seccomp import profile
from engine.linux import syscalls
from engine.linux.seccomp import is_available

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not is_available(), reason="needs libseccomp"),
]
AF_ALG, AF_VSOCK = 38, 40
_libc = ctypes.CDLL(None, use_errno=True)


def outcome(attempt: Callable[[], object], program: bytes) -> int:
    """The errno of `attempt` in a process under the filter; 0 where it worked."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, 0, program)
            attempt()
            code = 0
        except OSError as exc:
            code = exc.errno or 254
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def call(number: int, *args: int) -> Callable[[], None]:
    def attempt() -> None:
        ctypes.set_errno(0)
        if _libc.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), "")

    return attempt


def open_socket(family: int) -> Callable[[], None]:
    def attempt() -> None:
        socket.socket(family, socket.SOCK_SEQPACKET if family == AF_ALG else socket.SOCK_STREAM)

    return attempt


@pytest.fixture(scope="module")
def program() -> bytes:
    return seccomp.compile(profile.default(), capabilities=frozenset(["CAP_CHOWN"]))


def test_ordinary_work_goes_on(program: bytes) -> None:
    def work() -> None:
        with open("/proc/self/status", encoding="ascii") as file:
            assert "Seccomp:\t2" in file.read()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        socket.socket(socket.AF_INET).close()

    assert outcome(work, program) == 0


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(open_socket(AF_ALG), id="AF_ALG"),
        pytest.param(open_socket(AF_VSOCK), id="AF_VSOCK"),
        pytest.param(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER), id="unshare"),
        pytest.param(lambda: syscalls.mount("x", "/", "tmpfs", 0, None), id="mount"),
        pytest.param(lambda: syscalls.fsopen("tmpfs"), id="fsopen"),
        pytest.param(
            lambda: syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0), id="keyctl"
        ),
        pytest.param(lambda: syscalls.bpf_prog_get_fd_by_id(1), id="bpf"),
        pytest.param(call(425, 1, 0), id="io_uring_setup"),
    ],
)
def test_what_is_refused(attempt: Callable[[], object], program: bytes) -> None:
    assert outcome(attempt, program) == errno.EPERM


def test_clone3_and_calls_to_come_are_missing(program: bytes) -> None:
    assert outcome(call(435, 0, 0), program) == errno.ENOSYS
    assert outcome(call(2000), program) == errno.ENOSYS
