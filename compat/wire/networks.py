"""Bodies about networks."""

from __future__ import annotations

from msgspec import field

from compat.wire.base import UNSET, Omitted, Request, Response
from compat.wire.containers import EndpointSettings


class IPAMConfig(Request, frozen=True, kw_only=True):
    subnet: str | Omitted = UNSET
    ip_range: str | Omitted = field(default=UNSET, name="IPRange")
    gateway: str | Omitted = UNSET
    auxiliary_addresses: dict[str, str] | Omitted = UNSET


class IPAM(Request, frozen=True, kw_only=True):
    driver: str = ""
    options: dict[str, str] | None = None
    config: tuple[IPAMConfig, ...] | None = None


class ConfigReference(Request, frozen=True, kw_only=True):
    network: str = ""


class NetworkCreateRequest(Request, frozen=True, kw_only=True):
    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    ipam: IPAM | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    check_duplicate: bool | None = None


class NetworkConnectRequest(Request, frozen=True, kw_only=True):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(Request, frozen=True, kw_only=True):
    container: str = ""
    force: bool = False


class NetworkCreateResponse(Response, frozen=True, kw_only=True):
    id: str
    warning: str


class EndpointResource(Response, frozen=True, kw_only=True):
    name: str
    endpoint_id: str = field(name="EndpointID")
    mac_address: str
    ipv4_address: str = field(name="IPv4Address")
    ipv6_address: str = field(name="IPv6Address")


class NetworkInspectResponse(Response, frozen=True, kw_only=True):
    name: str
    id: str
    created: str
    scope: str
    driver: str
    enable_ipv4: bool = field(name="EnableIPv4")
    enable_ipv6: bool = field(name="EnableIPv6")
    ipam: IPAM = field(name="IPAM")
    internal: bool
    attachable: bool
    ingress: bool
    config_from: ConfigReference
    config_only: bool
    containers: dict[str, EndpointResource]
    options: dict[str, str] | None
    labels: dict[str, str] | None


class NetworkPruneResponse(Response, frozen=True, kw_only=True):
    networks_deleted: tuple[str, ...] | None
