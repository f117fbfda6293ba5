"""The working directory of a new container, made in its own files before its first start.

`docker cp`, `diff`, `export` and `commit` find it there, as with dockerd. Nothing is mounted for
it: overlayfs shows what stands in the container's folder, and a folder that the image has too is
made as overlayfs itself would bring it up, with the attributes of the one below.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from engine.errors import EngineError
from engine.linux import attributes, oserror
from engine.linux import path as paths

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make(root: int, upper: str, where: str, *, merged: str) -> bool:
    """Make it, root's and 0755, where the image has none; whether anything was made.

    `root` shows what lies below the container's own files, which are in `upper` and empty. `merged`
    is where dockerd has its root mounted, and what its sentences begin with. Raises EngineError.
    """
    try:
        if stat.S_ISDIR(paths.stat_in_root(root, where).st_mode):
            return False
    except FileNotFoundError:
        _make(root, upper, where, merged)
        return True
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise EngineError(f"evalSymlinksInScope: too many links in {merged}{where}") from exc
        raise EngineError(f"lstat {merged}{where}: {oserror.reason(exc)}") from exc
    raise EngineError(f"Cannot mkdir: {where} is not a directory")


def _make(root: int, upper: str, where: str, merged: str) -> None:
    try:
        there, missing = paths.trace_in_root(root, where)
        with contextlib.ExitStack() as undo:
            below = root
            own = os.open(upper, _FLAGS)
            undo.callback(os.close, own)
            levels: list[tuple[int, int]] = []
            for name in there:
                below = _enter(below, name)
                undo.callback(os.close, below)
                own = _enter(own, name, is_new=True)
                undo.callback(os.close, own)
                levels.append((below, own))
            for name in missing:
                own = _enter(own, name, is_new=True)
                undo.callback(os.close, own)
                os.fchmod(own, 0o755)
            # Last of all: what is made in a folder changes its times.
            for below, own in levels:
                attributes.copy(below, own)
            if levels and missing:
                os.utime(levels[-1][1])
    except OSError as exc:
        raise EngineError(f"mkdir {merged}{where}: {oserror.reason(exc)}") from exc


def _enter(folder: int, name: str, *, is_new: bool = False) -> int:
    if is_new:
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, _FLAGS, dir_fd=folder)
