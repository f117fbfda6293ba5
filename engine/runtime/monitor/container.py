"""One container in a monitor: from its creation to the report of its end."""

from __future__ import annotations

import os
import socket
import time

from engine.linux import cgroup, namespace, process
from engine.runtime import init, protocol
from engine.runtime.monitor.birth import Birth
from engine.runtime.monitor.exec import Exec
from engine.runtime.monitor.logfile import LogFile
from engine.runtime.monitor.relay import Relay
from engine.runtime.monitor.stdio import Stdio
from engine.runtime.protocol import AttachOptions, Entry, Exit, ListenerOptions, StateReply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    from engine.runtime.monitor.journal import Journal
    from engine.runtime.monitor.loop import Loop
    from engine.runtime.monitor.reaper import Reaper

    class Owner(Protocol):
        """Whoever carries messages to the daemon, and is told when nothing is left to do."""

        def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None: ...
        def on_idle(self) -> None: ...


# How long what a container leaves behind may keep its end from being told: clients that are slow
# to take the last output, and processes in the kernel's hands.
_DRAIN_S = 2.0
_KILL_RETRY_S = 0.01
_KILL_TRIES = 500


class Container:
    """`status` is one of StateReply's; the sequence is create, start, exit, and never back."""

    __slots__ = (
        "_birth",
        "_bundle",
        "_cgroup",
        "_create_seq",
        "_execs",
        "_exit_code",
        "_is_told",
        "_kill_tries",
        "_log",
        "_oom",
        "_oom_seen",
        "_owner",
        "_relays",
        "_start_seq",
        "_started_ns",
        "_stdio",
        "confinement",
        "exit",
        "is_given_up",
        "journal",
        "loop",
        "reaper",
        "status",
    )

    def __init__(
        self, loop: Loop, reaper: Reaper, journal: Journal, owner: Owner, bundle: protocol.Bundle
    ) -> None:
        self.loop = loop
        self.reaper = reaper
        self.journal = journal
        self.status = "creating"
        self.exit: Exit | None = None
        self.is_given_up = False
        self.confinement = init.Confinement(bundle)
        self._owner = owner
        self._bundle = bundle
        self._cgroup = self.confinement.cgroup_path
        self._create_seq = 0
        self._start_seq: int | None = None
        self._started_ns = 0
        self._exit_code: int | None = None
        self._birth: Birth | None = None
        self._log: LogFile | None = None
        self._stdio: Stdio | None = None
        self._oom: cgroup.OomWatch | None = None
        self._oom_seen = False
        self._relays: list[Relay] = []
        self._execs: dict[str, Exec] = {}
        self._kill_tries = 0
        self._is_told = False

    @property
    def pidfd(self) -> int:
        return -1 if self._birth is None else self._birth.pidfd

    @property
    def has_process(self) -> bool:
        """`pidfd` is open."""
        return self._birth is not None and self._exit_code is None

    @property
    def is_idle(self) -> bool:
        """Over, and nobody waits for more output."""
        lingering = self._stdio is not None and self._stdio.has_clients
        lingering = lingering or any(e.is_running or e.has_clients for e in self._execs.values())
        return (self.exit is not None or self.is_given_up) and not lingering

    def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        self._owner.say(message, fds)

    # Creation

    def create(self, request: protocol.Create, fds: list[int]) -> None:
        """Everything up to init's fork; its outcome answers the request later."""
        self._create_seq = request.seq
        listeners, clients = fds[: len(request.listeners)], fds[len(request.listeners) :]
        step = "log"
        try:
            self._log = _open_log(self._bundle.log)
            self._stdio = self._open_stdio()
            for fd, options in zip(clients, request.attachments, strict=True):
                self._stdio.attach(socket.socket(fileno=fd), AttachOptions.from_json(options))
            for fd, options in zip(listeners, request.listeners, strict=True):
                sock = socket.socket(fileno=fd)
                self._relays.append(Relay(self.loop, sock, ListenerOptions.from_json(options)))
            step = "cgroup"
            self._open_cgroup()
            step = "fork"
            self._birth = self._fork(self._stdio)
        except OSError as exc:
            self._fail(protocol.Failed(step=step, errno=exc.errno or 0, text=str(exc)))
            return
        self.reaper.watch(self._birth.pid, self._on_exit)

    def _open_stdio(self) -> Stdio:
        return Stdio(
            self.loop,
            log=self._log,
            tty=self._bundle.tty,
            stdin_once=self._bundle.stdin_once,
            on_detach=lambda: self.say(protocol.Detached()),
            on_change=self._on_change,
        )

    def _open_cgroup(self) -> None:
        if not self._cgroup:
            return
        resources: dict[str, Any] = self._bundle.spec.get("linux", {}).get("resources") or {}
        cgroup.create(self._cgroup)
        cgroup.apply(self._cgroup, resources)
        if resources.get("devices") is not None:
            cgroup.devices(self._cgroup, resources["devices"])
        self._oom = cgroup.oom_watch(self._cgroup)
        self.loop.add(self._oom.fileno(), self._oom.events, self._on_oom)

    def _fork(self, stdio: Stdio) -> Birth:
        bundle = self._bundle
        theirs = (-1, -1, -1)
        if not bundle.tty:
            theirs = stdio.open_pipes(stdin=bundle.open_stdin, stdout=True, stderr=True)

        def become(sync: socket.socket) -> NoReturn:
            init.run_container(bundle, sync, theirs)

        namespaces: list[dict[str, str]] = bundle.spec.get("linux", {}).get("namespaces") or []
        where = {n["type"]: n.get("path") or "" for n in namespaces}.get("pid")
        joined = namespace.open_file(where) if where else None
        try:
            return Birth(
                self.loop,
                self,
                become,
                pid_namespace=joined,
                new_pid_namespace=where == "",
            )
        finally:
            for fd in (*theirs, -1 if joined is None else joined):
                if fd >= 0:
                    os.close(fd)

    def on_ready(self, master: int) -> None:
        if self._birth is None or self._stdio is None:
            return
        if master >= 0:
            self._stdio.open_terminal(master)
        self.status = StateReply.CREATED
        self.journal.append(Entry.CREATED, time.time_ns(), {"pid": self._birth.pid})
        created = protocol.Created(seq=self._create_seq, pid=self._birth.pid)
        self.say(created, (os.dup(self._birth.pidfd),))
        if self._start_seq is not None:
            self._birth.go()

    def on_failed(self, failed: protocol.Failed) -> None:
        failed.seq = self._create_seq
        if self._start_seq is not None and self.status == StateReply.CREATED:
            failed.seq = self._start_seq
        self._fail(failed)

    def _fail(self, failed: protocol.Failed) -> None:
        """Nothing of the container is left when the daemon hears of it."""
        facts = {"step": failed.step, "text": failed.text}
        self.journal.append(Entry.FAILED, time.time_ns(), facts)
        self.is_given_up = True
        if self._birth is not None:
            self._birth.give_up()
            process.send_signal(self._birth.pidfd, 9)
        self._release()
        self._end_cgroup(lambda: self._say_failed(failed))

    def _say_failed(self, failed: protocol.Failed) -> None:
        self.say(failed)
        self._owner.on_idle()

    def give_up(self) -> None:
        """The daemon that wanted it is gone before it was started."""
        self._fail(protocol.Failed(step="start", text="the daemon went away before the start"))

    # While it runs

    def start(self, request: protocol.Start) -> None:
        self._start_seq = request.seq
        if self._birth is not None and self.status == StateReply.CREATED:
            self._birth.go()

    def on_started(self) -> None:
        if self._start_seq is None or self._birth is None:
            return
        self.status = StateReply.RUNNING
        self._started_ns = time.time_ns()
        self.journal.append(Entry.STARTED, self._started_ns, {"pid": self._birth.pid})
        self.say(protocol.Started(seq=self._start_seq, at_ns=self._started_ns))
        if self._exit_code is not None:
            self._end()

    def signal(self, signo: int, exec_id: str | None) -> None:
        if exec_id is not None:
            self._exec(exec_id).signal(signo)
        elif self._birth is not None and self._exit_code is None:
            process.send_signal(self._birth.pidfd, signo)

    def resize(self, height: int, width: int, exec_id: str | None) -> None:
        """Raises OSError, KeyError."""
        if exec_id is not None:
            self._exec(exec_id).resize(height, width)
        elif self._stdio is not None:
            self._stdio.resize(height, width)

    def attach(self, fd: int, options: AttachOptions) -> None:
        sock = socket.socket(fileno=fd)
        if self._stdio is None:
            sock.close()
            return
        self._stdio.attach(sock, options)

    def exec(self, request: protocol.Exec, fds: list[int]) -> None:
        """Raises OSError when there is nothing to join."""
        if self.status != StateReply.RUNNING or self._exit_code is not None:
            for fd in fds:
                os.close(fd)
            raise ProcessLookupError(3, "cannot exec in a stopped container")
        self._execs[request.exec_id] = Exec(self, request, fds)

    def _exec(self, exec_id: str) -> Exec:
        found = self._execs[exec_id]
        if not found.is_running:
            raise ProcessLookupError(3, f"exec {exec_id} is not running")
        return found

    def on_exec_exit(self, ended: Exec) -> None:
        code = 0 if ended.code is None else ended.code
        facts = {"exec_id": ended.id, "code": code}
        self.journal.append(Entry.EXEC_EXITED, ended.at_ns, facts)
        self.say(protocol.ExecExited(exec_id=ended.id, code=code, at_ns=ended.at_ns))

    def on_exec_gone(self, ended: Exec) -> None:
        """It failed to begin, or its last client has left."""
        if ended.code is None:
            self._execs.pop(ended.id, None)
        if self.is_idle:
            self._owner.on_idle()

    def acknowledge_exec(self, exec_id: str) -> None:
        self.journal.acknowledge(exec_id)
        found = self._execs.get(exec_id)
        if found is not None and found.code is not None:
            del self._execs[exec_id]

    def state(self, seq: int) -> StateReply:
        return StateReply(
            seq=seq,
            status=self.status,
            pid=0 if self._birth is None else self._birth.pid,
            started_ns=self._started_ns,
            exit=None if self.exit is None else self.exit.to_json(),
            execs={one.id: one.facts() for one in self._execs.values()},
        )

    def _on_oom(self, _events: int) -> None:
        if self._oom is not None and self._oom.read() > 0:
            self._tell_oom()

    def _tell_oom(self) -> None:
        self._oom_seen = True
        at_ns = time.time_ns()
        self.journal.append(Entry.OOM, at_ns, {})
        self.say(protocol.Oom(at_ns=at_ns))

    # The end

    def _on_exit(self, code: int) -> None:
        """The first process was reaped. In a pid namespace of its own all others are gone too."""
        self._exit_code = code
        if self.status == StateReply.RUNNING:
            self._end()
        elif self.is_given_up and self._birth is not None:
            os.close(self._birth.pidfd)

    def _end(self) -> None:
        at_ns = time.time_ns()
        code = self._exit_code or 0
        if self._oom is not None and self._oom.read() > 0:
            self._tell_oom()
        ended = Exit(
            code=code, at_ns=at_ns, signal=code - 128 if code > 128 else None, oom=self._oom_seen
        )
        self._end_cgroup(lambda: self._drained(ended))

    def _drained(self, ended: Exit) -> None:
        """All processes are gone: what they wrote lies in the pipes."""
        self._release()
        self.exit = ended
        self.status = StateReply.STOPPED
        if self._stdio is not None and self._stdio.has_clients:
            self.loop.call_later(_DRAIN_S, lambda: self._tell_exit(ended))
        else:
            self._tell_exit(ended)

    def _tell_exit(self, ended: Exit) -> None:
        if self._is_told:
            return
        self._is_told = True
        if self._birth is not None:
            os.close(self._birth.pidfd)
        self.journal.append(Entry.EXITED, ended.at_ns, ended.to_json())
        self.say(protocol.Exited(exit=ended.to_json()))
        self._owner.on_idle()

    def _on_change(self) -> None:
        """An output ended or a client left."""
        if self.exit is not None and self._stdio is not None and not self._stdio.has_clients:
            self._tell_exit(self.exit)
            self._owner.on_idle()

    def _release(self) -> None:
        """Ports, log, streams: what a next run of the container needs free."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        if self._stdio is not None:
            self._stdio.finish()
        if self._log is not None:
            if self._log.lost_records:
                facts = {"records": self._log.lost_records, "bytes": self._log.lost_bytes}
                self.journal.append(Entry.LOG_LOST, time.time_ns(), facts)
            self._log.close()
            self._log = None

    def _end_cgroup(self, then: Callable[[], None]) -> None:
        """Kill what is left in the group, remove it, go on; bounded in time."""
        if not self._cgroup:
            then()
            return
        if self._oom is not None:
            self.loop.remove(self._oom.fileno())
            self._oom.close()
            self._oom = None
        try:
            empty = cgroup.kill(self._cgroup, 0.0)
            if empty:
                cgroup.remove(self._cgroup, 0.0)
        except OSError:
            empty = False
        self._kill_tries += 1
        if empty or self._kill_tries > _KILL_TRIES:
            then()
        else:
            self.loop.call_later(_KILL_RETRY_S, lambda: self._end_cgroup(then))


def _open_log(config: dict[str, Any]) -> LogFile | None:
    driver = config.get("driver") or "json-file"
    if driver == "none":
        return None
    if driver != "json-file":
        raise OSError(95, f"log driver {driver} is not supported")
    return LogFile(config)
