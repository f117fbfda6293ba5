"""Files and folders that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import logging
import os
import secrets

from engine.linux import tree

log = logging.getLogger(__name__)


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the file with `data`; a reader finds the old or the new bytes."""
    temporary = f"{path}.{secrets.token_hex(6)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    fsync_directory(os.path.dirname(path))


def discard(path: str, trash: str) -> None:
    """Remove a file or folder at once by name, then its bytes; nothing there is fine.

    Whatever a crash leaves in `trash` is removed by `empty`.
    """
    doomed = os.path.join(trash, secrets.token_hex(12))
    try:
        os.rename(path, doomed)
    except FileNotFoundError:
        return
    _remove(doomed)


def empty(folder: str) -> None:
    """Remove everything in the folder."""
    for name in os.listdir(folder):
        remove(os.path.join(folder, name))


def remove(path: str) -> None:
    """Remove a file or folder; what cannot be removed now stays for the next time."""
    try:
        _remove(path)
    except OSError as exc:
        log.warning("cannot remove %s: %s", path, exc)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        tree.remove(path)
    else:
        os.unlink(path)
