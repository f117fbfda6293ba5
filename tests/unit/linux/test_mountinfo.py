"""Which mount a path stands on, from lines as the kernel writes them."""

from __future__ import annotations

import os

import pytest

from engine.linux import mountinfo

LINES = rb"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:41 / /tmp rw,relatime shared:21 - tmpfs tmpfs rw
31 22 0:42 / /srv/a\040b rw,relatime master:7 - tmpfs tmpfs rw
32 22 0:43 / /both rw,relatime shared:3 master:9 - tmpfs tmpfs rw
33 22 0:44 / /both rw,relatime - tmpfs tmpfs rw
""".strip().split(b"\n")
LINES.append("34 22 0:45 /of\u00a0one /no\u00a0break\rhere rw shared:4 - tmpfs x rw".encode())


@pytest.mark.parametrize(
    ("path", "target", "peer_group", "master"),
    [
        ("/", "/", 0, 0),
        ("/tmpx/y", "/", 0, 0),
        ("/tmp", "/tmp", 21, 0),
        ("/tmp/x/y", "/tmp", 21, 0),
        ("/srv/a b/c", "/srv/a b", 0, 7),
        ("/both", "/both", 0, 0),
        ("/no\u00a0break\rhere/x", "/no\u00a0break\rhere", 4, 0),
    ],
)
def test_the_deepest_and_last(path: str, target: str, peer_group: int, master: int) -> None:
    found = mountinfo.find(LINES, path)
    assert (found.target, found.peer_group, found.master) == (target, peer_group, master)


def test_of_this_process() -> None:
    assert mountinfo.mount_of("/proc/sys").target.startswith("/proc")
    assert os.path.ismount(mountinfo.mount_of(__file__).target)
