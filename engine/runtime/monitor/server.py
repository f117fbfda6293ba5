"""A monitor process: the container, the daemon that listens, and the socket for the next one."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
import traceback

from engine.linux import oserror, syscalls
from engine.runtime import protocol
from engine.runtime.monitor import creation, handover
from engine.runtime.monitor.container import Container
from engine.runtime.monitor.journal import Journal
from engine.runtime.monitor.loop import EPOLLIN, EPOLLOUT, Loop
from engine.runtime.monitor.reaper import Reaper
from engine.runtime.protocol import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_S = 0.1
# Each ends a generation of processes.
_ROUNDS = 16


def main(control: int, launcher: int, children: int, folder: str) -> NoReturn:
    """Be the monitor of the container whose folder it is; called in a fresh child of the launcher.

    `control` is the socket to the daemon, `launcher` one that is the launcher's alone, `children`
    the signalfd of SIGCHLD.
    """
    server: Server | None = None
    code = 1
    try:
        os.close(launcher)
        taken = _create(control, folder)
        if taken is not None:
            server = Server(children, folder, taken)
            server.run()
        code = 0
    except BaseException:
        _record_crash(folder, server)
    finally:
        os._exit(code)


def _create(control: int, folder: str) -> handover.Handover | None:
    """Have the container made; None if it was not."""
    ours, theirs = handover.make_pair()
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    set_name(protocol.title_of(os.path.basename(folder)))
    # The container becomes a child of this process when its maker ends.
    syscalls.set_child_subreaper(True)
    maker = os.fork()
    if maker == 0:
        _make(control, ours, theirs, folder)
    os.close(theirs)
    os.close(control)
    taken = handover.receive(ours)
    if taken is None:
        os.waitpid(maker, 0)
        _end_orphans()
    return taken


def set_name(name: str) -> None:
    """For ps and top; by the file, which costs less memory than a call through ctypes."""
    fd = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(fd, name.encode("ascii"))
    os.close(fd)


def _end_orphans() -> None:
    """A maker that was killed leaves its container to this process, without a word about it.

    Not by /proc/…/children, which not every kernel has. What the ended leave comes here too.
    """
    for _ in range(_ROUNDS):
        orphans = _children()
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            os.waitpid(pid, 0)
        if not orphans:
            return


def _children() -> list[int]:
    """Until they are waited for here, nobody else is given their pids."""
    parent = b"PPid:\t%d\n" % os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent in _status(name)]


def _status(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return file.read()
    except OSError:
        return b""  # it has ended


def _make(control: int, ours: int, theirs: int, folder: str) -> NoReturn:
    code = 1
    try:
        os.close(ours)
        creation.run(control, theirs, folder, os.path.basename(folder))
        code = 0
    except BaseException:
        _record_crash(folder, None)
    finally:
        os._exit(code)


def _record_crash(folder: str, server: Server | None) -> None:
    """A fault of ours ends the monitor; the daemon ends the container. Say why it was."""
    text = traceback.format_exc()
    with contextlib.suppress(Exception):
        if server is not None:
            server.journal.append(Entry.FAULT, time.time_ns(), {"text": text})
        with open(os.path.join(folder, protocol.CRASH), "w") as file:
            file.write(text)


class Server:
    """Carries messages between one daemon at a time and the container."""

    __slots__ = (
        "_channel",
        "_container",
        "_id",
        "_is_acknowledged",
        "_is_watching_output",
        "_listener",
        "_loop",
        "journal",
    )

    def __init__(self, children: int, folder: str, taken: handover.Handover) -> None:
        facts = taken.facts
        self._id: str = facts["id"]
        self._loop = Loop()
        self._is_acknowledged = False
        self._is_watching_output = False
        self.journal = Journal(os.path.join(folder, "journal"), taken.fd(facts["journal"]))
        self._channel: protocol.Channel | None = None
        self._listener = taken.fd(facts["listener"])
        self._listen()
        reaper = Reaper(self._loop, children)
        self._container = Container(self._loop, reaper, self.journal, self, taken)
        self._serve(socket.SocketType(fileno=taken.fd(facts["control"])))
        if facts["unread"]:
            self._take_unread(facts["unread"], [taken.fd(index) for index in facts["unread_fds"]])

    def run(self) -> None:
        self._loop.run()
        self._flush_last()

    def _take_unread(self, data: bytes, fds: list[int]) -> None:
        """What the daemon said before the handover."""
        if self._channel is not None:
            for message, owned in self._channel.decoder.feed(data, fds):
                self._dispatch(message, owned)

    # The daemon

    def _serve(self, sock: socket.SocketType) -> None:
        self._channel = protocol.Channel(sock)
        self._loop.add(sock.fileno(), EPOLLIN, self._on_event)

    def _on_connect(self, _events: int) -> None:
        sock = self._accept()
        if sock is None:
            return
        self.say(protocol.Superseded())
        self._drop_channel()
        self._serve(sock)
        version = self._container.version
        self.say(protocol.Hello(id=self._id, pid=os.getpid(), version=version))

    def _accept(self) -> socket.SocketType | None:
        listener = socket.socket(fileno=self._listener)
        try:
            return listener.accept()[0]
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                # The connection stays queued; asking at once would only spin.
                self._loop.remove(self._listener)
                self._loop.call_later(_RETRY_S, self._listen)
            return None
        finally:
            listener.detach()

    def _listen(self) -> None:
        self._loop.add(self._listener, EPOLLIN, self._on_connect)

    def say(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        """Tell the daemon if one listens; `fds` are closed in any case."""
        channel = self._channel
        if channel is None:
            for fd in fds:
                os.close(fd)
            return
        try:
            self._watch_output(not channel.send(message, fds))
        except OSError:
            self._drop_channel()

    def _watch_output(self, wanted: bool) -> None:
        if self._channel is not None and wanted != self._is_watching_output:
            self._is_watching_output = wanted
            self._loop.modify(self._channel.fileno(), EPOLLIN | (EPOLLOUT if wanted else 0))

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove(self._channel.fileno())
            self._channel.close()
            self._channel = None
            self._is_watching_output = False

    def _on_event(self, events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            if events & EPOLLOUT:
                self._watch_output(not channel.flush())
            messages = channel.receive()
        except (OSError, protocol.ProtocolError):
            messages = None
        if messages is None:
            self._on_daemon_gone()
            return
        for message, fds in messages:
            self._dispatch(message, fds)

    def _on_daemon_gone(self) -> None:
        self._drop_channel()
        self.on_idle()

    # Messages

    def _dispatch(self, message: protocol.Message, fds: list[int]) -> None:
        """Serve one message; whatever it asks for, none of them may end the container."""
        try:
            answer = self._serve_message(message, fds)
        except OSError as exc:
            self._fail(message, oserror.reason(exc), errno=exc.errno or 0)
        except Exception as exc:
            self.journal.append(Entry.FAULT, time.time_ns(), {"text": traceback.format_exc()})
            self._fail(message, f"{type(exc).__name__}: {exc}")
        else:
            if answer is not None and answer.seq:
                self.say(answer)
        finally:
            for fd in fds:
                os.close(fd)

    def _serve_message(self, message: protocol.Message, fds: list[int]) -> protocol.Answer | None:
        """The answer, if there is one now; descriptors that are taken leave `fds`."""
        container = self._container
        if isinstance(message, protocol.Acknowledge):
            self._acknowledge(container, message.exec_id)
            return None
        if isinstance(message, protocol.Watch):
            container.watch(message.is_on)
            return None
        if isinstance(message, protocol.State):
            self._say_state(container, message.seq)
            return None
        if isinstance(message, protocol.Exec):
            container.exec(message, fds)
            return None
        if isinstance(message, protocol.Attach) and len(fds) == 1:
            container.attach(message, fds)
        elif isinstance(message, protocol.Publish) and container.exit is None:
            container.publish(message.listeners, fds)
        elif isinstance(message, protocol.Resolve) and len(fds) == 2 and container.exit is None:
            container.resolve(message.path, fds)
        elif isinstance(message, protocol.Resize):
            container.resize(message.height, message.width, message.exec_id)
        elif isinstance(message, protocol.Signal):
            container.signal(message.signo, message.exec_id)
        elif isinstance(message, protocol.Policy):
            container.change_policy(message.restart)
        elif isinstance(message, protocol.Amend):
            container.amend(message.resources)
        elif isinstance(message, protocol.GiveUp):
            container.give_up()
        else:
            text = f"{type(message).__name__} is not understood"
            return protocol.Failed(seq=_seq(message), step="protocol", text=text)
        return protocol.Done(seq=_seq(message))

    def _fail(self, message: protocol.Message, text: str, *, errno: int = 0) -> None:
        seq = _seq(message)
        if seq:
            step = type(message).__name__.lower()
            self.say(protocol.Failed(seq=seq, step=step, errno=errno, text=text))

    def _say_state(self, container: Container, seq: int) -> None:
        fds = (os.dup(container.pidfd),) if container.has_process else ()
        self.say(container.state(seq), fds)

    def _acknowledge(self, container: Container, exec_id: str | None) -> None:
        if exec_id is not None:
            container.acknowledge_exec(exec_id)
            return
        self._is_acknowledged = True
        self.on_idle()

    # The end

    def on_idle(self) -> None:
        """End once the container is over, told, and nobody takes output any more."""
        container = self._container
        # Without a daemon the journal will tell; if it could not be written, the next one is told.
        told = self._is_acknowledged or (self._channel is None and container.is_recorded)
        if container.is_idle and told:
            self._loop.is_running = False

    def _flush_last(self) -> None:
        """What was said last must not be lost by ending."""
        if self._channel is None:
            return
        poll = select.poll()
        poll.register(self._channel, select.POLLOUT)
        with contextlib.suppress(OSError):
            while not self._channel.flush() and poll.poll(1000):
                continue


def _seq(message: protocol.Message) -> int:
    """0 for what is no request: no answer belongs to it."""
    seq: int | None = getattr(message, "seq", None)
    return seq or 0
