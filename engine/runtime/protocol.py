"""What daemon, launcher, monitor and init say to each other.

    daemon            launcher           monitor                        init
      │ id +socket       │                  │                             │
      ├─────────────────▶│ fork             │                             │
      │                  ├─────────────────▶│                             │
      │◀─────────────────┼───────────Hello──┤                             │
      │ Create +fds      │                  │ fork                        │
      ├──────────────────┼─────────────────▶├────────────────────────────▶│ "S": cgroup and
      │ Start            │                  │◀──────────────────────ready─┤ namespaces entered,
      ├──────────────────┼─────────────────▶│      (or failed)            │ rootfs stands, the
      │◀────────────Created(pid) +pidfd─────┤                             │ program is found
      │                  │                  ├─go─────────────────────────▶│
      │                  │                  │◀────────end of file: execve─┤
      │◀──────────────────────────Started───┤  (or failed)                ▼
      │ Exec, Attach, Resize, State …       │
      ├──────────────────┼─────────────────▶│
      │◀──────────────Executed, Done, …─────┤
      │◀─────ExecExited, Oom, Detached──────┤
      │◀─────Probing, Probed────────────────┤
      │ Policy, Amend, GiveUp               │
      ├──────────────────┼─────────────────▶│
      │◀────────────Exited(again_ns)────────┤ waits, then a maker, and
      │◀─────────Restarted(pid) +pidfd──────┤ another init; any number of times
      │◀──────────────────────────Exited────┤
      │ Acknowledge      │                  │
      ├──────────────────┼─────────────────▶│ ends

The launcher is sent the container's id, as it is, with the monitor's end of a socket pair: it shall
touch as little memory as possible, for each page it writes to is one less that monitors share.
The socket to a monitor exists before the monitor does, so the daemon sends Create and Start at
once. Every request carries `seq` and is answered by one message with the same `seq`: the answer
named for it, Done, or Failed. What the monitor says unasked carries none. It never asks. What
happens is appended to its journal first (`Entry`), so a daemon that was away learns of it; a later
daemon reaches the monitor at `monitor.sock` in the container's folder under the exec-root and is
greeted the same way. A new connection takes over from the one before.

On the wire a message is four bytes of length (big endian) and as many of JSON: `type`, the slots
of its class, `fds`, the number of descriptors that belong to it. Those travel as SCM_RIGHTS in
order. A reader drops keys it does not know and a missing key takes its default: this is how daemon
and monitor of different versions talk. `VERSION` grows when that is not enough: a daemon goes on
with monitors of earlier versions, and does not start where one of a later version runs, which
leaves its container alone.

This module is imported by launcher, monitor and init: light standard library only, so no msgspec.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import select
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar, Self

    Json = dict[str, Any]

VERSION = 2
"""2: a monitor may start its container again. One that does not still says 1."""

NO_RESTARTS = 1
"""The version of a monitor whose container runs once: a daemon of that time understands it."""

CRASH = "monitor.crash"
"""The file in a container's folder in which a monitor says what fault of its own ended it."""

_LENGTH = struct.Struct(">I")
# A specification with the largest environment the kernel takes (2 MB) is far below.
_MAX_MESSAGE_BYTES = 64 << 20
# SCM_MAX_FD of the kernel: descriptors one sendmsg may carry.
MAX_FDS = 253
_READ_BYTES = 1 << 16
_NO_DESCRIPTORS: tuple[int, ...] = ()
# Made once: json.dumps with separators makes an encoder a call, which a monitor pays in memory.
dump = json.JSONEncoder(separators=(",", ":")).encode


class ProtocolError(Exception):
    """The other side broke the protocol; the connection is of no more use."""


class Document:
    """A value that is written as JSON: its slots are its keys."""

    __slots__ = ()

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in _slots(type(self))}

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """Unknown keys are dropped; a missing key takes the default of `__init__`."""
        return cls(**{name: document[name] for name in _slots(cls) if name in document})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in _slots(type(self)))
        return f"{type(self).__name__}({facts})"


_slots_of: dict[type, list[str]] = {}


def _slots(cls: type) -> list[str]:
    names = _slots_of.get(cls)
    if names is None:
        names = [name for base in reversed(cls.__mro__) for name in getattr(base, "__slots__", ())]
        _slots_of[cls] = names
    return names


# Documents within messages


class Bundle(Document):
    """Everything a monitor needs to run one container, as one document.

    `spec` is runtime-spec JSON; `linux.cgroupsPath` is relative to the cgroup roots and
    `root.path` an empty directory that init mounts `rootfs` on, in the container's own mount
    namespace. `subpaths` maps the destination of a bind to the path below its source that is meant;
    init resolves it, and it may not lead out. `trees` maps the destination of a bind to what is
    mounted, as `rootfs` is, to be its source. `seccomp` is the file of a compiled filter; if it is
    None no filter is loaded, whatever `linux.seccomp` says; `seccomp_flags` are
    SECCOMP_FILTER_FLAG_*, None for SPEC_ALLOW as runc has it. `log` is {"driver", "path",
    "max_size", "max_file", "compress", "attrs"}; sizes in bytes, -1 for no limit. `console_size` is
    [height, width]. `health` is a Healthcheck. `restart` is a Restart, None where whoever made the
    container starts it again, or nobody does. `names` is kept for later versions of this document.
    """

    __slots__ = (
        "console_size",
        "health",
        "id",
        "init",
        "log",
        "names",
        "open_stdin",
        "restart",
        "rootfs",
        "seccomp",
        "seccomp_flags",
        "spec",
        "stdin_once",
        "subpaths",
        "trees",
        "tty",
    )

    def __init__(
        self,
        *,
        id: str,
        spec: Json,
        rootfs: list[Json] | None = None,
        subpaths: dict[str, str] | None = None,
        trees: dict[str, Json] | None = None,
        seccomp: str | None = None,
        seccomp_flags: int | None = None,
        log: Json | None = None,
        tty: bool = False,
        open_stdin: bool = False,
        stdin_once: bool = False,
        console_size: list[int] | None = None,
        init: bool = False,
        restart: Json | None = None,
        health: Json | None = None,
        names: Json | None = None,
    ) -> None:
        self.id = id
        self.spec = spec
        self.rootfs = rootfs or []
        self.subpaths = subpaths or {}
        self.trees = trees or {}
        self.seccomp = seccomp
        self.seccomp_flags = seccomp_flags
        self.log = log or {"driver": "none"}
        self.tty = tty
        self.open_stdin = open_stdin
        self.stdin_once = stdin_once
        self.console_size = console_size
        self.init = init
        self.restart = restart
        self.health = health
        self.names = names


class AttachOptions(Document):
    """How an attached client is served; its socket travels beside it.

    `detach_keys` and `prefix` are bytes written as latin-1, a character a byte. An empty
    `detach_keys` means Docker's ctrl-p ctrl-q.
    """

    __slots__ = ("detach_keys", "multiplexed", "prefix", "stderr", "stdin", "stdout")

    def __init__(
        self,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        multiplexed: bool = False,
        detach_keys: str = "",
        prefix: str = "",
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.multiplexed = multiplexed
        self.detach_keys = detach_keys
        self.prefix = prefix


class ListenerOptions(Document):
    """A published port; its bound socket travels beside it, unless it `is_held` already. What
    arrives there is relayed.

    One that `is_shared` has the socket of the one before it: that is bound to any address of both
    families, and each of the two says where those of its own are led.
    """

    __slots__ = (
        "host_ip",
        "host_port",
        "is_held",
        "is_shared",
        "protocol",
        "target_ip",
        "target_port",
    )

    def __init__(
        self,
        *,
        protocol: str,
        host_ip: str,
        host_port: int,
        target_ip: str,
        target_port: int,
        is_held: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.is_held = is_held
        self.is_shared = is_shared
        self.protocol = protocol
        self.host_ip = host_ip
        self.host_port = host_port
        self.target_ip = target_ip
        self.target_port = target_port


class Healthcheck(Document):
    """How a container's health is found out; all times in ns, `retries` at least 1.

    `process` is a runtime-spec Process as an Exec's. `late` is what stands in the log, before the
    output, of a probe that took too long. `health` is what an earlier run has left.
    """

    __slots__ = (
        "health",
        "interval_ns",
        "late",
        "process",
        "retries",
        "start_interval_ns",
        "start_period_ns",
        "timeout_ns",
    )

    def __init__(
        self,
        *,
        process: Json,
        interval_ns: int,
        timeout_ns: int,
        start_period_ns: int,
        start_interval_ns: int,
        retries: int,
        late: str,
        health: Json | None = None,
    ) -> None:
        self.process = process
        self.interval_ns = interval_ns
        self.timeout_ns = timeout_ns
        self.start_period_ns = start_period_ns
        self.start_interval_ns = start_interval_ns
        self.retries = retries
        self.late = late
        self.health = health


class Probe(Document):
    """What came of one probe. `output` may hold bytes that are no UTF-8, as surrogateescape has
    them. `has_run` is False where the program could not be started: `output` says why.
    """

    __slots__ = ("end_ns", "exit_code", "has_run", "output", "start_ns")

    def __init__(
        self, *, start_ns: int, end_ns: int, exit_code: int, output: str, has_run: bool = True
    ) -> None:
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.exit_code = exit_code
        self.output = output
        self.has_run = has_run


class Health(Document):
    """`log` has the last probes, oldest first, `failing_streak` how many failed in a row."""

    __slots__ = ("failing_streak", "log", "status")

    STARTING: ClassVar = "starting"
    HEALTHY: ClassVar = "healthy"
    UNHEALTHY: ClassVar = "unhealthy"

    def __init__(
        self, *, status: str = STARTING, failing_streak: int = 0, log: list[Json] | None = None
    ) -> None:
        self.status = status
        self.failing_streak = failing_streak
        self.log = log or []


class Restart(Document):
    """A restart policy. `count` is how often it has started the container again so far; that of a
    later Policy does not count.
    """

    __slots__ = ("count", "maximum_retry_count", "name")

    ALWAYS: ClassVar = "always"
    UNLESS_STOPPED: ClassVar = "unless-stopped"
    ON_FAILURE: ClassVar = "on-failure"

    def __init__(self, *, name: str, maximum_retry_count: int = 0, count: int = 0) -> None:
        self.name = name
        self.maximum_retry_count = maximum_retry_count
        self.count = count


class Exit(Document):
    """How a run of a container ended. `code` is 128 + `signal` where a signal ended it; `health` is
    a Health, None for one that was not looked after.

    `again_ns` is the time until it is started again, by its policy and for the `count`th time; None
    where this is the end. `failure` is {"step", "text"} of the restart that could not be done:
    the rest is then about the run before.
    """

    __slots__ = ("again_ns", "at_ns", "code", "count", "failure", "health", "oom", "signal")

    def __init__(
        self,
        *,
        code: int,
        at_ns: int,
        signal: int | None = None,
        oom: bool = False,
        health: Json | None = None,
        again_ns: int | None = None,
        count: int | None = None,
        failure: Json | None = None,
    ) -> None:
        self.code = code
        self.signal = signal
        self.at_ns = at_ns
        self.oom = oom
        self.health = health
        self.again_ns = again_ns
        self.count = count
        self.failure = failure


class Entry(Document):
    """A line of the journal: what happened at `at_ns` (wall clock), with its facts."""

    __slots__ = ("at_ns", "event", "facts")

    CREATED: ClassVar = "created"
    STARTED: ClassVar = "started"
    FAILED: ClassVar = "failed"
    EXITED: ClassVar = "exited"
    OOM: ClassVar = "oom"
    EXEC_STARTED: ClassVar = "exec_started"
    EXEC_EXITED: ClassVar = "exec_exited"
    LOG_LOST: ClassVar = "log_lost"
    FAULT: ClassVar = "fault"

    def __init__(self, *, event: str, at_ns: int, facts: Json | None = None) -> None:
        self.event = event
        self.at_ns = at_ns
        self.facts = facts or {}


def title_of(container_id: str) -> str:
    """What the monitor of a container is called in ps and top."""
    return f"wharf-{container_id[:9]}"


# Messages


class Message(Document):
    """A document that travels alone; `type` on the wire is the name of its class."""

    __slots__ = ()


class Request(Message):
    __slots__ = ("seq",)

    def __init__(self, *, seq: int = 0) -> None:
        self.seq = seq


class Answer(Message):
    __slots__ = ("seq",)

    def __init__(self, *, seq: int = 0) -> None:
        self.seq = seq


class Hello(Message):
    """monitor → daemon, first on every connection."""

    __slots__ = ("id", "pid", "version")

    def __init__(self, *, id: str = "", pid: int = 0, version: int = VERSION) -> None:
        self.id = id
        self.pid = pid
        self.version = version


class Create(Request):
    """Descriptors: a socket a listener that is not shared, then one an attachment, then a namespace
    for each type in `namespaces`, which is joined whatever path the specification has for it; then
    the two of `resolver`, as Resolve has them, unless that is "".
    """

    __slots__ = ("attachments", "bundle", "listeners", "namespaces", "resolver")

    def __init__(
        self,
        *,
        seq: int = 0,
        bundle: Json,
        listeners: list[Json] | None = None,
        attachments: list[Json] | None = None,
        namespaces: list[str] | None = None,
        resolver: str = "",
    ) -> None:
        super().__init__(seq=seq)
        self.bundle = bundle
        self.resolver = resolver
        self.namespaces = namespaces or []
        self.listeners = listeners or []
        self.attachments = attachments or []


class Start(Request):
    __slots__ = ()


class Signal(Request):
    """`exec_id` None means the container's first process."""

    __slots__ = ("exec_id", "signo")

    def __init__(self, *, seq: int = 0, signo: int, exec_id: str | None = None) -> None:
        super().__init__(seq=seq)
        self.signo = signo
        self.exec_id = exec_id


class Resize(Request):
    __slots__ = ("exec_id", "height", "width")

    def __init__(
        self, *, seq: int = 0, height: int, width: int, exec_id: str | None = None
    ) -> None:
        super().__init__(seq=seq)
        self.height = height
        self.width = width
        self.exec_id = exec_id


class Attach(Request):
    """Descriptor: the client's socket."""

    __slots__ = ("options",)

    def __init__(self, *, seq: int = 0, options: Json) -> None:
        super().__init__(seq=seq)
        self.options = options


class Resolve(Request):
    """Answer the container's questions for names, out of the file `path` (monitor/resolver.py).

    Descriptors: a UDP and a listening TCP socket, which take the place of any before.
    """

    __slots__ = ("path",)

    def __init__(self, *, seq: int = 0, path: str) -> None:
        super().__init__(seq=seq)
        self.path = path


class Publish(Request):
    """Hold and relay these ports (ListenerOptions) in the place of all before.

    Descriptors: a socket for each that is not held, in order; one that is shared has a duplicate,
    for a monitor that knows of no sharing.
    """

    __slots__ = ("listeners",)

    def __init__(self, *, seq: int = 0, listeners: list[Json] | None = None) -> None:
        super().__init__(seq=seq)
        self.listeners = listeners or []


class Policy(Request):
    """What counts from the next exit on: `restart` is a Restart, None for no policy."""

    __slots__ = ("restart",)

    def __init__(self, *, seq: int = 0, restart: Json | None) -> None:
        super().__init__(seq=seq)
        self.restart = restart


class Amend(Request):
    """What changes for later runs: `resources` are some of those of the runtime spec's `linux`."""

    __slots__ = ("resources",)

    def __init__(self, *, seq: int = 0, resources: Json) -> None:
        super().__init__(seq=seq)
        self.resources = resources


class GiveUp(Request):
    """Start it no more, whatever the policy: somebody wants it to end. A restart that waits is over
    with that, one that is being made ends as soon as it runs.
    """

    __slots__ = ()


class Exec(Request):
    """Run one more process. `process` is a runtime-spec Process; what it leaves out (capabilities,
    noNewPrivileges, rlimits, oomScoreAdj) is as for the container's first process, and so is
    seccomp.

    Descriptor: the client's socket, if `options` is given.
    """

    __slots__ = (
        "console_size",
        "exec_id",
        "options",
        "process",
        "stderr",
        "stdin",
        "stdout",
        "tty",
    )

    def __init__(
        self,
        *,
        seq: int = 0,
        exec_id: str,
        process: Json,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        tty: bool = False,
        console_size: list[int] | None = None,
        options: Json | None = None,
    ) -> None:
        super().__init__(seq=seq)
        self.exec_id = exec_id
        self.process = process
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.tty = tty
        self.console_size = console_size
        self.options = options


class State(Request):
    __slots__ = ()


class Acknowledge(Message):
    """daemon → monitor: an exit was taken note of; `exec_id` None means the container's own."""

    __slots__ = ("exec_id",)

    def __init__(self, *, exec_id: str | None = None) -> None:
        self.exec_id = exec_id


class Watch(Message):
    """daemon → monitor: whether the container's health is looked after, as it is from its start on.

    While it is not it counts as unhealthy, as with dockerd, and a probe under way comes to nothing.
    """

    __slots__ = ("is_on",)

    def __init__(self, *, is_on: bool = True) -> None:
        self.is_on = is_on


class Done(Answer):
    __slots__ = ()


class Failed(Answer):
    """`text` is the sentence; `step` says where, `errno` 0 means no system call failed."""

    __slots__ = ("errno", "step", "text")

    def __init__(self, *, seq: int = 0, step: str, errno: int = 0, text: str) -> None:
        super().__init__(seq=seq)
        self.step = step
        self.errno = errno
        self.text = text


class Created(Answer):
    """Descriptor: the pidfd of the container's first process."""

    __slots__ = ("pid",)

    def __init__(self, *, seq: int = 0, pid: int) -> None:
        super().__init__(seq=seq)
        self.pid = pid


class Started(Answer):
    __slots__ = ("at_ns",)

    def __init__(self, *, seq: int = 0, at_ns: int = 0) -> None:
        super().__init__(seq=seq)
        self.at_ns = at_ns


class Executed(Answer):
    __slots__ = ("pid",)

    def __init__(self, *, seq: int = 0, pid: int) -> None:
        super().__init__(seq=seq)
        self.pid = pid


class StateReply(Answer):
    """`execs` maps an id to {"pid", "running", "exit_code", "at_ns"}: those running, and those that
    ended and were not acknowledged. `health` is a Health, None for one that is not looked after.
    `restarts` is how often its policy has started it again, None where it is not the monitor's
    affair; `exit` of one that waits to be started again is how its last run ended.
    Descriptor: the pidfd, if a process is there.
    """

    __slots__ = ("execs", "exit", "health", "pid", "restarts", "started_ns", "status")

    CREATED: ClassVar = "created"
    RUNNING: ClassVar = "running"
    RESTARTING: ClassVar = "restarting"
    STOPPED: ClassVar = "stopped"

    def __init__(
        self,
        *,
        seq: int = 0,
        status: str,
        pid: int = 0,
        started_ns: int = 0,
        exit: Json | None = None,
        execs: dict[str, Json] | None = None,
        health: Json | None = None,
        restarts: int | None = None,
    ) -> None:
        super().__init__(seq=seq)
        self.status = status
        self.restarts = restarts
        self.health = health
        self.pid = pid
        self.started_ns = started_ns
        self.exit = exit
        self.execs = execs or {}


class Exited(Message):
    __slots__ = ("exit",)

    def __init__(self, *, exit: Json) -> None:
        self.exit = exit


class Restarted(Message):
    """monitor → daemon: its policy has started it again. Descriptor: the pidfd."""

    __slots__ = ("at_ns", "count", "pid")

    def __init__(self, *, pid: int, at_ns: int, count: int) -> None:
        self.pid = pid
        self.at_ns = at_ns
        self.count = count


class ExecExited(Message):
    __slots__ = ("at_ns", "code", "exec_id")

    def __init__(self, *, exec_id: str, code: int, at_ns: int) -> None:
        self.exec_id = exec_id
        self.code = code
        self.at_ns = at_ns


class Probing(Message):
    """monitor → daemon: a probe of the container's health is on its way, as the exec of that id.

    `pid` is 0 where its program could not be started.
    """

    __slots__ = ("exec_id", "pid")

    def __init__(self, *, exec_id: str, pid: int = 0) -> None:
        self.exec_id = exec_id
        self.pid = pid


class Probed(Message):
    """monitor → daemon: it is over. `code` is its process's own, None where there was none.

    `health` is what is known now; None for a probe that does not count.
    """

    __slots__ = ("code", "exec_id", "health")

    def __init__(
        self, *, exec_id: str, code: int | None = None, health: Json | None = None
    ) -> None:
        self.exec_id = exec_id
        self.code = code
        self.health = health


class Oom(Message):
    __slots__ = ("at_ns",)

    def __init__(self, *, at_ns: int) -> None:
        self.at_ns = at_ns


class Ready(Message):
    """init → monitor: all that is missing is the byte that lets it execve. Descriptor: the
    master of its terminal, if it has one.
    """

    __slots__ = ()


class Superseded(Message):
    """monitor → daemon: another daemon has connected; this connection ends."""

    __slots__ = ()


class Detached(Message):
    __slots__ = ("exec_id",)

    def __init__(self, *, exec_id: str | None = None) -> None:
        self.exec_id = exec_id


_MESSAGES: dict[str, type[Message]] = {
    cls.__name__: cls
    for cls in (
        Acknowledge,
        Amend,
        Attach,
        Create,
        Created,
        Detached,
        Done,
        Exec,
        ExecExited,
        Executed,
        Exited,
        Failed,
        GiveUp,
        Hello,
        Oom,
        Policy,
        Probed,
        Probing,
        Publish,
        Ready,
        Resize,
        Resolve,
        Restarted,
        Signal,
        Start,
        Started,
        State,
        StateReply,
        Superseded,
        Watch,
    )
}


class Unknown(Message):
    """A message of a later version; a request of this kind is answered with Failed."""

    __slots__ = ("name", "seq")

    def __init__(self, *, name: str, seq: int | None = None) -> None:
        self.name = name
        self.seq = seq


def encode(message: Message, fds: int) -> bytes:
    document = {"type": type(message).__name__, "fds": fds, **message.to_json()}
    body = dump(document).encode()
    return _LENGTH.pack(len(body)) + body


def _decode(body: bytes) -> tuple[Message, int]:
    try:
        document = json.loads(body)
        name, fds = document["type"], int(document.get("fds", 0))
        cls = _MESSAGES.get(name)
        if cls is None:
            return Unknown(name=name, seq=document.get("seq")), fds
        return cls.from_json(document), fds
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ProtocolError(f"unreadable message: {exc}") from exc


class Decoder:
    """Bytes and descriptors in, messages out; knows no socket."""

    __slots__ = ("_bytes", "_fds")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._fds: collections.deque[int] = collections.deque()

    def feed(self, data: bytes, fds: Sequence[int]) -> list[tuple[Message, list[int]]]:
        """The messages completed by `data`, each with the descriptors that it owns now."""
        self._bytes += data
        self._fds.extend(fds)
        messages: list[tuple[Message, list[int]]] = []
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > _MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                break
            message, count = _decode(bytes(self._bytes[_LENGTH.size : end]))
            if count > len(self._fds):
                raise ProtocolError(f"{count} descriptors were announced, {len(self._fds)} came")
            messages.append((message, [self._fds.popleft() for _ in range(count)]))
            del self._bytes[:end]
        return messages

    def take_rest(self) -> tuple[bytes, list[int]]:
        """What no message was made of yet, to be fed to another decoder."""
        rest = bytes(self._bytes), list(self._fds)
        self._bytes.clear()
        self._fds.clear()
        return rest

    def close(self) -> None:
        """Close the descriptors that no message took."""
        while self._fds:
            os.close(self._fds.popleft())


def pack_fds(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Descriptors as sendmsg(2) carries them."""
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]


def unpack_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that recvmsg(2) brought."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
    return fds


class Channel:
    """A stream socket that carries messages; never blocks, `send_all` apart.

    Descriptors given to `send` are the channel's from then on: it closes them once sent, or
    dropped.
    """

    __slots__ = ("_queue", "decoder", "sock")

    def __init__(self, sock: socket.SocketType) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.decoder = Decoder()
        self._queue: collections.deque[tuple[memoryview, list[int]]] = collections.deque()

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = _NO_DESCRIPTORS) -> bool:
        """Queue a message and send what can be sent; as `flush`."""
        rest = list(fds)
        data = memoryview(encode(message, len(rest)))
        # A stream has no message borders, so descriptors beyond one sendmsg ride on a byte each.
        while len(rest) > MAX_FDS:
            self._queue.append((data[:1], rest[:MAX_FDS]))
            data, rest = data[1:], rest[MAX_FDS:]
        self._queue.append((data, rest))
        return self.flush()

    def send_all(self, message: Message, fds: Sequence[int] = _NO_DESCRIPTORS) -> None:
        """As `send`, but waits until all is sent. Raises OSError."""
        if self.send(message, fds):
            return
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while not self.flush():
            poll.poll()

    def flush(self) -> bool:
        """True when nothing is left to send. Raises OSError when the other side is gone."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                sent = self.sock.sendmsg([data], pack_fds(fds), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            for fd in fds:
                os.close(fd)
            self._queue[0] = (data[sent:], [])
            if sent == len(data):
                self._queue.popleft()
        return True

    def receive(self) -> list[tuple[Message, list[int]]] | None:
        """The messages that came; None at the end of the stream. Raises OSError, ProtocolError."""
        try:
            data, ancillary, flags, _address = self.sock.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return []
        fds = unpack_fds(ancillary)
        if flags & socket.MSG_CTRUNC:
            # The kernel dropped some for want of room in our table; the rest are of no use.
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not data:
            return None
        return self.decoder.feed(data, fds)

    def close(self) -> None:
        for _data, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self.decoder.close()
        self.sock.close()


def warm() -> None:
    """Use encoder and decoder once, so that what they make on first use is shared by forks."""
    Decoder().feed(encode(Hello(id="warm"), 0), ())
