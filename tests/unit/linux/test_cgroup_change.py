"""Limits are changed together or not at all: what the files of version 2 say is put back."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from engine.linux import cgroup
from engine.linux.cgroup import file, v2

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
FRESH = {
    "pids.max": "max\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.low": "0\n",
    "io.weight": "default 100\n8:0 200\n",
    "cpu.weight": "100\n",
    "cpu.max": "max 100000\n",
    "cpuset.cpus": "\n",
    "cpuset.mems": "\n",
}
CHANGES = {
    "pids": {"limit": 5},
    "memory": {"limit": 8 * MIB, "swap": 8 * MIB, "reservation": MIB},
    "blockIO": {"weight": 500},
    "cpu": {"shares": 512, "quota": 50_000, "cpus": "0", "mems": "7"},
}


def test_a_refusal_leaves_every_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, str] = {}

    def write(path: str, value: str) -> None:
        name = os.path.basename(path)
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if value == "7":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        written[name] = value

    for name, text in FRESH.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroup, "version", lambda: 2)
    monkeypatch.setattr(v2, "directory", lambda path: str(tmp_path))
    monkeypatch.setattr(file, "write", write)
    with pytest.raises(cgroup.LimitError, match="invalid argument"):
        cgroup.change("group", CHANGES)
    own = {name: text.partition("\n")[0] or "\n" for name, text in FRESH.items()}
    assert written == own
