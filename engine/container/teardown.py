"""Everything a run leaves outside the container's own namespaces, found by names and removed.

The same for a container that ended, one whose start failed, and one found dead at boot: each step
is idempotent, and a step that fails does not keep the others from being done.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from engine import offload
from engine.container import gather
from engine.ids import ContainerId
from engine.linux import cgroup

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.container.model import Container
    from engine.container.rooms import Rooms

log = logging.getLogger(__name__)


async def teardown(rooms: Rooms, container: Container) -> None:
    """End what may still run and take away what is held; failures are logged, never raised."""
    await take_away(rooms, container)
    await forget(rooms, container.id)


async def take_away(rooms: Rooms, container: Container) -> bool:
    """The same but for the run's folder, whose journal tells how it ended until a row does.

    True when nothing is left that a later teardown would have to do again.
    """
    is_done = await _release(rooms, container.id, container.cgroup_path)
    for point in container.mount_points:
        if point.name and point.driver:
            is_done &= await _step(container.id, rooms.volumes.release(point.name, container.id))
    return is_done


async def sweep(rooms: Rooms, container_id: str, cgroup_path: str) -> None:
    """The same for a container of which only the id is known."""
    await _release(rooms, container_id, cgroup_path)
    await forget(rooms, container_id)


async def forget(rooms: Rooms, container_id: str) -> None:
    """Remove the folder of the run, and with it the journal."""
    await _step(container_id, offload.disk(rooms.runtime.forget, container_id))


async def _release(rooms: Rooms, container_id: str, cgroup_path: str) -> bool:
    # First what keeps the rest busy: no process may be left in the group or the namespace.
    is_ended = await _step(container_id, offload.kernel(_end_group, cgroup_path))
    are_done = await asyncio.gather(
        _step(container_id, rooms.networks.close(ContainerId(container_id))),
        _step(container_id, offload.disk(gather.release_shared_memory, rooms, container_id)),
    )
    return is_ended and all(are_done)


async def _step(container_id: str, step: Awaitable[object]) -> bool:
    try:
        await step
    except Exception:
        log.warning("teardown of container %s is incomplete", container_id, exc_info=True)
        return False
    return True


def _end_group(path: str) -> None:
    if not path or not cgroup.exists(path):
        return
    cgroup.kill(path)
    cgroup.remove(path)
