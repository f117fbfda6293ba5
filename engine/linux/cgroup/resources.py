"""From the limits of the runtime spec to the files of a control group: pure.

The spec (`linux.resources`) speaks the language of version 1; the conversions to version 2 are
those that the reference runtimes agreed on, so that a limit means the same under any of them.
"""

from __future__ import annotations

import errno

from engine.linux.cgroup.limit import LimitError, Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Json = dict[str, Any]

_DEFAULT_PERIOD_US = 100_000


def plan(resources: Json, version: int) -> list[Setting]:
    """What to write where, in an order that the kernel takes.

    0 means "not asked for" wherever 0 would make no sense as a limit, as in the reference runtime.
    Raises LimitError for limits that contradict each other.
    """
    return list(_plan_v1(resources) if version == 1 else _plan_v2(resources))


# Version 1


def _plan_v1(resources: Json) -> Iterator[Setting]:
    yield from _cpu_v1(_section(resources, "cpu"))
    yield from _cpuset(_section(resources, "cpu"))
    yield from _memory_v1(_section(resources, "memory"))
    yield from _pids(resources)
    yield from _blkio_v1(_section(resources, "blockIO"))
    yield from _hugetlb(resources, "limit_in_bytes")
    yield from _network_v1(_section(resources, "network"))


def _cpu_v1(cpu: Json) -> Iterator[Setting]:
    yield from _nonzero("cpu", "cpu.shares", cpu.get("shares"))
    yield from _nonzero("cpu", "cpu.cfs_period_us", cpu.get("period"))
    yield from _nonzero("cpu", "cpu.cfs_quota_us", cpu.get("quota"))
    if cpu.get("burst") is not None:
        yield Setting("cpu", "cpu.cfs_burst_us", str(cpu["burst"]), is_optional=True)
    if cpu.get("idle") is not None:
        yield Setting("cpu", "cpu.idle", str(cpu["idle"]))
    yield from _nonzero("cpu", "cpu.rt_period_us", cpu.get("realtimePeriod"))
    yield from _nonzero("cpu", "cpu.rt_runtime_us", cpu.get("realtimeRuntime"))


def _memory_v1(memory: Json) -> Iterator[Setting]:
    yield from _nonzero("memory", "memory.limit_in_bytes", memory.get("limit"))
    if memory.get("swap"):
        yield Setting("memory", "memory.memsw.limit_in_bytes", str(memory["swap"]))
    elif memory.get("limit") == -1:
        # No limit of memory with an old one of memory and swap together is none at all.
        yield Setting("memory", "memory.memsw.limit_in_bytes", "-1", is_optional=True)
    yield from _nonzero("memory", "memory.soft_limit_in_bytes", memory.get("reservation"))
    if memory.get("disableOOMKiller"):
        yield Setting("memory", "memory.oom_control", "1")
    if memory.get("swappiness") is not None:
        yield _swappiness(int(memory["swappiness"]))


def _swappiness(value: int) -> Setting:
    if not 0 <= value <= 100:
        raise LimitError(
            errno.EINVAL, f"invalid memory swappiness value: {value} (valid range is 0-100)"
        )
    return Setting("memory", "memory.swappiness", str(value))


def _blkio_v1(block: Json) -> Iterator[Setting]:
    if block.get("weight"):
        bfq = Setting("blkio", "blkio.bfq.weight", str(block["weight"]))
        yield Setting("blkio", "blkio.weight", str(block["weight"]), fallback=bfq)
    for device in _each(block, "weightDevice"):
        if device.get("weight"):
            value = f"{_number(device)} {device['weight']}"
            bfq = Setting("blkio", "blkio.bfq.weight_device", value)
            yield Setting("blkio", "blkio.weight_device", value, fallback=bfq)
    for key, word in _THROTTLES_V1:
        for device in _each(block, key):
            yield Setting(
                "blkio", f"blkio.throttle.{word}_device", f"{_number(device)} {device['rate']}"
            )


_THROTTLES_V1 = (
    ("throttleReadBpsDevice", "read_bps"),
    ("throttleWriteBpsDevice", "write_bps"),
    ("throttleReadIOPSDevice", "read_iops"),
    ("throttleWriteIOPSDevice", "write_iops"),
)


def _network_v1(network: Json) -> Iterator[Setting]:
    yield from _nonzero("net_cls", "net_cls.classid", network.get("classID"))
    for priority in _each(network, "priorities"):
        value = f"{priority['name']} {priority['priority']}"
        yield Setting("net_prio", "net_prio.ifpriomap", value)


# Version 2


def _plan_v2(resources: Json) -> Iterator[Setting]:
    yield from _pids(resources)
    yield from _memory_v2(_section(resources, "memory"))
    yield from _io_v2(_section(resources, "blockIO"))
    yield from _cpu_v2(_section(resources, "cpu"))
    yield from _cpuset(_section(resources, "cpu"))
    yield from _hugetlb(resources, "max")
    for name, value in _section(resources, "unified").items():
        yield from _unified(name, value)


def _unified(name: str, value: str) -> Iterator[Setting]:
    if "/" in name:
        raise LimitError(
            errno.EINVAL, f'unified resource "{name}" must be a file name (no slashes)'
        )
    for line in value.splitlines() or [""]:
        yield Setting(name.partition(".")[0], name, line)


def _memory_v2(memory: Json) -> Iterator[Setting]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    swap_max = _limit(swap_of(swap, limit))
    if swap_max is None and swap > 0:
        swap_max = "0"  # memory and memory+swap are the same: none is left for swap
    if swap_max is not None:
        # Without swap accounting both no swap and any amount of it are so already.
        yield Setting("memory", "memory.swap.max", swap_max, is_optional=swap_max in ("0", "max"))
    for name, value in (("memory.max", limit), ("memory.low", memory.get("reservation") or 0)):
        text = _limit(value)
        if text is not None:
            yield Setting("memory", name, text)


def _limit(value: int) -> str | None:
    return None if value == 0 else "max" if value == -1 else str(value)


def swap_of(memory_and_swap: int, memory: int) -> int:
    """What v1 counts together, v2 counts apart. -1 is unlimited, 0 not asked for."""
    if memory == -1 and memory_and_swap == 0:
        return -1
    if memory_and_swap in (0, -1) or memory == -1:
        return memory_and_swap
    if memory == 0:
        raise LimitError(errno.EINVAL, "unable to set swap limit without memory limit")
    if memory < 0:
        raise LimitError(errno.EINVAL, f"invalid memory value: {memory}")
    if memory_and_swap < memory:
        raise LimitError(errno.EINVAL, "memory+swap limit should be >= memory limit")
    return memory_and_swap - memory


def _cpu_v2(cpu: Json) -> Iterator[Setting]:
    if cpu.get("idle") is not None:
        yield Setting("cpu", "cpu.idle", str(cpu["idle"]))
    if cpu.get("shares"):
        yield Setting("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or 0
        amount = str(quota) if quota > 0 else "max"
        period = cpu.get("period") or _DEFAULT_PERIOD_US
        yield Setting("cpu", "cpu.max", f"{amount} {period}")
    if cpu.get("burst") is not None:
        yield Setting("cpu", "cpu.max.burst", str(cpu["burst"]))


def weight_of_shares(shares: int) -> int:
    """2 → 1, 1024 → 100, 262144 → 10000: smallest, default and largest fall on each other.

    The exponent is quadratic in log2 of the shares, so that the default stays the default (runc
    1.4, crun 1.23); the linear formula before it made a container of 1024 weigh 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    # log2 without `math`, which is a shared library that the launcher would have to load.
    exponent, rest = shares.bit_length() - 1, float(shares)
    rest /= 1 << exponent
    log2, bit = float(exponent), 0.5
    while bit > 1e-12:
        rest *= rest
        if rest >= 2:
            rest /= 2
            log2 += bit
        bit /= 2
    weight: float = 10 ** ((log2 * log2 + 125 * log2) / 612 - 7 / 34)
    # A hair above a whole number is the float's doing: 1024 must give 100, not 101.
    return -int(-(weight - 1e-6) // 1)


def weight_of_blkio(weight: int) -> int:
    """10…1000 → 1…10000, in a straight line."""
    return 1 + (weight - 10) * 9999 // 990


def _io_v2(block: Json) -> Iterator[Setting]:
    if block.get("weight"):
        plain = Setting("io", "io.weight", str(weight_of_blkio(block["weight"])))
        yield Setting("io", "io.bfq.weight", str(block["weight"]), fallback=plain)
    for device in _each(block, "weightDevice"):
        if device.get("weight"):
            value = f"{_number(device)} {device['weight']}"
            yield Setting("io", "io.bfq.weight", value, is_optional=True)
    for key, word in _THROTTLES_V2:
        for device in _each(block, key):
            yield Setting("io", "io.max", f"{_number(device)} {word}={device['rate']}")


_THROTTLES_V2 = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


# Both


def _cpuset(cpu: Json) -> Iterator[Setting]:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Setting("cpuset", f"cpuset.{key}", cpu[key])


def _pids(resources: Json) -> Iterator[Setting]:
    limit = _section(resources, "pids").get("limit")
    if limit is not None:
        yield Setting("pids", "pids.max", str(limit) if limit > 0 else "max")


def _hugetlb(resources: Json, word: str) -> Iterator[Setting]:
    for limit in _each(resources, "hugepageLimits"):
        name, value = f"hugetlb.{limit['pageSize']}", str(limit["limit"])
        yield Setting("hugetlb", f"{name}.{word}", value)
        yield Setting("hugetlb", f"{name}.rsvd.{word}", value, is_optional=True)


def _nonzero(controller: str, file: str, value: int | None) -> Iterator[Setting]:
    if value:
        yield Setting(controller, file, str(value))


def _section(resources: Json, key: str) -> Json:
    """Absent, null and empty all say nothing."""
    section: Json = resources.get(key) or {}
    return section


def _each(section: Json, key: str) -> list[Json]:
    entries: list[Json] = section.get(key) or []
    return entries


def _number(device: Json) -> str:
    return f"{device['major']}:{device['minor']}"
