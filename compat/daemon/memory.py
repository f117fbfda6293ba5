"""Memory that is free goes back to the host when work is done.

What a client left behind is often a ring (a connection, its transport and their methods), which
only the collector finds, and it holds buffers. The C library in turn keeps what threads freed, for
each of them. After loads and pulls that is more than all else, so it is looked after while the
daemon has nothing better to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os

from engine import offload
from engine.linux import syscalls

_EVERY_S = 10.0
_SLACK_BYTES = 8 << 20  # less is not worth the look
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def keep_small() -> None:
    """Look again and again, until cancelled."""
    keeper = await offload.disk(Keeper)
    while True:
        await asyncio.sleep(_EVERY_S)
        with contextlib.suppress(OSError):  # of descriptors there may be none just now
            await offload.disk(keeper.look)


class Keeper:
    """Gives memory back where the process has grown since it last did."""

    def __init__(self) -> None:
        self._floor = self._seen = resident_bytes()

    def look(self) -> bool:
        """Whether it was worth it. Takes some milliseconds, but not while the process grows."""
        before, self._seen = self._seen, resident_bytes()
        self._floor = min(self._floor, self._seen)
        if self._seen > before + _SLACK_BYTES or self._seen <= self._floor + _SLACK_BYTES:
            return False
        gc.collect()
        syscalls.malloc_trim()
        self._floor = self._seen = resident_bytes()
        return True


def resident_bytes() -> int:
    """VmRSS of this process (proc_pid_statm(5))."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE
