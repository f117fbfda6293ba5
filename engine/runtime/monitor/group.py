"""Ending what is left in a container's control group, without blocking the loop."""

from __future__ import annotations

from engine.linux import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.runtime.monitor.loop import Loop

# For as long as processes in the kernel's hands may keep a run's end from being told.
_RETRY_S = 0.01
_TRIES = 500


def end_group(loop: Loop, path: str, then: Callable[[], None], *, tries: int = _TRIES) -> None:
    """Kill what is left in the group, remove it, go on; bounded in time. "" is no group."""
    if not path:
        then()
        return
    try:
        is_empty = cgroup.kill(path, 0.0)
        if is_empty:
            cgroup.remove(path, 0.0)
    except OSError:
        is_empty = False
    if is_empty or tries <= 0:
        then()
    else:
        loop.call_later(_RETRY_S, lambda: end_group(loop, path, then, tries=tries - 1))
