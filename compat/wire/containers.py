"""Bodies about containers and execs. Shapes that go both ways are written once."""

from __future__ import annotations

import msgspec
from msgspec import field

from compat.wire.base import (
    UNSET,
    Duration,
    Int,
    Int64,
    Omitted,
    Request,
    Response,
    StrSlice,
    Uint,
    Uint16,
    Uint64,
)

# Both ways


class Empty(msgspec.Struct, frozen=True):
    """`{}`: the value of a set written as an object."""


EMPTY = Empty()


class HealthConfig(Request, frozen=True, kw_only=True):
    test: tuple[str, ...] | Omitted | None = UNSET
    interval: Duration | Omitted = UNSET
    timeout: Duration | Omitted = UNSET
    start_period: Duration | Omitted = UNSET
    start_interval: Duration | Omitted = UNSET
    retries: Int | Omitted = UNSET


class Config(Request, frozen=True, kw_only=True):
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Empty] | Omitted | None = UNSET
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] | None = None
    cmd: StrSlice | None = None
    healthcheck: HealthConfig | Omitted | None = UNSET
    args_escaped: bool | Omitted = UNSET
    image: str | Omitted = UNSET
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: StrSlice | None = None
    network_disabled: bool | Omitted = UNSET
    mac_address: str | Omitted = UNSET
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | Omitted = UNSET
    stop_timeout: Int | Omitted | None = UNSET
    shell: StrSlice | Omitted | None = UNSET


class LogConfig(Request, frozen=True, kw_only=True):
    type: str = ""
    config: dict[str, str] | None = None


class PortBinding(Request, frozen=True, kw_only=True):
    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Request, frozen=True, kw_only=True):
    name: str = ""
    maximum_retry_count: Int = 0


class WeightDevice(Request, frozen=True, kw_only=True):
    path: str = ""
    weight: Uint16 = 0


class ThrottleDevice(Request, frozen=True, kw_only=True):
    path: str = ""
    rate: Uint64 = 0


class DeviceMapping(Request, frozen=True, kw_only=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Request, frozen=True, kw_only=True):
    driver: str = ""
    count: Int = 0
    device_ids: tuple[str, ...] | None = field(default=None, name="DeviceIDs")
    capabilities: tuple[tuple[str, ...], ...] | None = None
    options: dict[str, str] | None = None


class Ulimit(Request, frozen=True, kw_only=True):
    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class BindOptions(Request, frozen=True, kw_only=True):
    propagation: str | Omitted = UNSET
    non_recursive: bool | Omitted = UNSET
    create_mountpoint: bool | Omitted = UNSET
    read_only_non_recursive: bool | Omitted = UNSET
    read_only_force_recursive: bool | Omitted = UNSET


class VolumeDriver(Request, frozen=True, kw_only=True):
    name: str | Omitted = UNSET
    options: dict[str, str] | Omitted = UNSET


class VolumeOptions(Request, frozen=True, kw_only=True):
    no_copy: bool | Omitted = UNSET
    labels: dict[str, str] | Omitted = UNSET
    subpath: str | Omitted = UNSET
    driver_config: VolumeDriver | Omitted = UNSET


class ImageOptions(Request, frozen=True, kw_only=True):
    subpath: str | Omitted = UNSET


class TmpfsOptions(Request, frozen=True, kw_only=True):
    size_bytes: Int64 | Omitted = UNSET
    mode: Uint64 | Omitted = UNSET
    options: tuple[tuple[str, ...], ...] | Omitted = UNSET


class Mount(Request, frozen=True, kw_only=True):
    type: str | Omitted = UNSET
    source: str | Omitted = UNSET
    target: str | Omitted = UNSET
    read_only: bool | Omitted = UNSET
    consistency: str | Omitted = UNSET
    bind_options: BindOptions | Omitted = UNSET
    volume_options: VolumeOptions | Omitted = UNSET
    image_options: ImageOptions | Omitted = UNSET
    tmpfs_options: TmpfsOptions | Omitted = UNSET
    cluster_options: Empty | Omitted = UNSET


class HostConfig(Request, frozen=True, kw_only=True):
    """Also what an update sends: its limits and restart policy are fields of this."""

    binds: tuple[str, ...] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, tuple[PortBinding, ...] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] | None = None
    console_size: tuple[Uint, Uint] = (0, 0)
    annotations: dict[str, str] | Omitted = UNSET
    cap_add: StrSlice | None = None
    cap_drop: StrSlice | None = None
    cgroupns_mode: str = ""
    dns: tuple[str, ...] | None = None
    dns_options: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None
    extra_hosts: tuple[str, ...] | None = None
    group_add: tuple[str, ...] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] | None = None
    oom_score_adj: Int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] | None = None
    storage_opt: dict[str, str] | Omitted = UNSET
    tmpfs: dict[str, str] | Omitted = UNSET
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] | Omitted = UNSET
    runtime: str | Omitted = UNSET
    isolation: str = ""
    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Uint16 = 0
    blkio_weight_device: tuple[WeightDevice, ...] | None = None
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = None
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = field(
        default=None, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = field(
        default=None, name="BlkioDeviceWriteIOps"
    )
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] | None = None
    device_cgroup_rules: tuple[str, ...] | None = None
    device_requests: tuple[DeviceRequest, ...] | None = None
    kernel_memory: Int64 | Omitted = UNSET
    kernel_memory_tcp: Int64 | Omitted = field(default=UNSET, name="KernelMemoryTCP")
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: tuple[Ulimit, ...] | None = None
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Uint64 = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: Uint64 = field(default=0, name="IOMaximumBandwidth")
    mounts: tuple[Mount, ...] | Omitted = UNSET
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | Omitted | None = UNSET


class EndpointIPAMConfig(Request, frozen=True, kw_only=True):
    ipv4_address: str | Omitted = field(default=UNSET, name="IPv4Address")
    ipv6_address: str | Omitted = field(default=UNSET, name="IPv6Address")
    link_local_ips: tuple[str, ...] | Omitted = field(default=UNSET, name="LinkLocalIPs")


class EndpointSettings(Request, frozen=True, kw_only=True):
    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: Int = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: Int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: Int = field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: tuple[str, ...] | None = field(default=None, name="DNSNames")


# Requests


class NetworkingConfig(Request, frozen=True, kw_only=True):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class ContainerCreateRequest(Config, frozen=True, kw_only=True):
    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ExecCreateRequest(Request, frozen=True, kw_only=True):
    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[Uint, Uint] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] | None = None
    working_dir: str = ""
    cmd: tuple[str, ...] | None = None


class ExecStartRequest(Request, frozen=True, kw_only=True):
    detach: bool = False
    tty: bool = False
    console_size: tuple[Uint, Uint] | None = None


# Responses


class ContainerCreateResponse(Response, frozen=True, kw_only=True):
    id: str
    warnings: tuple[str, ...] | None


class CommitResponse(Response, frozen=True, kw_only=True):
    id: str


class FilesystemChange(Response, frozen=True, kw_only=True):
    path: str
    kind: int


class ContainerUpdateResponse(Response, frozen=True, kw_only=True):
    warnings: tuple[str, ...] | None


class WaitError(Response, frozen=True, kw_only=True):
    message: str


class ContainerWaitResponse(Response, frozen=True, kw_only=True):
    error: WaitError | Omitted = UNSET
    status_code: int


class ContainerTopResponse(Response, frozen=True, kw_only=True):
    processes: tuple[tuple[str, ...], ...]
    titles: tuple[str, ...]


class ContainerPruneResponse(Response, frozen=True, kw_only=True):
    containers_deleted: tuple[str, ...] | None
    space_reclaimed: int


class ExecCreateResponse(Response, frozen=True, kw_only=True):
    id: str


class HealthcheckResult(Response, frozen=True, kw_only=True):
    start: str
    end: str
    exit_code: int
    output: str


class Health(Response, frozen=True, kw_only=True):
    status: str
    failing_streak: int
    log: tuple[HealthcheckResult, ...] | None


class State(Response, frozen=True, kw_only=True):
    status: str
    running: bool
    paused: bool
    restarting: bool
    oom_killed: bool = field(name="OOMKilled")
    dead: bool
    pid: int
    exit_code: int
    error: str
    started_at: str
    finished_at: str
    health: Health | Omitted = UNSET


class GraphDriver(Response, frozen=True, kw_only=True):
    data: dict[str, str] | None
    name: str


class MountPoint(Response, frozen=True, kw_only=True):
    type: str | Omitted = UNSET
    name: str | Omitted = UNSET
    source: str
    destination: str
    driver: str | Omitted = UNSET
    mode: str
    rw: bool = field(name="RW")
    propagation: str


class NetworkAddress(Response, frozen=True, kw_only=True):
    addr: str
    prefix_len: int


class NetworkSettings(Response, frozen=True, kw_only=True):
    bridge: str = ""
    sandbox_id: str = field(name="SandboxID")
    sandbox_key: str
    ports: dict[str, tuple[PortBinding, ...] | None] | None
    hairpin_mode: bool = False
    link_local_ipv6_address: str = field(default="", name="LinkLocalIPv6Address")
    link_local_ipv6_prefix_len: int = field(default=0, name="LinkLocalIPv6PrefixLen")
    secondary_ip_addresses: tuple[NetworkAddress, ...] | None = field(
        default=None, name="SecondaryIPAddresses"
    )
    secondary_ipv6_addresses: tuple[NetworkAddress, ...] | None = field(
        default=None, name="SecondaryIPv6Addresses"
    )
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = field(default=0, name="GlobalIPv6PrefixLen")
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    mac_address: str = ""
    networks: dict[str, EndpointSettings] | None


class ContainerInspectResponse(Response, frozen=True, kw_only=True):
    id: str
    created: str
    path: str
    args: tuple[str, ...]
    state: State
    image: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    log_path: str
    name: str
    restart_count: int
    driver: str
    platform: str
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: tuple[str, ...] | None = field(name="ExecIDs")
    host_config: HostConfig
    graph_driver: GraphDriver
    size_rw: int | Omitted = UNSET
    size_root_fs: int | Omitted = UNSET
    mounts: tuple[MountPoint, ...]
    config: Config
    network_settings: NetworkSettings


class Port(Response, frozen=True, kw_only=True):
    ip: str | Omitted = field(default=UNSET, name="IP")
    private_port: int
    public_port: int | Omitted = UNSET
    type: str


class SummaryHostConfig(Response, frozen=True, kw_only=True):
    network_mode: str | Omitted = UNSET
    annotations: dict[str, str] | Omitted = UNSET


class SummaryNetworkSettings(Response, frozen=True, kw_only=True):
    networks: dict[str, EndpointSettings]


class ContainerSummary(Response, frozen=True, kw_only=True):
    id: str
    names: tuple[str, ...]
    image: str
    image_id: str = field(name="ImageID")
    command: str
    created: int
    ports: tuple[Port, ...]
    size_rw: int | Omitted = UNSET
    size_root_fs: int | Omitted = UNSET
    labels: dict[str, str]
    state: str
    status: str
    host_config: SummaryHostConfig
    network_settings: SummaryNetworkSettings
    mounts: tuple[MountPoint, ...]


class ExecProcessConfig(Response, frozen=True, kw_only=True):
    tty: bool = field(name="tty")
    entrypoint: str = field(name="entrypoint")
    arguments: tuple[str, ...] = field(name="arguments")
    privileged: bool | Omitted = field(default=UNSET, name="privileged")
    user: str | Omitted = field(default=UNSET, name="user")


class ExecInspectResponse(Response, frozen=True, kw_only=True):
    id: str = field(name="ID")
    running: bool
    exit_code: int | None
    process_config: ExecProcessConfig
    open_stdin: bool
    open_stderr: bool
    open_stdout: bool
    can_remove: bool
    container_id: str = field(name="ContainerID")
    detach_keys: str
    pid: int
