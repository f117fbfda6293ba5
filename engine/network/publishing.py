"""Published ports of containers: planned on the event loop, made in a worker thread.

Which host ports that becomes and their sockets are `ports`' affair, which packets go where is the
firewall's. Here is which of a container's addresses they lead to: that of the network by which it
leads out, also when that becomes another one while it runs. The host's ports stay then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from engine.errors import EngineError
from engine.linux import conntrack
from engine.network import drivers, files, firewall, ports
from engine.network.model import HELD, Listener, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.config import EngineConfig
    from engine.network.firewall import Firewall
    from engine.network.gateways import Gateways
    from engine.network.model import Endpoint, SandboxRequest


log = logging.getLogger(__name__)


class ConnectivityFailed(EngineError):
    """A published port cannot be had; `reason` says which and why."""

    def __init__(self, endpoint: str, endpoint_id: str, reason: str) -> None:
        super().__init__(
            f"driver failed programming external connectivity on endpoint {endpoint} "
            f"({endpoint_id}): {reason}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`opened` are those that no host port leads to; `direct` the families in which somebody may
    ask for published ports at the container's own addresses.
    """

    wanted: tuple[ports.Wanted, ...] = ()
    opened: tuple[PublishedPort, ...] = ()
    targets: tuple[str, ...] = ()
    direct: frozenset[int] = frozenset()

    def published(self, listeners: Iterable[Listener]) -> tuple[PublishedPort, ...]:
        """As inspect shows them."""
        found = ports.published(listeners)
        if not self.opened:
            return found
        return tuple(sorted((*found, *self.opened), key=lambda port: ":" in port.host_ip))

    def publications(self, listeners: Iterable[Listener]) -> tuple[firewall.Publication, ...]:
        found = firewall.publications(listeners, direct=self.direct)
        return (*found, *firewall.adopted(self.opened, self.targets))


class Publishing:
    def __init__(
        self,
        config: EngineConfig,
        wall: Firewall | None,
        gateways: Gateways,
    ) -> None:
        self._config = config
        self._firewall = wall
        self._gateways = gateways
        self._ports = ports.PortAllocator()
        self._host_has_ipv6 = True

    def learn_host(self) -> None:
        """What of the host decides about ports; before any is opened or adopted; blocks."""
        self._ports = ports.PortAllocator(ports.ephemeral_range())
        self._host_has_ipv6 = files.host_has_ipv6()

    # On the event loop

    def plan(self, request: SandboxRequest, endpoints: Sequence[Endpoint]) -> Plan:
        """For a container that stands there."""
        place = self._place(endpoints)
        if place is None:
            return Plan()
        found = ports.requests(
            request.exposed_ports, request.port_bindings, publish_all=request.publish_all
        )
        return Plan(
            wanted=tuple(ports.expand(found, place)),
            opened=ports.opened(found, place) if place.routed else (),
            targets=self._targets(endpoints),
            direct=self._direct(endpoints),
        )

    def failed(
        self, name: str, endpoints: Sequence[Endpoint], error: ports.PortError
    ) -> ConnectivityFailed:
        main = (
            self._gateways.main(endpoints, 4) or self._gateways.main(endpoints, 6) or endpoints[0]
        )
        return ConnectivityFailed(name, main.endpoint_id, str(error))

    def _place(self, endpoints: Sequence[Endpoint]) -> ports.Place | None:
        """None where nothing is published."""
        main4, main6 = (self._gateways.published(endpoints, version) for version in (4, 6))
        main = main4 or main6
        if main is None:
            return None
        network = self._gateways.network(main)
        routed = {
            version
            for version, endpoint in ((4, main4), (6, main6))
            if endpoint and version in self._routed(endpoint)
        }
        return ports.Place(
            ipv4=ip_address(main4.ipv4_address) if main4 else None,
            ipv6=ip_address(main6.ipv6_address) if main6 else None,
            default=ip_address(drivers.of(network).binding(network) or self._config.ip),
            host_has_ipv6=self._host_has_ipv6,
            routed=frozenset(routed),
        )

    def _routed(self, endpoint: Endpoint) -> frozenset[int]:
        network = self._gateways.network(endpoint)
        return drivers.of(network).routed(network)

    def _is_trusting(self, endpoint: Endpoint) -> bool:
        network = self._gateways.network(endpoint)
        return drivers.of(network).is_trusting(network)

    def _targets(self, endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
        main4, main6 = (self._gateways.published(endpoints, version) for version in (4, 6))
        targets = (main4.ipv4_address if main4 else "", main6.ipv6_address if main6 else "")
        return tuple(text for text in targets if text)

    def _direct(self, endpoints: Sequence[Endpoint]) -> frozenset[int]:
        return frozenset(
            version
            for version in (4, 6)
            if (main := self._gateways.published(endpoints, version)) is not None
            and (self._config.allow_direct_routing or self._is_trusting(main))
        )

    def adopt(
        self, container_id: str, endpoints: Sequence[Endpoint], published: Sequence[PublishedPort]
    ) -> None:
        """At boot: a running container has them still."""
        for port in (p for p in published if p.host_port):
            self._ports.take(port.host_ip, port.protocol, port.host_port)
        if self._firewall is not None:
            self._firewall.know(container_id, self._led(endpoints, published))

    def _led(
        self, endpoints: Sequence[Endpoint], published: Iterable[PublishedPort]
    ) -> tuple[firewall.Publication, ...]:
        direct = self._direct(endpoints)
        return firewall.adopted(published, self._targets(endpoints), direct=direct)

    def release(self, published: Iterable[PublishedPort]) -> None:
        """Their numbers are free again."""
        for port in (p for p in published if p.host_port):
            self._ports.release(port.host_ip, port.protocol, port.host_port)

    # In a worker thread

    def open(self, container_id: str, plan: Plan) -> list[Listener]:
        """Bind, and have packets led there; all or nothing. Raises PortError, OSError."""
        return self._open(container_id, plan, {}, is_new=True)

    def move(
        self, container_id: str, plan: Plan, before: Sequence[PublishedPort]
    ) -> list[Listener]:
        """As `open`, of a container that has some: those that stay are `HELD` where they were, and
        lead to where the plan has them. What is not among them is the caller's to `release`.
        """
        return self._open(container_id, plan, _numbers(before), is_new=False)

    def _open(
        self,
        container_id: str,
        plan: Plan,
        had: dict[tuple[str, int, str], list[int]],
        *,
        is_new: bool,
    ) -> list[Listener]:
        made: list[Listener] = []
        try:
            for wanted in plan.wanted:
                made += self._held_or_bound(wanted, had)
            if self._firewall is not None:
                lead = self._firewall.publish if is_new else self._firewall.republish
                lead(container_id, plan.publications(made))
        except BaseException:
            self.undo(made)
            raise
        return made

    def _held_or_bound(
        self, wanted: ports.Wanted, had: dict[tuple[str, int, str], list[int]]
    ) -> list[Listener]:
        number = _number(wanted, had)
        if number is None:
            return self._ports.bind(wanted)
        found: list[Listener] = []
        rest: list[tuple[str, str]] = []
        for host, target in wanted.addresses:
            numbers = had.get((wanted.protocol, wanted.container_port, host), [])
            if number not in numbers:
                rest.append((host, target))
                continue
            numbers.remove(number)
            found.append(
                Listener(
                    fd=HELD,
                    protocol=wanted.protocol,
                    host_ip=host,
                    host_port=number,
                    target_ip=target,
                    target_port=wanted.container_port,
                )
            )
        if rest:
            more = msgspec.structs.replace(wanted, addresses=tuple(rest), first=number, last=number)
            found += self._ports.bind(more)
        return found

    def undo(self, made: Iterable[Listener]) -> None:
        """Of those that are new: close their sockets, and give their numbers back."""
        new = [listener for listener in made if listener.fd != HELD]
        ports.close(new)
        self.release(ports.published(new))

    def lead_back(
        self, container_id: str, endpoints: Sequence[Endpoint], before: Sequence[PublishedPort]
    ) -> None:
        """After a `move` that comes to nothing: have packets led to where they were before."""
        if self._firewall is not None:
            self._firewall.republish(container_id, self._led(endpoints, before))

    def close(self, container_id: str) -> None:
        """Nobody is led there any more; their numbers are to be released."""
        if self._firewall is not None:
            self._firewall.withdraw(container_id)


def forget_flows(addresses: Sequence[str], published: Sequence[PublishedPort]) -> None:
    """A client that goes on sending to a published port, or asks for a TCP connection once more,
    would be led to the old address, whoever has that.
    """
    protocols = {port.protocol for port in published}
    for address in addresses:
        for protocol in protocols:
            try:
                conntrack.delete(ip_address(address), ports.NUMBERS[protocol])
            except OSError as error:
                log.warning("cannot delete the flows of %s: %s", address, error)


def _numbers(before: Iterable[PublishedPort]) -> dict[tuple[str, int, str], list[int]]:
    """The host's ports by what they lead to and where they are."""
    found: dict[tuple[str, int, str], list[int]] = {}
    for port in before:
        if port.host_port:
            key = port.protocol, port.container_port, port.host_ip
            found.setdefault(key, []).append(port.host_port)
    return found


def _number(wanted: ports.Wanted, had: dict[tuple[str, int, str], list[int]]) -> int | None:
    """The one that it has of those that are wanted."""
    for host, _ in wanted.addresses:
        for number in had.get((wanted.protocol, wanted.container_port, host), ()):
            if not wanted.first or wanted.first <= number <= wanted.last:
                return number
    return None
