"""Threads for calls after which a thread is fit for nothing else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def apart(body: Callable[[], T], *, name: str) -> T:
    """Call `body`, which goes into other namespaces, in a thread that ends with it.

    The caller is a thread of a pool itself, and has other work after this: what it entered it could
    leave again only by a call that may fail.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
