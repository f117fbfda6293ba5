"""The daemon's end of a monitor's socket: requests and their answers, and what is said unasked."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from typing import TYPE_CHECKING, TypeVar

from engine.errors import EngineError
from engine.runtime import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from engine.runtime.protocol import Message

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0
"""A monitor answers in microseconds what it need not wait for; nobody waits longer than this."""

AnswerT = TypeVar("AnswerT", bound=protocol.Answer)


class RuntimeFailure(EngineError):
    """A container or process could not be made; `step` says where, `str()` is the inner sentence.

    `errno` is 0 where no system call failed.
    """

    def __init__(self, step: str, number: int, text: str) -> None:
        super().__init__(text)
        self.step = step
        self.errno = number
        self.text = text


class MonitorGone(RuntimeFailure):
    """The monitor ended before it answered."""

    def __init__(self) -> None:
        super().__init__("monitor", errno.EPIPE, "the container's monitor ended unexpectedly")


class MonitorSilent(RuntimeFailure):
    """The monitor did not answer in time."""

    def __init__(self, timeout_s: float) -> None:
        text = f"the container's monitor has not answered for {timeout_s:g} seconds"
        super().__init__("monitor", errno.ETIMEDOUT, text)


class Connection:
    """A channel on the event loop: requests get answers, the rest goes to `on_message`."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_message: Callable[[Message, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = protocol.Channel(sock)
        self._on_message = on_message
        self._on_end = on_end
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[tuple[protocol.Answer, list[int]]]] = {}
        self._writing = False
        self.is_open = True
        self.heard = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue a message; `fds` are closed once sent. On a dead connection both are dropped."""
        if not self.is_open:
            for fd in fds:
                os.close(fd)
            return
        try:
            self._watch_writable(not self._channel.send(message, fds))
        except OSError:
            # What was sent before may hold the reason: the end of the stream is found by reading.
            log.debug("a monitor's connection is gone while sending", exc_info=True)

    def post(
        self, request: protocol.Request, fds: Sequence[int] = ()
    ) -> asyncio.Future[tuple[protocol.Answer, list[int]]]:
        """Send a request; the future brings its answer, or MonitorGone."""
        self._seq += 1
        request.seq = self._seq
        future: asyncio.Future[tuple[protocol.Answer, list[int]]] = self._loop.create_future()
        if not self.is_open:
            future.set_exception(MonitorGone())
        else:
            self._waiting[self._seq] = future
        self.send(request, fds)
        return future

    async def ask(
        self,
        request: protocol.Request,
        kind: type[AnswerT],
        fds: Sequence[int] = (),
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> tuple[AnswerT, list[int]]:
        """The answer; raises RuntimeFailure if the monitor says so, is gone or says nothing."""
        future = self.post(request, fds)
        try:
            answer = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            self._waiting.pop(request.seq, None)
            raise MonitorSilent(timeout_s) from None
        return answer_of(answer, kind)

    def has_peer(self) -> bool:
        """Whether the other end is open now, which is known here only after reading its end."""
        if not self.is_open:
            return False
        poll = select.poll()
        poll.register(self._channel.fileno(), 0)
        return not poll.poll(0)

    def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._channel.fileno())
        if self._writing:
            self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(MonitorGone())

    def _watch_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._channel.fileno(), self._writable)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._channel.fileno())
        self._writing = wanted

    def _writable(self) -> None:
        try:
            self._watch_writable(not self._channel.flush())
        except OSError:
            self._watch_writable(False)

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except (OSError, protocol.ProtocolError) as exc:
            log.debug("a monitor's connection broke: %s", exc)
            messages = None
        if messages is None:
            self.close()
            self._on_end()
            return
        for message, fds in messages:
            self.heard = True
            self._dispatch(message, fds)

    def _dispatch(self, message: Message, fds: list[int]) -> None:
        if isinstance(message, protocol.Answer):
            future = self._waiting.pop(message.seq, None)
            if future is not None and not future.done():
                future.set_result((message, fds))
                return
        else:
            self._on_message(message, fds)
            return
        for fd in fds:
            os.close(fd)


def answer_of(
    answer: tuple[protocol.Answer, list[int]], kind: type[AnswerT]
) -> tuple[AnswerT, list[int]]:
    """Narrow an answer to the kind expected; a Failed becomes RuntimeFailure."""
    message, fds = answer
    if isinstance(message, protocol.Failed):
        raise RuntimeFailure(message.step, message.errno, message.text)
    if not isinstance(message, kind):
        raise RuntimeFailure("protocol", 0, f"the monitor answered {type(message).__name__}")
    return message, fds
