"""What a file has besides its contents: owner, mode, times and extended attributes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable

# A layer's own marks, meaningless (and dangerous) anywhere else.
_PRIVATE_XATTRS = ("trusted.overlay.", "user.overlay.")


def copy(source: int, target: int) -> None:
    """Give `target` those of `source`.

    Owner before mode: changing the owner clears the set-user-id bits.
    """
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for name in _xattrs(source):
        with contextlib.suppress(OSError):  # a file system may have none
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _xattrs(fd: int) -> Iterable[str]:
    try:
        names = os.listxattr(fd)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise
    return [name for name in names if not name.startswith(_PRIVATE_XATTRS)]
