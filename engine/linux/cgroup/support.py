"""Which limits this kernel can keep: what `info` tells and what warnings are made of."""

from __future__ import annotations

import os

from engine.linux.cgroup import file, parent, setup, v2


def supported() -> dict[str, bool]:
    """One answer a limit, under the same names on both versions."""
    return _supported_v1() if setup.roots().version == 1 else _supported_v2()


_FILES_V1 = {
    "memory_limit": ("memory", "memory.limit_in_bytes"),
    "swap_limit": ("memory", "memory.memsw.limit_in_bytes"),
    "memory_reservation": ("memory", "memory.soft_limit_in_bytes"),
    "memory_swappiness": ("memory", "memory.swappiness"),
    "oom_kill_disable": ("memory", "memory.oom_control"),
    "kernel_memory": ("memory", "memory.kmem.limit_in_bytes"),
    "kernel_memory_tcp": ("memory", "memory.kmem.tcp.limit_in_bytes"),
    "cpu_shares": ("cpu", "cpu.shares"),
    "cpu_cfs_period": ("cpu", "cpu.cfs_period_us"),
    "cpu_cfs_quota": ("cpu", "cpu.cfs_quota_us"),
    "cpu_realtime": ("cpu", "cpu.rt_period_us"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "blkio_weight": ("blkio", "blkio.weight"),
    "blkio_weight_device": ("blkio", "blkio.weight_device"),
    "blkio_read_bps_device": ("blkio", "blkio.throttle.read_bps_device"),
    "blkio_write_bps_device": ("blkio", "blkio.throttle.write_bps_device"),
    "blkio_read_iops_device": ("blkio", "blkio.throttle.read_iops_device"),
    "blkio_write_iops_device": ("blkio", "blkio.throttle.write_iops_device"),
    "pids_limit": ("pids", ""),
    "devices": ("devices", ""),
    "freezer": ("freezer", ""),
}


def _supported_v1() -> dict[str, bool]:
    mounts = setup.roots().controllers

    def is_there(controller: str, name: str) -> bool:
        root = mounts.get(controller)
        return root is not None and os.path.exists(os.path.join(root, name))

    return {key: is_there(controller, name) for key, (controller, name) in _FILES_V1.items()}


# None: version 2 has no such limit at all. "": the kernel itself has it, without a controller.
_CONTROLLERS_V2 = {
    "memory_limit": "memory",
    "memory_reservation": "memory",
    "memory_swappiness": None,
    "oom_kill_disable": None,
    "kernel_memory": None,
    "kernel_memory_tcp": None,
    "cpu_shares": "cpu",
    "cpu_cfs_period": "cpu",
    "cpu_cfs_quota": "cpu",
    "cpu_realtime": None,
    "cpuset": "cpuset",
    "blkio_weight": "io",
    "blkio_weight_device": "io",
    "blkio_read_bps_device": "io",
    "blkio_write_bps_device": "io",
    "blkio_read_iops_device": "io",
    "blkio_write_iops_device": "io",
    "pids_limit": "pids",
    "devices": "",
    "freezer": "",
}


def _supported_v2() -> dict[str, bool]:
    available = {"", *file.read(os.path.join(v2.root(), "cgroup.controllers")).split()}
    answers = {key: controller in available for key, controller in _CONTROLLERS_V2.items()}
    own = parent.own_group(file.read("/proc/self/cgroup"))
    return {**answers, "swap_limit": answers["memory_limit"] and _accounts_swap(own)}


def _accounts_swap(own: str) -> bool:
    """By the groups above and the own one: one with limits of memory shows it.

    A leaf may have none yet, and the root never has: where no group tells, it is believed.
    """
    groups = [v2.directory(step) for step in setup.parents(own)]
    limited = [each for each in groups if os.path.exists(os.path.join(each, "memory.max"))]
    return not limited or os.path.exists(os.path.join(limited[-1], "memory.swap.max"))


def available_cpus() -> str:
    """The CPUs that a cpuset may name, as the kernel lists them ("0-3,8"); "" if unknown."""
    return _cpuset("cpus")


def available_mems() -> str:
    """The memory nodes that a cpuset may name."""
    return _cpuset("mems")


def _cpuset(name: str) -> str:
    roots = setup.roots()
    if roots.version == 1:
        root = roots.controllers.get("cpuset")
        return "" if root is None else file.read_or(f"{root}/cpuset.{name}", "").strip()
    return file.read_or(f"{v2.root()}/cpuset.{name}.effective", "").strip()
