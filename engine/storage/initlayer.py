"""The layer right above an image, below every container's own files.

It has what a container finds even if its image lacks it, and what will be mounted over: the files
are always empty ones, whatever the image has in their place (a link of /etc/resolv.conf into /run,
say), and so are /dev, /proc and /sys directories even where the image has links
(moby daemon/initlayer/setup_unix.go). It is no part of what a container changed.

A directory that the image has keeps its mode and owner, and one in the place of a file stays: no
file can be mounted over it, so such an image does not start, as with dockerd. This is all that
tells one such layer from another: so images share them.

    <root>/init/<name>/diff …
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, NamedTuple

from engine.linux import overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = "init"

_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_LINKS = (("etc/mtab", "/proc/mounts"),)
_MODE = 0o755


class Directory(NamedTuple):
    path: str
    mode: int = _MODE
    uid: int = 0
    gid: int = 0


class Plan(NamedTuple):
    directories: tuple[Directory, ...]
    without: tuple[str, ...] = ()  # files and links whose place a directory of the image has


def plan(diffs: Sequence[str]) -> Plan:
    """What the stack of these folders asks for, topmost first; touches the disk."""
    merged: dict[str, list[str]] = {"": list(diffs)}
    planned: list[Directory] = []
    for path in _DIRECTORIES:
        above, name = os.path.split(path)
        merged[path] = _merge(merged[above], name)
        if merged[path]:
            found = os.lstat(merged[path][0])
            mode = stat.S_IMODE(found.st_mode)
            planned.append(Directory(path, mode, found.st_uid, found.st_gid))
        else:
            planned.append(Directory(path))
    places = [*_FILES, *(path for path, _ in _LINKS)]
    return Plan(tuple(planned), tuple(path for path in places if _has_directory(merged, path)))


def _has_directory(merged: Mapping[str, Sequence[str]], path: str) -> bool:
    above, name = os.path.split(path)
    return bool(_merge(merged[above], name))


def _merge(diffs: Sequence[str], name: str) -> list[str]:
    """The directories that overlayfs shows as one under this name, topmost first.

    What is no directory, a whiteout like any other, hides all that is below it.
    """
    merged: list[str] = []
    for diff in diffs:
        path = os.path.join(diff, name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            break
        merged.append(path)
        if overlay.is_opaque(path):
            break
    return merged


def make(root: str, planned: Plan, stage: str) -> str:
    """The name of the layer of this plan below `root`, made in `stage` if it is not there."""
    name = hashlib.sha256(repr(tuple(planned)).encode()).hexdigest()[:16]
    target = os.path.join(root, FOLDER, name)
    if not os.path.isdir(target):
        fresh = os.path.join(stage, secrets.token_hex(16))
        _fill(os.path.join(fresh, "diff"), planned)
        os.rename(fresh, target)
    return name


def _fill(diff: str, planned: Plan) -> None:
    os.makedirs(diff)
    os.chmod(diff, _MODE)
    for directory in planned.directories:
        os.mkdir(os.path.join(diff, directory.path))
    for path, target in _LINKS:
        if path not in planned.without:
            os.symlink(target, os.path.join(diff, path))
    for path in _FILES:
        if path in planned.without:
            continue
        fd = os.open(os.path.join(diff, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        os.fchmod(fd, _MODE)
        os.close(fd)
    for directory in planned.directories:
        path = os.path.join(diff, directory.path)
        os.chown(path, directory.uid, directory.gid)
        os.chmod(path, directory.mode)
