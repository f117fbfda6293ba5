from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import cgroup
from engine.linux.cgroup import resources

DISK = {"major": 8, "minor": 16}


def facts(document: dict[str, Any], version: int) -> list[tuple[str, str]]:
    return [(s.file, s.value) for s in cgroup.plan(document, version)]


@pytest.mark.parametrize(
    ("document", "v1", "v2"),
    [
        ({}, [], []),
        ({"memory": None, "cpu": None, "pids": None, "blockIO": None}, [], []),
        ({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}}, [], []),
        ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "100")]),
        (
            {"cpu": {"quota": 50_000, "period": 200_000}},
            [("cpu.cfs_period_us", "200000"), ("cpu.cfs_quota_us", "50000")],
            [("cpu.max", "50000 200000")],
        ),
        (
            {"cpu": {"quota": 50_000}},
            [("cpu.cfs_quota_us", "50000")],
            [("cpu.max", "50000 100000")],
        ),
        ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max 100000")]),
        (
            {"cpu": {"cpus": "0-1", "mems": "0"}},
            [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
            [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
        ),
        (
            {"memory": {"limit": 100, "swap": 150, "reservation": 50}},
            [
                ("memory.limit_in_bytes", "100"),
                ("memory.memsw.limit_in_bytes", "150"),
                ("memory.soft_limit_in_bytes", "50"),
            ],
            [("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "50")],
        ),
        (
            {"memory": {"limit": 100, "swap": 100}},
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "100")],
            [("memory.swap.max", "0"), ("memory.max", "100")],
        ),
        (
            {"memory": {"limit": 100, "swap": -1}},
            [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "100")],
        ),
        (
            {"memory": {"limit": -1}},
            [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "max")],
        ),
        (
            {"memory": {"disableOOMKiller": True, "swappiness": 0}},
            [("memory.oom_control", "1"), ("memory.swappiness", "0")],
            [],
        ),
        ({"pids": {"limit": 10}}, [("pids.max", "10")], [("pids.max", "10")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
        (
            {"blockIO": {"weight": 500}},
            [("blkio.weight", "500")],
            [("io.bfq.weight", "500")],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 7}]}},
            [("blkio.throttle.read_bps_device", "8:16 7")],
            [("io.max", "8:16 rbps=7")],
        ),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{**DISK, "rate": 9}]}},
            [("blkio.throttle.write_iops_device", "8:16 9")],
            [("io.max", "8:16 wiops=9")],
        ),
    ],
)
def test_plan(
    document: dict[str, Any], v1: list[tuple[str, str]], v2: list[tuple[str, str]]
) -> None:
    assert facts(document, 1) == v1
    assert facts(document, 2) == v2


def test_weight_without_bfq_falls_back_to_the_converted_one() -> None:
    (setting,) = cgroup.plan({"blockIO": {"weight": 500}}, 2)
    assert setting.fallback is not None
    assert setting.fallback.facts() == ("io", "io.weight", "4950")


def test_unified_values_are_written_line_by_line() -> None:
    document = {"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}}
    assert facts(document, 2) == [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]


def test_unified_name_must_be_a_file() -> None:
    with pytest.raises(cgroup.LimitError, match=r'"\.\./memory.max" must be a file name'):
        cgroup.plan({"unified": {"../memory.max": "1"}}, 2)


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        ({"swap": 50}, "unable to set swap limit without memory limit"),
        ({"limit": 100, "swap": 50}, "memory+swap limit should be >= memory limit"),
        ({"limit": -2, "swap": 50}, "invalid memory value: -2"),
    ],
)
def test_contradicting_memory_limits_are_refused(memory: dict[str, int], sentence: str) -> None:
    with pytest.raises(cgroup.LimitError) as caught:
        cgroup.plan({"memory": memory}, 2)
    assert str(caught.value) == sentence


def test_swappiness_has_a_range() -> None:
    with pytest.raises(cgroup.LimitError) as caught:
        cgroup.plan({"memory": {"swappiness": 101}}, 1)
    assert str(caught.value) == "invalid memory swappiness value: 101 (valid range is 0-100)"


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (10**9, 10_000)],
)
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert resources.weight_of_shares(shares) == weight


@given(st.integers(2, 262_144))
def test_more_shares_never_weigh_less(shares: int) -> None:
    weight = resources.weight_of_shares(shares)
    assert 1 <= weight <= resources.weight_of_shares(shares + 1) <= 10_000


@given(st.integers(3, 262_143))
def test_weight_is_that_of_the_formula(shares: int) -> None:
    log2 = math.log2(shares)
    weight = math.pow(10, (log2 * log2 + 125 * log2) / 612 - 7 / 34)
    assert resources.weight_of_shares(shares) == math.ceil(weight - 1e-6)


@pytest.mark.parametrize(("weight", "io_weight"), [(10, 1), (500, 4950), (1000, 10_000)])
def test_weight_of_blkio(weight: int, io_weight: int) -> None:
    assert resources.weight_of_blkio(weight) == io_weight
