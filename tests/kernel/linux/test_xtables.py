"""The legacy packet filter, read in a network namespace that has one."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from engine.linux import netns, syscalls, xtables

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = {4: (socket.AF_INET, socket.IPPROTO_IP, 88), 6: (socket.AF_INET6, 41, 140)}
SET_REPLACE = 64


def set_forward_policy(version: int, verdict: int) -> None:
    """What `iptables-legacy -P FORWARD` does: the whole table, taken, changed and put back."""
    family, level, target_at = FIELDS[version]
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        info = syscalls.getsockopt(sock.fileno(), level, 64, b"filter", 84)
        hooks, count, size = info[32:76], *struct.unpack_from("=2I", info, 76)
        question = struct.pack("=32sI4x", b"filter", size)
        entries = bytearray(syscalls.getsockopt(sock.fileno(), level, 65, question, 40 + size)[40:])
        (underflow,) = struct.unpack_from("=I", info, 32 + 4 + 20 + 8)
        (target,) = struct.unpack_from("=H", entries, underflow + target_at)
        struct.pack_into("=i", entries, underflow + target + 32, -verdict - 1)
        counters = ctypes.create_string_buffer(16 * count)
        head = struct.pack("=32sIII", b"filter", *struct.unpack_from("=I", hooks), count, size)
        head += hooks[4:] + struct.pack("=IQ", count, ctypes.addressof(counters))
        sock.setsockopt(level, SET_REPLACE, head + bytes(entries))


@pytest.mark.parametrize("version", [4, 6])
def test_the_policy_of_the_legacy_filter(version: int, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = f"{tmp_path}/netns"

    def body(_: int) -> list[bool]:
        found = [xtables.drops_forwarded(version)]
        for verdict in (0, 1):
            set_forward_policy(version, verdict)
            found.append(xtables.drops_forwarded(version))
        return found

    try:
        found = netns.create(path, body)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.ENOENT):
            raise
        pytest.skip("needs legacy x_tables")
    finally:
        netns.remove(path)
    # Before anybody used the table there is none, and looking makes none.
    assert found == [False, True, False]
