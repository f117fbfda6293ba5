"""A container's configuration as the runtime reads it: one pure crossing, done once.

Everything that needs the disk, the kernel or another room was asked before and stands in
`Surroundings`. The result is moby daemon/oci_linux.go's: same mounts, order and options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.container import environment, limits, mounts, sysctls
from engine.container.failure import SpecFailure
from engine.container.model import MountType
from engine.container.modes import is_private_network
from engine.oci import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.container.model import Container, MountPoint, Ulimit
    from engine.container.security import SecurityOptions
    from engine.container.user import User

# moby oci/defaults.go, in its order: what is mounted unless the user mounts there.
_DEFAULT_MOUNTS = (
    oci.Mount(
        destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")
    ),
    oci.Mount(
        destination="/dev",
        type="tmpfs",
        source="tmpfs",
        options=("nosuid", "strictatime", "mode=755", "size=65536k"),
    ),
    oci.Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    oci.Mount(
        destination="/sys",
        type="sysfs",
        source="sysfs",
        options=("nosuid", "noexec", "nodev", "ro"),
    ),
    oci.Mount(
        destination="/sys/fs/cgroup",
        type="cgroup",
        source="cgroup",
        options=("ro", "nosuid", "noexec", "nodev"),
    ),
    oci.Mount(
        destination="/dev/mqueue",
        type="mqueue",
        source="mqueue",
        options=("nosuid", "noexec", "nodev"),
    ),
    oci.Mount(
        destination="/dev/shm",
        type="tmpfs",
        source="shm",
        options=("nosuid", "noexec", "nodev", "mode=1777"),
    ),
)

# What a read-only root leaves writable.
_NEVER_READ_ONLY = frozenset({"/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"})

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_RLIMITS = frozenset(
    {
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    }
)
_UNLIMITED = 2**64 - 1

OWN = ""
"""As the path of a namespace: a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What had to be found out before the spec could be written.

    `namespaces` maps a type to the path to join, OWN for a new one; the host's are left out.
    `device_numbers` maps the path of a device that is limited to (major, minor).
    """

    root: str
    user: User
    capabilities: tuple[str, ...]
    security: SecurityOptions
    devices: Sequence[oci.Device] = ()
    device_rules: tuple[oci.DeviceRule, ...] = ()
    device_numbers: Mapping[str, tuple[int, int]] = field(
        default_factory=dict[str, tuple[int, int]]
    )
    namespaces: Mapping[str, str] = field(default_factory=dict[str, str])
    network_files: Mapping[str, str] = field(default_factory=dict[str, str])
    shm_source: str = ""  # bound to /dev/shm when another's, or shared, is used
    cgroup_path: str = ""
    default_ulimits: Sequence[Ulimit] = ()
    links: tuple[str, ...] = ()
    apparmor_profile: str = ""
    data_root: str = ""
    has_recursive_read_only: bool = True  # mount_setattr(2), Linux 5.12


def build(container: Container, around: Surroundings) -> oci.Spec:
    """The spec of `container`; raises SpecFailure or InvalidParameter for what cannot run."""
    host_config = container.host_config
    owns_uts = around.namespaces.get("uts") == OWN
    return oci.Spec(
        oci_version=oci.VERSION,
        process=_process(container, around),
        root=oci.Root(path=around.root, readonly=host_config.readonly_rootfs),
        hostname=container.config.hostname if owns_uts else "",
        domainname=_domainname(container) if owns_uts else "",
        mounts=_mounts(container, around),
        linux=_linux(container, around),
        annotations=host_config.annotations,
    )


# The process


def _domainname(container: Container) -> str:
    """As much of it as the kernel keeps (uts_namespaces(7): 64 bytes); more is no error."""
    return container.config.domainname.encode()[:64].decode(errors="ignore")


def _process(container: Container, around: Surroundings) -> oci.Process:
    config, host_config = container.config, container.host_config
    env = environment.of_container(config, tty=config.tty, links=around.links)
    height, width = host_config.console_size
    return oci.Process(
        args=(container.path, *container.args),
        env=environment.with_home(env, around.user.home),
        cwd=config.working_dir or "/",
        terminal=config.tty,
        console_size=(
            oci.Box(height=height, width=width) if config.tty and height and width else None
        ),
        user=user_of(around.user),
        capabilities=capabilities_of(around.capabilities),
        rlimits=rlimits(host_config.resources.ulimits or (), around.default_ulimits),
        no_new_privileges=around.security.no_new_privileges,
        apparmor_profile=around.apparmor_profile,
        oom_score_adj=host_config.oom_score_adj,
    )


def user_of(user: User) -> oci.User:
    return oci.User(uid=user.uid, gid=user.gid, additional_gids=user.groups)


def capabilities_of(names: tuple[str, ...]) -> oci.Capabilities:
    """Bounding, effective and permitted alike; nothing is inherited or ambient (R10)."""
    return oci.Capabilities(bounding=names, effective=names, permitted=names)


def rlimits(own: Sequence[Ulimit], defaults: Sequence[Ulimit]) -> tuple[oci.Rlimit, ...]:
    """The container's limits, then the daemon's where it named none."""
    named = {limit.name for limit in own}
    merged = [*own, *(limit for limit in defaults if limit.name not in named)]
    return tuple(_rlimit(limit) for limit in merged)


def _rlimit(limit: Ulimit) -> oci.Rlimit:
    if limit.name not in _RLIMITS:
        raise SpecFailure(f"wrong rlimit value: RLIMIT_{limit.name.upper()}")
    return oci.Rlimit(
        type=f"RLIMIT_{limit.name.upper()}",
        soft=limit.soft & _UNLIMITED,
        hard=limit.hard & _UNLIMITED,
    )


# Mounts


def _mounts(container: Container, around: Surroundings) -> tuple[oci.Mount, ...]:
    asked = _asked_mounts(container, around)
    taken = {mount.destination for mount in asked}
    planned = [*_default_mounts(container, around, taken), *asked]
    if container.host_config.readonly_rootfs:
        planned = [_read_only(mount, taken) for mount in planned]
    return tuple(_unlocked(mount, container, around) for mount in planned)


def _default_mounts(container: Container, around: Surroundings, taken: set[str]) -> list[oci.Mount]:
    planned: list[oci.Mount] = []
    for mount in _DEFAULT_MOUNTS:
        target = mount.destination
        if target in taken or ("/dev" in taken and target.startswith("/dev/")):
            continue
        if target == "/dev/shm":
            planned += _shm(mount, container, around)
        else:
            planned.append(mount)
    return planned


def _shm(mount: oci.Mount, container: Container, around: Surroundings) -> list[oci.Mount]:
    """A tmpfs of the container's own, another's, the host's, or none at all."""
    if container.host_config.ipc_mode == "none":
        return []
    source = around.shm_source or ("" if "ipc" in around.namespaces else "/dev/shm")
    if source:
        return [_bind("/dev/shm", source, ("rbind", "rprivate"))]
    size = f"size={container.host_config.shm_size_bytes}"
    return [msgspec.structs.replace(mount, options=(*mount.options, size))]


def _asked_mounts(container: Container, around: Surroundings) -> list[oci.Mount]:
    """Volumes, binds and tmpfs by depth, then the three files that the network room writes."""
    tmpfs = [_tmpfs(target, options) for target, options in container.host_config.tmpfs.items()]
    covered = {mount.destination for mount in tmpfs}
    points = [
        _mount_point(point, around)
        for point in container.mount_points
        if point.destination not in covered
    ]
    asked = sorted([*tmpfs, *points], key=lambda mount: mounts.depth(mount.destination))
    taken = {mount.destination for mount in asked}
    # moby container_unix.go NetworkMounts: written by the engine, and with the root read-only.
    is_read_only = container.host_config.readonly_rootfs
    options = ("rbind", "ro", "rprivate") if is_read_only else ("rbind", "rprivate")
    files = [
        _bind(target, source, options)
        for target, source in around.network_files.items()
        if target not in taken
    ]
    return [*asked, *files]


def _tmpfs(target: str, data: str) -> oci.Mount:
    return oci.Mount(
        destination=target, type="tmpfs", source="tmpfs", options=mounts.tmpfs_options(data)
    )


def _mount_point(point: MountPoint, around: Surroundings) -> oci.Mount:
    if point.type is MountType.TMPFS:
        asked = point.spec.tmpfs_options if point.spec else None
        data = mounts.tmpfs_data(asked, read_only=not point.is_writable)
        return _tmpfs(point.destination, data)
    return _bind(point.destination, point.source, _bind_options(point, around))


def _bind(target: str, source: str, options: tuple[str, ...]) -> oci.Mount:
    return oci.Mount(destination=target, type="bind", source=source, options=options)


def _bind_options(point: MountPoint, around: Surroundings) -> tuple[str, ...]:
    asked = point.spec.bind_options if point.spec else None
    words = ["bind" if asked and asked.non_recursive else "rbind"]
    if not point.is_writable:
        words.append(_read_only_word(point, around))
    if point.propagation:
        words.append(point.propagation)
    return tuple(words)


def _read_only_word(point: MountPoint, around: Surroundings) -> str:
    """All below as well where the kernel can, unless only the mount itself was meant."""
    asked = point.spec.bind_options if point.spec else None
    if asked and asked.read_only_non_recursive:
        return "ro"
    if around.has_recursive_read_only:
        return "rro"
    if asked and asked.read_only_force_recursive:
        raise SpecFailure("rro is not supported: kernel version is older than 5.12")
    return "ro"


def _read_only(mount: oci.Mount, taken: set[str]) -> oci.Mount:
    target = mount.destination
    if target in _NEVER_READ_ONLY or target in taken or "ro" in mount.options:
        return mount
    return msgspec.structs.replace(mount, options=(*mount.options, "ro"))


def _unlocked(mount: oci.Mount, container: Container, around: Surroundings) -> oci.Mount:
    """/sys and the cgroups are writable for a privileged container, or on request."""
    privileged = container.host_config.privileged
    writable_cgroups = around.security.writable_cgroups
    is_cgroup = mount.type == "cgroup"
    opened = (is_cgroup and (privileged if writable_cgroups is None else writable_cgroups)) or (
        privileged and mount.destination == "/sys"
    )
    if not opened:
        return mount
    kept = tuple(option for option in mount.options if option != "ro")
    return msgspec.structs.replace(mount, options=kept)


# Linux


_NAMESPACE_ORDER = ("mount", "network", "uts", "pid", "ipc", "cgroup", "user")


def _linux(container: Container, around: Surroundings) -> oci.Linux:
    host_config = container.host_config
    own = {kind for kind, path in around.namespaces.items() if path == OWN}
    if is_private_network(host_config.network_mode):
        own.add("network")  # the file to join was made for this container alone
    return oci.Linux(
        namespaces=tuple(
            oci.Namespace(type=kind, path=around.namespaces[kind])
            for kind in _NAMESPACE_ORDER
            if kind in around.namespaces
        ),
        devices=tuple(around.devices),
        cgroups_path=around.cgroup_path,
        resources=limits.to_oci(
            host_config.resources, around.device_rules, numbers=around.device_numbers
        ),
        rootfs_propagation=_root_propagation(container),
        sysctl={
            **sysctls.defaults(owns_network="network" in own),
            **sysctls.check(host_config.sysctls, own),
        },
        masked_paths=() if host_config.privileged else host_config.masked_paths or (),
        readonly_paths=() if host_config.privileged else host_config.readonly_paths or (),
    )


def _root_propagation(container: Container) -> str:
    """Mounts that shall reach in, or out, need a root that lets them."""
    asked = {point.propagation.removeprefix("r") for point in container.mount_points}
    if "shared" in asked:
        return "shared"
    return "rslave" if "slave" in asked else ""
