"""What an update of limits comes to: which it may change, and what it then writes to the kernel."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from engine.container import limits, update
from engine.container.model import HostConfig, Resources, RestartPolicy, RestartPolicyName
from engine.errors import InvalidParameter
from engine.linux import cgroup
from engine.oci import runtime as oci

MIB = 1 << 20
HALF = Resources(memory_bytes=64 * MIB, memory_swap_bytes=128 * MIB)
SLICE = Resources(cpu_period_us=50_000, cpu_quota_us=20_000)
GROUP = "swap_limit memory_limit cpu_cfs_period pids_limit cpu_shares"
HOST = limits.Host(features=dict.fromkeys(GROUP.split(), True), cpu_count=2, cpus="0-1")


def merged(current: Resources, changes: Resources) -> Resources:
    changes, _ = limits.verify(changes, HOST, is_update=True)
    return update.merged(HostConfig(resources=current), changes, None).resources


def written(current: Resources, changes: Resources, version: int = 2) -> dict[str, str]:
    """File → value, for the change of a container that runs."""
    applied = update.completed(changes, merged(current, changes))
    settings = cgroup.plan(oci.document(limits.to_oci(applied)), version)
    return {setting.file: setting.value for setting in settings}


@pytest.mark.parametrize(
    ("current", "changes", "files"),
    [
        (SLICE, Resources(cpu_period_us=100_000), {"cpu.max": "20000 100000"}),
        (SLICE, Resources(cpu_quota_us=30_000), {"cpu.max": "30000 50000"}),
        (SLICE, Resources(cpu_quota_us=-1), {"cpu.max": "max 50000"}),
        (Resources(), Resources(cpu_quota_us=30_000), {"cpu.max": "30000 100000"}),
        (Resources(), Resources(cpu_period_us=50_000), {"cpu.max": "max 50000"}),
        (
            Resources(nano_cpus=5 * 10**8),
            Resources(nano_cpus=8 * 10**8),
            {"cpu.max": "80000 100000"},
        ),
        (
            HALF,
            Resources(memory_bytes=32 * MIB),
            {"memory.max": str(32 * MIB), "memory.swap.max": str(96 * MIB)},
        ),
        (
            HALF,
            Resources(memory_bytes=128 * MIB),
            {"memory.max": str(128 * MIB), "memory.swap.max": "0"},
        ),
        (
            HALF,
            Resources(memory_swap_bytes=200 * MIB),
            {"memory.max": str(64 * MIB), "memory.swap.max": str(136 * MIB)},
        ),
        (
            HALF,
            Resources(memory_swap_bytes=-1),
            {"memory.max": str(64 * MIB), "memory.swap.max": "max"},
        ),
        (Resources(), Resources(memory_swap_bytes=-1), {}),
        (HALF, Resources(pids_limit=7), {"pids.max": "7"}),
        (SLICE, Resources(cpu_shares=1024), {"cpu.weight": "100"}),
    ],
)
def test_one_limit_alone_leaves_its_partners_as_they_are(
    current: Resources, changes: Resources, files: dict[str, str]
) -> None:
    assert written(current, changes) == files


def test_version_1_counts_memory_and_swap_together() -> None:
    both = {
        "memory.limit_in_bytes": str(64 * MIB),
        "memory.memsw.limit_in_bytes": str(200 * MIB),
    }
    assert written(HALF, Resources(memory_swap_bytes=200 * MIB), version=1) == both


def test_swap_without_any_limit_of_memory_is_refused_by_the_kernel_s_rule() -> None:
    with pytest.raises(cgroup.LimitError, match=r"^unable to set swap limit without memory limit$"):
        written(Resources(), Resources(memory_swap_bytes=64 * MIB))
    with pytest.raises(cgroup.LimitError, match=r"^memory\+swap limit should be >= memory limit$"):
        written(HALF, Resources(memory_swap_bytes=32 * MIB))


def test_no_limit_of_processes_is_kept_as_zero() -> None:
    assert merged(Resources(pids_limit=7), Resources(pids_limit=-1)).pids_limit == 0


_SWAP_TOO = (
    "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at "
    "the same time"
)


@pytest.mark.parametrize(
    ("current", "changes", "sentence"),
    [
        (HALF, Resources(memory_bytes=200 * MIB), _SWAP_TOO),
        (Resources(), Resources(memory_bytes=64 * MIB), _SWAP_TOO),
        (
            Resources(memory_bytes=64 * MIB, memory_swap_bytes=-1),
            Resources(memory_bytes=200 * MIB),
            _SWAP_TOO,
        ),
        (
            Resources(nano_cpus=5 * 10**8),
            Resources(cpu_quota_us=1000),
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            SLICE,
            Resources(nano_cpus=5 * 10**8),
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
    ],
)
def test_changes_that_clash_with_what_is_set(
    current: Resources, changes: Resources, sentence: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        merged(current, changes)
    assert str(caught.value) == sentence


def test_a_policy_that_contradicts_itself_is_refused_first() -> None:
    policy = RestartPolicy(name=RestartPolicyName.ALWAYS, maximum_retry_count=-1)
    nobody = mock.MagicMock()
    with pytest.raises(
        InvalidParameter,
        match=r"can only be used with 'on-failure' and cannot be negative$",
    ):
        asyncio.run(update.update(nobody, nobody, Resources(), policy))
