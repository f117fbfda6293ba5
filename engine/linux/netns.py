"""network_namespaces(7): a namespace kept alive by a file, as ip-netns(8) keeps it.

Each call enters it in a thread of its own (thread.py): the daemon itself is always in the host's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final, TypeVar

from engine.linux import syscalls, thread

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

    return thread.apart(body, name="netns")


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

    return thread.apart(body, name="netns")


def remove(path: str) -> None:
    """Let go of the namespace: it ends with its last process. Nothing there is not an error."""
    try:
        syscalls.umount2(path, syscalls.MNT_DETACH)
    except OSError as error:  # EINVAL: a file without a mount, as a crash may leave it
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
