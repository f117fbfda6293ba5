"""What a network is, and how a container stands on one.

The values that `engine.container.model` stores with a container (`EndpointConfig`, `Endpoint`,
`PortBinding`, `PublishedPort`) are defined here, because the container knows the network and not
the reverse. Frozen all; a stored document carries its version.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from engine.ids import ContainerId, NetworkId

VERSION = 1
"""Version of the stored document; raised with a migration."""

DEFAULT = "bridge"
"""The network of a container that says nothing."""

HOST = "host"
NONE = "none"
PREDEFINED = (DEFAULT, HOST, NONE)


class Frozen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the values below; defaults are not stored."""


# What was asked for


class Subnet(Frozen, frozen=True, kw_only=True):
    """One entry of `IPAM.Config`, as typed; "" where nothing was said."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] = {}


class IPAM(Frozen, frozen=True, kw_only=True):
    """`options` is None where the client said nothing (inspect shows null)."""

    driver: str = "default"
    options: dict[str, str] | None = None
    config: tuple[Subnet, ...] = ()


class NetworkRequest(Frozen, frozen=True, kw_only=True):
    """Everything `create` takes. None where the daemon's default decides."""

    name: str
    driver: str = ""
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    ipam: IPAM | None = None
    is_internal: bool = False
    is_attachable: bool = False
    is_ingress: bool = False
    is_config_only: bool = False
    config_from: str = ""
    scope: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class PortBinding(Frozen, frozen=True, kw_only=True):
    """One publication of a container port; `host_port` may be "", a number or a range "a-b"."""

    host_ip: str = ""
    host_port: str = ""


class EndpointIPAM(Frozen, frozen=True, kw_only=True):
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: tuple[str, ...] | None = None


class EndpointConfig(Frozen, frozen=True, kw_only=True):
    """How a container wishes to stand on one network."""

    ipam: EndpointIPAM | None = None
    links: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0


# How it stands


class Network(Frozen, frozen=True, kw_only=True):
    """The stored document of one network.

    `subnets` are what was handed out to it, complete with gateways; `ipam` is what was asked for.
    `link` is the name of what it hangs on on the host, its bridge or its parent, "" where there is
    nothing; a foreign link was there before the network, and stays.
    """

    version: int = VERSION
    id: NetworkId
    name: str
    created_ns: int
    driver: str
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam: IPAM = IPAM()
    subnets: tuple[Subnet, ...] = ()
    is_internal: bool = False
    is_attachable: bool = False
    is_ingress: bool = False
    is_config_only: bool = False
    config_from: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    link: str = ""
    is_link_foreign: bool = False

    @property
    def is_predefined(self) -> bool:
        return self.name in PREDEFINED


class Endpoint(Frozen, frozen=True, kw_only=True):
    """A container's place on a network, as it stands or (when not running) was asked for."""

    network_name: str
    network_id: str = ""
    config: EndpointConfig = EndpointConfig()
    endpoint_id: str = ""
    gateway: str = ""
    ipv4_address: str = ""
    ipv4_prefix: int = 0
    ipv6_gateway: str = ""
    ipv6_address: str = ""
    ipv6_prefix: int = 0
    mac_address: str = ""
    dns_names: tuple[str, ...] | None = None
    has_ports: bool = True
    """Whether ports may be published for it: what only a driver knows."""

    @property
    def exposes(self) -> bool:
        """Whether ports of the container are of interest here."""
        return self.has_ports and bool(self.gateway or self.ipv6_gateway)

    @property
    def addresses(self) -> list[str]:
        """Those that it has, IPv4 first."""
        return [a for a in (self.ipv4_address, self.ipv6_address) if a]


class PublishedPort(Frozen, frozen=True, kw_only=True):
    """A port that is open on the host: `container_port` and `protocol` as in "80", "tcp".

    Where the network is routed it is open at the container's own address, and `host_port` 0.
    """

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


# Between the rooms


HELD = -1
"""In the place of a listener's descriptor: who is to hold it has it already."""

SHARED = -2
"""The same: its socket is that of the listener before it."""


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A bound socket on the host, listening where its protocol knows that.

    It reserves the port for as long as it is open, and whoever holds it relays to the target what
    arrives there. The descriptor belongs to the receiver; it may be `HELD` or `SHARED`.
    """

    fd: int
    protocol: str
    host_ip: str
    host_port: int
    target_ip: str
    target_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """The sockets of a container's resolver, UDP and TCP, and the file it answers out of.

    The descriptors belong to the receiver.
    """

    fds: tuple[int, int]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPorts:
    """Published ports of a running container that lead elsewhere from now on.

    `listeners` are all that there are, those that are held already among them; the descriptors of
    the others belong to the receiver. `gone` are those that are published no more.
    """

    published: tuple[PublishedPort, ...]
    gone: tuple[PublishedPort, ...]
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What came of a running container's joining a network. A resolver comes with it if it has had
    none and is to have one; `ports` is None where they stay as they are.
    """

    endpoint: Endpoint
    resolver: Resolver | None = None
    ports: MovedPorts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """All that a container needs of the network to start.

    The three paths are files to write ("" for none). `endpoints` is by names or ids of networks.
    `extra_hosts` are "name:address" with
    "host-gateway" for the address of the host; `port_bindings` as in "80/tcp" → bindings.
    """

    container_id: ContainerId
    name: str
    hostname: str = ""
    domainname: str = ""
    mode: str = DEFAULT
    endpoints: dict[str, EndpointConfig] = field(default_factory=dict[str, EndpointConfig])
    exposed_ports: tuple[str, ...] = ()
    port_bindings: dict[str, tuple[PortBinding, ...]] = field(
        default_factory=dict[str, tuple[PortBinding, ...]]
    )
    publish_all: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    linked_hosts: tuple[tuple[str, str], ...] = ()
    mac_address: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    hostname_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What `open` made. `netns_path` is None for the host's own network namespace."""

    id: str
    key: str
    netns_path: str | None
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    listeners: tuple[Listener, ...] = ()
    resolver: Resolver | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container on a network, as the network's inspect shows it; addresses with prefix."""

    container_id: str
    name: str
    endpoint_id: str
    mac_address: str
    ipv4_address: str
    ipv6_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    network: Network
    members: tuple[Member, ...] = ()
