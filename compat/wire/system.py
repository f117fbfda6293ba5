"""Bodies about the engine as a whole."""

from __future__ import annotations

from msgspec import field

from compat.wire.base import UNSET, Omitted, Request, Response
from compat.wire.containers import ContainerSummary
from compat.wire.images import ImageUsage
from compat.wire.volumes import Volume


class ErrorResponse(Response, frozen=True, kw_only=True, rename=None):
    message: str


class AuthRequest(Request, frozen=True, kw_only=True, rename="lower"):
    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class AuthResponse(Response, frozen=True, kw_only=True):
    identity_token: str
    status: str


class PlatformName(Response, frozen=True, kw_only=True):
    name: str


class ComponentVersion(Response, frozen=True, kw_only=True):
    name: str
    version: str
    details: dict[str, str] | Omitted = UNSET


class VersionResponse(Response, frozen=True, kw_only=True):
    platform: PlatformName
    components: tuple[ComponentVersion, ...]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str
    go_version: str
    os: str
    arch: str
    kernel_version: str
    experimental: bool | Omitted = UNSET
    build_time: str | Omitted = UNSET


class PluginsInfo(Response, frozen=True, kw_only=True):
    volume: tuple[str, ...] | None
    network: tuple[str, ...] | None
    authorization: tuple[str, ...] | None
    log: tuple[str, ...] | None


class IndexInfo(Response, frozen=True, kw_only=True):
    mirrors: tuple[str, ...]
    name: str
    official: bool
    secure: bool


class RegistryConfig(Response, frozen=True, kw_only=True):
    allow_nondistributable_artifacts_cidrs: tuple[str, ...] | Omitted | None = field(
        default=UNSET, name="AllowNondistributableArtifactsCIDRs"
    )
    allow_nondistributable_artifacts_hostnames: tuple[str, ...] | Omitted | None = UNSET
    index_configs: dict[str, IndexInfo]
    insecure_registry_cidrs: tuple[str, ...] = field(name="InsecureRegistryCIDRs")
    mirrors: tuple[str, ...] | None


class Runtime(Response, frozen=True, kw_only=True):
    path: str | Omitted = field(default=UNSET, name="path")
    runtime_args: tuple[str, ...] | Omitted = field(default=UNSET, name="runtimeArgs")
    runtime_type: str | Omitted = field(default=UNSET, name="runtimeType")
    status: dict[str, str] | Omitted = field(default=UNSET, name="status")


class SwarmInfo(Response, frozen=True, kw_only=True):
    node_id: str = field(default="", name="NodeID")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: None = None


class Commit(Response, frozen=True, kw_only=True):
    id: str = field(default="", name="ID")
    expected: str | Omitted = UNSET


class AddressPool(Response, frozen=True, kw_only=True):
    base: str
    size: int


class FirewallInfo(Response, frozen=True, kw_only=True):
    driver: str
    info: tuple[tuple[str, str], ...] | Omitted = UNSET


class InfoResponse(Response, frozen=True, kw_only=True):
    id: str = field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: tuple[tuple[str, str], ...]
    plugins: PluginsInfo
    memory_limit: bool
    swap_limit: bool
    kernel_memory: bool | Omitted = UNSET
    kernel_memory_tcp: bool | Omitted = field(default=UNSET, name="KernelMemoryTCP")
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = field(name="CPUShares")
    cpu_set: bool = field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = field(name="IPv4Forwarding")
    bridge_nf_iptables: bool | Omitted = field(default=UNSET, name="BridgeNfIptables")
    bridge_nf_ip6tables: bool | Omitted = field(default=UNSET, name="BridgeNfIp6tables")
    debug: bool
    n_fd: int
    oom_kill_disable: bool
    n_goroutines: int
    system_time: str
    logging_driver: str
    cgroup_driver: str
    cgroup_version: str | Omitted = UNSET
    n_events_listener: int
    kernel_version: str
    operating_system: str
    os_version: str = field(name="OSVersion")
    os_type: str = field(name="OSType")
    architecture: str
    index_server_address: str
    registry_config: RegistryConfig
    ncpu: int = field(name="NCPU")
    mem_total: int
    generic_resources: None = None
    docker_root_dir: str
    http_proxy: str
    https_proxy: str
    no_proxy: str
    name: str
    labels: tuple[str, ...]
    experimental_build: bool
    server_version: str
    runtimes: dict[str, Runtime]
    default_runtime: str
    swarm: SwarmInfo = SwarmInfo()
    live_restore_enabled: bool
    isolation: str = ""
    init_binary: str
    containerd_commit: Commit = Commit()
    runc_commit: Commit = Commit()
    init_commit: Commit = Commit()
    security_options: tuple[str, ...]
    product_license: str | Omitted = UNSET
    default_address_pools: tuple[AddressPool, ...] | Omitted = UNSET
    firewall_backend: FirewallInfo | Omitted = UNSET
    cdi_spec_dirs: tuple[str, ...] | None = field(name="CDISpecDirs")
    warnings: tuple[str, ...] | None


class DiskUsageResponse(Response, frozen=True, kw_only=True):
    layers_size: int
    images: tuple[ImageUsage, ...] | None
    containers: tuple[ContainerSummary, ...] | None
    volumes: tuple[Volume, ...] | None
    build_cache: tuple[Commit, ...] | None


class Actor(Response, frozen=True, kw_only=True):
    id: str = field(name="ID")
    attributes: dict[str, str]


class EventMessage(Response, frozen=True, kw_only=True):
    """`status`, `id` and `from` repeat, for old clients, what `actor` says about containers."""

    status: str | Omitted = field(default=UNSET, name="status")
    id: str | Omitted = field(default=UNSET, name="id")
    source: str | Omitted = field(default=UNSET, name="from")
    type: str
    action: str
    actor: Actor
    scope: str | Omitted = field(default=UNSET, name="scope")
    time: int = field(name="time")
    time_nano: int = field(name="timeNano")
