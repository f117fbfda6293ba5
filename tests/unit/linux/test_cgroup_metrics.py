from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.linux import cgroup
from engine.linux.cgroup import file, metrics, setup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_blkio_lines() -> None:
    text = "8:0 Read 12\n8:0 Write 4\n8:16 99\nTotal 16\n"
    assert [(e["major"], e["minor"], e["op"], e["value"]) for e in metrics.blkio_entries(text)] == [
        (8, 0, "Read", 12),
        (8, 0, "Write", 4),
        (8, 16, "", 99),
    ]


def test_io_stat_lines() -> None:
    text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n"
    assert metrics.io_entries(text) == {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "read", "value": 1},
            {"major": 8, "minor": 0, "op": "write", "value": 2},
        ],
        "io_serviced_recursive": [
            {"major": 8, "minor": 0, "op": "read", "value": 3},
            {"major": 8, "minor": 0, "op": "write", "value": 4},
        ],
    }


def test_pressure_lines() -> None:
    text = (
        "some avg10=1.50 avg60=0.20 avg300=0.00 total=42\nfull avg10=0.00 avg60=0 avg300=0 total=7"
    )
    assert metrics.pressure(text)["some"] == {
        "avg10": 1.5,
        "avg60": 0.2,
        "avg300": 0.0,
        "total": 42,
    }
    assert metrics.pressure(text)["full"]["total"] == 7


def test_max_is_unlimited() -> None:
    assert file.number("max\n") == file.UNLIMITED
    assert file.number("12\n") == 12


@pytest.fixture
def unified(tmp_path: Path) -> Iterator[Path]:
    """A folder that stands for the tree of version 2."""
    setup.use(setup.Roots(2, {}, str(tmp_path)))
    yield tmp_path
    setup.use(None)


def test_stats_of_version_2(unified: Path) -> None:
    group = unified / "wharf" / "x"
    group.mkdir(parents=True)
    for name, text in {
        "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\nthrottled_usec 9\n",
        "memory.current": "100\n",
        "memory.max": "max\n",
        "memory.stat": "anon 60\ninactive_file 20\n",
        "memory.events": "low 0\noom 2\noom_kill 1\n",
        "pids.current": "3\n",
        "pids.max": "max\n",
    }.items():
        (group / name).write_text(text)
    stats = cgroup.stats("wharf/x")
    assert stats["cpu"]["usage_ns"] == 5000
    assert stats["cpu"]["throttled_ns"] == 9000
    assert stats["memory"]["limit"] == file.UNLIMITED
    assert stats["memory"]["failures"] == 2
    assert stats["memory"]["stat"]["inactive_file"] == 20
    assert stats["pids"] == {"current": 3, "limit": 0}
    assert cgroup.oom_count("wharf/x") == 1


def test_stats_of_no_group(unified: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cgroup.stats("wharf/none")
    assert cgroup.oom_count("wharf/none") == 0
    assert cgroup.processes("wharf/none") == []
    assert cgroup.kill("wharf/none")


def test_supported_of_version_2(unified: Path) -> None:
    (unified / "cgroup.controllers").write_text("cpu memory\n")
    supported = cgroup.supported()
    assert supported["memory_limit"]
    assert supported["devices"]
    assert not supported["pids_limit"]
    assert not supported["oom_kill_disable"]


def test_supported_names_are_the_same_on_both_versions(unified: Path, tmp_path: Path) -> None:
    (unified / "cgroup.controllers").write_text("")
    names = set(cgroup.supported())
    setup.use(setup.Roots(1, {"memory": str(tmp_path)}, None))
    assert set(cgroup.supported()) == names
