"""The local driver: a directory a volume, `<root>/<name>/_data`, with a file system on it if told.

Everything here blocks. A directory is removed by renaming it first, so that a crash half way leaves
rubbish that says it is rubbish and never a volume with part of its data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from engine.errors import InvalidParameter
from engine.linux import mount, mountinfo, oserror, syscalls, tree
from engine.volume import filling

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_CHARACTERS: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
DATA: Final = "_data"
_NAME: Final = re.compile(f"{NAME_CHARACTERS}+")
_RUBBISH: Final = ".removed-"
_NEEDED: Final = {"type": ("device",), "device": ("type",), "o": ("device", "type")}
_KNOWN: Final = frozenset(("type", "o", "device", "size"))


def check_name(name: str) -> None:
    """Raises InvalidParameter, in Docker's words."""
    if len(name) == 1:
        raise InvalidParameter(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name) or len(name) > os.pathconf("/", "PC_NAME_MAX"):
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only '
            f'"{NAME_CHARACTERS}" are allowed. If you intended to pass a host directory, use '
            "absolute path"
        )


def check_options(options: Mapping[str, str]) -> None:
    """Raises InvalidParameter, in Docker's words."""
    for name in options:
        if name not in _KNOWN:
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, needed in _NEEDED.items():
        missing = [n for n in needed if name in options and n not in options]
        if missing:
            raise InvalidParameter(f'missing required option: "{missing[0]}"')


def mountpoint(root: str, name: str) -> str:
    return os.path.join(root, name, DATA)


def create(root: str, name: str) -> None:
    """Make the volume's directories; those that are there stay as they are."""
    os.makedirs(root, mode=0o701, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(root, name), 0o701)
    with contextlib.suppress(FileExistsError):
        os.mkdir(mountpoint(root, name), 0o755)


def remove(root: str, name: str) -> None:
    """Remove the volume with its data; one that is gone is no error."""
    rubbish = os.path.join(root, f"{_RUBBISH}{secrets.token_hex(8)}")
    try:
        os.rename(os.path.join(root, name), rubbish)
    except FileNotFoundError:
        return
    tree.remove(rubbish)


def sweep(root: str) -> None:
    """Finish what a crash interrupted: removals, and the filling of volumes."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(root):
            with contextlib.suppress(OSError):  # it stays for the next time
                if name.startswith(_RUBBISH):
                    detach(mountpoint(root, name))
                    tree.remove(os.path.join(root, name))
                else:
                    filling.finish(mountpoint(root, name))


def remove_empty(root: str, name: str) -> bool:
    """Remove the volume's directories if there is nothing in them; whether they are gone."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(mountpoint(root, name))
        os.rmdir(os.path.join(root, name))
    except OSError:
        return False
    return True


def names(root: str) -> list[str]:
    """Whatever has the directory of a volume."""
    try:
        found = os.listdir(root)
    except FileNotFoundError:
        return []
    return [n for n in found if _NAME.fullmatch(n) and os.path.isdir(os.path.join(root, n))]


def size_bytes(path: str) -> int:
    """What the files below are long, each counted once; what vanishes meanwhile is not there.

    A container may exchange a directory for a link at any moment: nothing is followed.
    """
    try:
        return tree.usage(path)
    except OSError:
        return 0


# A file system on it


def needs_mount(options: Mapping[str, str] | None) -> bool:
    return bool(options and options.get("device"))


def is_attached(path: str) -> bool:
    return mountinfo.is_target(path)


def attach(options: Mapping[str, str], path: str) -> None:
    """Mount what the options say on `path`; being mounted already is enough."""
    if is_attached(path):
        return
    fstype, device = options["type"], options["device"]
    parsed = mount.parse(o for o in _resolved(fstype, options.get("o", "")).split(",") if o)
    try:
        syscalls.mount(device, path, fstype, parsed.flags, parsed.data or None)
        for propagation in parsed.propagation:
            syscalls.mount(None, path, None, propagation, None)
        if parsed.is_bind and parsed.flags & ~(syscalls.MS_BIND | syscalls.MS_REC):
            flags = parsed.flags | syscalls.MS_REMOUNT
            syscalls.mount(None, path, None, flags & ~syscalls.MS_REC, None)
    except OSError as error:
        # Options may hold a password; they are not repeated.
        how = f", flags: {parsed.flags:#x}" if parsed.flags else ""
        what = f"failed to mount local volume: mount {device}:{path}{how}"
        raise OSError(error.errno, f"{what}: {oserror.reason(error)}") from None


def _resolved(fstype: str, options: str) -> str:
    """The kernel takes no names: what follows addr= is looked up for network file systems."""
    if fstype not in ("nfs", "nfs4", "cifs"):
        return options
    parts = options.split(",")
    for number, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if name == "addr" and equals and not _is_address(value):
            found = socket.getaddrinfo(value, None, type=socket.SOCK_STREAM)
            parts[number] = f"addr={found[0][4][0]}"
    return ",".join(parts)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def detach(path: str) -> None:
    """Unmount all that is on `path`; nothing there is no error.

    Whoever removes the directory next must not come upon anything mounted there. As in dockerd,
    who still has a file of it open, or another mount in it, keeps that and the name is free.

    Writing out what is left may take so long that nobody waits for this any more. So it is only
    what is there now: whatever comes upon it from outside meanwhile is not ours.
    """
    try:
        for _ in range(mountinfo.count(path)):
            _unmount(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _unmount(path: str) -> None:
    try:
        syscalls.umount2(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # What is mounted below goes along, but not where a bound directory shares it from.
        syscalls.mount(None, path, None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        syscalls.umount2(path, syscalls.MNT_DETACH)
