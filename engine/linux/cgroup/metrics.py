"""What a control group has used, as numbers: times in nanoseconds, sizes in bytes.

One shape for both versions; a section is missing where the controller is not there, and a value
where its version does not know it:

    {"version": 1 | 2,
     "cpu": {"usage_ns", "user_ns", "system_ns", "per_cpu_ns": [...] (v1),
             "periods", "throttled_periods", "throttled_ns"},
     "memory": {"usage", "limit", "max_usage", "failures", "swap_usage", "swap_limit",
                "stat": memory.stat as it is},
     "pids": {"current", "limit"},                   a limit of 0 is none
     "io": {"io_service_bytes_recursive": [{"major", "minor", "op", "value"}, ...], ...},
     "pressure": {"cpu" | "memory" | "io": {"some" | "full": {"avg10": 0.0, ..., "total": µs}}}}

`usage` of memory counts the page cache; what a client shows subtracts `inactive_file` from it.
"""

from __future__ import annotations

import os

from engine.linux.cgroup import file, setup, v1, v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Section = dict[str, Any]

# One tick of cpuacct.stat, USER_HZ: a constant of the ABI on every architecture of Linux.
_TICK_NS = 1_000_000_000 // 100


def stats(path: str) -> Section:
    """Raises FileNotFoundError where there is no such group."""
    return _stats_v1(path) if setup.roots().version == 1 else _stats_v2(path)


# Version 1


def _stats_v1(path: str) -> Section:
    result: Section = {"version": 1, "cpu": {}}
    mounted = setup.roots().controllers
    if "cpuacct" in mounted:
        result["cpu"] |= _cpuacct(v1.directory("cpuacct", path))
    if "cpu" in mounted:
        result["cpu"] |= _throttling(v1.directory("cpu", path), "throttled_time", 1)
    if "memory" in mounted:
        result["memory"] = _memory_v1(v1.directory("memory", path))
    if "pids" in mounted:
        result["pids"] = _pids(v1.directory("pids", path))
    if "blkio" in mounted:
        result["io"] = _blkio(v1.directory("blkio", path))
    return result


def _cpuacct(group: str) -> Section:
    ticks = file.keyed(file.read_or(os.path.join(group, "cpuacct.stat"), ""))
    per_cpu = file.read_or(os.path.join(group, "cpuacct.usage_percpu"), "")
    return {
        "usage_ns": file.number(file.read(os.path.join(group, "cpuacct.usage"))),
        "user_ns": ticks.get("user", 0) * _TICK_NS,
        "system_ns": ticks.get("system", 0) * _TICK_NS,
        "per_cpu_ns": [int(value) for value in per_cpu.split()],
    }


def _throttling(group: str, time_key: str, unit_ns: int) -> Section:
    stat = file.keyed(file.read_or(os.path.join(group, "cpu.stat"), ""))
    return {
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_ns": stat.get(time_key, 0) * unit_ns,
    }


def _memory_v1(group: str) -> Section:
    def value(name: str) -> int:
        return file.read_int(os.path.join(group, f"memory.{name}"))

    return {
        "usage": file.number(file.read(os.path.join(group, "memory.usage_in_bytes"))),
        "limit": value("limit_in_bytes"),
        "max_usage": value("max_usage_in_bytes"),
        "failures": value("failcnt"),
        "swap_usage": max(0, value("memsw.usage_in_bytes") - value("usage_in_bytes")),
        "swap_limit": value("memsw.limit_in_bytes"),
        "stat": file.keyed(file.read_or(os.path.join(group, "memory.stat"), "")),
    }


# What to show ← file of the CFQ or BFQ scheduler, which tells more, ← file of throttling.
_BLKIO_FILES = {
    "io_service_bytes_recursive": (
        "blkio.io_service_bytes_recursive",
        "blkio.bfq.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes",
    ),
    "io_serviced_recursive": (
        "blkio.io_serviced_recursive",
        "blkio.bfq.io_serviced_recursive",
        "blkio.throttle.io_serviced_recursive",
        "blkio.throttle.io_serviced",
    ),
    "io_queue_recursive": ("blkio.io_queued_recursive", "blkio.bfq.io_queued_recursive"),
    "io_service_time_recursive": (
        "blkio.io_service_time_recursive",
        "blkio.bfq.io_service_time_recursive",
    ),
    "io_wait_time_recursive": (
        "blkio.io_wait_time_recursive",
        "blkio.bfq.io_wait_time_recursive",
    ),
    "io_merged_recursive": ("blkio.io_merged_recursive", "blkio.bfq.io_merged_recursive"),
    "io_time_recursive": ("blkio.time_recursive", "blkio.bfq.time_recursive"),
    "sectors_recursive": ("blkio.sectors_recursive", "blkio.bfq.sectors_recursive"),
}


def _blkio(group: str) -> Section:
    return {key: _first_entries(group, names) for key, names in _BLKIO_FILES.items()}


def _first_entries(group: str, names: tuple[str, ...]) -> list[Section]:
    """The first file with anything in it: a scheduler that no disk uses tells nothing."""
    for name in names:
        entries = blkio_entries(file.read_or(os.path.join(group, name), ""))
        if entries:
            return entries
    return []


def blkio_entries(text: str) -> list[Section]:
    """ "8:0 Read 12" a line; some files have no operation; the last line is a sum."""
    entries: list[Section] = []
    for line in text.splitlines():
        device, *words = line.split()
        major, separator, minor = device.partition(":")
        if not separator or not words:
            continue
        entries.append(_entry(major, minor, words[0] if len(words) > 1 else "", int(words[-1])))
    return entries


def _entry(major: str, minor: str, op: str, value: int) -> Section:
    return {"major": int(major), "minor": int(minor), "op": op, "value": value}


# Version 2


def _stats_v2(path: str) -> Section:
    group = v2.directory(path)
    stat = file.keyed(file.read(os.path.join(group, "cpu.stat")))
    result: Section = {"version": 2, "cpu": _cpu_v2(stat)}
    if os.path.exists(os.path.join(group, "memory.current")):
        result["memory"] = _memory_v2(group)
    if os.path.exists(os.path.join(group, "pids.current")):
        result["pids"] = _pids(group)
    io = file.read_or(os.path.join(group, "io.stat"), "")
    result["io"] = io_entries(io)
    result["pressure"] = _pressures(group)
    return result


def _cpu_v2(stat: dict[str, int]) -> Section:
    return {
        "usage_ns": stat.get("usage_usec", 0) * 1000,
        "user_ns": stat.get("user_usec", 0) * 1000,
        "system_ns": stat.get("system_usec", 0) * 1000,
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_ns": stat.get("throttled_usec", 0) * 1000,
    }


def _memory_v2(group: str) -> Section:
    def value(name: str) -> int:
        return file.read_int(os.path.join(group, f"memory.{name}"))

    events = file.keyed(file.read_or(os.path.join(group, "memory.events"), ""))
    return {
        "usage": value("current"),
        "limit": value("max"),
        "max_usage": value("peak"),
        "failures": events.get("oom", 0),
        "swap_usage": value("swap.current"),
        "swap_limit": value("swap.max"),
        "stat": file.keyed(file.read_or(os.path.join(group, "memory.stat"), "")),
    }


_IO_KEYS = {
    "rbytes": ("io_service_bytes_recursive", "read"),
    "wbytes": ("io_service_bytes_recursive", "write"),
    "rios": ("io_serviced_recursive", "read"),
    "wios": ("io_serviced_recursive", "write"),
}


def io_entries(text: str) -> Section:
    """ "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …" a line; a device without traffic has no pairs."""
    result: Section = {key: [] for key, _ in _IO_KEYS.values()}
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _IO_KEYS and minor:
                name, op = _IO_KEYS[key]
                result[name].append(_entry(major, minor, op, int(value)))
    return result


def _pressures(group: str) -> Section:
    texts = {
        name: file.read_or(os.path.join(group, f"{name}.pressure"), "")
        for name in ("cpu", "memory", "io")
    }
    return {name: pressure(text) for name, text in texts.items() if text}


def pressure(text: str) -> Section:
    """ "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" a line (accounting/psi)."""
    result: Section = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        averages = {key: float(text) for key, text in values.items() if key != "total"}
        result[kind] = {**averages, "total": int(values.get("total", 0))}
    return result


# Both


def _pids(group: str) -> Section:
    limit = file.read_int(os.path.join(group, "pids.max"))
    return {
        "current": file.read_int(os.path.join(group, "pids.current")),
        "limit": 0 if limit == file.UNLIMITED else limit,
    }
