"""By which of its networks a container leads out, and where its published ports lead to."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from engine.network import drivers, settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from engine.network.catalogue import Catalogue
    from engine.network.model import Endpoint, Network

    Address = IPv4Address | IPv6Address


class Gateways:
    """Endpoints on a network that the catalogue does not know count for nothing: who was adopted at
    boot may stand on one whose row cannot be read.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def main(self, endpoints: Sequence[Endpoint], version: int) -> Endpoint | None:
        """The endpoint that gives the default route of a family.

        The first that gives both families' goes before those that give one (moby libnetwork).
        """
        known = [e for e in endpoints if self._catalogue.get(e.network_id) is not None]
        ordered = sorted(known, key=self._order)
        both = (e for e in ordered if len(self._default_routes(e)) == 2)
        one = (e for e in ordered if version in self._default_routes(e))
        return next(both, None) or next(one, None)

    def routes(self, endpoints: Sequence[Endpoint]) -> tuple[Address, ...]:
        """By what a container on these leads out, of each family."""
        mains = ((version, self.main(endpoints, version)) for version in (4, 6))
        return tuple(ip_address(self._default_routes(m)[v]) for v, m in mains if m is not None)

    def published(self, endpoints: Sequence[Endpoint], version: int) -> Endpoint | None:
        """The endpoint whose address the published ports of a family lead to."""
        main = self.main(endpoints, version)
        return main if main is not None and drivers.of(self.network(main)).has_ports else None

    def network(self, endpoint: Endpoint) -> Network:
        return self._catalogue.find(endpoint.network_id)

    def _order(self, endpoint: Endpoint) -> tuple[int, bool, int, str]:
        network = self.network(endpoint)
        priority, is_internal, name = settings.gateway_order(network, endpoint.config)
        return priority, is_internal, -len(self._default_routes(endpoint)), name

    def _default_routes(self, endpoint: Endpoint) -> dict[int, str]:
        """By family: a gateway, or the endpoint's own address for a route to its link."""
        network = self.network(endpoint)
        driver = drivers.of(network)
        found = {v: driver.default_route(network, endpoint, v) for v in (4, 6)}
        return {version: route for version, route in found.items() if route}
