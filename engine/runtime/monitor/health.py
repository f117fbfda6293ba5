"""Looks after a container's health: runs its probe again and again, and counts what comes of it.

    wait ── interval ─▶ probe ── exit, or too late and killed ─▶ count ─▶ wait

One probe at a time, the next an interval after the last has ended (moby daemon/health.go). It goes
on while no daemon listens: what is known is told with the state, and stands in the record of the
container's end. A frozen container is not probed, and what froze in the middle does not count.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from engine.linux import oserror
from engine.runtime import protocol
from engine.runtime.monitor.exec import Exec
from engine.runtime.monitor.loop import EPOLLIN
from engine.runtime.protocol import AttachOptions, Health, Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from engine.runtime.monitor import exec
    from engine.runtime.monitor.loop import Timer
    from engine.runtime.protocol import Healthcheck

    class Container(exec.Container, Protocol):
        """What a probe needs of the container that it looks after: an exec's needs, and these."""

        @property
        def is_frozen(self) -> bool: ...
        def say(self, message: protocol.Message) -> None: ...


_NS = 10**9
_KEPT_PROBES = 5
_KEPT_BYTES = 4096
_READ_BYTES = 1 << 14
_NEVER_ENDED = -1
_ID_BYTES = 32


class Prober:
    """One a container; probes from its creation on until `close`, but while it is told not to."""

    __slots__ = ("_began_s", "_check", "_container", "_current", "_is_on", "_timer", "health")

    def __init__(self, container: Container, check: Healthcheck) -> None:
        self.health = Health.from_json(check.health or {})
        self._container = container
        self._check = check
        self._began_s = time.monotonic()
        self._current: _Attempt | None = None
        self._timer: Timer | None = None
        self._is_on = True
        self._wait()

    def watch(self, is_on: bool) -> None:
        """See protocol.Watch."""
        if is_on == self._is_on:
            return
        self._is_on = is_on
        if not is_on:
            self._stop_waiting()
            self.health.status = Health.UNHEALTHY
            if self._current is not None:
                self._current.void()
        elif self._current is None:
            self._wait()

    def close(self) -> None:
        """The container has ended, and what probes it with it."""
        self._stop_waiting()
        if self._current is not None:
            self._current.forgo()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._container.loop.call_later(self._interval_s(), self._probe)

    def _interval_s(self) -> float:
        check = self._check
        is_starting = self.health.status == Health.STARTING and self._is_in_start_period(
            time.monotonic()
        )
        return (check.start_interval_ns if is_starting else check.interval_ns) / _NS

    def _is_in_start_period(self, moment_s: float) -> bool:
        return moment_s - self._began_s < self._check.start_period_ns / _NS

    def _probe(self) -> None:
        self._timer = None
        if self._container.is_frozen:
            self._wait()
            return
        self._current = _Attempt(self._container, self, self._check)
        self._current.start()

    # Of the attempt

    def on_end(self, attempt: _Attempt, code: int | None, result: Probe | None) -> None:
        """`result` is None for one that does not count."""
        self._current = None
        if result is not None:
            self._count(result, attempt.began_s)
        health = None if result is None else self.health.to_json()
        self._container.say(protocol.Probed(exec_id=attempt.id, code=code, health=health))
        if self._is_on and not attempt.is_forgone:
            self._wait()

    def _count(self, result: Probe, began_s: float) -> None:
        health = self.health
        health.log = [*health.log[1 - _KEPT_PROBES :], result.to_json()]
        if result.exit_code == 0:
            health.failing_streak = 0
            health.status = Health.HEALTHY
        elif health.status != Health.STARTING or not self._is_in_start_period(began_s):
            health.failing_streak += 1
            if health.failing_streak >= self._check.retries:
                health.status = Health.UNHEALTHY


class _Attempt:
    """One probe, from its fork until its output has ended too."""

    __slots__ = (
        "_check",
        "_code",
        "_container",
        "_exec",
        "_has_failed",
        "_is_cut",
        "_is_late",
        "_is_open",
        "_is_over",
        "_is_void",
        "_output",
        "_prober",
        "_socket",
        "_start_ns",
        "_timer",
        "began_s",
        "id",
        "is_forgone",
    )

    def __init__(self, container: Container, prober: Prober, check: Healthcheck) -> None:
        self.id = os.urandom(_ID_BYTES).hex()
        self.began_s = time.monotonic()
        self.is_forgone = False
        self._output = bytearray()
        self._start_ns = time.time_ns()
        self._container = container
        self._prober = prober
        self._check = check
        self._code: int | None = None
        self._exec: Exec | None = None
        self._timer: Timer | None = None
        self._has_failed = False
        self._is_cut = False
        self._is_late = False
        self._is_open = False
        self._is_over = False
        self._is_void = False

    def start(self) -> None:
        self._timer = self._container.loop.call_later(self._check.timeout_ns / _NS, self._on_late)
        fds: list[int] = []
        try:
            self._open(fds)
            request = protocol.Exec(
                exec_id=self.id,
                process=self._check.process,
                options=AttachOptions(stdin=False).to_json(),
            )
            self._exec = Exec(self._container, self, request, fds)
        except OSError as exc:
            self._fail(oserror.reason(exc))
        finally:
            for fd in fds:
                os.close(fd)

    def _open(self, fds: list[int]) -> None:
        """Both streams come by one socket, as they are: its other end is added to `fds`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds.append(theirs.detach())
        ours.setblocking(False)
        self._socket = ours
        self._is_open = True
        self._container.loop.add(ours.fileno(), EPOLLIN, self._on_output)

    def void(self) -> None:
        """It is not to count; the next one waits for its end."""
        self._is_void = True
        self._kill()

    def forgo(self) -> None:
        """Whatever comes of it counts no more. Nobody is left who could wait for it to end."""
        self.is_forgone = True
        self._code = 128 + signal.SIGKILL if self._code is None else self._code
        self._end()

    # Of the exec

    def on_exec_started(self, started: Exec) -> None:
        if self._is_over:
            return
        self._container.say(protocol.Probing(exec_id=self.id, pid=started.pid))

    def on_exec_failed(self, never_was: Exec, failed: protocol.Failed) -> None:
        self._fail(failed.text)

    def on_exec_detached(self, left: Exec) -> None:
        """Only who types can detach."""

    def on_exec_exit(self, ended: Exec) -> None:
        self._code = ended.code
        self._end_when_read()

    def on_exec_gone(self, ended: Exec) -> None:
        """Its output has ended, which the socket says as well."""

    def _on_output(self, _events: int) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            self._end_when_read()
            return
        room = _KEPT_BYTES - len(self._output)
        self._output += data[:room]
        self._is_cut = self._is_cut or len(data) > room

    def _on_late(self) -> None:
        self._timer = None
        self._is_late = True
        self._is_void = self._is_void or self._container.is_frozen
        self._kill()

    def _kill(self) -> None:
        if self._exec is not None and self._code is None:
            try:
                self._exec.signal(signal.SIGKILL)
            except OSError:
                return  # it ends just now

    # Its end

    def _fail(self, text: str) -> None:
        if self._is_over:
            return
        self._has_failed = True
        if not self._is_late:
            self._output[:] = text.encode("utf-8", "surrogateescape")
        self._container.say(protocol.Probing(exec_id=self.id))
        self._end()

    def _end_when_read(self) -> None:
        if self._code is not None and not self._is_open:
            self._end()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._container.loop.remove(self._socket.fileno())
            self._socket.close()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._exec = None  # which holds this in turn
        if self._timer is not None:
            self._timer.cancel()
        self._close()
        counts = not self.is_forgone and not self._is_void
        self._prober.on_end(self, self._code, self._result() if counts else None)

    def _result(self) -> Probe:
        text = self._output.decode("utf-8", "surrogateescape") + ("..." if self._is_cut else "")
        code = self._code
        if self._is_late:
            code = None
            text = f"{self._check.late}: {text}" if text else self._check.late
        return Probe(
            start_ns=self._start_ns,
            end_ns=time.time_ns(),
            exit_code=_NEVER_ENDED if code is None else code,
            output=text,
            has_run=not self._has_failed or self._is_late,
        )
