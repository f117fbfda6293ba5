"""Pseudo-terminals of a devpts instance that is reached by descriptor."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import struct
import termios

from engine.linux import syscalls

_TIOCSPTLCK = 0x40045431
_WINSIZE = struct.Struct("HHHH")


def open_master(ptmx: int) -> int:
    """A new terminal's master from an O_PATH descriptor of a devpts `ptmx`; unlocked.

    Raises OSError ENOTTY if that is not the ptmx of a devpts file system.
    """
    facts = os.fstat(ptmx)
    on_devpts = syscalls.fstatfs_type(ptmx) == syscalls.DEVPTS_SUPER_MAGIC
    if not (stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(5, 2) and on_devpts):
        raise OSError(25, "not the terminal multiplexer of a devpts")
    master = os.open(f"/proc/self/fd/{ptmx}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    except BaseException:
        os.close(master)
        raise
    return master


def open_peer(master: int) -> int:
    """The terminal of a master, by TIOCGPTPEER: no path is looked up, so none can be swapped."""
    return fcntl.ioctl(master, syscalls.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def resize(fd: int, height: int, width: int) -> None:
    """Set the window size; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINSIZE.pack(height, width, 0, 0))


def adopt(fd: int) -> None:
    """Make a terminal the controlling one of the calling session leader, and its stdio."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    for standard in (0, 1, 2):
        os.dup2(fd, standard, inheritable=True)


def unread_bytes(fd: int) -> int:
    """FIONREAD: how much can be read now."""
    buffer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, buffer)
    return buffer[0]
