"""Every option that dockerd 28 has, and what it means here: one table.

An option is honoured (it has a field in EngineConfig), or known and without effect (`no_effect`
says why, and the daemon warns when it is used), or refused where going on without it would be a
lie (`refused` is the sentence; `refuse` makes one for the values that it is about). Whatever is not
in the table is an error that names it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any

from compat.daemon import checks
from compat.daemon.values import (
    Anything,
    Boolean,
    Integer,
    Kind,
    Pairs,
    PairsByKey,
    Pools,
    Registries,
    Runtimes,
    Size,
    Strings,
    Switches,
    Text,
    Ulimits,
)
from engine.config import (
    BUILTIN_RUNTIME,
    DEFAULT_CONFIG_FILE,
    DEFAULT_DATA_ROOT,
    DEFAULT_EXEC_ROOT,
    DEFAULT_PIDFILE,
    EngineConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable


OWN_RUNTIMES = frozenset({BUILTIN_RUNTIME, "runc"})
LOG_DRIVERS = frozenset({"", "json-file", "none"})
ATTRIBUTES = frozenset(field.name for field in fields(EngineConfig))


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `key` is its name in the file: the flag's, unless said; "-" for none.

    `field` is the attribute of EngineConfig that it decides: the key with underscores, unless said;
    "-" for none.

    `shown` is the default as the help text has it, `harmless` a test for values that ask for
    nothing else than what is done anyway, so that no warning is due.
    """

    flag: str
    kind: Kind
    help: str
    _: KW_ONLY
    short: str = ""
    key: str = ""
    field: str = ""
    shown: str = ""
    hidden: bool = False
    deprecated: str = ""
    no_effect: str = ""
    harmless: Callable[[Any], bool] | None = None
    refused: str = ""
    refuse: Callable[[Any], str] | None = None

    def refusal(self, value: Any) -> str:
        """Why the daemon does not start with this value, "" if it does."""
        if self.refuse is not None:
            return self.refuse(value)
        return self.refused if value else ""

    @property
    def attribute(self) -> str:
        """The attribute of EngineConfig, "" if it has none."""
        name = self.field or (self.key or self.flag).replace("-", "_")
        return name if name in ATTRIBUTES else ""

    @property
    def is_secret(self) -> bool:
        """Whether the value may hold a password."""
        return self.flag in {"http-proxy", "https-proxy"}


def _no_containerd(what: str) -> str:
    return f"{what}: there is no containerd here"


def _refuse_storage(options: tuple[str, ...]) -> str:
    quota = next((o for o in options if o.partition("=")[0].strip().endswith(".size")), "")
    return f"storage-opt {quota}: this engine sets no disk quotas" if quota else ""


def _refuse_runtime(name: str) -> str:
    if name in OWN_RUNTIMES:
        return ""
    return f"default-runtime {name}: this engine runs containers itself and starts no other runtime"


def _refuse_log_driver(name: str) -> str:
    if name in LOG_DRIVERS:
        return ""
    return f"log-driver {name}: this engine writes logs by json-file only, or none"


def _refuse_cgroup_driver(options: tuple[str, ...]) -> str:
    for option in options:
        name, _, value = (part.strip() for part in option.partition("="))
        if name.lower() == "native.cgroupdriver" and value != "cgroupfs":
            return f"exec-opt {option}: containers are put into cgroups by the cgroupfs driver only"
    return ""


TABLE: tuple[Option, ...] = (
    # This start
    Option(
        "config-file",
        Text(),
        "File to read further options from",
        key="-",
        shown=f'"{DEFAULT_CONFIG_FILE}"',
    ),
    Option("validate", Boolean(), "Check flags and file, then exit", key="-"),
    Option(
        "check", Boolean(), "Say what this kernel offers and what is missing, then exit", key="-"
    ),
    Option("version", Boolean(), "Print the version and exit", short="v", key="-"),
    Option("help", Boolean(), "Print this text and exit", key="-"),
    # Where things are
    Option(
        "data-root",
        Text(),
        "Directory of images, containers and volumes",
        shown=f'"{DEFAULT_DATA_ROOT}"',
    ),
    Option(
        "exec-root",
        Text(),
        "Directory of what lives as long as the host is up",
        shown=f'"{DEFAULT_EXEC_ROOT}"',
    ),
    Option(
        "pidfile",
        Text(),
        "File that holds the daemon's process id",
        short="p",
        shown=f'"{DEFAULT_PIDFILE}"',
    ),
    # Who may talk to the daemon
    Option(
        "host",
        Strings(check=checks.host),
        "Address to listen on (unix://, tcp:// or fd://)",
        short="H",
        key="hosts",
    ),
    Option(
        "group",
        Text(),
        "Group that may use the unix socket",
        short="G",
        shown='"docker"',
    ),
    Option("tls", Boolean(), "Use TLS; implied by --tlsverify"),
    Option(
        "tlsverify", Boolean(), "Use TLS and demand a certificate of the client", field="tls_verify"
    ),
    Option(
        "tlscacert",
        Text(),
        "Clients' certificates are signed by this CA",
        field="tls_ca_cert",
        shown='"~/.docker/ca.pem"',
    ),
    Option(
        "tlscert",
        Text(),
        "The daemon's certificate",
        field="tls_cert",
        shown='"~/.docker/cert.pem"',
    ),
    Option(
        "tlskey",
        Text(),
        "The key of that certificate",
        field="tls_key",
        shown='"~/.docker/key.pem"',
    ),
    Option(
        "allow-insecure-tcp",
        Boolean(),
        "Listen on TCP beyond loopback without checking who connects",
    ),
    Option(
        "authorization-plugin",
        Strings(),
        "Plugins that are asked about each request",
        key="authorization-plugins",
        refused=(
            "authorization-plugins: this engine asks no authorization plugin, "
            "and will not let through what one would refuse"
        ),
    ),
    Option(
        "api-cors-header",
        Text(),
        "Removed from Docker",
        hidden=True,
        deprecated="accessing Docker API through a browser is insecure; "
        "use a reverse proxy if you need CORS headers",
        refused=(
            'DEPRECATED: The "api-cors-header" config parameter and the dockerd '
            '"--api-cors-header" option have been removed; '
            "use a reverse proxy if you need CORS headers"
        ),
    ),
    # What the daemon says of itself
    Option("debug", Boolean(), "Log what is done in detail", short="D"),
    Option(
        "log-level",
        Text(),
        'Log from this level on ("debug"|"info"|"warn"|"error"|"fatal")',
        short="l",
        shown='"info"',
    ),
    Option(
        "log-format",
        Text(),
        'Form of the daemon\'s own log ("text"|"json")',
        shown='"text"',
    ),
    Option(
        "raw-logs",
        Boolean(),
        "Full timestamps and no colours in the daemon's own log",
        no_effect="the log is never otherwise",
        harmless=lambda value: True,
    ),
    Option(
        "label",
        Strings(check=checks.label),
        "Label (key=value) of this daemon",
        key="labels",
    ),
    Option(
        "experimental",
        Boolean(),
        "Say in /info that experimental features are on",
    ),
    Option(
        "feature",
        Switches(),
        "Switch a feature on or off",
        key="features",
        shown="map[]",
        no_effect="no feature is switched by it in this engine",
        harmless=lambda value: not any(value.values()),
    ),
    Option(
        "metrics-addr",
        Text(),
        "Address of the metrics API",
        no_effect="metrics are not served yet",
    ),
    Option(
        "network-diagnostic-port",
        Integer(),
        "Port of the network diagnostic server",
        hidden=True,
        no_effect="there is no such server here",
    ),
    # Life and death
    Option(
        "live-restore",
        Boolean(),
        "Containers go on while the daemon is down",
        shown="true",
    ),
    Option(
        "shutdown-timeout",
        Integer(),
        "Seconds that containers have to end without live-restore",
        field="shutdown_timeout_s",
        shown="15",
    ),
    # Registries
    Option(
        "registry-mirror",
        Strings(check=checks.mirror),
        "Mirror of Docker Hub to try first",
        key="registry-mirrors",
    ),
    Option(
        "registry",
        Registries(),
        "Mirror of any registry to try first, like quay.io=https://mirror.example",
        key="registries",
    ),
    Option(
        "insecure-registry",
        Strings(check=checks.insecure_registry),
        "Registry that is spoken to without a checked certificate",
        key="insecure-registries",
    ),
    Option(
        "max-concurrent-downloads",
        Integer(),
        "Layers fetched at once for each pull",
        shown="3",
    ),
    Option(
        "max-concurrent-uploads",
        Integer(),
        "Layers sent at once",
        shown="5",
    ),
    Option(
        "max-download-attempts",
        Integer(),
        "Attempts at each layer of a pull",
        shown="5",
    ),
    Option("http-proxy", Text(), "Proxy for outgoing http:// requests"),
    Option("https-proxy", Text(), "Proxy for outgoing https:// requests"),
    Option(
        "no-proxy",
        Text(),
        "Hosts, comma between, that are reached without a proxy",
    ),
    Option(
        "allow-nondistributable-artifacts",
        Strings(),
        "Removed from Docker",
        hidden=True,
        deprecated="Pushing nondistributable artifacts is now enabled by default. ",
        no_effect="such layers are pushed anyway",
    ),
    # The default bridge
    Option(
        "bridge",
        Text(),
        'Use this bridge, or "none" at all, as default network',
        short="b",
    ),
    Option(
        "bip",
        Text(check=checks.interface),
        "IPv4 address of the default bridge, with prefix length",
    ),
    Option(
        "bip6",
        Text(check=checks.interface),
        "IPv6 address of the default bridge, with prefix length",
    ),
    Option(
        "fixed-cidr",
        Text(check=checks.network),
        "IPv4 subnet that the default bridge gives addresses from",
    ),
    Option(
        "fixed-cidr-v6",
        Text(check=checks.network),
        "IPv6 subnet that the default bridge gives addresses from",
    ),
    Option(
        "default-gateway",
        Text("ip", checks.ip),
        "IPv4 gateway of containers on the default bridge",
    ),
    Option(
        "default-gateway-v6",
        Text("ip", checks.ip),
        "IPv6 gateway of containers on the default bridge",
    ),
    Option(
        "ip",
        Text("ip", checks.ip),
        "Host address that ports are published on",
        shown="0.0.0.0",
    ),
    Option(
        "icc",
        Boolean(),
        "Containers on the default bridge reach each other",
        shown="true",
    ),
    Option("ipv6", Boolean(), "The default bridge has IPv6"),
    Option(
        "ip-masq",
        Boolean(),
        "Containers leave the host with its address",
        shown="true",
    ),
    Option("mtu", Integer(), "MTU of the default bridge", shown="1500"),
    # All networks
    Option(
        "default-address-pool",
        Pools(),
        "Pool (base=CIDR,size=BITS) that networks are cut from",
        key="default-address-pools",
    ),
    Option(
        "default-network-opt",
        PairsByKey(),
        "Option (driver=key=value) of new networks",
        key="default-network-opts",
        shown="map[]",
    ),
    Option(
        "iptables",
        Boolean(),
        "Have IPv4 rules of our own in the firewall",
        shown="true",
    ),
    Option(
        "ip6tables",
        Boolean(),
        "Have IPv6 rules of our own in the firewall",
        shown="true",
    ),
    Option(
        "ip-forward",
        Boolean(),
        "Switch the kernel's forwarding on",
        shown="true",
    ),
    Option(
        "ip-forward-no-drop",
        Boolean(),
        "Leave the policy for other forwarded traffic alone",
    ),
    Option(
        "allow-direct-routing",
        Boolean(),
        "Other hosts may reach published ports at containers' addresses",
    ),
    Option(
        "userland-proxy",
        Boolean(),
        "Relay what the firewall cannot redirect",
        shown="true",
        no_effect="what the kernel cannot redirect is relayed anyway, without a process a port",
        harmless=bool,
    ),
    Option(
        "userland-proxy-path", Text(), "Path of docker-proxy", no_effect="no such program is run"
    ),
    Option(
        "network-control-plane-mtu",
        Integer(),
        "MTU of swarm's control plane",
        shown="1500",
        no_effect="there is no swarm here",
    ),
    Option(
        "dns",
        Strings("ipSlice", checks.ip_of_dns, split=True),
        "DNS server of containers",
    ),
    Option(
        "dns-search",
        Strings(check=checks.dns_search),
        "DNS search domain of containers",
    ),
    Option(
        "dns-opt",
        Strings(check=checks.one_line),
        "Resolver option of containers",
        key="dns-opts",
    ),
    Option(
        "host-gateway-ip",
        Strings(check=checks.ip),
        'Address that "host-gateway" in --add-host stands for',
        key="host-gateway-ips",
    ),
    # Containers that say nothing else
    Option(
        "log-driver",
        Text(),
        "Where containers' output goes",
        shown='"json-file"',
        refuse=_refuse_log_driver,
    ),
    Option(
        "log-opt",
        Pairs(),
        "Option (key=value) of that log driver",
        key="log-opts",
        shown="map[]",
    ),
    Option(
        "default-ulimit",
        Ulimits(),
        "Limit (name=soft[:hard]) of containers' processes",
        key="default-ulimits",
    ),
    Option(
        "default-shm-size",
        Size(),
        "Size of /dev/shm",
        field="default_shm_size_bytes",
        shown="64MiB",
    ),
    Option(
        "default-runtime",
        Text(),
        "Runtime of containers",
        shown='"wharf"',
        refuse=_refuse_runtime,
    ),
    Option(
        "add-runtime",
        Runtimes(),
        "Another OCI runtime (name=path)",
        key="runtimes",
        field="-",
        no_effect="a container that asks for one is refused, since none is started yet",
    ),
    Option(
        "exec-opt",
        Strings(),
        "Option (native.cgroupdriver=cgroupfs) of execution",
        key="exec-opts",
        refuse=_refuse_cgroup_driver,
    ),
    Option(
        "cgroup-parent",
        Text(check=checks.one_line),
        "Cgroup that containers' cgroups are made in",
    ),
    Option(
        "default-cgroupns-mode",
        Text(),
        'Cgroup namespace of containers ("host" | "private")',
    ),
    Option(
        "default-ipc-mode",
        Text(),
        'IPC namespace of containers ("shareable" | "private")',
        shown='"private"',
    ),
    Option("init", Boolean(), "An init forwards signals and reaps in each container"),
    Option(
        "init-path",
        Text(),
        "Path of docker-init",
        no_effect="init is part of this engine",
    ),
    Option(
        "seccomp-profile",
        Text(),
        'Path of a seccomp profile, or "unconfined"',
        shown='"builtin"',
    ),
    Option(
        "no-new-privileges",
        Boolean(),
        "Processes in containers gain no privilege by exec",
    ),
    Option(
        "selinux-enabled",
        Boolean(),
        "SELinux labels for containers",
        refused=(
            "selinux-enabled: this engine sets no SELinux labels, "
            "and will not run unconfined what should be confined"
        ),
    ),
    Option(
        "userns-remap",
        Text(),
        "User whose subordinate ids containers run with",
        refused=(
            "userns-remap: this engine does not map users yet, "
            "and will not run as the host's root what should not be"
        ),
    ),
    Option(
        "cpu-rt-period",
        Integer(),
        "Real-time period (µs) of all containers",
        shown="0",
        refused="cpu-rt-period: this engine sets no real-time limit for all containers",
    ),
    Option(
        "cpu-rt-runtime",
        Integer(),
        "Real-time runtime (µs) of all containers",
        shown="0",
        refused="cpu-rt-runtime: this engine sets no real-time limit for all containers",
    ),
    Option(
        "cdi-spec-dir",
        Strings(),
        "Directory of CDI specifications",
        key="cdi-spec-dirs",
        no_effect="devices by CDI are not served yet",
    ),
    # What another engine is made of
    Option(
        "storage-driver",
        Text(),
        "Storage driver",
        short="s",
        no_effect="layers are always stacked by overlay2",
        harmless=lambda value: value in {"overlay2", ""},
    ),
    Option(
        "storage-opt",
        Strings(),
        "Option of the storage driver",
        key="storage-opts",
        no_effect="it is not known to this storage",
        refuse=_refuse_storage,
    ),
    Option(
        "containerd",
        Text(),
        "Address of containerd",
        no_effect=_no_containerd("nothing is asked of it"),
    ),
    Option(
        "containerd-namespace",
        Text(),
        "containerd's namespace of containers",
        shown='"moby"',
        no_effect=_no_containerd("no namespace is used"),
    ),
    Option(
        "containerd-plugins-namespace",
        Text(),
        "containerd's namespace of plugins",
        shown='"plugins.moby"',
        no_effect=_no_containerd("no namespace is used"),
    ),
    Option(
        "cri-containerd",
        Boolean(),
        "Serve Kubernetes' CRI by containerd",
        refused="cri-containerd: this engine does not serve the CRI",
    ),
    Option(
        "builder",
        Anything(),
        "Garbage collection of the build cache",
        hidden=True,
        no_effect="the build cache does not read it",
    ),
    Option(
        "node-generic-resource",
        Strings(check=checks.generic_resource),
        "Resource that swarm may give to services",
        key="node-generic-resources",
        no_effect="there is no swarm here",
    ),
    Option(
        "swarm-default-advertise-addr",
        Text(),
        "Address that swarm advertises",
        no_effect="there is no swarm here",
    ),
    Option(
        "rootless",
        Boolean(),
        "Run without root privileges",
        refused="rootless: this engine needs root privileges",
    ),
    Option(
        "restart",
        Boolean(),
        "Removed from Docker",
        short="r",
        key="-",
        hidden=True,
        deprecated="Please use a restart policy on docker run",
    ),
    Option(
        "deprecated-key-path",
        Text(),
        "Removed from Docker",
        hidden=True,
        no_effect="the key it named is not used any more",
    ),
)

FILE_ONLY = frozenset({"builder", "deprecated-key-path"})
"""Options that dockerd knows in its file but not as flags."""

OLD_KEYS = {"host-gateway-ip": "host-gateway-ips"}
"""Keys of the file that were renamed and held one value where the new one holds a list."""


def by_flag() -> dict[str, Option]:
    return {option.flag: option for option in TABLE if option.flag not in FILE_ONLY}


def by_key() -> dict[str, Option]:
    """The options that the file may hold."""
    return {option.key or option.flag: option for option in TABLE if option.key != "-"}
