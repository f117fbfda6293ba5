"""A process on its way from fork to execve, as the monitor sees it.

prepare: Ready ─▶ waiting ─ go() ─▶ going: end of file ─▶ started
   └── Failed, or end of file ──────────┴── Failed ─▶ failed
"""

from __future__ import annotations

import os
import socket

from engine.linux import namespace, syscalls
from engine.runtime import protocol
from engine.runtime.init import GO
from engine.runtime.monitor.loop import EPOLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from engine.runtime.monitor.loop import Loop

    class Parent(Protocol):
        """Whoever is told how it goes; `on_ready` gets the terminal's master or -1."""

        def on_ready(self, master: int) -> None: ...
        def on_started(self) -> None: ...
        def on_failed(self, failed: protocol.Failed) -> None: ...


class Birth:
    """Of an exec; a container's own is `creation`'s.

    `pid` and `pidfd` stand from the start; the pidfd is the owner's to close.
    """

    __slots__ = ("_channel", "_is_going", "_loop", "_parent", "pid", "pidfd")

    def __init__(
        self,
        loop: Loop,
        parent: Parent,
        become: Callable[[socket.socket], NoReturn],
        *,
        pid_namespace: int,
    ) -> None:
        """Fork; the child is born where `pid_namespace`, a pidfd, is. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._loop = loop
        self._parent: Parent | None = parent
        self._is_going = False
        try:
            self.pid = fork_into(pid_namespace)
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            # Whatever goes wrong here: the child is never to go on as a second monitor.
            try:
                ours.close()
                become(theirs)
            finally:
                os._exit(1)
        theirs.close()
        # The child is not reaped before the loop runs again, so the pid is still its own.
        self.pidfd = os.pidfd_open(self.pid)
        self._channel = protocol.Channel(ours)
        loop.add(ours.fileno(), EPOLLIN, self._on_event)

    def go(self) -> None:
        """Let it execve; only once it is ready."""
        self._is_going = True
        try:
            self._channel.sock.send(GO, socket.MSG_NOSIGNAL)
        except OSError:
            return  # it died: the end of file says so

    def _end(self) -> Parent | None:
        """The one that is told how it went; it holds this in turn, so this lets go of it."""
        if self._channel.fileno() >= 0:
            self._loop.remove(self._channel.fileno())
            self._channel.close()
        parent, self._parent = self._parent, None
        return parent

    def _on_event(self, _events: int) -> None:
        try:
            messages = self._channel.receive()
        except (OSError, protocol.ProtocolError):
            messages = None
        if messages is None:
            self._on_end()
            return
        for message, fds in messages:
            if isinstance(message, protocol.Failed):
                self._tell_failed(message)
                return
            if self._parent is not None:
                self._parent.on_ready(fds[0] if fds else -1)

    def _on_end(self) -> None:
        if not self._is_going:
            text = "the container's init process ended unexpectedly"
            self._tell_failed(protocol.Failed(step="init", text=text))
        elif (parent := self._end()) is not None:
            parent.on_started()

    def _tell_failed(self, failed: protocol.Failed) -> None:
        if (parent := self._end()) is not None:
            parent.on_failed(failed)


def fork_into(pid_namespace: int | None, *, new: bool = False) -> int:
    """fork(2) into the pid namespace of a descriptor (a namespace's or a process's), or into a new
    one; later children of this process are born in its own again. Raises OSError.
    """
    if not new and pid_namespace is None:
        return os.fork()
    own = namespace.open_own_pid_namespace()
    try:
        if new:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        elif pid_namespace is not None:
            syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid != 0:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
        return pid
    except OSError:
        syscalls.setns(own, syscalls.CLONE_NEWPID)
        raise
    finally:
        os.close(own)
