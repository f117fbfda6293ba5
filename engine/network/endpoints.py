"""What an endpoint gets: addresses, a MAC and names, and the interface that it becomes."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

import msgspec

from engine import ids
from engine.errors import Forbidden, WharfError
from engine.network import drivers, names, sandbox, settings
from engine.network.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Interface, IPv6Interface

    from engine.config import EngineConfig
    from engine.network.catalogue import Catalogue
    from engine.network.model import EndpointConfig, Network, SandboxRequest
    from engine.network.standing import Standing

    Interface = IPv4Interface | IPv6Interface


class EndpointExists(Forbidden):
    def __init__(self, name: str, network: str) -> None:
        super().__init__(f"endpoint with name {name} already exists in network {network}")


class Endpoints:
    def __init__(self, config: EngineConfig, catalogue: Catalogue) -> None:
        self._instance = config.instance
        self._catalogue = catalogue

    def make(self, network: Network, config: EndpointConfig, request: SandboxRequest) -> Endpoint:
        """Addresses, MAC and names; taken, nothing done yet."""
        settings.check_joinable(network)
        driver = drivers.of(network)
        endpoint = Endpoint(
            network_name=network.name,
            network_id=network.id,
            config=config,
            endpoint_id=ids.generate(),
            dns_names=None if network.is_predefined else _dns_names(config, request),
            has_ports=driver.has_ports,
        )
        is_main = network is self.main(request.mode)
        asked = config.mac_address or (request.mac_address if is_main else "")
        try:
            mac = driver.mac(settings.mac(asked))
        except WharfError as error:
            name = f"failed to create endpoint {request.name} on network {network.name}"
            error.args = (f"{name}: {error}",)
            raise
        placed = msgspec.structs.replace(endpoint, mac_address=mac)
        return self._catalogue.subnets.place(placed, network)

    def note(self, network: Network, config: EndpointConfig, request: SandboxRequest) -> Endpoint:
        """Of a container that does not run: what was asked for, of whatever has that name then."""
        return Endpoint(
            network_name=network.name,
            config=config,
            mac_address=config.mac_address,
            dns_names=None if network.is_predefined else _dns_names(config, request),
        )

    def main(self, mode: str) -> Network | None:
        """The network that a network mode means, which may be none."""
        try:
            return self._catalogue.find(settings.network_name(mode))
        except WharfError:
            return None

    def networks(self, standing: Standing) -> list[Network]:
        """Those that it stands on, but for what was adopted and is not known any more."""
        found = (self._catalogue.get(e.network_id) for e in standing.endpoints)
        return [network for network in found if network is not None]

    def link(self, endpoint: Endpoint) -> str:
        return sandbox.link_name(self._instance, endpoint.endpoint_id)

    def port(self, endpoint: Endpoint) -> sandbox.Port | None:
        """The endpoint's interface; None where its network gives none."""
        network = self._catalogue.find(endpoint.network_id)
        via = drivers.of(network).via(network, self._catalogue.link_index(network))
        if via is None:
            return None
        placed = (
            (endpoint.ipv4_address, endpoint.ipv4_prefix),
            (endpoint.ipv6_address, endpoint.ipv6_prefix),
        )
        return sandbox.Port(
            link=self.link(endpoint),
            mac=endpoint.mac_address,
            addresses=(
                *(ip_interface(f"{a}/{prefix}") for a, prefix in placed if a),
                *settings.link_local(endpoint.config),
            ),
            via=via,
            name=endpoint.config.driver_opts.get(settings.INTERFACE, ""),
            prefix=drivers.of(network).interface_prefix(network),
            is_announced=drivers.of(network).is_announced(network),
            sysctls=settings.sysctls(endpoint.config),
        )

    def ports(self, standing: Standing) -> tuple[sandbox.Port, ...]:
        """But for those on networks whose rows cannot be read."""
        known = (e for e in standing.endpoints if self._catalogue.get(e.network_id) is not None)
        return tuple(port for port in map(self.port, known) if port is not None)


def _dns_names(config: EndpointConfig, request: SandboxRequest) -> tuple[str, ...]:
    short = ids.short(request.container_id)
    return names.dns_names(request.name, config.aliases or (), short, request.hostname)


def found(network: Network, addresses: Sequence[Interface]) -> Endpoint | None:
    """The place on a network that these addresses are of, if one of them is."""
    inside = {
        address.version: address
        for address in addresses
        for entry in network.subnets
        if address.network == ip_network(entry.subnet)
    }
    if not inside:
        return None
    ipv4, ipv6 = inside.get(4), inside.get(6)
    return Endpoint(
        network_name=network.name,
        network_id=network.id,
        ipv4_address=str(ipv4.ip) if ipv4 else "",
        ipv4_prefix=ipv4.network.prefixlen if ipv4 else 0,
        ipv6_address=str(ipv6.ip) if ipv6 else "",
        ipv6_prefix=ipv6.network.prefixlen if ipv6 else 0,
    )
