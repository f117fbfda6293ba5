"""Which mount a path stands on, as proc_pid_mountinfo(5) tells it of this process."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OF_THREAD = "/proc/thread-self/mountinfo"  # which may have its own mounts
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount:
    """`target` is where it is mounted; its peer group and its master's are 0 if it has none."""

    __slots__ = ("master", "peer_group", "target")

    def __init__(self, target: str, peer_group: int, master: int) -> None:
        self.target = target
        self.peer_group = peer_group
        self.master = master


def mount_of(path: str) -> Mount:
    """The mount that an existing path is seen on, links resolved. Raises OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
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
    with open(_OF_THREAD, encoding="utf-8", errors="surrogateescape") as file:
        return sum(_target(line.split()[4]) == target for line in file)


def _target(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def _mount_id(path: str, flags: int = 0) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            facts = dict(line.partition(":")[::2] for line in file)
    finally:
        os.close(fd)
    return int(facts["mnt_id"])


def find(mountinfo: Iterable[str], path: str) -> Mount:
    """The deepest above a resolved path; of those on one place the last, which covers others."""
    found = Mount("/", 0, 0)
    for line in mountinfo:
        fields = line.split()
        target = _target(fields[4])
        if len(target) >= len(found.target) and _is_beneath(path, target):
            tags = dict(tag.partition(":")[::2] for tag in fields[6 : fields.index("-", 6)])
            found = Mount(target, int(tags.get("shared") or 0), int(tags.get("master") or 0))
    return found


def _is_beneath(path: str, target: str) -> bool:
    return target == "/" or path == target or path.startswith(target + "/")
