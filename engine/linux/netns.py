"""network_namespaces(7): a namespace kept alive by a file, as ip-netns(8) keeps it.

A thread that enters another network namespace never comes back to other work: each call makes a
thread of its own, which ends with it. So the daemon itself is always in the host's namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from engine.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_OWN: Final = "/proc/thread-self/ns/net"


def create(path: str, inside: Callable[[int], T]) -> T:
    """Make a network namespace, bind it to the file `path`, and call `inside` within it.

    `inside` gets the namespace's descriptor. Whatever fails, the file is gone again.
    """

    def body() -> T:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        fd = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
            syscalls.mount(_OWN, path, None, syscalls.MS_BIND, None)
            return inside(fd)
        except BaseException:
            remove(path)
            raise
        finally:
            os.close(fd)

    return _in_thread(body)


def enter(path: str, inside: Callable[[int], T]) -> T:
    """Call `inside` within the namespace that `path` keeps; it gets the descriptor.

    Raises FileNotFoundError where there is no such file, OSError (EINVAL) where it keeps nothing.
    """

    def body() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            return inside(fd)
        finally:
            os.close(fd)

    return _in_thread(body)


def remove(path: str) -> None:
    """Let go of the namespace: it ends with its last process. Nothing there is not an error."""
    try:
        syscalls.umount2(path, syscalls.MNT_DETACH)
    except OSError as error:  # EINVAL: a file without a mount, as a crash may leave it
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _in_thread(body: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
