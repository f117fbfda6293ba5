"""A process's standard streams: pipes or a terminal, its log, and the clients attached.

What the process writes goes to the log and to every client; what clients send goes to its stdin.
Nothing grows without bound and nothing is lost silently: a client's socket that is full is buffered
up to 1 MB, then the process is not read from until that client takes some. One that holds neither
stdin nor a terminal may hold the process only as long as it takes something: when it took nothing
for 30 s it is let go. It keeps what waits for it, an error at the end of that says that there was
more, and process, log and other clients go on.
"""

from __future__ import annotations

import collections
import os
import socket
import time

from engine import stdcopy
from engine.linux import pty
from engine.runtime.monitor.loop import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from engine.stdcopy import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.runtime.monitor.logfile import LogFile
    from engine.runtime.monitor.loop import Loop, Timer
    from engine.runtime.protocol import AttachOptions

_READ_BYTES = 1 << 16
_HIGH_BYTES = 1 << 20
_LOW_BYTES = _HIGH_BYTES // 2
# How long a client may take nothing of what is kept for it before it is let go or, once it shall
# end, cut off.
_STALL_S = 30.0
_LINGER_S = 5.0
_STDIN_BYTES = 1 << 16
_DETACH_KEYS = b"\x10\x11"
_LET_GO = b"output was lost: the client did not read it, and the container had to go on"
_BROKEN = EPOLLHUP | EPOLLERR


class Client:
    """An attached socket."""

    __slots__ = (
        "_events",
        "_idle_since",
        "_input_ended",
        "_is_let_go",
        "_keys",
        "_matched",
        "_pending",
        "_pending_bytes",
        "_registered",
        "_stall",
        "_stdio",
        "_wants_input",
        "is_closing",
        "options",
        "sock",
    )

    def __init__(self, stdio: Stdio, sock: socket.SocketType, options: AttachOptions) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.options = options
        self.is_closing = False
        self._stdio = stdio
        self._keys = options.detach_keys.encode("latin-1") or _DETACH_KEYS
        self._matched = 0
        self._pending: collections.deque[memoryview] = collections.deque()
        self._pending_bytes = 0
        self._stall: Timer | None = None
        self._idle_since = 0.0
        self._is_let_go = False
        self._wants_input = True
        self._input_ended = False
        self._events = EPOLLIN
        self._registered = True
        stdio.loop.add(sock.fileno(), EPOLLIN, self._on_event)

    @property
    def holds(self) -> bool:
        """The process waits for this client, however long."""
        return self.options.stdin or self._stdio.tty

    @property
    def is_full(self) -> bool:
        """The process is to wait."""
        return self._pending_bytes > _HIGH_BYTES and not self.is_closing

    @property
    def has_room(self) -> bool:
        return self._pending_bytes <= _LOW_BYTES or self.is_closing

    # Output

    def write(self, stream: int, data: bytes) -> None:
        """Send or keep; the caller asks `is_full` afterwards."""
        wanted = self.options.stdout if stream == STDOUT else self.options.stderr
        if not wanted or self.is_closing:
            return
        parts = [data]
        if self.options.multiplexed:
            parts.insert(0, stdcopy.header(stream, len(data)))
        if not self._pending:
            parts = self._send_now(parts)
        was_full = self.is_full
        for part in parts:
            self._pending.append(memoryview(part))
            self._pending_bytes += len(part)
        if self._pending and self._stall is None:
            self._watch()
            self._arm()
        elif self.is_full and not was_full:
            # From here on it delays the process; before, it delayed nobody.
            self._arm()

    def _send_now(self, parts: list[bytes]) -> list[bytes]:
        """What was not taken at once."""
        try:
            sent = self.sock.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return parts
        except OSError:
            self.abort()
            return []
        rest: list[bytes] = []
        for part in parts:
            if sent < len(part):
                rest.append(part[sent:])
            sent = max(0, sent - len(part))
        return rest

    def _flush(self) -> None:
        try:
            while self._pending:
                part = self._pending[0]
                sent = self.sock.send(part, socket.MSG_NOSIGNAL)
                self._pending_bytes -= sent
                self._idle_since = time.monotonic()
                if sent < len(part):
                    self._pending[0] = part[sent:]
                    return
                self._pending.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._watch()
        if self.is_closing:
            self._half_close()

    def _arm(self) -> None:
        """Begin to count the time in which nothing is taken."""
        if self._stall is not None:
            self._stall.cancel()
        self._idle_since = time.monotonic()
        self._stall = self._stdio.loop.call_later(_STALL_S, self._check)

    def _check(self) -> None:
        self._stall = None
        if not self._pending:
            return
        left = self._idle_since + _STALL_S - time.monotonic()
        if left <= 0:
            if self.is_full and not self.holds:
                self._let_go()
            if self._may_be_cut_off:
                self.abort()
                return
        self._stall = self._stdio.loop.call_later(left if left > 0 else _STALL_S, self._check)

    @property
    def _may_be_cut_off(self) -> bool:
        """One that was let go may come back as long as the process runs: it delays nobody."""
        return self.is_closing and (not self._is_let_go or self._stdio.is_finished)

    def _let_go(self) -> None:
        """Give it no more than it was kept, and the reason."""
        if self.options.multiplexed:
            frame = stdcopy.frame(stdcopy.SYSTEM_ERROR, _LET_GO)
            self._pending.append(memoryview(frame))
            self._pending_bytes += len(frame)
        self._is_let_go = True
        self.is_closing = True
        self._stdio.on_room(self)

    # Input

    def want_input(self, wanted: bool) -> None:
        self._wants_input = wanted and not self._input_ended
        self._watch()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if not data:
            self._on_input_end()
        elif self.options.stdin and not self.is_closing:
            self.take_input(data)

    def _on_input_end(self) -> None:
        self._input_ended = True
        self._wants_input = False
        self._watch()
        if self.is_closing:
            # It may still be taking the last output: only one that has it all is done with.
            if not self._pending:
                self.abort()
        elif self.options.stdin:
            self._stdio.on_input_end(self)

    def take_input(self, data: bytes) -> None:
        """Bytes of stdin; on a terminal the detach keys are looked for."""
        if not self._stdio.tty:
            self._stdio.feed(data)
            return
        data, detached = self._scan(data)
        if data:
            self._stdio.feed(data)
        if detached:
            self._stdio.on_detached(self)

    def _scan(self, data: bytes) -> tuple[bytes, bool]:
        """What goes on to the process, and whether the keys were complete.

        Keys that match so far are held back, and released by the first that does not.
        """
        if self._matched == 0 and self._keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False

    # The socket

    def _watch(self) -> None:
        if not self._registered:
            return
        events = EPOLLIN if self._wants_input else 0
        if self._pending:
            events |= EPOLLOUT
        if events != self._events:
            self._events = events
            self._stdio.loop.modify(self.sock.fileno(), events)

    def _on_event(self, events: int) -> None:
        if events & EPOLLOUT:
            self._flush()
            self._stdio.on_room(self)
        if self._registered and events & EPOLLIN and self._wants_input:
            self._read()
        elif self._registered and events & _BROKEN:
            # Closed altogether; a half-close alone is an end of input.
            self.abort()

    def close(self) -> None:
        """Let it have what is pending, then end the stream."""
        if self.is_closing:
            return
        self.is_closing = True
        if not self._pending:
            self._half_close()
        else:
            self._arm()

    def _half_close(self) -> None:
        """End of file for the client. A close with unread input would be a reset to it, so what
        it still sends is read until it closes too.
        """
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()
            return
        self._stdio.on_flushed(self)
        if self._wants_input:
            self._stdio.loop.call_later(_LINGER_S, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the socket now."""
        if not self._registered:
            return
        self._registered = False
        left_unasked = not self.is_closing and not self._input_ended
        self.is_closing = True
        self._pending.clear()
        self._pending_bytes = 0
        if self._stall is not None:
            self._stall.cancel()
        self._stdio.loop.remove(self.sock.fileno())
        self.sock.close()
        self._stdio.on_gone(self)
        if left_unasked and self.options.stdin:
            self._stdio.on_input_lost()


class Stdio:
    """The streams of one process. `on_change` is called when clients or outputs end."""

    __slots__ = (
        "_clients",
        "_eof_wanted",
        "_input",
        "_input_bytes",
        "_input_closed",
        "_input_fd",
        "_input_watched",
        "_is_log_waiting",
        "_log",
        "_on_change",
        "_on_detach",
        "_outputs",
        "_paused",
        "_stdin_once",
        "is_finished",
        "loop",
        "tty",
    )

    def __init__(
        self,
        loop: Loop,
        *,
        log: LogFile | None,
        tty: bool,
        stdin_once: bool,
        on_detach: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.tty = tty
        self.is_finished = False
        self._log = log
        self._stdin_once = stdin_once
        self._on_detach = on_detach
        self._on_change = on_change
        self._outputs: dict[int, int] = {}  # fd → stream
        self._clients: list[Client] = []
        self._paused = False
        self._is_log_waiting = False
        self._input_fd = -1  # until there is one, input is kept
        self._input_closed = False
        self._input: collections.deque[memoryview] = collections.deque()
        self._input_bytes = 0
        self._input_watched = False
        self._eof_wanted = False

    # Setting up

    def take(self, *, stdin: int, outputs: list[tuple[int, int]]) -> None:
        """Our ends of pipes that exist: stdin or -1, and (descriptor, stream) each."""
        if stdin >= 0:
            self._input_fd = stdin
            os.set_blocking(stdin, False)
        else:
            self._close_input()
        for fd, stream in outputs:
            self._add_output(fd, stream)
        self._push_input()

    def open_pipes(self, *, stdin: bool, stdout: bool, stderr: bool) -> tuple[int, int, int]:
        """The process's ends, the caller's to close; /dev/null for what is not wanted."""
        theirs: list[int] = []
        if stdin:
            read, self._input_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._input_fd, False)
            theirs.append(read)
        else:
            theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            self._close_input()
        for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)):
            if wanted:
                read, write = os.pipe2(os.O_CLOEXEC)
                self._add_output(read, stream)
                theirs.append(write)
            else:
                theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        self._push_input()
        return theirs[0], theirs[1], theirs[2]

    def open_terminal(self, master: int) -> None:
        """Take over the master of the process's terminal."""
        # Two descriptors: reading and writing are watched apart.
        self._input_fd = os.dup(master)
        os.set_blocking(master, False)
        self._add_output(master, STDOUT)
        self._push_input()

    def _add_output(self, fd: int, stream: int) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = stream
        if not self._paused:
            self.loop.add(fd, EPOLLIN, self._reader(fd, stream))

    def resize(self, height: int, width: int) -> None:
        """Nothing to do where there is no terminal, as with containerd's shim."""
        if self.tty and self._input_fd >= 0:
            pty.resize(self._input_fd, height, width)

    # Output

    def _reader(self, fd: int, stream: int) -> Callable[[int], None]:
        def read(_events: int) -> None:
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # EIO: the last process closed the terminal
            if data:
                self._distribute(stream, data)
            else:
                self._end_output(fd)

        return read

    def _distribute(self, stream: int, data: bytes) -> None:
        if self._log is not None:
            self._log.write(stream, data)
            self._await_log(self._log)
        for client in tuple(self._clients):
            client.write(stream, data)
        if any(client.is_full for client in self._clients):
            self._pause()

    def _pause(self) -> None:
        # Removed, not masked: a hang-up is reported for whatever is registered.
        if not self._paused:
            self._paused = True
            for fd in self._outputs:
                self.loop.remove(fd)

    def on_room(self, _client: Client) -> None:
        """A client took some of what it was kept."""
        self._go_on()

    def _go_on(self) -> None:
        if self._is_log_waiting or not self._paused:
            return
        if all(client.has_room for client in self._clients):
            self._paused = False
            for fd, stream in self._outputs.items():
                self.loop.add(fd, EPOLLIN, self._reader(fd, stream))

    def _await_log(self, log: LogFile) -> None:
        """The process waits as long as its log cannot be rotated, as with dockerd."""
        if log.is_waiting and not self._is_log_waiting:
            self._is_log_waiting = True
            self._pause()
            self.loop.add(log.packer, EPOLLIN, lambda _events: self._on_packed(log))

    def _on_packed(self, log: LogFile) -> None:
        self.loop.remove(log.packer)
        self._is_log_waiting = False
        log.on_packed()
        self._await_log(log)
        self._go_on()

    def _end_output(self, fd: int) -> None:
        self.loop.remove(fd)
        stream = self._outputs.pop(fd)
        os.close(fd)
        if self._log is not None:
            self._log.finish(stream)
            self._await_log(self._log)
        self._on_change()

    # Input

    def feed(self, data: bytes) -> None:
        """Bytes for stdin; dropped when it is closed."""
        if self._input_closed:
            return
        self._input.append(memoryview(data))
        self._input_bytes += len(data)
        self._push_input()

    def _push_input(self) -> None:
        if self._input_fd < 0:
            self._hold_clients(self._input_bytes > _STDIN_BYTES)
            return
        try:
            while self._input:
                part = self._input[0]
                written = os.write(self._input_fd, part)
                self._input_bytes -= written
                if written < len(part):
                    self._input[0] = part[written:]
                    break
                self._input.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._close_input()  # nobody reads it any more
            return
        if not self._input and self._eof_wanted:
            self._close_input()
            return
        self._watch_input(bool(self._input))
        self._hold_clients(self._input_bytes > _STDIN_BYTES)

    def _watch_input(self, wanted: bool) -> None:
        if wanted and not self._input_watched:
            self.loop.add(self._input_fd, EPOLLOUT, lambda _events: self._push_input())
        elif self._input_watched and not wanted:
            self.loop.remove(self._input_fd)
        self._input_watched = wanted

    def _hold_clients(self, hold: bool) -> None:
        for client in self._clients:
            if client.options.stdin:
                client.want_input(not hold)

    def _close_input(self) -> None:
        self._watch_input(False)
        self._input_closed = True
        self._input.clear()
        self._input_bytes = 0
        if self._input_fd >= 0:
            os.close(self._input_fd)
            self._input_fd = -1
        self._hold_clients(False)

    # Clients

    def attach(self, sock: socket.SocketType, options: AttachOptions) -> None:
        client = Client(self, sock, options)
        if self.is_finished:
            client.close()
            return
        self._clients.append(client)
        if options.stdin and options.prefix:
            client.take_input(options.prefix.encode("latin-1"))

    def on_input_end(self, client: Client) -> None:
        """moby container/stream/attach.go: stdin is closed if it is for one client only; else,
        and on a terminal, the client's end of input ends its attachment.
        """
        if not self._end_input():
            client.close()

    def on_input_lost(self) -> None:
        """Who gave input is gone without a word: nobody will say that it has ended."""
        if not self.is_finished:
            self._end_input()

    def _end_input(self) -> bool:
        """Have stdin closed behind what it still gets, if it is for one client only."""
        if not self._stdin_once or self.tty:
            return False
        self._eof_wanted = True
        self._push_input()
        return True

    def on_detached(self, client: Client) -> None:
        client.close()
        self._on_detach()

    def on_flushed(self, client: Client) -> None:
        """The client has all that it will get."""
        if client in self._clients:
            self._clients.remove(client)
            self.on_room(client)
        self._on_change()

    def on_gone(self, client: Client) -> None:
        self.on_flushed(client)

    # Ending

    @property
    def has_output(self) -> bool:
        """Some process may still write."""
        return bool(self._outputs)

    @property
    def has_clients(self) -> bool:
        """Some client has not got all yet."""
        return bool(self._clients)

    def finish(self) -> None:
        """The process ended: take what is in the pipes, then let the clients go."""
        if self.is_finished:
            return
        self.is_finished = True
        self.drain()
        if self._log is not None and self._is_log_waiting:
            self.loop.remove(self._log.packer)
            self._is_log_waiting = False
        self._close_input()
        for client in tuple(self._clients):
            client.close()

    def forget(self) -> None:
        """Who is told holds this in turn; with that let go of, both are freed when they are left,
        and not when the interpreter next looks for circles.
        """
        self._on_change = self._on_detach = _nobody

    def drain(self) -> None:
        """Take what is in the pipes, and close them."""
        for fd in list(self._outputs):
            self._drain(fd)

    def forgo(self) -> None:
        """The process never was: close all, but end no stream. Whoever passed a client's socket
        may still have to tell it why.
        """
        self.is_finished = True
        for fd in list(self._outputs):
            self.loop.remove(fd)
            os.close(fd)
        self._outputs.clear()
        self._close_input()
        for client in tuple(self._clients):
            client.abort()

    def _drain(self, fd: int) -> None:
        """What is there now; a process that still holds the other end may write without end."""
        stream = self._outputs.pop(fd)
        self.loop.remove(fd)
        left = _HIGH_BYTES
        while left > 0:
            try:
                data = os.read(fd, _READ_BYTES)
            except OSError:
                break
            if not data:
                break
            left -= len(data)
            self._distribute(stream, data)
        os.close(fd)
        if self._log is not None:
            self._log.finish(stream)


def _nobody() -> None:
    """Is told of nothing."""
