"""The number of the request that is being served, for the lines that it puts into the log.

It rides in a context variable: work that a request starts, in tasks or threads, has it too.
"""

from __future__ import annotations

import contextvars
import itertools

_current: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_numbers = itertools.count(1)


def begin() -> None:
    """What follows in this task belongs to a new request."""
    _current.set(f"{next(_numbers):x}")


def current() -> str:
    """Hexadecimal; "" outside any request."""
    return _current.get()
