"""The mounts that proc_pid_mountinfo(5) tells of, and which of them a path stands on.

Of what may be in a name the kernel escapes only what would end a field or a line for it, so the
lines are read as bytes: text has more that looks like a space or a line end.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOUNTINFO = "/proc/thread-self/mountinfo"  # a thread may have its own mounts
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount:
    """`target` is where it is mounted; its peer group and its master's are 0 if it has none.

    `options` are those of the file system (of a v1 hierarchy its controllers).
    """

    __slots__ = ("fstype", "master", "options", "peer_group", "target")

    def __init__(
        self, target: str, peer_group: int = 0, master: int = 0, fstype: str = "", options: str = ""
    ) -> None:
        self.target = target
        self.peer_group = peer_group
        self.master = master
        self.fstype = fstype
        self.options = options


def mounts(mountinfo: Iterable[bytes]) -> Iterator[Mount]:
    """What the lines tell, in their order: the order in which they were mounted."""
    for line in mountinfo:
        fields = line.rstrip(b"\n").split(b" ")
        end = fields.index(b"-", 6)  # of the tags, of which there may be any number
        tags = dict(tag.partition(b":")[::2] for tag in fields[6:end])
        yield Mount(
            _text(fields[4]),
            int(tags.get(b"shared") or 0),
            int(tags.get(b"master") or 0),
            _text(fields[end + 1]),
            _text(fields[end + 3]),
        )


def mount_of(path: str) -> Mount:
    """The mount that an existing path is seen on, links resolved. Raises OSError."""
    with open(_MOUNTINFO, "rb") as file:
        return find(file, os.path.realpath(path, strict=True))


def is_target(path: str) -> bool:
    """Whether something is mounted on the directory itself; links are not followed.

    By the ids of the mounts: a directory bound from elsewhere may be on the very file system that
    the one it covers is on, which is all that os.path.ismount asks. Nothing there is False.
    """
    try:
        return _mount_id(path, os.O_NOFOLLOW) != _mount_id(os.path.dirname(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def count(path: str) -> int:
    """How many mounts are on the directory itself, one over the other; links are not followed."""
    target = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    with open(_MOUNTINFO, "rb") as file:
        return sum(mount.target == target for mount in mounts(file))


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field))


def _mount_id(path: str, flags: int = 0) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            facts = dict(line.partition(":")[::2] for line in file)
    finally:
        os.close(fd)
    return int(facts["mnt_id"])


def find(mountinfo: Iterable[bytes], path: str) -> Mount:
    """The deepest above a resolved path; of those on one place the last, which covers others."""
    found = Mount("/")
    for mount in mounts(mountinfo):
        if len(mount.target) >= len(found.target) and _is_beneath(path, mount.target):
            found = mount
    return found


def _is_beneath(path: str, target: str) -> bool:
    return target == "/" or path == target or path.startswith(target + "/")
