"""The one bridge from the event loop to code that blocks.

Pools are small and named by what their work waits for. A caller gathers all that a phase needs
first and crosses once; nothing inside the crossing awaits.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# Disk work waits for the device, unpacking keeps a core busy each (the codecs release the GIL), and
# kernel work (netlink, cgroups, mounts) is short but may not queue behind either. What is unpacked
# behind its download waits for the network as well, and not in the way of what is here already.
# A path that a user named may lie on a server that never answers: who looks there waits with
# nobody but their like.
ARRIVALS = 4
_SIZES = {"disk": 8, "unpack": 4, "arrival": ARRIVALS, "kernel": 8, "foreign": 8}
_pools: dict[str, ThreadPoolExecutor] = {}


def _pool(name: str) -> ThreadPoolExecutor:
    if name not in _pools:
        _pools[name] = ThreadPoolExecutor(_SIZES[name], thread_name_prefix=name)
    return _pools[name]


async def _run(pool: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn` in the pool; its exception is raised here.

    A cancelled caller stops waiting at once, but the call itself runs to its end: what it changed
    must be whole or undone by itself.
    """
    call = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool(pool), call)


async def disk(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which reads or writes files."""
    return await _run("disk", fn, *args, **kwargs)


async def unpack(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which decompresses, hashes, packs or unpacks: long and busy."""
    return await _run("unpack", fn, *args, **kwargs)


async def arrival(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which unpacks what is still arriving; `ARRIVALS` of them at a time."""
    return await _run("arrival", fn, *args, **kwargs)


async def kernel(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which asks the kernel for something short."""
    return await _run("kernel", fn, *args, **kwargs)


async def foreign(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which looks at paths of the host that users named."""
    return await _run("foreign", fn, *args, **kwargs)


async def to_the_end(call: Awaitable[T], undo: Callable[[T], Awaitable[object]] | None = None) -> T:
    """Await `call`; a caller cancelled meanwhile goes on only when it has ended.

    For work in a thread, which cannot be stopped and must not run beside its own clean-up. `undo`
    takes back what the call made for a caller that is not there to have it.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        has_result = not task.cancelled() and task.exception() is None
        if has_result and undo is not None:
            try:
                await undo(task.result())
            except Exception:  # the caller is to hear that it was cancelled
                log.exception("cannot undo what was made for a caller that has left")
        raise


def close() -> None:
    """Wait for all work under way and end the pools."""
    for pool in _pools.values():
        pool.shutdown(wait=True)
    _pools.clear()
