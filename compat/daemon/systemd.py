"""What systemd hands a service and hears from it: sockets by LISTEN_FDS, news by NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START


def listen_fds(environ: MutableMapping[str, str]) -> list[int]:
    """The descriptors passed to this process; they and the variables are not passed on."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = list(range(FIRST_FD, FIRST_FD + int(count)))
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def notify(message: str) -> None:
    """Tell the service manager, "READY=1" and the like; without one, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            # A manager that does not listen is not a reason to stop.
            return
