"""From a configuration to a running process, and all of it back if any part fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

import msgspec

from engine.container import (
    failure,
    gather,
    health,
    limits,
    links,
    logconfig,
    modes,
    networking,
    policy,
    spec,
)
from engine.container.model import State, Status, Ulimit
from engine.container.publish import publish, publish_mount
from engine.container.state import (
    ALIVE,
    ContainerNotRunning,
    ContainerRestarting,
    Event,
    next_status,
)
from engine.container.teardown import teardown
from engine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NoSuchContainer,
    Unclassified,
    WharfError,
)
from engine.linux import namespace, oserror, process
from engine.network import ports
from engine.oci import runtime as oci
from engine.runtime.client import Bundle, RuntimeFailure

if TYPE_CHECKING:
    from engine.container.gather import Findings
    from engine.container.model import Container
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.network.model import Sandbox
    from engine.storage.snapshots import Mount

log = logging.getLogger(__name__)

_END_S = 10


async def start(rooms: Rooms, handle: Handle, *, by_policy: bool = False) -> None:
    """Start one container, its lock held by the caller; `by_policy` goes on counting restarts.

    Raises what the client shall read; the row then carries the sentence and the exit code.
    """
    event = Event.START_AGAIN if by_policy else Event.START
    status = next_status(handle.state.status, event, handle.id)
    count = handle.state.restart_count if by_policy else 0
    if not by_policy:
        handle.restart_delay_ns = 0
    limits.verify(handle.container.host_config.resources, rooms.host)
    handle.is_torn_down = False
    try:
        started = await _start(rooms, handle, count)
        state = _running(handle, status, count)
        await rooms.store.save(handle, msgspec.structs.replace(started, state=state))
    except asyncio.CancelledError:
        await _end(handle)
        await teardown(rooms, handle.container)
        raise
    except Exception as exc:
        raise await _failed(rooms, handle, exc) from exc
    await _tell_holders(rooms, handle.container)
    publish(rooms.events, handle.container, "start")


async def _tell_holders(rooms: Rooms, container: Container) -> None:
    """What runs goes on whether or not others could be told its address."""
    try:
        await links.tell_holders(rooms, container)
    except OSError as exc:
        log.warning("containers that link to %s still have its old address: %s", container.id, exc)


def _running(handle: Handle, status: Status, count: int) -> State:
    task = handle.task
    return State(
        status=status,
        pid=task.pid if task else 0,
        started_ns=(task.started_ns if task else 0) or time.time_ns(),
        finished_ns=handle.state.finished_ns,
        restart_count=count,
        health=health.begun(handle.container),
    )


async def _start(rooms: Rooms, handle: Handle, count: int) -> Container:
    """The container with what the network gave it; its task runs."""
    container = _as_its_donor(rooms, handle.container)
    linked = links.environment(rooms, container)
    for point in container.mount_points:
        if point.name and point.driver:
            await rooms.volumes.acquire(point.name, container.id)
            publish_mount(rooms.events, container, point)
    with contextlib.ExitStack() as unused:
        launched = await rooms.runtime.launch(container.id)
        unused.callback(launched.close)
        # Disk and kernel on one side, netlink on the other: they do not need each other.
        findings, sandbox = await _both(rooms, container)
        _close_unused(unused, sandbox)
        container = msgspec.structs.replace(
            _with_sandbox(rooms, container, sandbox), apparmor_profile=findings.apparmor_profile
        )
        bundle = _bundle(rooms, container, findings, sandbox, linked)
        bundle.restart = policy.for_monitor(container, count=count)
        joined = _open_shared(rooms, container)
        unused.pop_all()
    queued, handle.queued = handle.queued, []
    # What is open is the runtime's from here on, whatever comes.
    handle.task = await rooms.runtime.create(
        bundle,
        listeners=networking.listeners(sandbox.listeners),
        attachments=queued,
        namespaces=joined,
        resolver=networking.resolver(sandbox.resolver),
        launched=launched,
    )
    rooms.networks.announce(container.id)
    await handle.task.start()
    return container


def _close_unused(unused: contextlib.ExitStack, sandbox: Sandbox) -> None:
    unused.callback(ports.close, sandbox.listeners)
    for fd in sandbox.resolver.fds if sandbox.resolver else ():
        unused.callback(os.close, fd)


async def _both(rooms: Rooms, container: Container) -> tuple[Findings, Sandbox]:
    """Waits for both, also where one fails: what the other made must be known to be undone."""
    found, opened = await asyncio.gather(
        gather.gather(rooms, container),
        _open_sandbox(rooms, container),
        return_exceptions=True,
    )
    if isinstance(found, BaseException):
        if not isinstance(opened, BaseException):
            with contextlib.ExitStack() as unused:
                _close_unused(unused, opened)
        raise found
    if isinstance(opened, BaseException):
        raise opened
    return found, opened


# The network


_JOINING = {
    "network": "joining network namespace of container",
    "ipc": "failed to join IPC namespace",
    "pid": "failed to join PID namespace",
}


def _shared(rooms: Rooms, container: Container, mode: str, kind: str) -> Handle:
    """The running container whose namespace is joined; dockerd's refusals otherwise."""
    try:
        handle = rooms.store.find(modes.other(mode) or "")
    except NoSuchContainer as exc:
        raise Unclassified(f"{_JOINING[kind]}: {exc}") from exc
    target = handle.container
    if kind == "network" and target.id == container.id:
        raise EngineError("cannot join own network namespace")
    if target.state.status is Status.RESTARTING:
        raise Conflict(f"{_JOINING[kind]}: {ContainerRestarting(target.id)}")
    if target.state.status not in ALIVE:
        if kind == "network":
            raise Conflict(
                "cannot join network namespace of a non running container: "
                f"container {target.name} is {target.state.status}"
            )
        raise Conflict(f"{_JOINING[kind]}: {ContainerNotRunning(target.id)}")
    if kind == "ipc" and target.host_config.ipc_mode not in ("shareable", "host"):
        raise InvalidParameter(
            f"{_JOINING[kind]}: container {target.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return handle


def _open_shared(rooms: Rooms, container: Container) -> dict[str, int]:
    """The namespaces of other containers, by their type; the caller's to close."""
    with contextlib.ExitStack() as undo:
        opened: dict[str, int] = {}
        for kind, mode in _process_modes(container):
            if modes.other(mode) is not None:
                opened[kind] = _open_namespace(_shared(rooms, container, mode, kind), kind)
                undo.callback(os.close, opened[kind])
        undo.pop_all()
    return opened


def _process_modes(container: Container) -> tuple[tuple[str, str], ...]:
    host_config = container.host_config
    return ("pid", host_config.pid_mode), ("ipc", host_config.ipc_mode)


def _open_namespace(handle: Handle, kind: str) -> int:
    """Its first process may end at any moment, and its pid be given to another; what was opened
    is its own if it is still there afterwards.
    """
    ended = Conflict(f"{_JOINING[kind]}: {ContainerNotRunning(handle.id)}")
    task = handle.task
    if task is None or task.pidfd < 0:
        raise ended
    try:
        fd = namespace.open_file(f"/proc/{task.pid}/ns/{kind}")
    except OSError as exc:
        raise ended from exc
    if process.has_ended(task.pidfd):
        os.close(fd)
        raise ended
    return fd


def _as_its_donor(rooms: Rooms, container: Container) -> Container:
    """Whoever joins another's network has its names too, from each start on."""
    mode = container.host_config.network_mode
    if modes.other(mode) is None:
        return container
    donor = _shared(rooms, container, mode, "network").container.config
    config = msgspec.structs.replace(
        container.config, hostname=donor.hostname, domainname=donor.domainname
    )
    return msgspec.structs.replace(container, config=config)


async def _open_sandbox(rooms: Rooms, container: Container) -> Sandbox:
    return await rooms.networks.open(networking.request(rooms, container))


def _with_sandbox(rooms: Rooms, container: Container, sandbox: Sandbox) -> Container:
    folder = rooms.folder(container.id)
    shared = modes.other(container.host_config.network_mode)
    holder = rooms.store.find(shared).container if shared else None
    return msgspec.structs.replace(
        container,
        endpoints=sandbox.endpoints,
        ports=sandbox.ports,
        sandbox_id=sandbox.id,
        sandbox_key=sandbox.key,
        hosts_path=holder.hosts_path if holder else os.path.join(folder, "hosts"),
        resolv_conf_path=(
            holder.resolv_conf_path if holder else os.path.join(folder, "resolv.conf")
        ),
        hostname_path=holder.hostname_path if holder else os.path.join(folder, "hostname"),
    )


# The spec


def _bundle(
    rooms: Rooms,
    container: Container,
    found: Findings,
    sandbox: Sandbox,
    linked: tuple[str, ...],
) -> Bundle:
    config, host_config = container.config, container.host_config
    surroundings = spec.Surroundings(
        root=rooms.root(container.id),
        user=found.user,
        capabilities=found.capabilities,
        security=found.security,
        devices=found.devices,
        device_rules=found.device_rules,
        device_numbers=found.device_numbers,
        namespaces=_namespaces(rooms, container, sandbox),
        network_files={
            "/etc/resolv.conf": container.resolv_conf_path,
            "/etc/hostname": container.hostname_path,
            "/etc/hosts": container.hosts_path,
        },
        shm_source=found.shm_source,
        cgroup_path=container.cgroup_path,
        default_ulimits=_default_ulimits(rooms),
        links=linked,
        apparmor_profile=found.apparmor_profile,
        data_root=rooms.config.data_root,
    )
    height, width = host_config.console_size
    wants_init = rooms.config.init if host_config.has_init is None else host_config.has_init
    return Bundle(
        id=container.id,
        spec=oci.document(spec.build(container, surroundings)),
        rootfs=[_layer(mount) for mount in found.rootfs],
        subpaths=found.subpaths,
        trees={destination: _layer(mount) for destination, mount in found.trees.items()},
        seccomp=found.seccomp.file if found.seccomp else None,
        seccomp_flags=found.seccomp.flags if found.seccomp else None,
        log=logconfig.plan(
            host_config.log_config,
            container.log_path,
            config,
            container_id=container.id,
            name=container.name,
            image=config.image,
        ),
        tty=config.tty,
        open_stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        console_size=[height, width] if height and width else None,
        init=wants_init and host_config.pid_mode == "",
        health=health.plan(container, found.user, linked),
    )


def _layer(mount: Mount) -> dict[str, object]:
    return {
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
        "base": mount.base,
    }


def _default_ulimits(rooms: Rooms) -> list[Ulimit]:
    return [
        Ulimit(name=each.name, soft=each.soft, hard=each.hard)
        for each in rooms.config.default_ulimits
    ]


def _namespaces(rooms: Rooms, container: Container, sandbox: Sandbox) -> dict[str, str]:
    host_config = container.host_config
    found = {"mount": spec.OWN}
    if sandbox.netns_path is not None:
        found["network"] = sandbox.netns_path
    if host_config.uts_mode != "host":
        found["uts"] = spec.OWN
    for kind, mode in _process_modes(container):
        if modes.other(mode) is not None:
            found[kind] = f"/proc/{_shared(rooms, container, mode, kind).state.pid}/ns/{kind}"
        elif mode != "host":
            found[kind] = spec.OWN
    if host_config.cgroupns_mode == "private":
        found["cgroup"] = spec.OWN
    return found


# When it fails


async def _failed(rooms: Rooms, handle: Handle, exc: Exception) -> WharfError:
    """Undo all, write down why, and return what the client shall read."""
    code, error = _explain(exc)
    if code == failure.UNKNOWN:  # what an earlier run ended with says more
        code = handle.state.exit_code or code
    await _end(handle)
    handle.drop_queued()
    await teardown(rooms, handle.container)
    state = msgspec.structs.replace(
        handle.state, error=str(error), exit_code=code, pid=0, oom_killed=False
    )
    try:
        await rooms.store.save_state(handle, state)
    except Exception:  # a full disk: the client shall read why the start failed, not this
        log.exception("the failed start of container %s could not be written", handle.id)
    return error


async def _end(handle: Handle) -> None:
    """End what runs already, where it is the row that could not be written."""
    task, handle.task = handle.task, None
    if task is not None:
        await task.end(_END_S)


def _explain(exc: Exception) -> failure.StartFailure:
    if isinstance(exc, RuntimeFailure):
        return failure.of_create(exc.text, in_init=exc.step != "monitor")
    if isinstance(exc, WharfError):
        return failure.StartFailure(failure.UNKNOWN, exc)
    if isinstance(exc, OSError):  # too many open files, a full disk
        return failure.StartFailure(failure.UNKNOWN, EngineError(oserror.sentence(exc)))
    log.exception("a start failed", exc_info=exc)
    return failure.StartFailure(failure.UNKNOWN, EngineError(str(exc)))
