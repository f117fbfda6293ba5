"""Whether and when to ask a registry again.

Attempts at a blob wait 5, 10, 15 … seconds, as dockerd's do, and tell so second by second; those at
a document are few, soon and quiet.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from engine.errors import EngineError, NoSpace, WharfError
from engine.registry import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from engine.registry.meter import Report

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY = frozenset({429, 500, 502, 503, 504})
BRIEF_S = 10.0
BRIEF_DELAYS_S = (0.5, 1.0, 2.0)

_FINAL_CODES = frozenset({"UNAUTHORIZED", "UNSUPPORTED", "DENIED", "NAME_UNKNOWN", "BLOB_UNKNOWN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient a transfer is. `unit_s` is one second of the countdown between attempts."""

    attempts: int = 5
    unit_s: float = 1.0
    delay_units: int = 5
    longest_delay_units: int = 60
    window_s: float = 60.0
    floor_bytes: int = 4096
    """A window that brings fewer bytes than this ends the attempt."""
    progress_bytes: int = 1 << 20
    """An attempt that brought so much does not count as one."""


async def count_down(policy: Policy, attempt: int, exc: WharfError, report: Report) -> None:
    """Wait for the next attempt, aloud; `exc` ended the one that was."""
    units = max(attempt * policy.delay_units, _asked_s(exc))
    for left in range(min(units, policy.longest_delay_units), 0, -1):
        report(f"Retrying in {left} second{'' if left == 1 else 's'}", 0, 0)
        await asyncio.sleep(policy.unit_s)


def _asked_s(exc: WharfError) -> int:
    """How long the registry wants to be left alone."""
    match exc:
        case failure.Refusal() | failure.UnexpectedStatus():
            return exc.retry_after_s
        case failure.Unprepared():
            return _asked_s(exc.cause)
        case _:
            return 0


def may_pass(exc: WharfError) -> bool:
    """Whether waiting alone may help: what a registry refuses as it is, it refuses again."""
    match exc:
        case failure.Unprepared():
            return may_pass(exc.cause)
        case failure.UnexpectedStatus():
            return exc.status in BUSY
        case failure.Refusal():
            return isinstance(exc, failure.RefusedTooMany) or exc.status == 429
        case failure.Stray():
            return False
        case _:
            return isinstance(exc, failure.Unreachable) and exc.is_passing


def may_retry(exc: WharfError) -> bool:
    """Whether the same request may succeed later (moby distribution/errors.go retryOnError)."""
    match exc:
        case failure.Refusal():
            return exc.code not in _FINAL_CODES
        case failure.Unprepared():
            return may_retry(exc.cause)
        case failure.Unexplained() | failure.Final() | failure.Unsupported():
            return False
        case failure.UnknownBlob() | failure.VerificationFailed():
            return False
        case failure.Stray() | NoSpace():
            return False
        case _:
            return True


async def briefly(ask: Callable[[], Awaitable[T]], delays_s: Sequence[float] | None = None) -> T:
    """Ask for something small until the registry can give it; raises what it said last.

    dockerd asks once. Nobody is told of a wait, so none is long: a registry that wants to be left
    alone for minutes, as one whose limit is reached, is told of at once.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + BRIEF_S
    for least in BRIEF_DELAYS_S if delays_s is None else delays_s:
        try:
            return await ask()
        except WharfError as exc:
            delay = max(least, _asked_s(exc))
            if not may_pass(exc) or loop.time() + delay > end:
                raise
            log.info("asked again in %g seconds: %s", delay, exc)
            await asyncio.sleep(delay)
    return await ask()


async def patiently(
    attempt: Callable[[], Awaitable[None]], *, policy: Policy, report: Report
) -> None:
    """Attempt until it is done or will never be; raises what ended the last attempt, with no word
    about the request that it came to (moby distribution/errors.go retryOnError).
    """
    for number in range(1, policy.attempts + 1):
        try:
            await attempt()
        except WharfError as exc:
            if number == policy.attempts or not may_retry(exc):
                raise _bare(exc) from exc
            log.info("tried again: %s", exc)
            await count_down(policy, number, exc, report)
        else:
            return


def _bare(exc: WharfError) -> WharfError:
    match exc:
        case failure.Refusal() | failure.Unprepared() if exc.cause is not None:
            return exc.cause
        case failure.Unreachable():
            return EngineError(exc.reason)
        case _:
            return exc
