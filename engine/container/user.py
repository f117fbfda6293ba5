"""Who a process runs as: `user[:group]` looked up in a container's own passwd and group files.

The files are content that an image or a container controls: they arrive here as bytes, cut to a
size, and nothing in them is believed beyond the range of ids. Semantics as in moby's user package:
a number is always an id, the first matching line wins, supplementary groups come from the group
file only while no group was named.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import Unclassified

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ID = 2**31 - 1
_LONGEST_LINE = (1 << 16) - 1  # of passwd; bufio.MaxScanTokenSize has its line end too
_NUMBER = re.compile(r"[+-]?[0-9]+")


class User(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...]  # the gid first, as Docker does, then the supplementary ones
    home: str


class UserNotFound(Unclassified):
    def __init__(self, name: str) -> None:
        super().__init__(f"unable to find user {name}: no matching entries in passwd file")


class GroupNotFound(Unclassified):
    def __init__(self, name: str) -> None:
        super().__init__(f"unable to find group {name}: no matching entries in group file")


class LineTooLong(Unclassified):
    """One such line in passwd is enough, wherever the user stands."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unable to find user {name}: bufio.Scanner: token too long")


class IdOutOfRange(Unclassified):
    def __init__(self) -> None:
        super().__init__(f"uids and gids must be in range 0-{MAX_ID}")


def lookup(spec: str, passwd: bytes, group: bytes, additional: Sequence[str] = ()) -> User:
    """Resolve `user`, `uid`, `user:group`, …; "" is whoever has the id 0."""
    user_part, _, group_part = spec.partition(":")
    if any(len(line.rstrip(b"\n")) > _LONGEST_LINE for line in io.BytesIO(passwd)):
        raise LineTooLong(user_part or "0")
    name, uid, gid, home = _find_user(user_part, passwd)
    supplementary: tuple[int, ...] = ()
    if group_part:
        gid = _find_group(group_part, group)
    elif name:
        supplementary = _memberships(name, group)
    extra = _additional(additional, group)
    return User(uid, gid, (gid, *supplementary, *extra), home)


def home_of(uid: int, passwd: bytes) -> str:
    """What HOME is unless the environment says otherwise (runc does the same by uid)."""
    for _, entry_uid, _, home in _users(passwd):
        if entry_uid == uid:
            return home or "/"
    return "/"


def _find_user(text: str, passwd: bytes) -> tuple[str, int, int, str]:
    wanted = _number(text)
    for name, uid, gid, home in _users(passwd):
        if text == "" and uid == 0:
            return name, uid, _checked(gid), home
        if (wanted is not None and uid == wanted) or (wanted is None and name == text != ""):
            return name, _checked(uid), _checked(gid), home
    if text == "":
        return "", 0, 0, ""
    if wanted is None:
        raise UserNotFound(text)
    return "", _checked(wanted), 0, ""


def _find_group(text: str, group: bytes) -> int:
    wanted = _number(text)
    for name, gid, _ in _groups(group):
        if gid == wanted if wanted is not None else name == text:
            return _checked(gid)
    if wanted is None:
        raise GroupNotFound(text)
    return _checked(wanted)


def _memberships(user: str, group: bytes) -> tuple[int, ...]:
    return tuple(_checked(gid) for _, gid, members in _groups(group) if user in members)


def _additional(wanted: Sequence[str], group: bytes) -> tuple[int, ...]:
    if not wanted:
        return ()
    entries = list(_groups(group))
    found: dict[int, None] = {}
    for text in wanted:
        named = [gid for name, gid, _ in entries if text in (name, str(gid))]
        number = named[0] if named else _number(text)
        if number is None:
            raise GroupNotFound(text)
        found[_checked(number)] = None
    return tuple(found)


def _number(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    if len(text) > 20:  # more digits than any id; int() of a million digits is an attack
        raise IdOutOfRange
    return int(text)


def _checked(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise IdOutOfRange
    return number


def _fields(line: str) -> list[str]:
    return line.split(":")


def _lines(content: bytes) -> Iterator[str]:
    for raw in io.BytesIO(content):
        line = raw.decode("utf-8", "surrogateescape").strip()
        if line and not line.startswith("#"):
            yield line


def _id(text: str) -> int:
    """An id field; what is no number is 0 in moby, which would make it root: here it is refused."""
    number = _number(text)
    return -1 if number is None else number


def _users(passwd: bytes) -> Iterator[tuple[str, int, int, str]]:
    for line in _lines(passwd):
        fields = _fields(line)
        if len(fields) >= 4:
            yield fields[0], _id(fields[2]), _id(fields[3]), fields[5] if len(fields) > 5 else ""


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for line in _lines(group):
        fields = _fields(line)
        if len(fields) >= 3:
            yield fields[0], _id(fields[2]), fields[3].split(",") if len(fields) > 3 else []
