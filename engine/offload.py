"""The one bridge from the event loop to code that blocks.

Pools are small and named by what their work waits for; what may wait for ever has none. A caller
gathers all that a phase needs first and crosses once; nothing inside the crossing awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from engine.errors import EngineError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# Disk work waits for the device, unpacking keeps a core busy each (the codecs release the GIL), and
# kernel work (netlink, cgroups, mounts) is short but may not queue behind either. What is unpacked
# behind its download waits for the network as well, and not in the way of what is here already. A
# layer is packed a piece at a time, each for a registry that waits: not behind whole layers.
ARRIVALS = 4
_SIZES = {"disk": 8, "unpack": 4, "pack": 4, "arrival": ARRIVALS, "kernel": 8}
_pools: dict[str, ThreadPoolExecutor] = {}

# A path that a user named may lie on a server that never answers, and whoever looks there waits as
# long. In a pool, however large, they would come to keep all others waiting as well.
FOREIGN_TIMEOUT_S = 120.0
_MOST_ALONE = 512
_alone: set[object] = set()


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
    """Run `fn`, which decompresses, hashes and unpacks: long and busy."""
    return await _run("unpack", fn, *args, **kwargs)


async def pack(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which packs a piece of a layer."""
    return await _run("pack", fn, *args, **kwargs)


async def arrival(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which unpacks what is still arriving; `ARRIVALS` of them at a time."""
    return await _run("arrival", fn, *args, **kwargs)


async def kernel(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which asks the kernel for something short."""
    return await _run("kernel", fn, *args, **kwargs)


async def alone(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which may never come back, in a thread of its own that nothing waits for.

    Raises Unavailable where hundreds already do not.
    """
    if len(_alone) >= _MOST_ALONE:
        raise Unavailable(f"{_MOST_ALONE} accesses to paths of the host have not come back yet")
    call = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()
    _alone.add(outcome)
    outcome.add_done_callback(_alone.discard)
    try:
        # A daemon: neither the pools' end nor the interpreter's waits for it.
        threading.Thread(target=_settle, args=(outcome, call), name="alone", daemon=True).start()
    except RuntimeError as exc:
        _alone.discard(outcome)
        raise Unavailable(str(exc)) from exc
    return await asyncio.wrap_future(outcome)


def _settle(outcome: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as exc:
        outcome.set_exception(exc)
    else:
        outcome.set_result(result)


async def foreign(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `fn`, which looks at paths that users named; EngineError where those do not answer.

    As any call that nobody waits for any more, it goes on to its end.
    """
    try:
        async with asyncio.timeout(FOREIGN_TIMEOUT_S) as patience:
            return await alone(fn, *args, **kwargs)
    except TimeoutError as exc:
        if not patience.expired():
            raise
        raise EngineError(
            f"a path of the host has not answered for {FOREIGN_TIMEOUT_S:g} seconds"
        ) from exc


async def to_the_end(
    call: Awaitable[T],
    undo: Callable[[T], Awaitable[object]] | None = None,
    *,
    stop: Callable[[], None] | None = None,
) -> T:
    """Await `call`; a caller cancelled meanwhile, however often, goes on only when it has ended.

    For work in a thread, which must not run beside its own clean-up. Nothing stops a thread: what
    may take minutes is told by `stop`, and may end whole all the same. `undo` takes back what the
    call made for a caller that is not there to have it.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # once more: it has been told
                await asyncio.wait((task,))
        has_result = not task.cancelled() and task.exception() is None
        if has_result and undo is not None:
            try:
                await to_the_end(undo(task.result()))
            except Exception:  # the caller is to hear that it was cancelled
                log.exception("cannot undo what was made for a caller that has left")
        raise


async def ended(future: asyncio.Future[T]) -> None:
    """Wait for its end, and that alone: who wanted to know how it ended has asked, or is gone."""
    await asyncio.wait((future,))
    if not future.cancelled():
        future.exception()  # asyncio need not log it


def close() -> None:
    """Wait for all work under way, but for what runs alone, and end the pools."""
    for pool in _pools.values():
        pool.shutdown(wait=True)
    _pools.clear()
