"""One running container in a monitor: its streams, its execs, and the report of its end."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback

from engine.linux import cgroup, process
from engine.runtime import init, protocol
from engine.runtime.monitor.exec import Exec
from engine.runtime.monitor.health import Prober
from engine.runtime.monitor.logfile import LogFile
from engine.runtime.monitor.loop import EPOLLIN
from engine.runtime.monitor.relay import Relay, key_of
from engine.runtime.monitor.resolver import Resolver
from engine.runtime.monitor.stdio import Stdio
from engine.runtime.protocol import (
    AttachOptions,
    Entry,
    Exit,
    Healthcheck,
    ListenerOptions,
    StateReply,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from engine.runtime.monitor.handover import Handover
    from engine.runtime.monitor.journal import Journal
    from engine.runtime.monitor.loop import Loop
    from engine.runtime.monitor.reaper import Reaper
    from engine.runtime.protocol import Json

    class Owner(Protocol):
        """Whoever carries messages to the daemon, and is told when nothing is left to do."""

        def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None: ...
        def on_idle(self) -> None: ...


# How long what a container leaves behind may keep its end from being told: clients that are slow
# to take the last output, and processes in the kernel's hands.
_DRAIN_S = 2.0
_KILL_RETRY_S = 0.01
_KILL_TRIES = 500
_EVENT_BYTES = 4096
_RECORD_AGAIN_S = 5.0
_PACK_S = 60.0
_MOST_FAULTS = 10


class Container:
    """Made of what its creation handed over.

    `exit` stands once it is over, and `is_recorded` says whether it stands in the journal too.
    """

    __slots__ = (
        "_bundle",
        "_cgroup",
        "_confinement",
        "_execs",
        "_exit_code",
        "_faults",
        "_is_told",
        "_kill_tries",
        "_log",
        "_oom_fd",
        "_oom_seen",
        "_owner",
        "_prober",
        "_relays",
        "_resolver",
        "_started_ns",
        "_stdio",
        "exit",
        "is_recorded",
        "journal",
        "loop",
        "pid",
        "pidfd",
        "reaper",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        journal: Journal,
        owner: Owner,
        taken: Handover,
    ) -> None:
        facts = taken.facts
        self.loop = loop
        self.reaper = reaper
        self.journal = journal
        self.exit: Exit | None = None
        self.is_recorded = False
        self.pid: int = facts["pid"]
        self.pidfd = taken.fd(facts["pidfd"])
        self._owner = owner
        self._bundle: str = facts["bundle"]
        self._cgroup: str = facts["cgroup"]
        self._confinement: init.Confinement | None = None
        self._started_ns: int = facts["started_ns"]
        self._exit_code: int | None = None
        self._execs: dict[str, Exec] = {}
        self._kill_tries = 0
        self._faults = 0
        self._is_told = False
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
        self._relays = [
            Relay(loop, socket.socket(fileno=taken.fd(index)), ListenerOptions.from_json(options))
            for index, options in facts["relays"]
        ]
        self._resolver: Resolver | None = None
        if facts["resolver"]:
            self.resolve(facts["resolver_path"], [taken.fd(index) for index in facts["resolver"]])
        check = facts["health"]
        self._prober = Prober(self, Healthcheck.from_json(check)) if check else None
        reaper.watch(self.pid, self._on_exit)

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
    def has_process(self) -> bool:
        """`pidfd` is open."""
        return self._exit_code is None

    @property
    def is_idle(self) -> bool:
        """Over, and nobody waits for more output."""
        execs = any(e.is_running or e.has_clients for e in self._execs.values())
        return self.exit is not None and not self._stdio.has_clients and not execs

    @property
    def confinement(self) -> init.Confinement:
        """Read from the bundle when first asked for: most containers never see an exec."""
        if self._confinement is None:
            bundle = protocol.Bundle.from_json(json.loads(self._bundle))
            self._confinement = init.Confinement(bundle)
        return self._confinement

    def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        self._owner.say(message, fds)

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

    def resolve(self, path: str, fds: list[int]) -> None:
        """Takes both descriptors out of `fds`."""
        if self._resolver is not None:
            self._resolver.close()
        tcp, udp = (socket.socket(fileno=fds.pop()) for _ in range(2))
        self._resolver = Resolver(self.loop, udp, tcp, path, self._on_resolver_fault)

    def publish(self, listeners: list[Json], fds: list[int]) -> None:
        """See protocol.Publish; takes the descriptors out of `fds`."""
        held = {relay.key: relay for relay in self._relays}
        relays: list[Relay] = []
        for document in listeners:
            options = ListenerOptions.from_json(document)
            if not options.is_held and fds:
                relays.append(Relay(self.loop, socket.socket(fileno=fds.pop(0)), options))
            elif (relay := held.pop(key_of(options), None)) is not None:
                relay.lead_to(options)
                relays.append(relay)
        for relay in held.values():
            relay.close()
        self._relays = relays

    def _on_resolver_fault(self) -> None:
        """Written down a few times only: whoever found the question can ask it again."""
        if self._faults < _MOST_FAULTS:
            self._faults += 1
            self.journal.append(Entry.FAULT, time.time_ns(), {"text": traceback.format_exc()})

    def watch(self, is_on: bool) -> None:
        if self._prober is not None:
            self._prober.watch(is_on)

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
        self.journal.append(Entry.EXEC_STARTED, time.time_ns(), facts)
        self.say(protocol.Executed(seq=started.seq, pid=started.pid))

    def on_exec_failed(self, never_was: Exec, failed: protocol.Failed) -> None:
        failed.seq = never_was.seq
        self.say(failed)

    def on_exec_detached(self, left: Exec) -> None:
        self.say(protocol.Detached(exec_id=left.id))

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
        if found is not None and found.code is not None and not found.has_clients:
            del self._execs[exec_id]

    def state(self, seq: int) -> StateReply:
        return StateReply(
            seq=seq,
            status=StateReply.STOPPED if self.exit else StateReply.RUNNING,
            pid=self.pid,
            started_ns=self._started_ns,
            exit=None if self.exit is None else self.exit.to_json(),
            execs={one.id: one.facts() for one in self._execs.values()},
            health=self._health(),
        )

    def _health(self) -> Json | None:
        return None if self._prober is None else self._prober.health.to_json()

    @property
    def is_frozen(self) -> bool:
        try:
            return bool(self._cgroup) and cgroup.is_frozen(self._cgroup)
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
        count = cgroup.oom_count(self._cgroup)
        if count > self._oom_seen:
            self._oom_seen = count
            at_ns = time.time_ns()
            self.journal.append(Entry.OOM, at_ns, {})
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
            health=self._health(),
        )
        self._end_cgroup(lambda: self._drained(ended))

    def _drained(self, ended: Exit) -> None:
        """All processes are gone: what they wrote lies in the pipes."""
        self._release()
        self._await_packer(lambda: self._over(ended))

    def _over(self, ended: Exit) -> None:
        self.exit = ended
        if self._stdio.has_clients:
            self.loop.call_later(_DRAIN_S, self._tell_exit)
        else:
            self._tell_exit()

    def _tell_exit(self) -> None:
        if self._is_told or self.exit is None:
            return
        self._is_told = True
        ended = self.exit.to_json()
        self._record_exit(self.exit)
        self.say(protocol.Exited(exit=ended))
        self._owner.on_idle()

    def _record_exit(self, ended: Exit) -> None:
        self.is_recorded = self.journal.append(Entry.EXITED, ended.at_ns, ended.to_json())
        if not self.is_recorded:
            self.loop.call_later(_RECORD_AGAIN_S, lambda: self._record_again(ended))

    def _record_again(self, ended: Exit) -> None:
        """Until there is room: a daemon that was away has it from nowhere else."""
        self._record_exit(ended)
        self._owner.on_idle()

    def _on_change(self) -> None:
        """An output ended or a client left."""
        if self.exit is not None and not self._stdio.has_clients:
            self._tell_exit()
            self._owner.on_idle()

    def _release(self) -> None:
        """Ports, log, streams: what a next run of the container needs free."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
        self._stdio.finish()
        if self._log is not None:
            self._log.close()
            if self._log.lost_records:
                facts = {"records": self._log.lost_records, "bytes": self._log.lost_bytes}
                self.journal.append(Entry.LOG_LOST, time.time_ns(), facts)

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

    def _end_cgroup(self, then: Callable[[], None]) -> None:
        """Kill what is left in the group, remove it, go on; bounded in time."""
        if not self._cgroup:
            then()
            return
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
