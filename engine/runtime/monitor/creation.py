"""Making a container, in a process that does nothing else and then ends.

The monitor forks it and waits. It answers the daemon's Create and Start, and hands what it has
opened to the monitor; init, its child, becomes the monitor's, which is the subreaper. So all that
reading a specification and setting up a container writes to memory goes with it, and a monitor
stays small.

    create ── log, streams, cgroup, fork ─▶ Ready ── Created ─▶ Start ── go ─▶ execve ── Started,
    handover ─▶ end.  Whatever fails before: nothing is left, Failed, end without a handover.

`run_again` makes another run of a container, for its restart policy: nobody is asked or told but
the monitor, by the handover.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time

from engine.linux import cgroup, namespace, oserror, process, pty
from engine.runtime import init, protocol
from engine.runtime.monitor import handover
from engine.runtime.monitor.birth import fork_into
from engine.runtime.monitor.journal import Journal
from engine.runtime.monitor.logfile import open_log
from engine.runtime.protocol import Bundle, Entry, StateReply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_KILL_S = 5.0
_BACKLOG = 4


class _Abandoned(Exception):
    """The daemon is gone, and with it whoever wanted the container."""


class _Failure(Exception):
    """Carries the answer to the request under way."""

    def __init__(self, failed: protocol.Failed) -> None:
        super().__init__(failed.text)
        self.failed = failed


def run(control: int, successor: int, folder: str, container_id: str) -> None:
    """Serve the daemon on `control` until the container runs, then hand over to `successor`."""
    with socket.socket(fileno=control) as daemon:
        creation = _Creation(protocol.Channel(daemon), folder)
        try:
            creation.greet(container_id)
            creation.run()
        except _Abandoned:
            text = "the daemon went away before the start"
            creation.undo(protocol.Failed(step="start", text=text))
            return
        except _Failure as exc:
            creation.undo(exc.failed)
            creation.answer_last(exc.failed)
            return
        except Exception as exc:
            # A fault of ours, or a document that is none: the daemon hears what it was.
            failed = protocol.Failed(step="monitor", text=f"{type(exc).__name__}: {exc}")
            creation.undo(failed)
            creation.answer_last(failed)
            return
        facts, fds = creation.leave()
        handover.send(socket.socket(fileno=successor), facts, fds)


def run_again(successor: int, bundle: str) -> None:
    """Start the container of this bundle once more and hand over to `successor`.

    What is handed over is {"failed": {"step", "text"}} where that went wrong; nothing is left then.
    """
    making = _Making(Bundle.from_json(json.loads(bundle)))
    facts: handover.Facts
    fds: list[int] = []
    try:
        making.make()
        making.go()
    except _Failure as exc:
        making.undo()
        facts = {"failed": {"step": exc.failed.step, "text": exc.failed.text}}
    except Exception as exc:
        making.undo()
        facts = {"failed": {"step": "monitor", "text": f"{type(exc).__name__}: {exc}"}}
    else:
        facts, fds = making.facts()
    handover.send(socket.socket(fileno=successor), facts, fds)


class _Making:
    """One run of a container, and what was opened for it so far."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.pid = 0
        self.pidfd = -1
        self.master = -1
        self.started_ns = 0
        self.joined: dict[str, int] = {}
        self.clients: list[tuple[int, protocol.Json]] = []
        self.sync: protocol.Channel | None = None
        linux: dict[str, Any] = bundle.spec.get("linux") or {}
        self._linux = linux
        self._cgroup: str = linux.get("cgroupsPath") or ""
        self._log_fd = -1
        self._stdin = -1
        self._outputs: list[tuple[int, int]] = []
        self._oom: cgroup.OomWatch | None = None

    def make(self) -> None:
        """Until init is ready. Raises _Failure."""
        self.prepare()
        while not self.hear_init():
            continue

    def prepare(self) -> None:
        """What init is born into, and init. Raises _Failure."""
        self.do("log", self._open_log)
        self.do("cgroup", self._open_cgroup)
        self.do("fork", self._fork)

    def do(self, step: str, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as exc:
            raise _Failure(
                protocol.Failed(step=step, errno=exc.errno or 0, text=_sentence(exc))
            ) from exc

    def _open_log(self) -> None:
        self._log_fd = open_log(self.bundle.log)

    def _open_cgroup(self) -> None:
        if not self._cgroup:
            return
        resources: dict[str, Any] = self._linux.get("resources") or {}
        cgroup.create(self._cgroup)
        cgroup.apply(self._cgroup, resources)
        if resources.get("devices") is not None:
            cgroup.devices(self._cgroup, resources["devices"])
        self._oom = cgroup.oom_watch(self._cgroup)

    def _fork(self) -> None:
        theirs = (-1, -1, -1) if self.bundle.tty else self._open_pipes()
        namespaces: list[dict[str, str]] = self._linux.get("namespaces") or []
        where = {n["type"]: n.get("path") or "" for n in namespaces}.get("pid")
        joined = self.joined.get("pid")
        if joined is None and where:
            joined = self.joined["pid"] = namespace.open_file(where)
        ours, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pid = fork_into(joined, new=where == "" and joined is None)
        if self.pid == 0:
            init.run_container(self.bundle, sync, theirs, self.joined)
        # It is not reaped before this process ends, so the pid is still its own.
        self.pidfd = os.pidfd_open(self.pid)
        sync.close()
        self.sync = protocol.Channel(ours)
        for fd in (*theirs, *self.joined.values()):
            if fd >= 0:
                os.close(fd)
        self.joined.clear()

    def _open_pipes(self) -> tuple[int, int, int]:
        if self.bundle.open_stdin:
            stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
        else:
            stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        out, stdout = os.pipe2(os.O_CLOEXEC)
        err, stderr = os.pipe2(os.O_CLOEXEC)
        self._outputs = [(out, 1), (err, 2)]
        return stdin, stdout, stderr

    def hear_init(self) -> bool:
        """Wait for what init says; True when it is ready. Raises _Failure."""
        sync = self.sync
        assert sync is not None
        _wait_for(sync)
        messages = sync.receive()
        if messages is None:
            text = "the container's init process ended unexpectedly"
            raise _Failure(protocol.Failed(step="init", text=text))
        for message, fds in messages:
            if isinstance(message, protocol.Failed):
                raise _Failure(message)
            if fds:
                self.master = fds[0]
        return bool(messages)

    def go(self) -> None:
        """Let it execve. Raises _Failure."""
        sync = self.sync
        assert sync is not None
        with contextlib.suppress(OSError):  # it died: the end of file says so
            sync.sock.send(init.GO, socket.MSG_NOSIGNAL)
        _wait_for(sync)
        for message, _fds in sync.receive() or ():
            if isinstance(message, protocol.Failed):
                raise _Failure(message)
        self.started_ns = time.time_ns()

    def undo(self) -> None:
        """End what runs and remove its group; whoever calls reaps it."""
        if self.sync is not None:
            self.sync.close()
        if self.pid:
            process.send_signal(self.pidfd, 9)
        if self._cgroup:
            with contextlib.suppress(OSError):
                cgroup.kill(self._cgroup, _KILL_S)
                cgroup.remove(self._cgroup, _KILL_S)

    def facts(self) -> tuple[handover.Facts, list[int]]:
        """All that the monitor needs of this run."""
        fds: list[int] = []
        bundle = self.bundle
        facts: handover.Facts = {
            "pid": self.pid,
            "started_ns": self.started_ns,
            "tty": bundle.tty,
            "stdin_once": bundle.stdin_once,
            "health": bundle.health,
            "log": bundle.log if self._log_fd >= 0 else None,
            "log_fd": give(fds, self._log_fd),
            "pidfd": give(fds, self.pidfd),
            "stdin": give(fds, self._stdin),
            "master": give(fds, self.master),
            "outputs": [(give(fds, fd), stream) for fd, stream in self._outputs],
            "oom": give(fds, -1 if self._oom is None else self._oom.fileno()),
            "oom_events": 0 if self._oom is None else self._oom.events,
            "clients": [(give(fds, fd), options) for fd, options in self.clients],
        }
        return facts, fds


def give(fds: list[int], fd: int) -> int:
    """The place of a descriptor in the list that it is added to, -1 for none."""
    if fd < 0:
        return -1
    fds.append(fd)
    return len(fds) - 1


class _Creation:
    """The first run, and the conversation with the daemon that asked for it."""

    def __init__(self, channel: protocol.Channel, folder: str) -> None:
        self._channel = channel
        self._folder = folder
        self._waiting: list[tuple[protocol.Message, list[int]]] = []
        self._seq = 0
        self._start_seq: int | None = None
        self._making = _Making(Bundle(id="", spec={}))
        self._journal: Journal | None = None
        self._listeners: list[tuple[int, list[protocol.Json]]] = []
        self._resolver: tuple[int, int] | None = None
        self._resolver_path = ""

    def greet(self, container_id: str) -> None:
        self._say(protocol.Hello(id=container_id, pid=os.getppid()))

    def run(self) -> None:
        # 1. The request, with everything that is needed.
        request, fds = self._await_create()
        self._seq = request.seq
        making = self._making = _Making(Bundle.from_json(request.bundle))
        given = iter(fds)
        for options in request.listeners:
            if options.get("is_shared"):
                self._listeners[-1][1].append(options)
            else:
                self._listeners.append((next(given), [options]))
        making.clients = [(next(given), options) for options in request.attachments]
        making.joined = {kind: next(given) for kind in request.namespaces}
        if request.resolver:
            self._resolver, self._resolver_path = (next(given), next(given)), request.resolver
        # 2. What init is born into.
        making.do("journal", self._open_journal)
        making.prepare()
        # 3. init builds the root meanwhile.
        self._await_ready()
        self._record(Entry.CREATED, time.time_ns())
        self._say(protocol.Created(seq=self._seq, pid=making.pid), (os.dup(making.pidfd),))
        # 4. The daemon's word, then the execve.
        if self._start_seq is None:
            self._await_start()
        self._seq = self._start_seq or 0
        making.go()
        self._record(Entry.STARTED, making.started_ns)

    # The daemon

    def _say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        try:
            self._channel.send_all(message, fds)
        except OSError as exc:
            raise _Abandoned from exc

    def _read(self) -> None:
        """Take what the daemon has sent; what is not about the creation waits for the monitor."""
        try:
            messages = self._channel.receive()
        except (OSError, protocol.ProtocolError) as exc:
            raise _Abandoned from exc
        if messages is None:
            raise _Abandoned
        for message, fds in messages:
            if isinstance(message, protocol.Start):
                self._start_seq = message.seq
            elif not self._try(message, fds):
                self._waiting.append((message, fds))

    def _try(self, message: protocol.Message, fds: list[int]) -> bool:
        """As `_serve`; a request that fails is answered, and ends nothing."""
        try:
            return self._serve(message, fds)
        except OSError as exc:
            seq: int = getattr(message, "seq", 0)
            step = type(message).__name__.lower()
            text = oserror.reason(exc)
            self._say(protocol.Failed(seq=seq, step=step, errno=exc.errno or 0, text=text))
            return True

    def _serve(self, message: protocol.Message, fds: list[int]) -> bool:
        """Requests that may come between Created and Start; False for any other."""
        making = self._making
        if making.pid == 0:
            return False
        if isinstance(message, protocol.State):
            state = StateReply(seq=message.seq, status=StateReply.CREATED, pid=making.pid)
            self._say(state, (os.dup(making.pidfd),))
        elif isinstance(message, protocol.Signal) and message.exec_id is None:
            process.send_signal(making.pidfd, message.signo)
            self._say(protocol.Done(seq=message.seq))
        elif (
            isinstance(message, protocol.Resize) and message.exec_id is None and making.master >= 0
        ):
            pty.resize(making.master, message.height, message.width)
            self._say(protocol.Done(seq=message.seq))
        elif isinstance(message, protocol.Attach) and len(fds) == 1:
            making.clients.append((fds[0], message.options))
            self._say(protocol.Done(seq=message.seq))
        else:
            return False
        return True

    def _await_create(self) -> tuple[protocol.Create, list[int]]:
        while True:
            for index, (message, fds) in enumerate(self._waiting):
                if isinstance(message, protocol.Create):
                    del self._waiting[index]
                    return message, fds
            _wait_for(self._channel)
            self._read()

    def _await_start(self) -> None:
        """A container that was created may die before it was started; that is found by the Go."""
        while self._start_seq is None:
            _wait_for(self._channel)
            self._read()

    # What init is born into

    def _open_journal(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._journal = Journal.begin(os.path.join(self._folder, "journal"))

    def _await_ready(self) -> None:
        """What init says, while the daemon may say Start or leave."""
        sync = self._making.sync
        assert sync is not None
        poll = select.poll()
        poll.register(sync, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        is_ready = False
        while not is_ready:
            ready = {fd for fd, _ in poll.poll()}
            if self._channel.fileno() in ready:
                self._read()
            if sync.fileno() in ready:
                is_ready = self._making.hear_init()

    # The end

    def _record(self, event: str, at_ns: int) -> None:
        if self._journal is not None:
            self._journal.append(event, at_ns, {"pid": self._making.pid})

    def undo(self, failed: protocol.Failed) -> None:
        """Nothing of the container is left when the daemon hears of it."""
        making = self._making
        making.undo()
        for fd, _options in (*self._listeners, *making.clients):
            os.close(fd)
        for fd in self._resolver or ():
            os.close(fd)
        if self._journal is not None:
            facts = {"step": failed.step, "text": failed.text}
            self._journal.append(Entry.FAILED, time.time_ns(), facts)
        if making.pid:
            # Last, for it may take as long as the kernel holds the process: by then the group of
            # that name may be that of the next run.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(making.pid, 0)

    def answer_last(self, failed: protocol.Failed) -> None:
        failed.seq = self._seq
        with contextlib.suppress(_Abandoned):
            self._say(failed)

    def leave(self) -> tuple[handover.Facts, list[int]]:
        """Everything for the monitor. The daemon hears Started once the next one could connect."""
        listener = listen(self._folder).detach()
        making = self._making
        bundle = making.bundle
        facts, fds = making.facts()
        facts["id"] = bundle.id
        facts["bundle"] = protocol.dump(bundle.to_json())
        facts["cgroup"] = (bundle.spec.get("linux") or {}).get("cgroupsPath") or ""
        facts["restart"] = bundle.restart
        facts["control"] = give(fds, self._channel.fileno())
        facts["listener"] = give(fds, listener)
        facts["journal"] = give(fds, -1 if self._journal is None else self._journal.fileno())
        facts["relays"] = [(give(fds, fd), options) for fd, options in self._listeners]
        facts["resolver"] = [give(fds, fd) for fd in self._resolver or ()]
        facts["resolver_path"] = self._resolver_path
        # The channel is the monitor's after this: Started is the last that is said here.
        with contextlib.suppress(_Abandoned):
            self._say(protocol.Started(seq=self._start_seq or 0, at_ns=making.started_ns))
        unread, unread_fds = self._take_unread()
        facts["unread"] = unread
        facts["unread_fds"] = [give(fds, fd) for fd in unread_fds]
        return facts, fds

    def _take_unread(self) -> tuple[bytes, list[int]]:
        """Messages that came early, as they came, and the beginning of another."""
        data, fds = b"", list[int]()
        for message, owned in self._waiting:
            data += protocol.encode(message, len(owned))
            fds += owned
        rest, rest_fds = self._channel.decoder.take_rest()
        return data + rest, fds + rest_fds


def _sentence(exc: OSError) -> str:
    if isinstance(exc, cgroup.LimitError):
        # Not what this runtime does, but the words that people search for.
        return f"error setting cgroup config for procHooks process: {exc}"
    if not exc.strerror:
        return str(exc)
    return oserror.sentence(exc)


def _wait_for(channel: protocol.Channel) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.poll()


def listen(folder: str) -> socket.socket:
    """The socket of the next daemon, for its owner only from the first instant."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # A Unix socket's path is limited to 107 bytes; by its folder's descriptor it is short.
    folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("monitor.sock", dir_fd=folder_fd)
        sock.bind(f"/proc/self/fd/{folder_fd}/monitor.sock")
        sock.listen(_BACKLOG)
    finally:
        os.umask(before)
        os.close(folder_fd)
    return sock
