"""The launcher as a child of the daemon: started, asked for monitors, ended.

What runs in it is launcher.py; this is the side that is on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
import time
from typing import Self

import engine
from engine import offload
from engine.linux import syscalls
from engine.runtime import protocol

log = logging.getLogger(__name__)


class Launcher:
    """The fork server as a child of ours. Its socket keeps message borders; it says nothing."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self.is_alive = True
        self._sock = sock
        self._sending = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._on_end)

    @classmethod
    async def spawn(cls, exec_root: str) -> Self:
        return cls(*await offload.kernel(_spawn, exec_root))

    async def launch(self, container_id: str, fd: int) -> None:
        """Have a monitor forked that is told of by `fd`, which stays ours."""
        # One at a time: a loop knows one writer a socket, and who waits wants to be the next.
        async with self._sending:
            while self.is_alive:
                try:
                    self._sock.sendmsg([container_id.encode()], protocol.pack_fds([fd]))
                except BlockingIOError:
                    await self._has_room()
                except OSError:
                    return  # it died: the other end of `fd` says so
                else:
                    return

    async def close(self) -> None:
        """The launcher ends with its connection."""
        self._let_go()
        await offload.kernel(_reap, self.process)

    async def _has_room(self) -> None:
        """Wait until it takes more, or is no more."""
        self._room = self._loop.create_future()
        self._loop.add_writer(self._sock.fileno(), self._wake)
        try:
            await self._room
        finally:
            self._room = None
            if self.is_alive:
                self._loop.remove_writer(self._sock.fileno())

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _on_end(self) -> None:
        log.warning("the launcher's connection ended")
        self._let_go()

    def _let_go(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._wake()


# The launcher's whole program. The tree it is imported from comes last, so that nothing beside our
# packages (site-packages, a checkout) can stand in for a module of the standard library.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from engine.runtime import launcher; launcher.main(int(sys.argv[2]), sys.argv[3])"
)


def _spawn(exec_root: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the fork server: its process, and our end of its socket."""
    tree = os.path.dirname(os.path.dirname(os.path.abspath(engine.__file__)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as stack:
        stack.callback(theirs.close)
        executable = _sealed_executable()
        stack.callback(os.close, executable)
        arguments = ["-I", "-S", "-X", "utf8", "-c", _PROGRAM, tree]
        try:
            process = subprocess.Popen(
                [sys.executable, *arguments, str(theirs.fileno()), exec_root],
                executable=f"/proc/self/fd/{executable}",
                pass_fds=(theirs.fileno(), executable),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_library_path(),
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def _sealed_executable() -> int:
    """A sealed copy of this interpreter in memory.

    Processes that have not yet left it for the container's program are seen by the container, and
    /proc/<pid>/exe leads to this copy, which nobody can write to, instead of the file on disk.
    """
    fd = _memfd("wharf")
    try:
        with open("/proc/self/exe", "rb") as source:
            size = os.fstat(source.fileno()).st_size
            while size > 0:
                size -= os.sendfile(fd, source.fileno(), None, size)
        seals = syscalls.F_SEAL_SEAL | syscalls.F_SEAL_SHRINK
        seals |= syscalls.F_SEAL_GROW | syscalls.F_SEAL_WRITE
        fcntl.fcntl(fd, syscalls.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _memfd(name: str) -> int:
    flags = syscalls.MFD_CLOEXEC | syscalls.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | syscalls.MFD_EXEC)
    except OSError as exc:
        # Kernels before 6.3 have no MFD_EXEC, and every memfd may be executed.
        if exc.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def _library_path() -> dict[str, str]:
    """The launcher's environment: where libpython is, if this interpreter has it apart.

    A search path relative to the executable ($ORIGIN) leads nowhere from a memfd.
    """
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if os.path.basename(path).startswith("libpython"):
                return {"LD_LIBRARY_PATH": os.path.dirname("/" + path)}
    return {}


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher to end by itself, then make it."""
    deadline = time.monotonic() + 2
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return
        time.sleep(0.005)
