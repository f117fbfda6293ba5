"""One more process in a running container, with streams of its own."""

from __future__ import annotations

import os
import socket
import time

from engine.linux import process
from engine.runtime import init
from engine.runtime.monitor.birth import Birth
from engine.runtime.monitor.stdio import Stdio
from engine.runtime.protocol import AttachOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Protocol

    from engine.runtime import protocol
    from engine.runtime.monitor.loop import Loop
    from engine.runtime.monitor.reaper import Reaper

    class Container(Protocol):
        """What an exec needs of the container that it runs in."""

        @property
        def loop(self) -> Loop: ...
        @property
        def reaper(self) -> Reaper: ...
        @property
        def pidfd(self) -> int: ...
        @property
        def confinement(self) -> init.Confinement: ...

    class Owner(Protocol):
        """Who is told how it goes."""

        def on_exec_started(self, started: Exec) -> None: ...
        def on_exec_failed(self, never_was: Exec, failed: protocol.Failed) -> None: ...
        def on_exec_detached(self, left: Exec) -> None: ...
        def on_exec_exit(self, ended: Exec) -> None: ...
        def on_exec_gone(self, ended: Exec) -> None: ...


# As dockerd: a child that a finished process left behind may hold its streams no longer.
_DRAIN_S = 2.0


class Exec:
    """Tells its owner when the program runs or cannot, when it has ended, and when nobody takes
    output any more. `code` stands once it has ended, at `at_ns`; `seq` is its request's.
    """

    __slots__ = (
        "_birth",
        "_container",
        "_owner",
        "_stdio",
        "at_ns",
        "code",
        "id",
        "is_running",
        "seq",
    )

    def __init__(
        self, container: Container, owner: Owner, request: protocol.Exec, fds: list[int]
    ) -> None:
        """Fork; the attachment's descriptor is taken out of `fds`. Raises OSError."""
        self.id = request.exec_id
        self.seq = request.seq
        self.is_running = False
        self.code: int | None = None
        self.at_ns = 0
        self._container = container
        self._owner = owner
        self._stdio = Stdio(
            container.loop,
            log=None,
            tty=request.tty,
            stdin_once=True,
            on_detach=lambda: owner.on_exec_detached(self),
            on_change=self._on_change,
        )
        if request.options is not None:
            options = AttachOptions.from_json(request.options)
            while fds:
                self._stdio.attach(socket.socket(fileno=fds.pop()), options)
        try:
            self._birth = self._fork(container, request)
        except BaseException:
            self._stdio.forgo()
            raise
        container.reaper.watch(self._birth.pid, self._on_exit)

    def _fork(self, container: Container, request: protocol.Exec) -> Birth:
        stdio = (-1, -1, -1)
        if not request.tty:
            stdio = self._stdio.open_pipes(
                stdin=request.stdin, stdout=request.stdout, stderr=request.stderr
            )

        def become(sync: socket.socket) -> NoReturn:
            init.run_exec(
                container.confinement,
                request.process,
                container.pidfd,
                sync,
                stdio,
                tty=request.tty,
                console_size=request.console_size,
            )

        try:
            return Birth(container.loop, self, become, pid_namespace=container.pidfd)
        finally:
            for fd in stdio:
                if fd >= 0:
                    os.close(fd)

    @property
    def pid(self) -> int:
        return self._birth.pid

    @property
    def has_clients(self) -> bool:
        return self._stdio.has_clients

    def facts(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "running": self.is_running,
            "exit_code": self.code,
            "at_ns": self.at_ns,
        }

    def signal(self, signo: int) -> None:
        process.send_signal(self._birth.pidfd, signo)

    def resize(self, height: int, width: int) -> None:
        self._stdio.resize(height, width)

    # Birth

    def on_ready(self, master: int) -> None:
        if master >= 0:
            self._stdio.open_terminal(master)
        self._birth.go()

    def on_started(self) -> None:
        self.is_running = True
        self._owner.on_exec_started(self)
        if self.code is not None:
            self._end()

    def on_failed(self, failed: protocol.Failed) -> None:
        self._owner.on_exec_failed(self, failed)
        self._stdio.forgo()
        self._let_go()
        self._owner.on_exec_gone(self)

    # End

    def _on_exit(self, code: int) -> None:
        os.close(self._birth.pidfd)
        self.code, self.at_ns = code, time.time_ns()
        if self.is_running:
            self._end()

    def _end(self) -> None:
        self.is_running = False
        if self._stdio.has_output:
            self._container.loop.call_later(_DRAIN_S, self._finish)
        else:
            self._finish()

    def _on_change(self) -> None:
        if self.code is not None and not self.is_running and not self._stdio.has_output:
            self._finish()

    def _finish(self) -> None:
        if self._stdio.is_finished:
            self._let_go()
            self._owner.on_exec_gone(self)
            return
        # Clients ask for the code as soon as their stream ends: it is told before that.
        self._stdio.drain()
        self._owner.on_exec_exit(self)
        self._stdio.finish()
        self._let_go()

    def _let_go(self) -> None:
        if not self._stdio.has_clients:
            self._stdio.forget()
