"""What the engine was told before it started: one frozen value, read once.

The names are those of the configuration file with underscores, units added where the type cannot
say them. Every field has the default that a daemon without flags and without a file runs with.
How flags and `daemon.json` become this value is the affair of `compat.daemon`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

DEFAULT_DATA_ROOT = "/var/lib/wharf"
DEFAULT_EXEC_ROOT = "/run/wharf"
DEFAULT_PIDFILE = "/run/wharfd.pid"
DEFAULT_CONFIG_FILE = "/etc/docker/daemon.json"
DEFAULT_HOST = "unix:///var/run/docker.sock"
BUILTIN_RUNTIME = "wharf"

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool:
    """Networks are cut out of `base` ("10.10.0.0/16"), each with a prefix of `size` bits."""

    base: str
    size: int

    def __str__(self) -> str:
        return f"{self.base} {self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Another OCI runtime that containers may ask for by name.

    `path` is a program (runc's command line); `type` a containerd shim, which this engine does not
    run and refuses when a container asks for it.
    """

    path: str = ""
    args: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    name: str
    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{self.name}={self.soft}:{self.hard}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything a flag or a key of the file decides."""

    # Where things are
    data_root: str = DEFAULT_DATA_ROOT
    exec_root: str = DEFAULT_EXEC_ROOT
    pidfile: str = DEFAULT_PIDFILE  # "" for none
    config_file: str = DEFAULT_CONFIG_FILE

    # Who may talk to the daemon
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    group: str = "docker"
    tls: bool = False
    tls_verify: bool = False
    tls_ca_cert: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    allow_insecure_tcp: bool = False

    # What the daemon says of itself
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"  # or "json"
    labels: tuple[str, ...] = ()  # "key=value"
    experimental: bool = False
    features: dict[str, bool] = field(default_factory=dict[str, bool])
    metrics_addr: str = ""

    # Life and death
    live_restore: bool = True
    shutdown_timeout_s: int = 15

    # Registries
    registry_mirrors: tuple[str, ...] = ()  # of docker.io; URLs with a trailing slash
    registries: dict[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]]
    )  # mirrors by registry
    insecure_registries: tuple[str, ...] = ()  # host, host:port or CIDR; loopback always is
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    # The default bridge
    bridge: str = ""  # "" is the engine's own, "none" is no bridge at all
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    ip: str = "0.0.0.0"  # where ports are published unless the container says otherwise
    icc: bool = True
    ipv6: bool = False
    ip_masq: bool = True
    mtu: int = 1500

    # All networks
    default_address_pools: tuple[AddressPool, ...] = ()  # none: the pools that Docker has
    default_network_opts: dict[str, dict[str, str]] = field(
        default_factory=dict[str, dict[str, str]]
    )
    iptables: bool = True  # IPv4 rules of ours in the firewall
    ip6tables: bool = True
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    allow_direct_routing: bool = False
    userland_proxy: bool = True
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    host_gateway_ips: tuple[str, ...] = ()  # none: the default bridge's own

    # Containers that say nothing else
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict[str, str])
    default_ulimits: tuple[Ulimit, ...] = ()
    default_shm_size_bytes: int = 64 * MIB
    default_runtime: str = BUILTIN_RUNTIME
    exec_opts: tuple[str, ...] = ()
    cgroup_parent: str = ""  # "" is the engine's own, named after the instance
    default_cgroupns_mode: str | None = None  # None: private on cgroup v2, the host's on v1
    default_ipc_mode: str = "private"
    init: bool = False
    init_path: str = ""
    seccomp_profile: str = "builtin"  # or "unconfined", or the path of a profile
    no_new_privileges: bool = False
    selinux_enabled: bool = False

    @property
    def instance(self) -> str:
        """Eight hex digits made of the data-root, in every name this engine has on the host.

        Two daemons on one host, parallel tests and another engine stay apart by it.
        """
        return hashlib.sha256(self.data_root.encode()).hexdigest()[:8]

    @property
    def is_default_instance(self) -> bool:
        """Whether this is the host's engine, the one that may call its bridge docker0."""
        return self.data_root == DEFAULT_DATA_ROOT
