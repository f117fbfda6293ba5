"""What a container is: what was asked for, what was made of it, how it stands.

`Config` travels with an image, `HostConfig` belongs to the host, `EndpointConfig` to one network.
All are frozen: a change is a new value, written to the database before it is believed.
Durations end in `_s` or `_ns`, sizes in `_bytes`; absolute times are nanoseconds since the epoch.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec

from engine.ids import ContainerId
from engine.network.model import Endpoint as Endpoint
from engine.network.model import EndpointConfig as EndpointConfig
from engine.network.model import EndpointIPAM as EndpointIPAM
from engine.network.model import PortBinding as PortBinding
from engine.network.model import PublishedPort as PublishedPort
from engine.oci.reference import Reference

VERSION = 1
"""Version of the stored document; raised with a migration."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the values below; defaults are not stored."""


# What was asked for


class Healthcheck(Frozen, frozen=True, kw_only=True):
    """`test` is empty to inherit, ("NONE",) to disable, else ("CMD", …) or ("CMD-SHELL", line)."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class Config(Frozen, frozen=True, kw_only=True):
    """The portable half. `cmd`, `entrypoint` and the like are None where nothing was said."""

    image: str = ""
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: tuple[str, ...] = ()  # "80/tcp"
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()  # "NAME=value"; "NAME" alone removes it
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    volumes: tuple[str, ...] = ()  # destinations of anonymous volumes
    working_dir: str = ""
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] = {}
    stop_signal: str | None = None
    stop_timeout_s: int | None = None
    shell: tuple[str, ...] | None = None


class RestartPolicyName(StrEnum):
    NO = "no"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"
    ON_FAILURE = "on-failure"


class RestartPolicy(Frozen, frozen=True, kw_only=True):
    name: RestartPolicyName = RestartPolicyName.NO
    maximum_retry_count: int = 0


class LogConfig(Frozen, frozen=True, kw_only=True):
    """`type` is "" for the daemon's default."""

    type: str = ""
    config: dict[str, str] = {}


class WeightDevice(Frozen, frozen=True, kw_only=True):
    path: str
    weight: int


class ThrottleDevice(Frozen, frozen=True, kw_only=True):
    path: str
    rate: int


class DeviceMapping(Frozen, frozen=True, kw_only=True):
    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Frozen, frozen=True, kw_only=True):
    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] | None = None
    capabilities: tuple[tuple[str, ...], ...] | None = None
    options: dict[str, str] = {}


class Ulimit(Frozen, frozen=True, kw_only=True):
    name: str
    soft: int
    hard: int


class BindOptions(Frozen, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeOptions(Frozen, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_name: str = ""
    driver_options: dict[str, str] = {}
    has_driver_config: bool = False
    subpath: str = ""


class TmpfsOptions(Frozen, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class MountType(StrEnum):
    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"
    IMAGE = "image"
    NPIPE = "npipe"
    CLUSTER = "cluster"


class MountRequest(Frozen, frozen=True, kw_only=True):
    """An entry of `--mount`. `type` stays a str: an unknown one is refused with its name."""

    type: str
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_subpath: str | None = None


class Resources(Frozen, frozen=True, kw_only=True):
    """Limits. 0 and "" mean no limit was asked for; None where 0 would mean something."""

    cpu_shares: int = 0
    memory_bytes: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: tuple[WeightDevice, ...] | None = None
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = None
    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpu_realtime_period_us: int = 0
    cpu_realtime_runtime_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] | None = None
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    memory_reservation_bytes: int = 0
    memory_swap_bytes: int = 0  # memory and swap together; -1 unlimited
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None  # -1 unlimited
    ulimits: tuple[Ulimit, ...] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = 0
    io_maximum_bandwidth: int = 0


class HostConfig(Frozen, frozen=True, kw_only=True):
    """The half that belongs to this host. Tuples are None where the client said nothing."""

    resources: Resources = Resources()
    binds: tuple[str, ...] | None = None  # "source:target[:options]", as typed
    container_id_file: str = ""
    log_config: LogConfig = LogConfig()
    network_mode: str = ""  # "" and "default" mean the default network
    port_bindings: dict[str, tuple[PortBinding, ...]] | None = None  # "80/tcp" → …
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    console_size: tuple[int, int] = (0, 0)  # height, width
    annotations: dict[str, str] = {}
    cap_add: tuple[str, ...] | None = None
    cap_drop: tuple[str, ...] | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None  # "name:address"
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}  # target → options
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size_bytes: int = 0  # 0: the daemon's default
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    mounts: tuple[MountRequest, ...] | None = None
    masked_paths: tuple[str, ...] | None = None  # None: the defaults; (): none
    readonly_paths: tuple[str, ...] | None = None
    has_init: bool | None = None  # None: the daemon's default


class CreateRequest(Frozen, frozen=True, kw_only=True):
    """Everything `create` takes. `name` has no slash; "" asks for a generated one."""

    name: str = ""
    platform: str = ""
    config: Config
    host_config: HostConfig = HostConfig()
    endpoints: dict[str, EndpointConfig] = {}  # by what the client called the network


# How it stands


class Status(StrEnum):
    """One value inside; the API's overlapping booleans are made of it in compat."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"  # waits to be started again by its policy
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"  # removal failed half way; only removal is possible


class HealthStatus(StrEnum):
    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthResult(Frozen, frozen=True, kw_only=True):
    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class Health(Frozen, frozen=True, kw_only=True):
    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class State(Frozen, frozen=True, kw_only=True):
    """`pid` is 0 unless a process exists; `error` is the sentence of a failed start."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0  # 0: never
    finished_ns: int = 0
    restart_count: int = 0
    is_manually_stopped: bool = False
    is_held: bool = False  # paused by a commit, which lets it go on again
    gives_up_volumes: bool = False  # being removed together with its anonymous volumes
    health: Health | None = None


class MountPoint(Frozen, frozen=True, kw_only=True):
    """A mount of the container other than its root, resolved: where from, where to, how."""

    type: MountType
    source: str  # a path on the host ("" for tmpfs)
    destination: str
    name: str = ""  # of the volume
    driver: str = ""
    mode: str = ""  # as typed after the second colon
    is_writable: bool = True
    propagation: str = ""
    no_copy: bool = False
    is_anonymous: bool = False  # a volume that goes with the last container that has it
    is_inherited: bool = False  # from another container
    subpath: str = ""
    spec: MountRequest | None = None
    created_source: bool = False

    @property
    def is_filled(self) -> bool:
        """Whether it is a volume that begins, if empty, as a copy of what it covers."""
        return self.type is MountType.VOLUME and not self.no_copy and not self.subpath


class Link(Frozen, frozen=True, kw_only=True):
    """A container by a name of the holder's own; `name` is what it was called when that began."""

    container_id: str
    name: str
    alias: str


class Container(Frozen, frozen=True, kw_only=True):
    """The stored document of one container: the row is this, and nothing else is believed.

    What is unsettled is about to be done in the kernel, or was done: an engine that finds it at its
    start takes that endpoint away, and sets these limits.
    """

    version: int = VERSION
    id: ContainerId
    name: str
    created_ns: int
    config: Config  # the image's config merged in
    host_config: HostConfig  # defaults filled in
    image_id: str  # "sha256:…"
    platform_os: str = "linux"
    path: str = ""  # what runs: entrypoint and cmd joined, then split
    args: tuple[str, ...] = ()
    state: State = State()
    mount_points: tuple[MountPoint, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    links: tuple[Link, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    sandbox_id: str = ""
    sandbox_key: str = ""
    snapshot_key: str = ""
    log_path: str = ""
    resolv_conf_path: str = ""
    hosts_path: str = ""
    hostname_path: str = ""
    cgroup_path: str = ""
    apparmor_profile: str = ""
    unsettled_endpoint: str = ""
    has_unsettled_limits: bool = False


class ExecConfig(Frozen, frozen=True, kw_only=True):
    user: str = ""
    is_privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] = ()
    linked_env: tuple[str, ...] = ()  # what the container's links stood for when it was made
    working_dir: str = ""
    cmd: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For events; dockerd puts a space behind the program even where no argument follows."""
        return f"{self.cmd[0]} {' '.join(self.cmd[1:])}"


class Exec(Frozen, frozen=True, kw_only=True):
    """One exec'd process; `exit_code` is None until it ended."""

    id: str
    container_id: ContainerId
    config: ExecConfig
    pid: int = 0
    is_running: bool = False
    exit_code: int | None = None


# Answers of the public verbs


class Created(Frozen, frozen=True, kw_only=True):
    id: ContainerId
    warnings: tuple[str, ...] = ()


class Sizes(Frozen, frozen=True, kw_only=True):
    """`rw_bytes`: the container's own layer; `rootfs_bytes`: that and its image's together."""

    rw_bytes: int
    rootfs_bytes: int


class ContainerView(Frozen, frozen=True, kw_only=True):
    """All that inspect shows; `directories` are the overlay's, empty when there is none.

    `links` are (name, alias) of those it links to, `link_names` the "holder/alias" that others call
    it by.
    """

    container: Container
    exec_ids: tuple[str, ...] = ()
    directories: dict[str, str] = {}  # LowerDir, UpperDir, WorkDir, MergedDir
    sizes: Sizes | None = None
    links: tuple[tuple[str, str], ...] = ()
    link_names: tuple[str, ...] = ()
    image_name: str = ""  # what a list shows: the reference typed, or the id if it moved on


class CommitRequest(Frozen, frozen=True, kw_only=True):
    """`config` replaces the container's before the `changes`; `ref` is the image's name, if any."""

    ref: Reference | None = None
    config: Config | None = None
    changes: tuple[str, ...] = ()
    author: str = ""
    comment: str = ""
    pause: bool = True


class ChangeKind(IntEnum):
    """The numbers are the API's."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(NamedTuple):
    """`path` begins with a slash; bytes that are no UTF-8 are escaped as the interpreter does."""

    path: str
    kind: ChangeKind


class ListQuery(Frozen, frozen=True, kw_only=True):
    """`filters` maps a filter's name to its values; `limit` 0 means all."""

    all: bool = False
    limit: int = 0
    with_size: bool = False
    filters: dict[str, tuple[str, ...]] = {}


class WaitCondition(StrEnum):
    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


class WaitResult(Frozen, frozen=True, kw_only=True):
    exit_code: int
    error: str = ""


class LogsQuery(Frozen, frozen=True, kw_only=True):
    """`tail` is a number of lines, None for all; times in nanoseconds, None for no bound."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None


class AttachOptions(Frozen, frozen=True, kw_only=True):
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: str = ""  # "" for the default, ctrl-p,ctrl-q


class Processes(Frozen, frozen=True, kw_only=True):
    """Answer of top: column titles and one row a process, as ps prints them."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Pruned(Frozen, frozen=True, kw_only=True):
    ids: tuple[str, ...]
    reclaimed_bytes: int
