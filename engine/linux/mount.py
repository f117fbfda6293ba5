"""Mount options as runtime-spec writes them, and mounting on descriptors instead of paths.

A mount is planned first (`parse`, pure) and carried out on the descriptor of a target that the
caller has resolved; nothing here follows a path that a container could change meanwhile.
"""

from __future__ import annotations

import os

from engine.linux import syscalls as sys
from engine.linux.syscalls import (
    MS_BIND,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# mount(8) options: (sets, clears).
_FLAGS = {
    "async": (0, MS_SYNCHRONOUS),
    "atime": (0, MS_NOATIME),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, MS_NODEV),
    "diratime": (0, MS_NODIRATIME),
    "dirsync": (MS_DIRSYNC, 0),
    "exec": (0, MS_NOEXEC),
    "iversion": (MS_I_VERSION, 0),
    "loud": (0, MS_SILENT),
    "mand": (MS_MANDLOCK, 0),
    "noatime": (MS_NOATIME, 0),
    "nodev": (MS_NODEV, 0),
    "nodiratime": (MS_NODIRATIME, 0),
    "noexec": (MS_NOEXEC, 0),
    "noiversion": (0, MS_I_VERSION),
    "nomand": (0, MS_MANDLOCK),
    "norelatime": (0, MS_RELATIME),
    "nostrictatime": (0, MS_STRICTATIME),
    "nosuid": (MS_NOSUID, 0),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (MS_RELATIME, 0),
    "remount": (MS_REMOUNT, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "silent": (MS_SILENT, 0),
    "strictatime": (MS_STRICTATIME, 0),
    "suid": (0, MS_NOSUID),
    "symfollow": (0, MS_NOSYMFOLLOW),
    "sync": (MS_SYNCHRONOUS, 0),
}
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
# Options for a whole tree (runtime-spec "recursive"): (attributes set, cleared).
_RECURSIVE = {
    "ratime": (0, sys.MOUNT_ATTR_NOATIME),
    "rdev": (0, sys.MOUNT_ATTR_NODEV),
    "rdiratime": (0, sys.MOUNT_ATTR_NODIRATIME),
    "rexec": (0, sys.MOUNT_ATTR_NOEXEC),
    "rnoatime": (sys.MOUNT_ATTR_NOATIME, sys.MOUNT_ATTR__ATIME),
    "rnodev": (sys.MOUNT_ATTR_NODEV, 0),
    "rnodiratime": (sys.MOUNT_ATTR_NODIRATIME, 0),
    "rnoexec": (sys.MOUNT_ATTR_NOEXEC, 0),
    "rnorelatime": (0, sys.MOUNT_ATTR_RELATIME),
    "rnostrictatime": (0, sys.MOUNT_ATTR_STRICTATIME),
    "rnosuid": (sys.MOUNT_ATTR_NOSUID, 0),
    "rnosymfollow": (sys.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rrelatime": (sys.MOUNT_ATTR_RELATIME, sys.MOUNT_ATTR__ATIME),
    "rro": (sys.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, sys.MOUNT_ATTR_RDONLY),
    "rstrictatime": (sys.MOUNT_ATTR_STRICTATIME, sys.MOUNT_ATTR__ATIME),
    "rsuid": (0, sys.MOUNT_ATTR_NOSUID),
    "rsymfollow": (0, sys.MOUNT_ATTR_NOSYMFOLLOW),
}
_ATTRIBUTES = {
    MS_NOATIME: sys.MOUNT_ATTR_NOATIME,
    MS_NODEV: sys.MOUNT_ATTR_NODEV,
    MS_NODIRATIME: sys.MOUNT_ATTR_NODIRATIME,
    MS_NOEXEC: sys.MOUNT_ATTR_NOEXEC,
    MS_NOSUID: sys.MOUNT_ATTR_NOSUID,
    MS_NOSYMFOLLOW: sys.MOUNT_ATTR_NOSYMFOLLOW,
    MS_RDONLY: sys.MOUNT_ATTR_RDONLY,
    MS_STRICTATIME: sys.MOUNT_ATTR_STRICTATIME,
}
_FLAG_NAMES = {
    MS_RDONLY: "MS_RDONLY",
    MS_NOSUID: "MS_NOSUID",
    MS_NODEV: "MS_NODEV",
    MS_NOEXEC: "MS_NOEXEC",
    MS_SYNCHRONOUS: "MS_SYNCHRONOUS",
    MS_REMOUNT: "MS_REMOUNT",
    MS_MANDLOCK: "MS_MANDLOCK",
    MS_DIRSYNC: "MS_DIRSYNC",
    MS_NOSYMFOLLOW: "MS_NOSYMFOLLOW",
    MS_NOATIME: "MS_NOATIME",
    MS_NODIRATIME: "MS_NODIRATIME",
    MS_BIND: "MS_BIND",
    MS_REC: "MS_REC",
    MS_RELATIME: "MS_RELATIME",
    MS_STRICTATIME: "MS_STRICTATIME",
}


class Options:
    """What a list of mount options comes to.

    `flags` are mount(2)'s, `propagation` a list of calls to make after it, `data` what only the
    file system understands, `tree_set` and `tree_clear` mount_setattr(2) attributes for all mounts
    of a bound tree.
    """

    __slots__ = ("data", "flags", "propagation", "tree_clear", "tree_set")

    def __init__(self) -> None:
        self.flags = 0
        self.propagation: list[int] = []
        self.data = ""
        self.tree_set = 0
        self.tree_clear = 0

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & MS_BIND)

    @property
    def attributes(self) -> int:
        """The flags that belong to the mount rather than to the file system, as MOUNT_ATTR_*."""
        return sum(attr for flag, attr in _ATTRIBUTES.items() if self.flags & flag)


def parse(options: Iterable[str]) -> Options:
    """The meaning of runtime-spec mount options; later ones win. Raises ValueError."""
    parsed, data = Options(), list[str]()
    for option in options:
        if option in _FLAGS:
            sets, clears = _FLAGS[option]
            parsed.flags = parsed.flags & ~clears | sets
        elif option in PROPAGATION:
            parsed.propagation.append(PROPAGATION[option])
        elif option in _RECURSIVE:
            sets, clears = _RECURSIVE[option]
            parsed.tree_set = parsed.tree_set & ~clears | sets
            parsed.tree_clear = parsed.tree_clear & ~sets | clears
        elif option in ("idmap", "ridmap"):
            raise ValueError(f"mount option {option} is not supported")
        else:
            data.append(option)
    parsed.data = ",".join(data)
    return parsed


def flag_names(flags: int) -> str:
    """`MS_BIND|MS_REC`, as error sentences show them."""
    return "|".join(name for flag, name in _FLAG_NAMES.items() if flags & flag) or "0x0"


def at(fd: int) -> str:
    """A path that leads to an open descriptor; needs the host's own /proc."""
    return f"/proc/self/fd/{fd}"


def mount_at(target: int, source: str, fstype: str, flags: int, data: str) -> None:
    """Mount a new file system over the descriptor's directory."""
    sys.mount(source, at(target), fstype, flags, data or None)


def clone_tree(source: int, *, recursive: bool) -> int:
    """A detached copy of the mount that holds `source`, rooted there; the caller's to close."""
    flags = sys.OPEN_TREE_CLONE | sys.AT_EMPTY_PATH
    return sys.open_tree(source, "", flags | (sys.AT_RECURSIVE if recursive else 0))


def attach_tree(tree: int, target: int) -> None:
    """Put a detached mount over the descriptor's file or directory."""
    flags = sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH
    sys.move_mount(tree, "", target, "", flags)


def set_attributes(fd: int, attributes: int, clear: int = 0, *, recursive: bool = False) -> None:
    """Change the mount that holds `fd`, whose root it must be."""
    if attributes & sys.MOUNT_ATTR__ATIME:
        # The access time modes are one field: it must be cleared as a whole to be set.
        clear |= sys.MOUNT_ATTR__ATIME
    flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if recursive else 0)
    sys.mount_setattr(fd, "", flags, attr_set=attributes, attr_clr=clear)


def set_propagation(fd: int, propagation: int) -> None:
    """`propagation` is MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE, with MS_REC for trees."""
    flags = sys.AT_EMPTY_PATH | (sys.AT_RECURSIVE if propagation & MS_REC else 0)
    sys.mount_setattr(fd, "", flags, propagation=propagation & ~MS_REC)


def bind(source: int, target: int, options: Options) -> None:
    """Bind what `source` is open on over `target`, with flags set before it is seen there."""
    place(clone_tree(source, recursive=bool(options.flags & MS_REC)), target, options)


def place(tree: int, target: int, options: Options) -> None:
    """As `bind`, with a detached mount, which is closed in any case."""
    try:
        if options.attributes:
            set_attributes(tree, options.attributes)
        if options.tree_set or options.tree_clear:
            set_attributes(tree, options.tree_set, options.tree_clear, recursive=True)
        for propagation in options.propagation:
            if not propagation & MS_SHARED:
                set_propagation(tree, propagation)
        attach_tree(tree, target)
        for propagation in options.propagation:
            # A detached mount cannot be made shared; it is the same mount after it was attached.
            if propagation & MS_SHARED:
                set_propagation(tree, propagation)
    finally:
        os.close(tree)


def rebind_read_only(target: int) -> None:
    """Cover `target` with itself, with all mounts below it, read-only."""
    tree = clone_tree(target, recursive=True)
    try:
        set_attributes(tree, sys.MOUNT_ATTR_RDONLY, recursive=True)
        attach_tree(tree, target)
    finally:
        os.close(tree)


def new_filesystem(fstype: str, options: dict[str, str] | None = None, attributes: int = 0) -> int:
    """A mount of a new file system that is nowhere yet; the caller's to close."""
    context = sys.fsopen(fstype)
    try:
        for key, value in (options or {}).items():
            sys.fsconfig(context, sys.FSCONFIG_SET_STRING, key, value)
        sys.fsconfig(context, sys.FSCONFIG_CMD_CREATE)
        return sys.fsmount(context, attr_flags=attributes)
    finally:
        os.close(context)
