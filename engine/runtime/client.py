"""The daemon's side of the runtime: starts monitors through the launcher and talks to them.

`Runtime` is one a daemon, `Task` one a container whose monitor is connected. All of it runs on the
event loop and waits for nothing but answers; what touches a disk or forks crosses `offload`.
A monitor outlives this process: `Runtime.adopt` finds it again, `Runtime.recorded` reads what one
that is gone has written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any, Protocol, Self

from engine import offload
from engine.errors import EngineError
from engine.linux import cgroup, process
from engine.runtime import protocol
from engine.runtime.connection import (
    AnswerT,
    Connection,
    MonitorGone,
    MonitorSilent,
    RuntimeFailure,
)
from engine.runtime.forkserver import Launcher
from engine.runtime.protocol import (
    CRASH,
    AttachOptions,
    Bundle,
    Entry,
    Exit,
    StateReply,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.runtime.protocol import Json, Message

__all__ = [
    "Attachment",
    "Bundle",
    "Entry",
    "Exit",
    "Listener",
    "MonitorUnreached",
    "NewerMonitor",
    "Runtime",
    "RuntimeEvents",
    "RuntimeFailure",
    "Task",
]

log = logging.getLogger(__name__)

# Until a program runs there are disks to wait for, with mounts to be made from them.
_BIRTH_TIMEOUT_S = 120.0
_KILL_TIMEOUT_S = 5.0
_GIVE_UP_TIMEOUT_S = 1.0
# A monitor answers in microseconds; another try follows, and boot waits for this one.
_ADOPTION_TIMEOUT_S = 3.0
_NO_FDS: list[int] = []
# As every line of a journal does.
_ENTRY_BEGINS = protocol.dump(Entry(event="", at_ns=0).to_json()).encode().partition(b":")[0]


class NewerMonitor(EngineError):
    """A container was started by a later version, whose monitor this one does not understand."""

    def __init__(self, container_id: str, version: int) -> None:
        super().__init__(
            f"container {container_id} runs under a newer version of this engine (monitor protocol "
            f"{version}, known is {protocol.VERSION}): use that version again, or stop the "
            "container with it first"
        )
        self.container_id = container_id
        self.version = version


class MonitorUnreached(EngineError):
    """A monitor that lives does not answer now. It may later."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"the monitor of container {container_id} does not answer")


class Attachment:
    """A client's connected stream socket; the descriptor passes to the monitor.

    `prefix` are bytes of stdin that were read already. `detach_keys` empty means ctrl-p ctrl-q.
    """

    __slots__ = ("detach_keys", "fd", "multiplexed", "prefix", "stderr", "stdin", "stdout")

    def __init__(
        self,
        fd: int,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        detach_keys: bytes = b"",
        multiplexed: bool = False,
        prefix: bytes = b"",
    ) -> None:
        self.fd = fd
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.detach_keys = detach_keys
        self.multiplexed = multiplexed
        self.prefix = prefix

    def options(self) -> AttachOptions:
        return AttachOptions(
            stdin=self.stdin,
            stdout=self.stdout,
            stderr=self.stderr,
            multiplexed=self.multiplexed,
            detach_keys=self.detach_keys.decode("latin-1"),
            prefix=self.prefix.decode("latin-1"),
        )


HELD = -1
"""In the place of a listener's descriptor: the monitor has it."""

SHARED = -2
"""The same: its socket is that of the listener before it (protocol.ListenerOptions)."""


class Listener:
    """A bound socket of a published port (tcp: listening); the descriptor passes to the monitor.

    It may be `HELD` or `SHARED`.
    """

    __slots__ = ("fd", "host_ip", "host_port", "protocol", "target_ip", "target_port")

    def __init__(
        self,
        fd: int,
        *,
        protocol: str,
        host_ip: str,
        host_port: int,
        target_ip: str,
        target_port: int,
    ) -> None:
        self.fd = fd
        self.protocol = protocol
        self.host_ip = host_ip
        self.host_port = host_port
        self.target_ip = target_ip
        self.target_port = target_port

    def document(self) -> Json:
        """A protocol.ListenerOptions, without making one: there may be thousands."""
        return {
            "protocol": self.protocol,
            "host_ip": self.host_ip,
            "host_port": self.host_port,
            "target_ip": self.target_ip,
            "target_port": self.target_port,
            "is_held": self.fd == HELD,
            "is_shared": self.fd == SHARED,
        }


class Resolver:
    """Answers for the container's names: its sockets (UDP, TCP), and the file it reads."""

    __slots__ = ("fds", "path")

    def __init__(self, fds: tuple[int, int], path: str) -> None:
        self.fds = fds
        self.path = path


class RuntimeEvents(Protocol):
    """What the runtime reports unasked, called on the event loop; must not block or raise.

    `on_exit` with an exit that has `again_ns` is followed by `on_restarted`, or by an exit without.
    `on_lost`: a connection ended before an exit was told. The monitor may be gone, and its journal
    have the exit, or it lives and `Runtime.adopt` finds it again.
    """

    def on_exit(self, container_id: str, exit: Exit) -> None: ...
    def on_restarted(self, container_id: str, pid: int, started_ns: int, count: int) -> None: ...
    def on_exec_exit(self, container_id: str, exec_id: str, code: int, at_ns: int) -> None: ...
    def on_oom(self, container_id: str) -> None: ...
    def on_probing(self, container_id: str, exec_id: str, pid: int) -> None: ...
    def on_probed(
        self, container_id: str, exec_id: str, code: int | None, said: Json | None
    ) -> None: ...
    def on_detach(self, container_id: str, exec_id: str | None) -> None: ...
    def on_lost(self, container_id: str) -> None: ...


class Task:
    """A container whose monitor is connected. Owns the pidfd until it has ended."""

    def __init__(self, runtime: Runtime, container_id: str, sock: socket.socket) -> None:
        self.id = container_id
        self.pid = 0
        self.pidfd = -1
        self.monitor_pid = 0
        self.started_ns = 0
        self.exit: Exit | None = None
        # When it was adopted: how the run before ended, if it waits for the next, how often its
        # policy has started it again, if that is the monitor's affair, and its health.
        self.waits_after: Exit | None = None
        self.restarts: int | None = None
        self.health: Json | None = None
        self._runtime = runtime
        self._cgroup = ""
        self._version = 0
        self._greeted = asyncio.Event()
        self._connection = Connection(sock, on_message=self._on_message, on_end=self._on_end)
        self._quiet = True
        self._changes = 0  # runs that ended or began, as far as was told
        self._over = asyncio.Event()  # its end was told, or nobody is left to tell it

    async def start(self) -> int:
        """Let the program run. Returns the time of its execve in ns; raises RuntimeFailure."""
        answer, _fds = await self._bear(protocol.Start(), protocol.Started)
        self.started_ns = answer.at_ns
        return answer.at_ns

    async def signal(self, signo: int, exec_id: str | None = None) -> None:
        """Raises ProcessLookupError when the process has ended."""
        if exec_id is not None:
            await self._request(protocol.Signal(signo=signo, exec_id=exec_id))
            return
        if self.pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        signal.pidfd_send_signal(self.pidfd, signo)

    async def resize(self, height: int, width: int, exec_id: str | None = None) -> None:
        await self._request(protocol.Resize(height=height, width=width, exec_id=exec_id))

    async def attach(self, attachment: Attachment) -> None:
        """The client sees what the container writes from now on; its fd is not ours any more."""
        request = protocol.Attach(options=attachment.options().to_json())
        await self._request(request, [attachment.fd])

    async def resolve(self, resolver: Resolver) -> None:
        """Have the monitor answer for names; the descriptors are taken. Raises RuntimeFailure."""
        await self._request(protocol.Resolve(path=resolver.path), resolver.fds)

    async def publish(self, listeners: Sequence[Listener]) -> None:
        """Have the monitor hold these ports and no others; the descriptors are taken.

        Raises RuntimeFailure.
        """
        request = protocol.Publish(listeners=[each.document() for each in listeners])
        await self._request(request, _one_each(listeners))

    def watch(self, is_on: bool) -> None:
        """Have its health looked after, or not: see protocol.Watch."""
        self._connection.send(protocol.Watch(is_on=is_on))

    async def give_up(self) -> None:
        """Have its policy start it no more. Raises RuntimeFailure.

        What the monitor has said before is known here afterwards. One that hangs is not waited for
        as long as others: who asks has other means to end the container.
        """
        await self._connection.ask(protocol.GiveUp(), protocol.Done, timeout_s=_GIVE_UP_TIMEOUT_S)

    async def change_policy(self, restart: Json | None) -> None:
        """A protocol.Restart, from the next exit on. Raises RuntimeFailure."""
        await self._request(protocol.Policy(restart=restart))

    async def amend(self, resources: Json) -> None:
        """What restarts by its policy are limited to. Raises RuntimeFailure."""
        await self._request(protocol.Amend(resources=resources))

    async def exec(
        self,
        exec_id: str,
        process: Json,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        tty: bool = False,
        console_size: tuple[int, int] | None = None,
        attachment: Attachment | None = None,
    ) -> int:
        """Run a runtime-spec Process in the container; the pid it has here. (height, width).

        What `process` leaves out (capabilities, noNewPrivileges …) is as for the first process.
        """
        request = protocol.Exec(
            exec_id=exec_id,
            process=process,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
            console_size=None if console_size is None else list(console_size),
            options=None if attachment is None else attachment.options().to_json(),
        )
        fds = [] if attachment is None else [attachment.fd]
        try:
            answer, _fds = await self._connection.ask(
                request, protocol.Executed, fds, timeout_s=_BIRTH_TIMEOUT_S
            )
        except MonitorSilent:
            # It may hang on a disk, or in a frozen group: it shall not run once nobody waits.
            self._connection.send(protocol.Signal(signo=signal.SIGKILL, exec_id=exec_id))
            raise
        return answer.pid

    async def state(self) -> Json:
        """{"status", "pid", "started_ns", "exit", "execs"}: see protocol.StateReply."""
        answer, fds = await self._connection.ask(protocol.State(), protocol.StateReply)
        for fd in fds:
            os.close(fd)
        return answer.to_json()

    async def is_silent(self, timeout_s: float) -> bool:
        """Whether the monitor is there, and answers nothing for that long."""
        try:
            _answer, fds = await self._connection.ask(
                protocol.State(), protocol.StateReply, timeout_s=timeout_s
            )
        except MonitorSilent:
            return True
        except RuntimeFailure:
            return False
        for fd in fds:
            os.close(fd)
        return False

    def end_monitor(self) -> None:
        """Kill a monitor that hangs. It is reported lost, as any that dies."""
        if not self.monitor_pid:
            return
        try:
            pidfd = os.pidfd_open(self.monitor_pid)
        except ProcessLookupError:
            return
        try:
            # It still holds its end of the connection, so the number is still its own.
            if self._connection.has_peer():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)

    async def end(self, timeout_s: float) -> None:
        """Kill what runs and wait for its monitor, which ends with it; nothing is reported.

        Until then the monitor kills and removes the group by its name, which the next run has too.
        """
        self._quiet = True
        with contextlib.suppress(OSError):
            self._connection.send(protocol.GiveUp())
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        try:
            await asyncio.wait_for(self._over.wait(), timeout_s)
        except TimeoutError:
            log.error("the monitor of container %s hangs; it is ended", self.id)
            self.end_monitor()
        self.close()

    @property
    def is_connected(self) -> bool:
        return self._connection.is_open

    def close(self) -> None:
        """Let go of the monitor, which goes on."""
        self._runtime.drop(self)
        self._connection.close()
        self._close_pidfd()
        self._over.set()

    async def _bear(
        self, request: protocol.Request, kind: type[AnswerT], fds: Sequence[int] = ()
    ) -> tuple[AnswerT, list[int]]:
        """One step towards a running program; one that hangs is ended by its group."""
        try:
            return await self._connection.ask(request, kind, fds, timeout_s=_BIRTH_TIMEOUT_S)
        except MonitorSilent:
            log.error("the start of container %s hangs; it is ended", self.id)
            if self._cgroup:
                with contextlib.suppress(OSError):
                    await offload.kernel(cgroup.kill, self._cgroup, _KILL_TIMEOUT_S)
            # Whatever goes on behind it finds nobody there, and undoes what it did.
            self.close()
            raise

    async def _request(self, request: protocol.Request, fds: Sequence[int] = ()) -> None:
        await self._connection.ask(request, protocol.Done, fds)

    def _close_pidfd(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    # Used by Runtime, which alone makes tasks.

    @property
    def has_monitor(self) -> bool:
        """The monitor has said something."""
        return self._connection.heard

    async def create(self, request: protocol.Create, fds: Sequence[int]) -> Self:
        self._cgroup = request.bundle["spec"].get("linux", {}).get("cgroupsPath") or ""
        answer, pidfds = await self._bear(request, protocol.Created, fds)
        self.pid, self.pidfd = answer.pid, pidfds[0]
        self._quiet = False
        return self

    async def adopt(self) -> Self:
        # First of all its version: what a newer one says next may be of no known form.
        await self._greeted.wait()
        if self._version > protocol.VERSION:
            raise NewerMonitor(self.id, self._version)
        # From here on nothing is missed: the caller holds back what is reported until it has this.
        self._quiet = False
        while True:
            before = self._changes
            answer, pidfds = await self._connection.ask(protocol.State(), protocol.StateReply)
            if before == self._changes:
                break
            for fd in pidfds:  # another run has ended or begun since the answer
                os.close(fd)
        self._close_pidfd()
        self.pid, self.started_ns = answer.pid, answer.started_ns
        self.health, self.restarts = answer.health, answer.restarts
        self.pidfd = pidfds[0] if pidfds else -1
        # What happened while no daemon listened is told as if it happened now, once the caller
        # has the task.
        loop = asyncio.get_running_loop()
        for exec_id, facts in answer.execs.items():
            if not facts["running"]:
                message = protocol.ExecExited(
                    exec_id=exec_id, code=facts["exit_code"], at_ns=facts["at_ns"]
                )
                loop.call_soon(self._on_message, message, _NO_FDS)
        if answer.exit is not None and answer.status == StateReply.RESTARTING:
            self.waits_after = Exit.from_json(answer.exit)
        elif answer.exit is not None:
            loop.call_soon(self._on_message, protocol.Exited(exit=answer.exit), _NO_FDS)
        return self

    def _on_message(self, message: Message, fds: list[int]) -> None:
        if isinstance(message, protocol.Restarted) and len(fds) == 1:
            self._on_restarted(message, fds[0])
            return
        for fd in fds:
            os.close(fd)
        events = self._runtime.events
        match message:
            case protocol.Hello():
                self.monitor_pid = message.pid
                self._version = message.version
                self._greeted.set()
            case protocol.Exited():
                self._on_exit(Exit.from_json(message.exit))
            case protocol.ExecExited():
                events.on_exec_exit(self.id, message.exec_id, message.code, message.at_ns)
                self._connection.send(protocol.Acknowledge(exec_id=message.exec_id))
            case protocol.Oom():
                events.on_oom(self.id)
            case protocol.Probing():
                events.on_probing(self.id, message.exec_id, message.pid)
            case protocol.Probed():
                events.on_probed(self.id, message.exec_id, message.code, message.health)
            case protocol.Detached():
                events.on_detach(self.id, message.exec_id)
            case protocol.Superseded():
                log.warning("another daemon took over container %s", self.id)
                self._quiet = True
            case _:
                pass

    def _on_exit(self, exit: Exit) -> None:
        if self.exit is not None:
            return
        if exit.again_ns is not None:
            self._changes += 1
            self._close_pidfd()
            if not self._quiet:
                self._runtime.events.on_exit(self.id, exit)
            return
        self.exit = exit
        self._over.set()
        self._close_pidfd()
        if not self._quiet:
            self._runtime.events.on_exit(self.id, exit)
        self._connection.send(protocol.Acknowledge())

    def _on_restarted(self, message: protocol.Restarted, pidfd: int) -> None:
        self._changes += 1
        self._close_pidfd()
        self.pid, self.pidfd, self.started_ns = message.pid, pidfd, message.at_ns
        if not self._quiet:
            self._runtime.events.on_restarted(self.id, message.pid, message.at_ns, message.count)

    def _on_end(self) -> None:
        self._greeted.set()
        self._over.set()
        self._runtime.drop(self)
        self._close_pidfd()
        if self.exit is None and not self._quiet:
            self._runtime.events.on_lost(self.id)


class Runtime:
    """Makes, finds and forgets tasks. One a daemon."""

    def __init__(self, exec_root: str, *, events: RuntimeEvents) -> None:
        self.exec_root = exec_root
        self.events = events
        self._launcher: Launcher | None = None
        self._spawning = asyncio.Lock()
        self._tasks: set[Task] = set()

    async def open(self) -> None:
        """Make the exec-root's folder and start the launcher."""
        await offload.disk(_make_folder, self.exec_root)
        await self._live_launcher()

    async def close(self) -> None:
        """End the launcher and let go of all monitors, which go on."""
        for task in tuple(self._tasks):
            task.close()
        self._tasks.clear()
        if self._launcher is not None:
            launched, self._launcher = self._launcher, None
            await launched.close()

    async def create(
        self,
        bundle: Bundle,
        *,
        listeners: Sequence[Listener] = (),
        attachments: Sequence[Attachment] = (),
        namespaces: Mapping[str, int] | None = None,
        resolver: Resolver | None = None,
        launched: Task | None = None,
    ) -> Task:
        """Bring a container to the point where `Task.start` is all that is missing.

        `launched` is what `launch` gave, used up here. `namespaces` are those of others to join, by
        their type in the runtime spec. All descriptors are the runtime's from here on, whatever
        comes. Raises RuntimeFailure; nothing is left running then.
        """
        joined = dict(namespaces or {})
        given = [
            *(x.fd for x in listeners if x.fd >= 0),
            *(x.fd for x in attachments),
            *joined.values(),
        ]
        given += resolver.fds if resolver else ()
        request = protocol.Create(
            bundle=bundle.to_json(),
            listeners=[x.document() for x in listeners],
            attachments=[x.options().to_json() for x in attachments],
            namespaces=list(joined),
            resolver=resolver.path if resolver else "",
        )
        try:
            return await self._create(bundle.id, request, given, launched)
        finally:
            for fd in given:
                os.close(fd)

    async def adopt(self, container_id: str) -> Task | None:
        """Connect to the living monitor of a container; None if there is none.

        One of an earlier version is as good as our own. Raises NewerMonitor for one of a later
        version that has broken with ours; it goes on. Raises MonitorUnreached for one that does not
        answer, OSError where this process is short of something: neither says that it is dead.
        """
        folder = self._folder(container_id)
        sock = await offload.kernel(_connect, container_id, folder)
        if sock is None:
            return None
        task = Task(self, container_id, sock)
        self._tasks.add(task)
        try:
            return await asyncio.wait_for(task.adopt(), _ADOPTION_TIMEOUT_S)
        except (RuntimeFailure, TimeoutError) as exc:
            task.close()
            # It has ended just now if nobody listens any more; else it is our end that broke.
            if isinstance(exc, MonitorGone) and not await offload.kernel(
                _is_listening, container_id, folder
            ):
                return None
            raise MonitorUnreached(container_id) from exc
        except BaseException:
            task.close()
            raise

    async def end_monitor(self, container_id: str) -> None:
        """Kill the monitor of a container that is not connected, and report it lost."""
        await offload.kernel(_end_monitors, container_id)
        self.events.on_lost(container_id)

    def recorded(self, container_id: str) -> list[Entry]:
        """The journal of a container's last run, oldest first; reads a file."""
        return read_journal(os.path.join(self._folder(container_id), "journal"))

    def forget(self, container_id: str) -> None:
        """Remove a container's folder under the exec-root (idempotent); touches the disk."""
        folder = self._folder(container_id)
        with contextlib.suppress(OSError), open(os.path.join(folder, CRASH), "rb") as file:
            text = file.read().decode(errors="replace")
            log.error("the monitor of container %s crashed: %s", container_id, text)
        shutil.rmtree(folder, ignore_errors=True)

    def drop(self, task: Task) -> None:
        """Forget a task whose connection has ended."""
        self._tasks.discard(task)

    async def _create(
        self, container_id: str, request: protocol.Create, given: list[int], launched: Task | None
    ) -> Task:
        for attempt in (1, 2):
            task = launched or await self.launch(container_id)
            launched = None
            try:
                return await task.create(request, _duplicates(given))
            except MonitorGone:
                task.close()
                # The launcher died with the request unread: nothing has happened yet.
                if task.has_monitor or attempt == 2:
                    raise
            except BaseException:
                task.close()
                raise
        raise AssertionError("unreachable")

    async def launch(self, container_id: str) -> Task:
        """Have a monitor forked, which takes its time, before it is known what it shall make.

        Give it to `create`, or close it, and it ends without a trace.
        """
        launched = await self._live_launcher()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        task = Task(self, container_id, ours)
        self._tasks.add(task)
        try:
            await launched.launch(container_id, theirs.fileno())
        except BaseException:
            task.close()
            raise
        finally:
            theirs.close()
        return task

    async def _live_launcher(self) -> Launcher:
        async with self._spawning:
            if self._launcher is None or not self._launcher.is_alive:
                if self._launcher is not None:
                    log.warning("the launcher died; starting another")
                    await self._launcher.close()
                self._launcher = await Launcher.spawn(self.exec_root)
            return self._launcher

    def _folder(self, container_id: str) -> str:
        return os.path.join(self.exec_root, "containers", container_id)


def _one_each(listeners: Sequence[Listener]) -> list[int]:
    """A descriptor for each that is not held. Raises RuntimeFailure; none is left open then."""
    fds: list[int] = []
    try:
        for each in listeners:
            if each.fd == SHARED:
                fds.append(os.dup(fds[-1]))
            elif each.fd != HELD:
                fds.append(each.fd)
    except OSError as exc:
        for fd in {*fds, *(each.fd for each in listeners if each.fd >= 0)}:
            os.close(fd)
        raise RuntimeFailure("publish", exc.errno or 0, str(exc)) from exc
    return fds


def _duplicates(fds: Sequence[int]) -> list[int]:
    made: list[int] = []
    try:
        made.extend(map(os.dup, fds))
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    return made


def read_journal(path: str) -> list[Entry]:
    """The entries of a journal file; a line torn by a crash or a full disk is left out."""
    entries: list[Entry] = []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            entry = _read_entry(line)
            if entry is None:
                log.warning("journal %s has a torn line", path)
            else:
                entries.append(entry)
    return entries


def _read_entry(line: bytes) -> Entry | None:
    """None for what is none; one that follows a torn line without a break is found behind it."""
    start = 0
    while start >= 0:
        try:
            document: dict[str, Any] = json.loads(line[start:])
            return Entry.from_json(document)
        except (ValueError, TypeError, AttributeError):
            start = line.find(_ENTRY_BEGINS, start + 1)
    return None


def _make_folder(exec_root: str) -> None:
    os.makedirs(os.path.join(exec_root, "containers"), mode=0o700, exist_ok=True)


def _connect(container_id: str, folder: str) -> socket.socket | None:
    """None if nobody listens. Raises MonitorUnreached where too many wait to be let in."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # The path of a Unix socket is limited to 107 bytes; by its folder's descriptor it is short.
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            sock.connect(f"/proc/self/fd/{folder_fd}/monitor.sock")
        finally:
            os.close(folder_fd)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except BlockingIOError as exc:
        sock.close()
        raise MonitorUnreached(container_id) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _is_listening(container_id: str, folder: str) -> bool:
    sock = _connect(container_id, folder)
    if sock is not None:
        sock.close()
    return sock is not None


def _end_monitors(container_id: str) -> None:
    """By the name that a monitor gives itself. Who takes it without being one asks for it."""
    name = f"{protocol.title_of(container_id)}\n"
    ended: list[int] = []
    try:
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            with contextlib.suppress(OSError):
                if _comm(pid) == name:
                    ended.append(os.pidfd_open(pid))
                    if _comm(pid) == name:  # the same still, and not another with its number
                        signal.pidfd_send_signal(ended[-1], signal.SIGKILL)
        for pidfd in ended:
            process.wait(pidfd, _KILL_TIMEOUT_S)
    finally:
        for pidfd in ended:
            os.close(pidfd)


def _comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read()
