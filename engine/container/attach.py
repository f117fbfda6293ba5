"""Clients at a container's streams: what was logged first, then live, served by the monitor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

from engine import stdcopy
from engine.container import keys, logs
from engine.container.model import LogsQuery
from engine.container.publish import publish
from engine.container.state import ACTIVE, Event, next_status
from engine.errors import InvalidParameter
from engine.runtime.client import Attachment, RuntimeFailure

if TYPE_CHECKING:
    from engine.container.model import AttachOptions
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.linux.fd import OwnedFd

_REPLAY_TIMEOUT_S = 30


def check(handle: Handle, options: AttachOptions, *, ref: str) -> None:
    """Raise what has to be said before the connection is taken over."""
    parse_keys(options.detach_keys)
    next_status(handle.state.status, Event.ATTACH, handle.id, ref=ref)


def parse_keys(text: str) -> bytes:
    try:
        return keys.parse(text)
    except ValueError as exc:
        raise InvalidParameter(f"Invalid detach keys ({text}) provided") from exc


async def attach(
    rooms: Rooms, handle: Handle, options: AttachOptions, client: OwnedFd, prefix: bytes
) -> None:
    """Serve the client, which is ours from here on. Returns once it is handed over.

    Before the container runs the client is kept in a queue and sees its first byte.
    """
    try:
        if options.logs:
            try:
                await _replay(rooms, handle, options, client.fileno())
            except (ConnectionError, TimeoutError):
                return  # the client has left, or takes nothing: there is nobody to tell
        if options.stream and _is_to_stay(handle, options):
            await _hand_over(rooms, handle, options, client, prefix)
    finally:
        client.close()
    publish(rooms.events, handle.container, "attach")


def _is_to_stay(handle: Handle, options: AttachOptions) -> bool:
    """With no stream there is nothing to wait for, but for the end of what has one stdin only."""
    config = handle.container.config
    if (options.stdin and config.open_stdin) or options.stdout or options.stderr:
        return True
    return config.stdin_once and not config.tty and handle.state.status in ACTIVE


async def _hand_over(
    rooms: Rooms, handle: Handle, options: AttachOptions, client: OwnedFd, prefix: bytes
) -> None:
    config = handle.container.config
    detach_keys = parse_keys(options.detach_keys)
    async with handle.lock:
        next_status(handle.state.status, Event.ATTACH, handle.id)
        attachment = Attachment(
            client.take(),
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            detach_keys=detach_keys,
            multiplexed=not config.tty,
            prefix=prefix,
        )
        if handle.task is None:
            _drop_departed(handle)
            handle.queued.append(attachment)
            return
        with contextlib.suppress(RuntimeFailure):  # it ended just now: so does the stream
            await handle.task.attach(attachment)


def _drop_departed(handle: Handle) -> None:
    """Let go of clients that waited for a start and have hung up."""
    kept: list[Attachment] = []
    for waiting in handle.queued:
        poll = select.poll()
        poll.register(waiting.fd, select.POLLHUP | select.POLLERR)
        if poll.poll(0):
            os.close(waiting.fd)
        else:
            kept.append(waiting)
    handle.queued[:] = kept


async def _replay(rooms: Rooms, handle: Handle, options: AttachOptions, fd: int) -> None:
    query = LogsQuery(stdout=options.stdout, stderr=options.stderr)
    pack = stdcopy.unframed if handle.container.config.tty else stdcopy.frames
    async for batch in logs.read(rooms.folders, handle, query):
        await asyncio.wait_for(send(fd, pack(batch)), _REPLAY_TIMEOUT_S)


async def send(fd: int, data: bytes) -> None:
    """Write all of it to a client's socket; an OSError if it has left."""
    with socket.socket(fileno=os.dup(fd)) as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(client, data)
