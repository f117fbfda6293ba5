"""A container's health: what its monitor is told to run, and what becomes known of it.

The monitor probes and counts (runtime/monitor/health.py). Here its words become state and events.
A probe changes the row only with the status: the last five results are kept by the monitor too, and
the next engine has them from it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from engine import timestamp
from engine.container import environment, failure, spec
from engine.container.model import Exec, ExecConfig, Health, HealthResult, HealthStatus
from engine.container.publish import publish
from engine.container.state import ALIVE
from engine.oci import runtime as oci
from engine.runtime import protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.container.model import Config, Container
    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.container.user import User
    from engine.runtime.protocol import Json

# moby daemon/health.go
_INTERVAL_NS = 30 * timestamp.SECOND
_TIMEOUT_NS = 30 * timestamp.SECOND
_START_INTERVAL_NS = 5 * timestamp.SECOND
_RETRIES = 3
_SHELL = ("/bin/sh", "-c")
_NO_TEXT = re.compile("[\udc80-\udcff]")  # each a byte that is no UTF-8


def command(config: Config) -> tuple[str, ...]:
    """What a probe runs; nothing for a container that is not looked after.

    Forms that are not known are passed over, as dockerd does.
    """
    match config.healthcheck.test if config.healthcheck else ():
        case ("CMD", *words):
            return tuple(words)
        case ("CMD-SHELL", *words):
            return (*(config.shell or _SHELL), *words)
        case _:
            return ()


def plan(container: Container, user: User, links: Sequence[str]) -> Json | None:
    """For the container's bundle; None where there is nothing to do."""
    config = container.config
    check = config.healthcheck
    if check is None or not (words := command(config)):
        return None
    env = environment.of_container(config, tty=False, links=links)
    process = oci.Process(
        args=words,
        env=environment.with_home(env, user.home),
        cwd=config.working_dir or "/",
        user=spec.user_of(user),
    )
    timeout_ns = check.timeout_ns or _TIMEOUT_NS
    return protocol.Healthcheck(
        process=oci.document(process),
        interval_ns=check.interval_ns or _INTERVAL_NS,
        timeout_ns=timeout_ns,
        start_period_ns=check.start_period_ns,
        start_interval_ns=check.start_interval_ns or _START_INTERVAL_NS,
        retries=check.retries or _RETRIES,
        late=f"Health check exceeded timeout ({timestamp.format_duration(timeout_ns)})",
        health=_told(begun(container)),
    ).to_json()


def _told(health: Health | None) -> Json | None:
    if health is None:
        return None
    log = [
        protocol.Probe(
            start_ns=each.start_ns,
            end_ns=each.end_ns,
            exit_code=each.exit_code,
            output=each.output,
        )
        for each in health.log
    ]
    return protocol.Health(log=[each.to_json() for each in log]).to_json()


# What is known


def begun(container: Container) -> Health | None:
    """At a start: what earlier runs left in the log stays."""
    before = container.state.health
    if not command(container.config):
        return before
    return Health(log=before.log if before else ())


def unwatched(health: Health | None) -> Health | None:
    """While nobody looks, paused or ended: dockerd calls that unhealthy, and tells nobody."""
    if health is None:
        return None
    return msgspec.structs.replace(health, status=HealthStatus.UNHEALTHY)


def told(document: Json | None, known: Health | None) -> Health | None:
    """What the monitor says, or what is known if it says nothing."""
    if document is None:
        return known
    said = protocol.Health.from_json(document)
    return Health(
        status=HealthStatus(said.status),
        failing_streak=said.failing_streak,
        log=tuple(_result(protocol.Probe.from_json(each)) for each in said.log),
    )


def _result(probe: protocol.Probe) -> HealthResult:
    output = _NO_TEXT.sub("\ufffd", probe.output)
    return HealthResult(
        start_ns=probe.start_ns,
        end_ns=probe.end_ns,
        exit_code=probe.exit_code,
        output=output if probe.has_run else str(failure.of_exec(output).error),
    )


def tell_change(rooms: Rooms, container: Container, before: Health | None) -> None:
    now = container.state.health
    if now is not None and (before is None or now.status is not before.status):
        publish(rooms.events, container, f"health_status: {now.status}")


# What the monitor reports


def probing(rooms: Rooms, handle: Handle, exec_id: str, pid: int) -> None:
    """The probe counts among the container's execs until the next one."""
    words = command(handle.container.config)
    if handle.state.status not in ALIVE or not words:
        return
    config = ExecConfig(
        user=handle.container.config.user,
        attach_stdout=True,
        attach_stderr=True,
        working_dir=handle.container.config.working_dir,
        cmd=words,
    )
    rooms.store.remember_probe(
        handle,
        Exec(
            id=exec_id,
            container_id=handle.id,
            config=config,
            pid=pid,
            is_running=True,
        ),
    )
    for action in ("exec_create", "exec_start"):
        publish(rooms.events, handle.container, f"{action}: {config.words}", execID=exec_id)


async def probed(
    rooms: Rooms, handle: Handle, exec_id: str, code: int | None, said: Json | None
) -> None:
    """The lock is held by the caller."""
    known = handle.execs.get(exec_id)
    if known is not None and known.exit_code is None:
        ended = msgspec.structs.replace(known, is_running=False, exit_code=_exit_code(code))
        rooms.store.remember_exec(handle, ended)
        if code is not None:
            publish(rooms.events, handle.container, "exec_die", execID=exec_id, exitCode=str(code))
    if said is None or handle.state.status not in ALIVE:
        return
    before = handle.state.health
    state = msgspec.structs.replace(handle.state, health=told(said, before))
    container = msgspec.structs.replace(handle.container, state=state)
    if before is not None and state.health is not None and before.status is state.health.status:
        rooms.store.believe(handle, container)
    else:
        await rooms.store.note(handle, container)
        tell_change(rooms, container, before)


def _exit_code(code: int | None) -> int:
    """As an exec's whose program could not be started."""
    return failure.COMMAND_NOT_FOUND if code is None else code
