"""Changing the limits of a container, running or not."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from engine import offload
from engine.container import limits, restart, validate
from engine.container.model import Resources, RestartPolicyName
from engine.container.publish import publish
from engine.container.state import ALIVE, Event, next_status
from engine.errors import Conflict, EngineError, InvalidParameter, WharfError
from engine.linux import cgroup
from engine.oci import runtime as oci
from engine.runtime.client import RuntimeFailure

if TYPE_CHECKING:
    from engine.container.model import Container, HostConfig, RestartPolicy
    from engine.container.rooms import Rooms
    from engine.container.store import Handle

log = logging.getLogger(__name__)

# What an update may change; the zero of each means "leave it" (moby UpdateContainer).
_CHANGEABLE = (
    "blkio_weight",
    "cpu_shares",
    "nano_cpus",
    "cpu_period_us",
    "cpu_quota_us",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_bytes",
    "memory_swap_bytes",
    "memory_reservation_bytes",
    "cpu_realtime_period_us",
    "cpu_realtime_runtime_us",
    "pids_limit",
)

# Limits that the kernel takes together: one alone would have it fall back to its default for the
# others, or be measured against an old value of theirs.
_TOGETHER = (
    ("nano_cpus", "cpu_period_us", "cpu_quota_us"),
    ("cpu_realtime_period_us", "cpu_realtime_runtime_us"),
    ("memory_bytes", "memory_swap_bytes"),
)


class CannotUpdate(Conflict):
    def __init__(self, container_id: str, cause: str) -> None:
        super().__init__(f"Cannot update container {container_id}: {cause}")


async def update(
    rooms: Rooms, handle: Handle, changes: Resources, policy: RestartPolicy | None
) -> tuple[str, ...]:
    """Apply the limits named, to the kernel too where it runs; returns warnings."""
    if policy is not None:
        validate.check_restart_policy(policy)
    changes, warnings = limits.verify(changes, rooms.host, is_update=True)
    async with handle.lock:
        next_status(handle.state.status, Event.UPDATE, handle.id)
        try:
            host_config = merged(handle.container.host_config, changes, policy)
        except InvalidParameter as exc:
            raise CannotUpdate(handle.id, str(exc)) from exc
        updated = msgspec.structs.replace(handle.container, host_config=host_config)
        if handle.state.status in ALIVE:
            await _update(rooms, handle, updated, completed(changes, host_config.resources))
        else:
            await rooms.store.save(handle, updated)
            await _amend(handle, completed(changes, host_config.resources))
        if policy is not None:
            await restart.tell_policy(handle)
        publish(rooms.events, handle.container, "update")
    return tuple(warnings)


async def _update(rooms: Rooms, handle: Handle, updated: Container, changes: Resources) -> None:
    during = msgspec.structs.replace(updated, has_unsettled_limits=True)
    after = msgspec.structs.replace(updated, has_unsettled_limits=False)
    async with rooms.store.change(handle, during, lambda: after):
        await _apply(handle, changes)


async def settle(rooms: Rooms, handle: Handle) -> None:
    """At boot: limits that were being changed when the engine ended become those of the row."""
    container = handle.container
    if not container.has_unsettled_limits:
        return
    try:
        await _apply(handle, _changeable(container.host_config.resources))
    except WharfError as exc:
        log.warning("the limits of container %s may be others than it says: %s", handle.id, exc)
    await rooms.store.save(handle, msgspec.structs.replace(container, has_unsettled_limits=False))


def _changeable(resources: Resources) -> Resources:
    """Of its limits those that an update may change. Pure."""
    return Resources(**{name: getattr(resources, name) for name in _CHANGEABLE})


def merged(current: HostConfig, changes: Resources, policy: RestartPolicy | None) -> HostConfig:
    """The host config with the changes in it; raises InvalidParameter where they clash. Pure."""
    resources = current.resources
    _check_cpu(resources, changes)
    is_alone = changes.memory_bytes != 0 and changes.memory_swap_bytes == 0
    if is_alone and changes.memory_bytes > resources.memory_swap_bytes:
        raise InvalidParameter(
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )
    named = {
        name: value
        for name in _CHANGEABLE
        if (value := getattr(changes, name)) not in (0, "", None)
    }
    if changes.pids_limit is not None and changes.pids_limit <= 0:
        named["pids_limit"] = 0  # as dockerd shows "no limit"
    if policy is not None and current.auto_remove and policy.name is not RestartPolicyName.NO:
        raise InvalidParameter(
            "Restart policy cannot be updated because AutoRemove is enabled for the container"
        )
    return msgspec.structs.replace(
        current,
        resources=msgspec.structs.replace(resources, **named),
        restart_policy=policy or current.restart_policy,
    )


def completed(changes: Resources, merged: Resources) -> Resources:
    """The changes with the limits that go together with them, which stay as they are. Pure."""
    partners = {
        name: getattr(merged, name)
        for names in _TOGETHER
        if any(getattr(changes, each) for each in names)
        for name in names
    }
    return msgspec.structs.replace(changes, **partners)


def _check_cpu(current: Resources, changes: Resources) -> None:
    """One way of naming a share of the CPUs excludes the other."""
    for new, old, sentence in (
        (changes.nano_cpus, current.cpu_period_us, ("Nano CPUs", "CPU Period")),
        (changes.nano_cpus, current.cpu_quota_us, ("Nano CPUs", "CPU Quota")),
        (changes.cpu_period_us, current.nano_cpus, ("CPU Period", "NanoCPUs")),
        (changes.cpu_quota_us, current.nano_cpus, ("CPU Quota", "NanoCPUs")),
    ):
        if new > 0 and old > 0:
            raise InvalidParameter(
                f"Conflicting options: {sentence[0]} cannot be updated as {sentence[1]} has "
                "already been set"
            )


async def _apply(handle: Handle, changes: Resources) -> None:
    """All of them or, where the kernel refuses one, none."""
    try:
        await offload.kernel(cgroup.change, handle.container.cgroup_path, _document(changes))
    except OSError as exc:
        # With the layers that dockerd's sentence has, down to the line's end that runc writes.
        said = f"runc did not terminate successfully: exit status 1: {exc}\n"
        raise EngineError(f"Cannot update container {handle.id}: {said}") from exc
    await _amend(handle, changes)


async def _amend(handle: Handle, changes: Resources) -> None:
    """Have its monitor restart it with these limits; one of an earlier version never does."""
    document = _document(changes)
    if handle.task is None or not handle.is_connected or not document:
        return
    with contextlib.suppress(RuntimeFailure):
        await handle.task.amend(document)


def _document(changes: Resources) -> dict[str, object]:
    """Real-time shares are written down for the next start only, and limits of single devices not
    at all, as with dockerd.
    """
    changes = msgspec.structs.replace(changes, cpu_realtime_runtime_us=0, cpu_realtime_period_us=0)
    document = oci.document(limits.to_oci(changes))
    document.pop("devices", None)
    return document
