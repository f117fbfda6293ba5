"""Limits against what a host offers; sentences and warnings are dockerd's."""

from __future__ import annotations

import msgspec
import pytest

from engine.container import limits
from engine.container.model import Resources
from engine.errors import InvalidParameter

_FEATURES = """
memory_limit swap_limit memory_reservation memory_swappiness oom_kill_disable pids_limit
cpu_cfs_period cpu_cfs_quota cpu_shares cpuset blkio_weight blkio_weight_device
blkio_read_bps_device blkio_write_bps_device blkio_read_iops_device blkio_write_iops_device
"""
ALL = dict.fromkeys(_FEATURES.split(), True)
HOST = limits.Host(features=ALL, cpu_count=2, cpus="0-1", memory_nodes="0")
BARE = limits.Host(cpu_count=2, cpus="0-1")
MIB = 1 << 20


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(memory_bytes=1), "Minimum memory limit allowed is 6MB"),
        (Resources(memory_bytes=-1), "Minimum memory limit allowed is 6MB"),
        (
            Resources(memory_bytes=10 * MIB, memory_swap_bytes=9 * MIB),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            Resources(memory_swap_bytes=9 * MIB),
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            Resources(memory_swappiness=101),
            "Invalid value: 101, valid memory swappiness range is 0-100",
        ),
        (
            Resources(memory_bytes=10 * MIB, memory_reservation_bytes=11 * MIB),
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (
            Resources(nano_cpus=99 * 10**9),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (
            Resources(nano_cpus=10**9, cpu_period_us=1000),
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            Resources(cpu_period_us=10),
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            Resources(cpuset_cpus="0-99"),
            "Requested CPUs are not available - requested 0-99, available: 0-1",
        ),
        (Resources(cpuset_cpus="x"), "Invalid value x for cpuset cpus: invalid format: x"),
        (Resources(blkio_weight=5), "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_impossible_limits(resources: Resources, expected: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        limits.verify(resources, HOST)
    assert str(caught.value) == expected


def test_what_the_kernel_lacks_is_dropped_and_said() -> None:
    asked = Resources(
        memory_bytes=10 * MIB, pids_limit=5, cpu_shares=3, cpuset_cpus="0", cpu_quota_us=5000
    )
    kept, warnings = limits.verify(asked, BARE)
    assert kept == Resources(memory_swap_bytes=-1)
    assert len(warnings) == 5


def test_what_is_possible_stays_as_it_is() -> None:
    asked = Resources(memory_bytes=10 * MIB, nano_cpus=10**9, cpuset_cpus="0,1", pids_limit=7)
    assert limits.verify(asked, HOST) == (asked, [])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", set()), ("3", {3}), ("0-2,5", {0, 1, 2, 5}), ("1-1", {1})],
)
def test_kernel_lists(text: str, numbers: set[int]) -> None:
    assert limits.parse_list(text) == numbers


@pytest.mark.parametrize("text", ["-", "1-", "2-1", "a", "1,,2", "1 2", "9" * 5000, "0-999999999"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid format|of out range"):
        limits.parse_list(text)


def test_cpus_become_quota_and_period() -> None:
    cpu = limits.to_oci(Resources(nano_cpus=1_500_000_000)).cpu
    assert cpu is not None
    assert (cpu.quota, cpu.period) == (150_000, 100_000)


def test_no_limits_say_nothing() -> None:
    assert msgspec.to_builtins(limits.to_oci(Resources())) == {}


def test_a_pids_limit_of_zero_takes_it_away() -> None:
    pids = limits.to_oci(Resources(pids_limit=0)).pids
    assert pids is not None
    assert pids.limit == -1
