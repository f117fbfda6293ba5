"""Pseudo-terminals of a devpts instance that is reached by descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios

from engine.linux import syscalls

_TIOCSPTLCK = 0x40045431
_WINSIZE = struct.Struct("HHHH")


def unlock(master: int) -> None:
    """Make a new terminal's other side usable; `master` is an opened `ptmx`.

    Raises OSError ENOTTY if that is not the ptmx of a devpts: whoever owns the path it was opened
    by may have put anything there.
    """
    facts = os.fstat(master)
    on_devpts = syscalls.fstatfs_type(master) == syscalls.DEVPTS_SUPER_MAGIC
    if not (stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(5, 2) and on_devpts):
        raise OSError(errno.ENOTTY, "not the terminal multiplexer of a devpts")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))


def open_peer(master: int) -> int:
    """The terminal of a master, by TIOCGPTPEER: no path is looked up, so none can be swapped."""
    return fcntl.ioctl(master, syscalls.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def resize(fd: int, height: int, width: int) -> None:
    """Set the window size; the foreground process group gets SIGWINCH.

    The kernel keeps 16 bits of each: what is larger loses the others, as it does in Go's uint16.
    """
    size = _WINSIZE.pack(height & 0xFFFF, width & 0xFFFF, 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


def adopt(fd: int) -> None:
    """Make a terminal the controlling one of the calling session leader, and its stdio."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    for standard in (0, 1, 2):
        os.dup2(fd, standard, inheritable=True)
