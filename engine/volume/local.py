"""The local driver: a directory a volume, `<root>/<name>/_data`, with a file system on it if told.

Options say which file system that is, as in Docker, or whose the directory is (`uid`, `gid`,
`mode`), which is our own.

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
from dataclasses import dataclass
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
_OWNERSHIP: Final = frozenset(("uid", "gid", "mode"))
_NOBODY: Final = (1 << 32) - 1  # what chown takes for "as it is"


def check_name(name: str) -> None:
    """Raises InvalidParameter, in Docker's words."""
    if len(name) == 1:
        raise InvalidParameter(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only '
            f'"{NAME_CHARACTERS}" are allowed. If you intended to pass a host directory, use '
            "absolute path"
        )


def check_options(options: Mapping[str, str]) -> None:
    """Raises InvalidParameter, in Docker's words where Docker knows the option."""
    for name in options:
        if name not in _KNOWN | _OWNERSHIP:
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, needed in _NEEDED.items():
        missing = [n for n in needed if name in options and n not in options]
        if missing:
            raise InvalidParameter(f'missing required option: "{missing[0]}"')
    own = sorted(_OWNERSHIP.intersection(options))
    if own and not is_plain(options):
        raise InvalidParameter(
            f'option "{own[0]}" is for a volume that is a directory and nothing else; what a file '
            'system knows of owners and modes is said in "o"'
        )
    ownership(options)


def is_plain(options: Mapping[str, str] | None) -> bool:
    """Whether it is a directory and nothing else, whoever owns that."""
    return not options or _OWNERSHIP.issuperset(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose a volume's own directory is; what is None stays as it would be."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def give(self, directory: int) -> None:
        """Owner before mode: a change of the owner may clear bits."""
        if self.uid is not None or self.gid is not None:
            uid = -1 if self.uid is None else self.uid
            os.fchown(directory, uid, -1 if self.gid is None else self.gid)
        if self.mode is not None:
            os.fchmod(directory, self.mode)


AS_IT_IS: Final = Ownership()


def ownership(options: Mapping[str, str] | None) -> Ownership:
    """What `uid`, `gid` and `mode` say; raises InvalidParameter."""
    asked = options or {}
    return Ownership(
        uid=_number(asked, "uid", 10, _NOBODY - 1),
        gid=_number(asked, "gid", 10, _NOBODY - 1),
        mode=_number(asked, "mode", 8, 0o7777),
    )


def _number(options: Mapping[str, str], name: str, base: int, largest: int) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    digits = "[0-7]{1,5}" if base == 8 else "[0-9]{1,10}"
    if not re.fullmatch(digits, text) or (number := int(text, base)) > largest:
        kind = "an octal mode" if base == 8 else "a numeric id"
        raise InvalidParameter(f'invalid option: "{name}={text}" is not {kind}')
    return number


def mountpoint(root: str, name: str) -> str:
    return os.path.join(root, name, DATA)


def create(root: str, name: str, options: Mapping[str, str] | None = None) -> None:
    """Make the volume's directories; those that are there keep what they have."""
    os.makedirs(root, mode=0o701, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(root, name), 0o701)
    with contextlib.suppress(FileExistsError):
        os.mkdir(mountpoint(root, name), 0o755)
    if options and is_plain(options):
        directory = os.open(mountpoint(root, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            ownership(options).give(directory)
        finally:
            os.close(directory)


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
        how = f", flags: {parsed.flags:#x}" if parsed.flags else ""
        how += f", data: {_without_secrets(parsed.data)}" if parsed.data else ""
        what = f"failed to mount local volume: mount {device}:{path}{how}"
        raise OSError(error.errno, f"{what}: {oserror.reason(error)}") from None


def _without_secrets(data: str) -> str:
    """A comma that is part of a value is written twice (mount.cifs(8))."""
    return re.sub(r"(?<![^,])(pass(?:word)?2?|secret)=(?:[^,]|,,)*", r"\1=********", data)


def _resolved(fstype: str, options: str) -> str:
    """The kernel takes no names: what follows addr= is looked up for network file systems."""
    if fstype not in ("nfs", "nfs4", "cifs"):
        return options
    parts = options.split(",")
    for number, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if name == "addr" and equals and not _is_address(value):
            try:
                found = socket.getaddrinfo(value, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise OSError(
                    errno.EHOSTUNREACH,
                    "error resolving passed in network volume address: "
                    f"lookup {value}: {oserror.reason(error).lower()}",
                ) from None
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
