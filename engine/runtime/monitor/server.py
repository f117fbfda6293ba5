"""A monitor process: the container, the daemon that listens, and the socket for the next one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback

from engine.linux import syscalls
from engine.runtime import protocol
from engine.runtime.monitor.container import Container
from engine.runtime.monitor.journal import Journal
from engine.runtime.monitor.loop import EPOLLIN, EPOLLOUT, Loop
from engine.runtime.monitor.reaper import Reaper
from engine.runtime.protocol import AttachOptions, Bundle, StateReply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_BACKLOG = 4


def main(control: socket.socket, exec_root: str, container_id: str) -> NoReturn:
    """Be the monitor of one container; called in a fresh child of the launcher."""
    folder = os.path.join(exec_root, "containers", container_id)
    server: Server | None = None
    try:
        _settle(container_id, control.fileno())
        os.makedirs(folder, mode=0o700, exist_ok=True)
        server = Server(control, folder, container_id)
        server.run()
    except BaseException:
        _record_crash(folder, server)
        os._exit(1)
    os._exit(0)


def _settle(container_id: str, control: int) -> None:
    # Its own session and group: no signal meant for the daemon's reaches it.
    os.setsid()
    syscalls.set_name(f"wharf-{container_id[:9]}")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.set_inheritable(control, False)


def _record_crash(folder: str, server: Server | None) -> None:
    """A fault of ours ends the monitor; the daemon ends the container. Say why it was."""
    text = traceback.format_exc()
    with contextlib.suppress(Exception):
        if server is not None:
            server.journal.append("crashed", time.time_ns(), {"text": text})
        with open(os.path.join(folder, "monitor.crash"), "w") as file:
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
        "_reaper",
        "journal",
    )

    def __init__(self, control: socket.socket, folder: str, container_id: str) -> None:
        self._id = container_id
        self._loop = Loop()
        self._reaper = Reaper(self._loop)
        self.journal = Journal(os.path.join(folder, "journal"))
        self._container: Container | None = None
        self._is_acknowledged = False
        self._is_watching_output = False
        self._channel: protocol.Channel | None = None
        self._listener = _listen(folder)
        self._loop.add(self._listener.fileno(), EPOLLIN, self._on_connect)
        self._serve(control)

    def run(self) -> None:
        self._loop.run()
        self._flush_last()

    # The daemon

    def _serve(self, sock: socket.socket) -> None:
        self._channel = protocol.Channel(sock)
        self._loop.add(sock.fileno(), EPOLLIN, self._on_event)
        self.say(protocol.Hello(id=self._id, pid=os.getpid()))

    def _on_connect(self, _events: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        self.say(protocol.Superseded())
        self._drop_channel()
        self._serve(sock)

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
        container = self._container
        if container is not None and container.status in ("creating", StateReply.CREATED):
            container.give_up()
        self.on_idle()

    # Messages

    def _dispatch(self, message: protocol.Message, fds: list[int]) -> None:
        container = self._container
        if isinstance(message, protocol.Create) and container is None:
            bundle = Bundle.from_json(message.bundle)
            self._container = Container(self._loop, self._reaper, self.journal, self, bundle)
            self._container.create(message, fds)
        elif container is None:
            self._refuse(message, fds, "no container was created")
        elif isinstance(message, protocol.Start):
            container.start(message)
        elif isinstance(message, protocol.Acknowledge):
            self._acknowledge(container, message.exec_id)
        elif isinstance(message, protocol.State):
            self._say_state(container, message.seq)
        elif isinstance(message, protocol.Exec):
            self._try(message, lambda: container.exec(message, fds), answer=False)
        elif isinstance(message, protocol.Attach) and len(fds) == 1:
            options = AttachOptions.from_json(message.options)
            self._try(message, lambda: container.attach(fds[0], options))
        elif isinstance(message, protocol.Resize):
            size = message.height, message.width
            self._try(message, lambda: container.resize(*size, message.exec_id))
        elif isinstance(message, protocol.Signal):
            self._try(message, lambda: container.signal(message.signo, message.exec_id))
        else:
            self._refuse(message, fds, f"{type(message).__name__} is not understood")

    def _try(
        self, request: protocol.Request, call: Callable[[], None], *, answer: bool = True
    ) -> None:
        try:
            call()
        except OSError as exc:
            step = type(request).__name__.lower()
            text = exc.strerror or str(exc)
            self.say(protocol.Failed(seq=request.seq, step=step, errno=exc.errno or 0, text=text))
        except KeyError:
            text = "no such exec in this container"
            self.say(protocol.Failed(seq=request.seq, step="exec", errno=3, text=text))
        else:
            if answer:
                self.say(protocol.Done(seq=request.seq))

    def _refuse(self, message: protocol.Message, fds: list[int], text: str) -> None:
        for fd in fds:
            os.close(fd)
        seq = getattr(message, "seq", None)
        if seq is not None:
            self.say(protocol.Failed(seq=seq, step="protocol", text=text))

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
        if container is None:
            self._loop.is_running = self._channel is not None
            return
        told = self._channel is None or self._is_acknowledged or container.is_given_up
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


def _listen(folder: str) -> socket.socket:
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
