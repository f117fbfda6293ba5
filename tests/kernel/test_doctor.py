from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from engine import doctor
from engine.config import EngineConfig
from engine.doctor import Level, probe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def traces() -> tuple[object, ...]:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return (
            sum("wharf-check" in line for line in mounts),
            [name for name in os.listdir("/sys/class/net") if name.startswith("wharf-check")],
            os.readlink("/proc/self/ns/net"),
            os.readlink("/proc/self/ns/mnt"),
        )


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    config = EngineConfig(data_root=str(tmp_path / "not" / "yet"), exec_root=str(tmp_path))
    before = traces()
    facts = probe.look(config)
    assert traces() == before
    assert os.listdir(tmp_path) == []
    assert facts.is_root
    assert facts.openat2_errno == 0
    assert facts.cgroup_controllers
    assert facts.free_bytes > 0
    names = [check.name for check in doctor.judge(facts)]
    assert names[:4] == ["python", "user", "kernel", "namespaces"]


def test_a_folder_that_cannot_hold_layers_is_found_out() -> None:
    facts = probe.look(EngineConfig(data_root="/proc/wharf", exec_root="/run/wharf"))
    (overlay,) = [check for check in doctor.judge(facts) if check.name == "overlay"]
    assert overlay.level is Level.MISSING
    assert "/proc/wharf" in overlay.text
