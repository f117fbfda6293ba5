"""Limits: what the kernel can hold a container to, and the same as the runtime reads it.

`verify` carries dockerd's rules (daemon_unix.go verifyPlatformContainerResources): what can never
work is refused, what this kernel lacks is dropped with a warning. Pure but for device numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.errors import InvalidParameter
from engine.oci import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.container.model import Resources, ThrottleDevice

MIN_MEMORY_BYTES = 6 * 1024 * 1024
CPU_PERIOD_US = 100_000

_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_MAX_LISTED = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this host offers: cgroup features by name, CPUs and memory nodes."""

    features: Mapping[str, bool] = field(default_factory=dict[str, bool])
    cpu_count: int = 1
    cpus: str = "0"
    memory_nodes: str = "0"

    def has(self, feature: str) -> bool:
        return self.features.get(feature, False)


def verify(
    resources: Resources, host: Host, *, is_update: bool = False
) -> tuple[Resources, list[str]]:
    """The limits that will hold, and a warning for each that will not."""
    warnings: list[str] = []
    resources = _memory(resources, host, warnings, is_update=is_update)
    resources = _oom_and_pids(resources, host, warnings)
    resources = _cpu(resources, host, warnings)
    resources = _cpuset(resources, host, warnings)
    return _block_io(resources, host, warnings), warnings


def _memory(r: Resources, host: Host, warnings: list[str], *, is_update: bool) -> Resources:
    if r.memory_swappiness == -1:
        r = msgspec.structs.replace(r, memory_swappiness=None)
    if r.memory_bytes != 0 and r.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if r.memory_bytes > 0 and not host.has("memory_limit"):
        warnings.append(_discarded("memory limit capabilities"))
        r = msgspec.structs.replace(r, memory_bytes=0, memory_swap_bytes=-1)
    if r.memory_bytes > 0 and r.memory_swap_bytes != -1 and not host.has("swap_limit"):
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
        r = msgspec.structs.replace(r, memory_swap_bytes=-1)
    if 0 < r.memory_swap_bytes < r.memory_bytes:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if r.memory_bytes == 0 and r.memory_swap_bytes > 0 and not is_update:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    return _reservation(_swappiness(r, host, warnings), host, warnings)


def _swappiness(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if r.memory_swappiness is None:
        return r
    if not host.has("memory_swappiness"):
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not "
            "mounted. Memory swappiness discarded."
        )
        return msgspec.structs.replace(r, memory_swappiness=None)
    if not 0 <= r.memory_swappiness <= 100:
        raise InvalidParameter(
            f"Invalid value: {r.memory_swappiness}, valid memory swappiness range is 0-100"
        )
    return r


def _reservation(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if r.memory_reservation_bytes > 0 and not host.has("memory_reservation"):
        warnings.append(_discarded("memory soft limit capabilities"))
        r = msgspec.structs.replace(r, memory_reservation_bytes=0)
    if 0 < r.memory_reservation_bytes < MIN_MEMORY_BYTES:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < r.memory_bytes < r.memory_reservation_bytes:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    return r


def _oom_and_pids(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if r.oom_kill_disable is not None and not host.has("oom_kill_disable"):
        if r.oom_kill_disable:
            warnings.append(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded."
            )
        r = msgspec.structs.replace(r, oom_kill_disable=None)
    if r.oom_kill_disable and r.memory_bytes == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can "
            "result in the system running out of resources."
        )
    if r.pids_limit is not None and not host.has("pids_limit"):
        if r.pids_limit > 0:
            warnings.append(
                "Your kernel does not support PIDs limit capabilities or the cgroup is not "
                "mounted. PIDs limit discarded."
            )
        r = msgspec.structs.replace(r, pids_limit=None)
    return r


def _cpu(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if r.nano_cpus > 0 and r.cpu_period_us > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if r.nano_cpus > 0 and r.cpu_quota_us > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if r.nano_cpus > 0 and not host.has("cpu_cfs_period"):
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the "
            "cgroup is not mounted"
        )
    if r.nano_cpus != 0 and not 0 < r.nano_cpus <= host.cpu_count * 10**9:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {host.cpu_count}.00, as there are only "
            f"{host.cpu_count} CPUs available"
        )
    if r.cpu_shares > 0 and not host.has("cpu_shares"):
        warnings.append(
            "Your kernel does not support CPU shares or the cgroup is not mounted. "
            "Shares discarded."
        )
        r = msgspec.structs.replace(r, cpu_shares=0)
    if r.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({r.cpu_shares}): value must be a positive integer"
        )
    return _cpu_bandwidth(r, host, warnings)


def _cpu_bandwidth(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if (r.cpu_period_us or r.cpu_quota_us) and not host.has("cpu_cfs_period"):
        warnings.append(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
        )
        r = msgspec.structs.replace(r, cpu_period_us=0, cpu_quota_us=0)
    if r.cpu_period_us != 0 and not 1000 <= r.cpu_period_us <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < r.cpu_realtime_period_us < r.cpu_realtime_runtime_us:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
    if 0 < r.cpu_quota_us < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if r.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        r = msgspec.structs.replace(r, cpu_percent=0)
    return r


def _cpuset(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if (r.cpuset_cpus or r.cpuset_mems) and not host.has("cpuset"):
        warnings.append(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
        )
        return msgspec.structs.replace(r, cpuset_cpus="", cpuset_mems="")
    _check_set(r.cpuset_cpus, host.cpus, "cpus", "CPUs")
    _check_set(r.cpuset_mems, host.memory_nodes, "mems", "memory nodes")
    return r


def _check_set(wanted: str, available: str, kind: str, noun: str) -> None:
    try:
        numbers = parse_list(wanted)
    except ValueError as exc:
        raise InvalidParameter(f"Invalid value {wanted} for cpuset {kind}: {exc}") from exc
    if not numbers <= parse_list(available):
        raise InvalidParameter(
            f"Requested {noun} are not available - requested {wanted}, available: {available}"
        )


def parse_list(text: str) -> frozenset[int]:
    """The numbers of a kernel list, `0-3,7`; ValueError otherwise."""
    if not text:
        return frozenset()
    if not _LIST.fullmatch(text):
        raise ValueError(f"invalid format: {text}")
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first[:9]), int((last or first)[:9])
        if high < low:
            raise ValueError(f"invalid format: {text}")
        if high > _MAX_LISTED:
            raise ValueError(f"value of out range, maximum is {_MAX_LISTED}")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


_BLOCK_LIMITS = (
    # field, feature, what the warning calls it and what is discarded
    (
        "blkio_weight_device",
        "blkio_weight_device",
        "Block I/O weight_device",
        "Weight-device",
    ),
    (
        "blkio_device_read_bps",
        "blkio_read_bps_device",
        "BPS Block I/O read limit",
        "Block I/O BPS read limit",
    ),
    (
        "blkio_device_write_bps",
        "blkio_write_bps_device",
        "BPS Block I/O write limit",
        "Block I/O BPS write limit",
    ),
    (
        "blkio_device_read_iops",
        "blkio_read_iops_device",
        "IOPS Block read limit",
        "Block I/O IOPS read limit",
    ),
    (
        "blkio_device_write_iops",
        "blkio_write_iops_device",
        "IOPS Block write limit",
        "Block I/O IOPS write limit",
    ),
)


def _block_io(r: Resources, host: Host, warnings: list[str]) -> Resources:
    if r.blkio_weight > 0 and not host.has("blkio_weight"):
        warnings.append(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. "
            "Weight discarded."
        )
        r = msgspec.structs.replace(r, blkio_weight=0)
    if r.blkio_weight != 0 and not 10 <= r.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if r.io_maximum_bandwidth or r.io_maximum_iops:
        raise InvalidParameter(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"
        )
    for name, feature, noun, discarded in _BLOCK_LIMITS:
        if getattr(r, name) and not host.has(feature):
            warnings.append(
                f"Your kernel does not support {noun} or the cgroup is not mounted. "
                f"{discarded} discarded."
            )
            r = msgspec.structs.replace(r, **{name: ()})
    return r


def _discarded(noun: str) -> str:
    return (
        f"Your kernel does not support {noun} or the cgroup is not mounted. Limitation discarded."
    )


def devices_of(r: Resources) -> list[str]:
    """Paths of the devices whose throughput or weight is limited."""
    weighed = [device.path for device in r.blkio_weight_device or ()]
    throttled = (
        *(r.blkio_device_read_bps or ()),
        *(r.blkio_device_write_bps or ()),
        *(r.blkio_device_read_iops or ()),
        *(r.blkio_device_write_iops or ()),
    )
    return [*weighed, *(device.path for device in throttled)]


def to_oci(
    r: Resources,
    rules: tuple[oci.DeviceRule, ...] = (),
    *,
    numbers: Mapping[str, tuple[int, int]] | None = None,
) -> oci.Resources:
    """The same limits as runtime-spec says them. Pure; those of devices without `numbers`, by
    their paths, are left out."""
    return oci.Resources(
        devices=rules,
        memory=_to_memory(r),
        cpu=_to_cpu(r),
        pids=_to_pids(r),
        block_io=_to_block_io(r, numbers or {}),
    )


def _to_memory(r: Resources) -> oci.Memory | None:
    memory = oci.Memory(
        limit=r.memory_bytes if r.memory_bytes > 0 else None,
        reservation=r.memory_reservation_bytes if r.memory_reservation_bytes > 0 else None,
        swap=r.memory_swap_bytes if r.memory_swap_bytes > 0 or _unlimited_swap(r) else None,
        swappiness=r.memory_swappiness,
        disable_oom_killer=r.oom_kill_disable or None,
    )
    return memory if memory != oci.Memory() else None


def _unlimited_swap(r: Resources) -> bool:
    return r.memory_swap_bytes == -1 and r.memory_bytes > 0


def _to_cpu(r: Resources) -> oci.Cpu | None:
    period, quota = r.cpu_period_us or None, r.cpu_quota_us or None
    if r.nano_cpus > 0:
        period = period or CPU_PERIOD_US
        quota = quota or r.nano_cpus * CPU_PERIOD_US // 10**9
    cpu = oci.Cpu(
        shares=r.cpu_shares or None,
        quota=quota,
        period=period,
        realtime_runtime=r.cpu_realtime_runtime_us or None,
        realtime_period=r.cpu_realtime_period_us or None,
        cpus=r.cpuset_cpus,
        mems=r.cpuset_mems,
    )
    return cpu if cpu != oci.Cpu() else None


def _to_pids(r: Resources) -> oci.Pids | None:
    """None changes nothing; 0 and below take a limit away."""
    if r.pids_limit is None:
        return None
    return oci.Pids(limit=r.pids_limit if r.pids_limit > 0 else -1)


def _to_block_io(r: Resources, numbers: Mapping[str, tuple[int, int]]) -> oci.BlockIO | None:
    def throttles(wanted: tuple[ThrottleDevice, ...] | None) -> tuple[oci.ThrottleDevice, ...]:
        return tuple(
            oci.ThrottleDevice(major=major, minor=minor, rate=device.rate)
            for device in wanted or ()
            if device.path in numbers
            for major, minor in (numbers[device.path],)
        )

    block = oci.BlockIO(
        weight=r.blkio_weight or None,
        weight_device=tuple(
            oci.WeightDevice(major=major, minor=minor, weight=device.weight)
            for device in r.blkio_weight_device or ()
            if device.path in numbers
            for major, minor in (numbers[device.path],)
        ),
        throttle_read_bps_device=throttles(r.blkio_device_read_bps),
        throttle_write_bps_device=throttles(r.blkio_device_write_bps),
        throttle_read_iops_device=throttles(r.blkio_device_read_iops),
        throttle_write_iops_device=throttles(r.blkio_device_write_iops),
    )
    return block if block != oci.BlockIO() else None
