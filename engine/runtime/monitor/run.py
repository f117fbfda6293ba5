"""One run of a container in a monitor: its process, streams, execs and probes, and how it ends."""

from __future__ import annotations

import os
import socket
import time

from engine.linux import cgroup, process
from engine.runtime import protocol
from engine.runtime.monitor.exec import Exec
from engine.runtime.monitor.group import end_group
from engine.runtime.monitor.health import Prober
from engine.runtime.monitor.logfile import LogFile
from engine.runtime.monitor.loop import EPOLLIN
from engine.runtime.monitor.stdio import Stdio
from engine.runtime.protocol import AttachOptions, Entry, Exit, Healthcheck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from engine.runtime import init
    from engine.runtime.monitor.handover import Handover
    from engine.runtime.monitor.journal import Journal
    from engine.runtime.monitor.loop import Loop
    from engine.runtime.monitor.reaper import Reaper
    from engine.runtime.protocol import Json

    class Container(Protocol):
        """What stays when a run ends, and is told of it."""

        @property
        def loop(self) -> Loop: ...
        @property
        def reaper(self) -> Reaper: ...
        @property
        def journal(self) -> Journal: ...
        @property
        def cgroup(self) -> str: ...
        @property
        def confinement(self) -> init.Confinement: ...
        def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None: ...
        def on_over(self, run: Run, ended: Exit) -> None: ...
        def on_quiet(self) -> None: ...


# How long clients that are slow to take the last output may keep the end of a run from being told.
_DRAIN_S = 2.0
_EVENT_BYTES = 4096
_PACK_S = 60.0


class Run:
    """Made of what its making handed over.

    Its container is told once that it is over: nothing of it runs, what it wrote is in the log. Its
    clients may still take what is kept for them.
    """

    __slots__ = (
        "_began_ns",
        "_container",
        "_died_ns",
        "_ended",
        "_execs",
        "_exit_code",
        "_is_over",
        "_log",
        "_oom_fd",
        "_oom_seen",
        "_prober",
        "_stdio",
        "pid",
        "pidfd",
        "started_ns",
    )

    def __init__(self, container: Container, taken: Handover, log: list[Json] | None) -> None:
        """`log` has the results of probes that earlier runs have left, None at the first."""
        facts = taken.facts
        loop = container.loop
        self.pid: int = facts["pid"]
        self.pidfd = taken.fd(facts["pidfd"])
        self.started_ns: int = facts["started_ns"]
        self._container = container
        self._began_ns = self._died_ns = time.monotonic_ns()
        self._ended: Exit | None = None
        self._exit_code: int | None = None
        self._execs: dict[str, Exec] = {}
        self._is_over = False
        self._oom_seen = 0
        self._oom_fd = taken.fd(facts["oom"])
        if self._oom_fd >= 0:
            loop.add(self._oom_fd, facts["oom_events"], self._on_oom)
        self._log = LogFile(facts["log"], taken.fd(facts["log_fd"])) if facts["log"] else None
        self._stdio = Stdio(
            loop,
            log=self._log,
            tty=facts["tty"],
            stdin_once=facts["stdin_once"],
            on_detach=self._on_detach,
            on_change=self._on_change,
        )
        self._take_streams(taken)
        self._prober = self._make_prober(facts["health"], log)
        container.reaper.watch(self.pid, self._on_exit)

    def _make_prober(self, document: Json | None, log: list[Json] | None) -> Prober | None:
        if not document:
            return None
        check = Healthcheck.from_json(document)
        if log is not None:
            check.health = {"log": log}
        return Prober(self, check)

    def _take_streams(self, taken: Handover) -> None:
        facts = taken.facts
        # Clients first: they see the first byte.
        for index, options in facts["clients"]:
            client = socket.SocketType(fileno=taken.fd(index))
            self._stdio.attach(client, AttachOptions.from_json(options))
        master = taken.fd(facts["master"])
        if master >= 0:
            self._stdio.open_terminal(master)
            return
        outputs = [(taken.fd(index), stream) for index, stream in facts["outputs"]]
        self._stdio.take(stdin=taken.fd(facts["stdin"]), outputs=outputs)

    @property
    def loop(self) -> Loop:
        return self._container.loop

    @property
    def reaper(self) -> Reaper:
        return self._container.reaper

    @property
    def confinement(self) -> init.Confinement:
        return self._container.confinement

    @property
    def has_process(self) -> bool:
        """`pidfd` is open."""
        return self._exit_code is None

    @property
    def ran_ns(self) -> int:
        """From its beginning to its end, by a clock that nobody sets."""
        return self._died_ns - self._began_ns

    @property
    def is_quiet(self) -> bool:
        """Over, and nobody waits for more output."""
        execs = any(e.is_running or e.has_clients for e in self._execs.values())
        return self._is_over and not self._stdio.has_clients and not execs

    def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        self._container.say(message, fds)

    # While it runs

    def signal(self, signo: int, exec_id: str | None) -> None:
        if exec_id is not None:
            # Also one that does not run yet.
            found = self._known(exec_id)
            if found.code is not None:
                raise ProcessLookupError(3, f"exec {exec_id} is not running")
            found.signal(signo)
        elif self.has_process:
            process.send_signal(self.pidfd, signo)

    def resize(self, height: int, width: int, exec_id: str | None) -> None:
        """Raises OSError."""
        if exec_id is not None:
            self._exec(exec_id).resize(height, width)
        else:
            self._stdio.resize(height, width)

    def attach(self, request: protocol.Attach, fds: list[int]) -> None:
        """Takes the descriptor out of `fds`. Raises OSError."""
        options = AttachOptions.from_json(request.options)
        self._stdio.attach(socket.SocketType(fileno=fds.pop()), options)

    def exec(self, request: protocol.Exec, fds: list[int]) -> None:
        """Takes the attachment's out of `fds`. Raises OSError when there is nothing to join."""
        if not self.has_process:
            raise ProcessLookupError(3, "cannot exec in a stopped container")
        self._execs[request.exec_id] = Exec(self, self, request, fds)

    def _exec(self, exec_id: str) -> Exec:
        found = self._known(exec_id)
        if not found.is_running:
            raise ProcessLookupError(3, f"exec {exec_id} is not running")
        return found

    def _known(self, exec_id: str) -> Exec:
        found = self._execs.get(exec_id)
        if found is None:
            raise ProcessLookupError(3, "no such exec in this container")
        return found

    def on_exec_started(self, started: Exec) -> None:
        facts = {"exec_id": started.id, "pid": started.pid}
        self._container.journal.append(Entry.EXEC_STARTED, time.time_ns(), facts)
        self.say(protocol.Executed(seq=started.seq, pid=started.pid))

    def on_exec_failed(self, never_was: Exec, failed: protocol.Failed) -> None:
        failed.seq = never_was.seq
        self.say(failed)

    def on_exec_detached(self, left: Exec) -> None:
        self.say(protocol.Detached(exec_id=left.id))

    def on_exec_exit(self, ended: Exec) -> None:
        code = 0 if ended.code is None else ended.code
        facts = {"exec_id": ended.id, "code": code}
        self._container.journal.append(Entry.EXEC_EXITED, ended.at_ns, facts)
        self.say(protocol.ExecExited(exec_id=ended.id, code=code, at_ns=ended.at_ns))

    def on_exec_gone(self, ended: Exec) -> None:
        """It failed to begin, or its last client has left."""
        if ended.code is None:
            self._execs.pop(ended.id, None)
        self._container.on_quiet()

    def acknowledge_exec(self, exec_id: str) -> None:
        self._container.journal.acknowledge(exec_id)
        found = self._execs.get(exec_id)
        if found is not None and found.code is not None and not found.has_clients:
            del self._execs[exec_id]

    def watch(self, is_on: bool) -> None:
        if self._prober is not None and self.has_process:
            self._prober.watch(is_on)

    def execs(self) -> Json:
        """Those that run, and those that ended and were not acknowledged."""
        return {one.id: one.facts() for one in self._execs.values()}

    def health(self) -> Json | None:
        return None if self._prober is None else self._prober.health.to_json()

    @property
    def is_frozen(self) -> bool:
        try:
            return bool(self._container.cgroup) and cgroup.is_frozen(self._container.cgroup)
        except OSError:
            return False  # the group was removed under us

    def _on_detach(self) -> None:
        self.say(protocol.Detached())

    # Memory

    def _on_oom(self, _events: int) -> None:
        """The descriptor is an eventfd on v1, memory.events itself on v2: both rearm by a read."""
        try:
            if cgroup.version() == 1:
                os.read(self._oom_fd, 8)
            else:
                os.pread(self._oom_fd, _EVENT_BYTES, 0)
        except OSError:
            self._close_oom()  # the group was removed under us
            return
        self._check_oom()

    def _check_oom(self) -> None:
        count = cgroup.oom_count(self._container.cgroup)
        if count > self._oom_seen:
            self._oom_seen = count
            at_ns = time.time_ns()
            self._container.journal.append(Entry.OOM, at_ns, {})
            self.say(protocol.Oom(at_ns=at_ns))

    def _close_oom(self) -> None:
        if self._oom_fd >= 0:
            self.loop.remove(self._oom_fd)
            os.close(self._oom_fd)
            self._oom_fd = -1

    # The end

    def _on_exit(self, code: int) -> None:
        """The first process was reaped. In a pid namespace of its own all others are gone too."""
        self._exit_code = code
        self._died_ns = time.monotonic_ns()
        os.close(self.pidfd)
        if self._oom_fd >= 0:
            self._check_oom()
            self._close_oom()
        if self._prober is not None:
            self._prober.close()
        ended = Exit(
            code=code,
            at_ns=time.time_ns(),
            signal=code - 128 if code > 128 else None,
            oom=self._oom_seen > 0,
            health=self.health(),
        )
        end_group(self.loop, self._container.cgroup, lambda: self._drained(ended))

    def _drained(self, ended: Exit) -> None:
        """All processes are gone: what they wrote lies in the pipes."""
        self._release()
        self._await_packer(lambda: self._wait_for_clients(ended))

    def _wait_for_clients(self, ended: Exit) -> None:
        self._ended = ended
        if self._stdio.has_clients:
            self.loop.call_later(_DRAIN_S, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        if not self._is_over and self._ended is not None:
            self._is_over = True
            self._container.on_over(self, self._ended)

    def _on_change(self) -> None:
        """An output ended or a client left."""
        if self._ended is not None and not self._stdio.has_clients:
            self._tell()
            self._container.on_quiet()

    def _release(self) -> None:
        """Log and streams: what a next run needs free."""
        self._stdio.finish()
        if self._log is not None:
            self._log.close()
            if self._log.lost_records:
                facts = {"records": self._log.lost_records, "bytes": self._log.lost_bytes}
                self._container.journal.append(Entry.LOG_LOST, time.time_ns(), facts)

    def _await_packer(self, then: Callable[[], None]) -> None:
        """A next run renames the files that a packer may still be at; bounded in time."""
        log, self._log = self._log, None
        if log is None or log.packer < 0:
            then()
            return

        def go_on() -> None:
            timer.cancel()
            self.loop.remove(log.packer)
            log.end_packer()
            then()

        timer = self.loop.call_later(_PACK_S, go_on)
        self.loop.add(log.packer, EPOLLIN, lambda _events: go_on())
