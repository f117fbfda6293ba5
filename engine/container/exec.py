"""More processes in a running container: made known, started, resized, looked at."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from engine import ids, offload
from engine.container import attach, environment, failure, gather, links, spec, view
from engine.container.model import Exec, ExecConfig
from engine.container.publish import publish
from engine.container.state import Event, next_status
from engine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NotFound,
    Unclassified,
    WharfError,
)
from engine.linux import capability
from engine.oci import runtime as oci
from engine.runtime.client import Attachment, RuntimeFailure, Task

if TYPE_CHECKING:
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.container.user import User
    from engine.linux.fd import OwnedFd

log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
"""How long a size waits for the start of what it is for (moby ContainerExecResize)."""


async def create(rooms: Rooms, handle: Handle, config: ExecConfig, *, ref: str) -> str:
    """Make an exec known; nothing runs yet. Returns its id."""
    next_status(handle.state.status, Event.EXEC, handle.id, ref=ref)
    if not config.cmd:
        raise InvalidParameter("No exec command specified")
    if any("\0" in text for text in (*config.cmd, *config.env, config.working_dir)):
        raise InvalidParameter("invalid request: NUL characters are not allowed")
    try:
        attach.parse_keys(config.detach_keys)
    except InvalidParameter:
        raise Unclassified(f"Invalid escape keys ({config.detach_keys}) provided") from None
    if config.user:
        try:
            await _look_up(handle, config.user)
        except Unclassified as exc:
            raise InvalidParameter(str(exc)) from exc
    config = msgspec.structs.replace(config, linked_env=links.environment(rooms, handle.container))
    exec = Exec(id=ids.generate(), container_id=handle.id, config=config)
    async with handle.lock:  # it may have ended meanwhile, or be gone with all its rows
        next_status(handle.state.status, Event.EXEC, handle.id, ref=ref)
        await rooms.store.save_exec(handle, exec)
    publish(rooms.events, handle.container, f"exec_create: {config.words}", execID=exec.id)
    return exec.id


async def _look_up(handle: Handle, name: str) -> User:
    task = _task(handle)
    # In its own mounts, of which some may be of a server.
    return await offload.foreign(_look_up_in, handle, task, name)


def _task(handle: Handle) -> Task:
    task = handle.task
    if task is not None and task.is_connected:
        return task
    if handle.is_unreached or (task is not None and task.exit is None):
        raise EngineError(f"the monitor of container {handle.id} does not answer")
    raise Conflict(f"container {handle.id} is not running")


def _look_up_in(handle: Handle, task: Task, name: str) -> User:
    try:
        with view.of_process(task.pid, task.pidfd) as root:
            return gather.user_in(root, handle.container, name)
    except ProcessLookupError as exc:
        raise Conflict(f"container {handle.id} is not running") from exc


def check(handle: Handle) -> None:
    """Raise what has to be said before the connection is taken over."""
    next_status(handle.state.status, Event.EXEC, handle.id)


def _check_fresh(exec: Exec) -> None:
    if exec.exit_code is not None:
        raise Conflict(f"exec command {exec.id} has already run")
    if exec.is_running:
        raise Conflict(f"exec command {exec.id} is already running")


async def start(
    rooms: Rooms,
    handle: Handle,
    exec: Exec,
    *,
    console_size: tuple[int, int] | None,
    client: OwnedFd,
    prefix: bytes,
) -> None:
    """Run it; `client` is its socket, none to detach, ours from here on.

    Returns once the process runs: its streams are the monitor's affair.
    """
    try:
        await _claim(rooms, handle, exec)
        try:
            publish(
                rooms.events, handle.container, f"exec_start: {exec.config.words}", execID=exec.id
            )
            _check_process(handle, exec.config)
            user = await _look_up(handle, exec.config.user or handle.container.config.user)
            pid = await _run(rooms, handle, exec, user, console_size, client, prefix)
        except (WharfError, OSError) as exc:
            code, error = _explain(exc)
            await _note_failure(rooms, handle, exec, code)
            raise error from exc
    finally:
        client.close()
    async with handle.lock:
        known = handle.execs.get(exec.id)
        if known is not None:  # it may have ended already, which its process does not change
            # Its streams are the client's already: it runs, whatever can be written.
            await rooms.store.note_exec(handle, msgspec.structs.replace(known, pid=pid))
    _tell_started(handle, exec)


def _check_process(handle: Handle, config: ExecConfig) -> None:
    """What runc refuses before it tries."""
    cwd = config.working_dir or handle.container.config.working_dir
    if cwd and not cwd.startswith("/"):
        raise failure.ExecRefused("Cwd must be an absolute path")
    if any(pair.startswith("=") for pair in config.env):
        raise failure.ExecRefused(
            "unable to start container process: invalid environment variable: name cannot be empty"
        )


async def _claim(rooms: Rooms, handle: Handle, exec: Exec) -> None:
    """Mark it as running; of two that start the same one, the second is refused."""
    async with handle.lock:
        known = handle.execs.get(exec.id, exec)
        check(handle)
        _check_fresh(known)
        await rooms.store.save_exec(handle, msgspec.structs.replace(known, is_running=True))


async def _run(
    rooms: Rooms,
    handle: Handle,
    exec: Exec,
    user: User,
    console_size: tuple[int, int] | None,
    client: OwnedFd,
    prefix: bytes,
) -> int:
    """The pid on the host."""
    config = exec.config
    task = _task(handle)
    process = _process(rooms, handle, config, user, console_size)
    is_attached = bool(client)
    attachment = _attachment(config, client, prefix)  # the runtime's from here on, whatever comes
    return await task.exec(
        exec.id,
        oci.document(process),
        stdin=config.attach_stdin and is_attached,
        stdout=config.attach_stdout and is_attached,
        stderr=config.attach_stderr and is_attached,
        tty=config.tty,
        console_size=console_size or config.console_size,
        attachment=attachment,
    )


def _attachment(config: ExecConfig, client: OwnedFd, prefix: bytes) -> Attachment | None:
    detach_keys = attach.parse_keys(config.detach_keys)
    if not client:
        return None
    return Attachment(
        client.take(),
        stdin=config.attach_stdin,
        stdout=config.attach_stdout,
        stderr=config.attach_stderr,
        detach_keys=detach_keys,
        multiplexed=not config.tty,
        prefix=prefix,
    )


def _process(
    rooms: Rooms,
    handle: Handle,
    config: ExecConfig,
    user: User,
    console_size: tuple[int, int] | None,
) -> oci.Process:
    container = handle.container
    env = environment.override(
        environment.of_container(container.config, tty=config.tty, links=config.linked_env),
        config.env,
    )
    size = console_size or config.console_size
    return oci.Process(
        args=config.cmd,
        env=environment.with_home(env, user.home),
        cwd=config.working_dir or container.config.working_dir or "/",
        terminal=config.tty,
        console_size=oci.Box(height=size[0], width=size[1]) if config.tty and size else None,
        user=spec.user_of(user),
        capabilities=_capabilities(rooms, config),
    )


def _capabilities(rooms: Rooms, config: ExecConfig) -> oci.Capabilities | None:
    """All for a privileged exec; None for those of the container's own process."""
    if not config.is_privileged:
        return None
    everything = tuple(name for name in capability.NAMES if name in rooms.capabilities)
    return spec.capabilities_of(everything)


def _explain(exc: Exception) -> failure.StartFailure:
    if isinstance(exc, RuntimeFailure):
        return failure.of_exec(exc.text)
    if isinstance(exc, failure.ExecRefused):
        return failure.StartFailure(failure.UNKNOWN, exc)
    if isinstance(exc, WharfError):
        return failure.StartFailure(failure.COMMAND_NOT_EXECUTABLE, exc)
    return failure.of_exec(str(exc))


async def _note_failure(rooms: Rooms, handle: Handle, exec: Exec, code: int) -> None:
    """Unless it ended another way."""
    async with handle.lock:
        known = handle.execs.get(exec.id)
        if known is not None and known.exit_code is None and known.pid == 0:
            ended = msgspec.structs.replace(known, is_running=False, exit_code=code)
            await rooms.store.note_exec(handle, ended)
            _tell_started(handle, exec)


# Its size


async def resize(handle: Handle, exec: Exec, height: int, width: int) -> None:
    next_status(handle.state.status, Event.EXEC, handle.id)
    if exec.exit_code is None and not exec.pid:
        exec = await _started(handle, exec)
    if not exec.pid:
        raise InvalidParameter("exec process is not started")
    if exec.exit_code is not None or handle.task is None:
        raise _no_process(exec)
    try:
        await handle.task.resize(height, width, exec.id)
    except RuntimeFailure as exc:
        raise _no_process(exec) from exc


def _no_process(exec: Exec) -> NotFound:
    return NotFound(f"NotFound: process does not exist {exec.id}: not found")


async def _started(handle: Handle, exec: Exec) -> Exec:
    """The exec once its start is over, well or not: a size may be on its way before that."""
    over = handle.exec_starts.setdefault(exec.id, asyncio.Event())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await over.wait()
    except TimeoutError:
        raise EngineError("timeout waiting for exec session ready") from None
    return handle.execs.get(exec.id, exec)


def _tell_started(handle: Handle, exec: Exec) -> None:
    if over := handle.exec_starts.pop(exec.id, None):
        over.set()


def running(handle: Handle) -> tuple[str, ...]:
    """What inspect lists: the execs that have not ended."""
    return tuple(exec.id for exec in handle.execs.values() if exec.exit_code is None)
