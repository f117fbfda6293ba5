"""The engine as a whole: what it is, what this host offers, what its data take up."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine import offload, timestamp, version
from engine.container import apparmor
from engine.container.model import ListQuery
from engine.linux import cgroup
from engine.network import drivers
from engine.oci import platform as platforms
from engine.storage import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.config import EngineConfig
    from engine.container.containers import Containers
    from engine.container.model import ContainerView
    from engine.image.model import Summary
    from engine.image.store import Images
    from engine.volume.manager import Volumes
    from engine.volume.model import Volume

LOG_DRIVERS = ("json-file",)
VOLUME_DRIVERS = ("local",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Facts for `docker info`; what the configuration says is not repeated here."""

    id: str
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver_status: tuple[tuple[str, str], ...]
    volume_drivers: tuple[str, ...]
    network_drivers: tuple[str, ...]
    log_drivers: tuple[str, ...]
    memory_limit: bool
    swap_limit: bool
    kernel_memory_tcp: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool
    cpu_set: bool
    pids_limit: bool
    oom_kill_disable: bool
    ipv4_forwarding: bool
    open_files: int
    tasks: int
    cpus: int
    memory_bytes: int
    system_time_ns: int
    cgroup_version: str
    kernel_version: str
    operating_system: str
    os_version: str
    architecture: str
    hostname: str
    init_binary: str
    security_options: tuple[str, ...]
    runtimes: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """`components` are (name, version) of what stands beside the engine itself."""

    arch: str
    kernel_version: str
    build_time: str
    git_commit: str
    language: str
    components: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """`volume_usage` maps a volume's name to (how many containers use it, its bytes)."""

    layers_bytes: int = 0
    images: Sequence[Summary] = ()
    containers: Sequence[ContainerView] = ()
    volumes: Sequence[Volume] = ()
    volume_usage: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Reads; changes nothing but the engine's id, which is made once."""

    config: EngineConfig
    containers: Containers
    images: Images
    volumes: Volumes
    features: Mapping[str, bool]
    id: str

    async def info(self) -> Info:
        counts = self.containers.counts()
        host = await offload.disk(_read_host, self.config.data_root)
        has = self.features.get
        return Info(
            id=self.id,
            containers=counts["all"],
            containers_running=counts["running"],
            containers_paused=counts["paused"],
            containers_stopped=counts["stopped"],
            images=len(self.images.all()),
            driver_status=_driver_status(host.filesystem),
            volume_drivers=VOLUME_DRIVERS,
            network_drivers=tuple(drivers.ALL),
            log_drivers=LOG_DRIVERS,
            memory_limit=has("memory_limit", False),
            swap_limit=has("swap_limit", False),
            kernel_memory_tcp=has("kernel_memory_tcp", False),
            cpu_cfs_period=has("cpu_cfs_period", False),
            cpu_cfs_quota=has("cpu_cfs_quota", False),
            cpu_shares=has("cpu_shares", False),
            cpu_set=has("cpuset", False),
            pids_limit=has("pids_limit", False),
            oom_kill_disable=has("oom_kill_disable", False),
            ipv4_forwarding=host.forwards_ipv4,
            open_files=host.open_files,
            tasks=len(asyncio.all_tasks()),
            cpus=os.cpu_count() or 1,
            memory_bytes=host.memory_bytes,
            system_time_ns=time.time_ns(),
            cgroup_version=str(cgroup.version()),
            kernel_version=platform.release(),
            operating_system=host.operating_system,
            os_version=host.os_version,
            architecture=platform.machine(),
            hostname=socket.gethostname(),
            init_binary="docker-init",
            security_options=self._security_options(host),
            # Both mean the built-in one.
            runtimes={"runc": "wharf", "wharf": "wharf"},
            warnings=self._warnings(host),
        )

    def _security_options(self, host: _Host) -> tuple[str, ...]:
        profile = self.config.seccomp_profile
        options = ["name=apparmor"] if host.has_apparmor else []
        options.append(f"name=seccomp,profile={profile or 'builtin'}")
        if cgroup.version() == 2:
            options.append("name=cgroupns")
        if self.config.no_new_privileges:
            options.append("name=no-new-privileges")
        return tuple(options)

    def _warnings(self, host: _Host) -> tuple[str, ...]:
        """dockerd's own sentences (info.go fillSystemInfo, addDriverInfo)."""
        missing = (
            ("memory_limit", "WARNING: No memory limit support"),
            ("swap_limit", "WARNING: No swap limit support"),
            ("cpu_cfs_period", "WARNING: No cpu cfs period support"),
            ("cpu_cfs_quota", "WARNING: No cpu cfs quota support"),
            ("cpu_shares", "WARNING: No cpu shares support"),
            ("cpuset", "WARNING: No cpuset support"),
        )
        found = [text for feature, text in missing if not self.features.get(feature)]
        if not host.forwards_ipv4:
            found.append("WARNING: IPv4 forwarding is disabled")
        found += [
            f"WARNING: The row of container {unread} cannot be read; no image and no volume is "
            "pruned, for it may use any (docker rm -f removes it)"
            for unread in self.containers.unreadable()
        ]
        return tuple(found)

    async def version(self) -> Version:
        """Clients parse the time and show the commit: a release is named where none is known."""
        return Version(
            arch=platforms.default().architecture,
            kernel_version=platform.release(),
            build_time=await offload.disk(_build_time),
            git_commit=f"v{version.VERSION}",
            language=f"python {platform.python_version()}",
            components=((sys.implementation.name, platform.python_version()),),
        )

    async def df(
        self, *, containers: bool = True, images: bool = True, volumes: bool = True
    ) -> DiskUsage:
        """What each kind takes up; only what is asked for is measured."""
        from engine.image.model import ImageQuery

        shown = (
            await self.containers.list(ListQuery(all=True, with_size=True)) if containers else ()
        )
        listed = await self.images.list(ImageQuery(all=True, shared_size=True)) if images else ()
        layers = await self.images.usage() if images else ()
        known = await self.volumes.list({}) if volumes else ()
        sizes = await self.volumes.sizes() if volumes else {}
        users = self.containers.users_of_volumes() if volumes else {}
        return DiskUsage(
            layers_bytes=sum(layer.size_bytes for layer in layers),
            images=tuple(listed),
            containers=tuple(shown),
            volumes=tuple(volume for volume in known if volume.name in sizes),
            volume_usage={name: (len(users.get(name, ())), size) for name, size in sizes.items()},
        )


# The host


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    filesystem: str
    forwards_ipv4: bool
    has_apparmor: bool
    open_files: int
    memory_bytes: int
    operating_system: str
    os_version: str


def _read_host(data_root: str) -> _Host:
    release = _os_release()
    return _Host(
        filesystem=_filesystem(data_root),
        forwards_ipv4=_read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        has_apparmor=apparmor.look().is_usable,
        open_files=len(os.listdir("/proc/self/fd")),
        memory_bytes=int(_read("/proc/meminfo").split()[1]) * 1024,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    """os-release(5): shell-like assignments."""
    text = _read("/etc/os-release") or _read("/usr/lib/os-release")
    pairs = [line.partition("=") for line in text.split("\n") if "=" in line]
    return {key: value.strip("\"'") for key, _, value in pairs if not key.startswith("#")}


# Names that dockerd gives file systems (daemon/graphdriver); others are shown as the kernel has it.
_NAMES = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}


def _filesystem(path: str) -> str:
    """What the longest mount point above `path` is."""
    best, kind = "", "<unknown>"
    for line in _read("/proc/self/mounts").split("\n"):
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        target = fields[1].encode().decode("unicode_escape", "replace")
        if f"{path}/".startswith(f"{target.rstrip('/')}/") and len(target) >= len(best):
            best, kind = target, fields[2]
    return _NAMES.get(kind, kind)


def _driver_status(filesystem: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Backing Filesystem", filesystem),
        ("Supports d_type", "true"),
        ("Using metacopy", "false"),
        ("Native Overlay Diff", "true"),
        ("userxattr", "false"),
    )


def read_id(data_root: str) -> str:
    """The engine's own id, made at its first start and kept; touches the disk."""
    path = os.path.join(data_root, "engine-id")
    known = _read(path).strip()
    if known:
        return known
    fresh = str(uuid.uuid4())
    atomic.write_file(path, fresh.encode())
    return fresh


def _build_time() -> str:
    """When this package was written here."""
    return timestamp.format_ns(os.stat(version.__file__).st_mtime_ns)
