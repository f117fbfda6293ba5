"""A look into a container's root from outside, without entering it.

A running container is seen through its own root, by pidfd. One that does not run is seen through
a detached mount of its layers: nothing appears in any mount namespace, and it is gone with its
descriptor. Everything below it is opened with RESOLVE_IN_ROOT: links in it lead nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from engine.errors import InvalidParameter
from engine.linux import oserror, overlay, path, process, syscalls, thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_FILE_BYTES = 16 << 20
"""Of passwd and group, which are held and read through for each start; dockerd has no end there."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def of_layers(folders: Sequence[str]) -> Iterator[int]:
    """A descriptor of the root that the folders make, topmost first, read-only.

    All of them are lower layers, also one that is written meanwhile: a second mount does no harm.
    """
    fd = _open_layers(folders)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_layers(folders: Sequence[str]) -> int:
    if len(folders) == 1:
        return os.open(folders[0], _DIRECTORY)
    try:
        return _detached_overlay(folders)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        return _overlay_in_thread(folders)


def _detached_overlay(folders: Sequence[str]) -> int:
    """One layer a call: a parameter holds 256 bytes, `lowerdir+` has no such end (Linux 6.5)."""
    context = syscalls.fsopen("overlay")
    try:
        for folder in folders:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "lowerdir+", folder)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, attr_flags=syscalls.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def _overlay_in_thread(folders: Sequence[str]) -> int:
    """For older kernels: mounted in a mount namespace that ends with the thread that made it.

    The descriptor keeps the mount alive. Options are short: names are relative.
    """
    base = os.path.commonpath(folders)
    names = [overlay.escaped(os.path.relpath(folder, base)) for folder in folders]

    def body() -> int:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        private = syscalls.MS_REC | syscalls.MS_PRIVATE
        syscalls.mount(None, "/", None, private, None)
        os.chdir(base)
        data = f"lowerdir={':'.join(names)}"
        syscalls.mount("overlay", "/proc", "overlay", syscalls.MS_RDONLY, data)
        return os.open("/proc", _DIRECTORY)

    return thread.apart(body, name="view")


@contextlib.contextmanager
def of_process(pid: int, pidfd: int) -> Iterator[int]:
    """A descriptor of a running container's root.

    Raises ProcessLookupError if the process ended: the pid may be another's by then (R15). Who
    knows that it has ended has no pidfd any more (-1).
    """
    try:
        fd = os.open(f"/proc/{pid}/root", _DIRECTORY)
    except FileNotFoundError as exc:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from exc
    try:
        if pidfd < 0 or process.has_ended(pidfd):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        yield fd
    finally:
        os.close(fd)


def read_file(root: int, name: str, limit_bytes: int = LARGEST_FILE_BYTES) -> bytes:
    """A regular file beneath `root`; b"" if there is none, or a folder (so dockerd takes it).

    Raises InvalidParameter for what is no regular file, a link without end, or far too large.
    """
    try:
        return path.read_in_root(root, name, limit_bytes=limit_bytes)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise InvalidParameter(f"evalSymlinksInScope: too many links in {name}") from exc
        if exc.errno in _NOT_THERE:
            return b""
        raise InvalidParameter(
            f"cannot read {name} of the container: {oserror.reason(exc)}"
        ) from exc


def open_in_root(root: int, name: str) -> int | None:
    """An O_PATH descriptor of whatever is there, None if nothing is."""
    try:
        return path.open_in_root(root, name)
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            return None
        raise
