"""What the runtime reports of its own accord: exits, OOM kills, detached clients, lost monitors.

Each report becomes a piece of the engine's own work under the container's lock, in the order of
arrival (engine.runtime.client.RuntimeEvents).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from engine.container import adoption, exit, health, restart
from engine.container.publish import publish
from engine.container.state import ACTIVE
from engine.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from engine.container.rooms import Rooms
    from engine.container.store import Handle
    from engine.runtime.protocol import Exit, Json

    Work = Callable[[Handle], Coroutine[object, object, None]]

log = logging.getLogger(__name__)


class Reports:
    """One an engine."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._ending: dict[str, asyncio.Future[object]] = {}  # execs whose end is being written

    def on_exit(self, container_id: str, exit: Exit) -> None:
        self._later(container_id, "noting the exit", lambda handle: self._exited(handle, exit))

    def on_restarted(self, container_id: str, pid: int, started_ns: int, count: int) -> None:
        async def note(handle: Handle) -> None:
            async with handle.lock:
                await restart.began(self._rooms, handle, pid, started_ns, count)

        self._later(container_id, "noting a restart", note)

    def on_lost(self, container_id: str) -> None:
        """The monitor is gone, and with it the container, or only the connection is."""
        self._later(container_id, "noting a loss", self._lost)

    def on_exec_exit(self, container_id: str, exec_id: str, code: int, at_ns: int) -> None:
        async def note(handle: Handle) -> None:
            async with handle.lock:
                await exit.exec_exited(self._rooms, handle, exec_id, code)

        noting = self._later(container_id, "noting an exec's exit", note)
        if noting is not None:
            self._ending[exec_id] = noting
            noting.add_done_callback(lambda _: self._ending.pop(exec_id, None))

    def on_probing(self, container_id: str, exec_id: str, pid: int) -> None:
        async def note(handle: Handle) -> None:
            async with handle.lock:
                health.probing(self._rooms, handle, exec_id, pid)

        self._later(container_id, "noting a probe", note)

    def on_probed(
        self, container_id: str, exec_id: str, code: int | None, said: Json | None
    ) -> None:
        async def note(handle: Handle) -> None:
            async with handle.lock:
                await health.probed(self._rooms, handle, exec_id, code, said)

        self._later(container_id, "noting the result of a probe", note)

    def on_oom(self, container_id: str) -> None:
        async def note(handle: Handle) -> None:
            async with handle.lock:
                await exit.out_of_memory(self._rooms, handle)

        self._later(container_id, "noting an OOM kill", note)

    def on_detach(self, container_id: str, exec_id: str | None) -> None:
        handle = self._rooms.store.get(container_id)
        if handle is None:
            return
        if exec_id is None:
            publish(self._rooms.events, handle.container, "detach")
        else:
            publish(self._rooms.events, handle.container, "exec_detach", execID=exec_id)

    def _later(self, container_id: str, what: str, work: Work) -> asyncio.Future[object] | None:
        handle = self._rooms.store.get(container_id)
        if handle is None:
            log.warning("%s of container %s, which is not known", what, container_id)
            return None
        try:
            return self._rooms.work.spawn(work(handle), what=f"{what} of container {container_id}")
        except Unavailable:
            log.info("%s of container %s is left to the next start", what, container_id)
            return None

    async def _exited(self, handle: Handle, how: Exit) -> None:
        async with handle.lock:
            if how.again_ns is not None:
                await exit.end_execs(self._rooms, handle)
                await restart.ended(self._rooms, handle, how)
                return
            if _is_of_an_earlier_start(handle):
                return
            was_active = handle.state.status in ACTIVE
            await exit.exited(self._rooms, handle, how)
        if was_active:
            await exit.auto_remove(self._rooms, handle)

    async def _lost(self, handle: Handle) -> None:
        async with handle.lock:
            if _is_of_an_earlier_start(handle) or handle.state.status not in ACTIVE:
                return
            is_known = await adoption.attempt(self._rooms, handle)
        if is_known:
            await exit.auto_remove(self._rooms, handle)
        else:
            adoption.look_on(self._rooms, handle)

    # Execs that ended

    async def noted(self, exec_id: str) -> None:
        """Wait until an exec's end that was reported is written down."""
        ending = self._ending.get(exec_id)
        if ending is not None:
            await asyncio.wait([ending])


def _is_of_an_earlier_start(handle: Handle) -> bool:
    """A monitor whose start failed may end when the container runs again already.

    A task that has ended says how, or has let go of its pidfd.
    """
    task = handle.task
    return task is not None and task.exit is None and task.pidfd >= 0
