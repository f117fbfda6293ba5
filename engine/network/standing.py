"""Who stands on the networks now: the containers that have a sandbox, by their ids."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine import ids
from engine.errors import EngineError
from engine.network import settings
from engine.network.model import Endpoint, Member, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Iterator


class NoSandboxToJoin(EngineError):
    def __init__(self, ref: str) -> None:
        super().__init__(f"joining network namespace of container: No such container: {ref}")


@dataclass(slots=True)
class Standing:
    """A container that has a sandbox now. `path` is None in the host's namespace."""

    name: str
    mode: str
    path: str | None
    endpoints: list[Endpoint] = field(default_factory=list[Endpoint])
    ports: tuple[PublishedPort, ...] = ()
    has_left: bool = False  # as was told of one whose process ended and is about to come back

    @property
    def owns_sandbox(self) -> bool:
        return self.path is not None and settings.joined(self.mode) is None

    def without(self, endpoint: Endpoint) -> Standing:
        """As it will stand once it has left there."""
        return replace(self, endpoints=[e for e in self.endpoints if e is not endpoint])

    @property
    def addresses(self) -> list[str]:
        return [address for endpoint in self.endpoints for address in endpoint.addresses]


class Standings:
    """Changed on the event loop alone, between two awaits."""

    def __init__(self) -> None:
        self._by_id: dict[str, Standing] = {}

    def get(self, container_id: str) -> Standing | None:
        return self._by_id.get(container_id)

    def add(self, container_id: str, standing: Standing) -> None:
        self._by_id[container_id] = standing

    def remove(self, container_id: str) -> Standing | None:
        return self._by_id.pop(container_id, None)

    def ids(self) -> set[str]:
        return set(self._by_id)

    def find(self, ref: str) -> Standing:
        """By id, name or prefix of an id. Raises NoSandboxToJoin."""
        if ref in self._by_id:
            return self._by_id[ref]
        named = [i for i, standing in self._by_id.items() if standing.name == ref]
        found = named or ids.matches(ref, self._by_id)
        if len(found) != 1:
            raise NoSandboxToJoin(ref)
        return self._by_id[found[0]]

    def endpoints(self) -> Iterator[Endpoint]:
        for standing in self._by_id.values():
            yield from standing.endpoints

    def endpoints_on(self, network_id: str) -> Iterator[Endpoint]:
        return (e for e in self.endpoints() if e.network_id == network_id)

    def members(self, network_id: str) -> tuple[Member, ...]:
        return tuple(
            _member(container_id, standing.name, endpoint)
            for container_id, standing in self._by_id.items()
            for endpoint in standing.endpoints
            if endpoint.network_id == network_id
        )


def _member(container_id: str, name: str, endpoint: Endpoint) -> Member:
    ipv4, ipv6 = endpoint.ipv4_address, endpoint.ipv6_address
    return Member(
        container_id=container_id,
        name=name,
        endpoint_id=endpoint.endpoint_id,
        mac_address=endpoint.mac_address,
        ipv4_address=f"{ipv4}/{endpoint.ipv4_prefix}" if ipv4 else "",
        ipv6_address=f"{ipv6}/{endpoint.ipv6_prefix}" if ipv6 else "",
    )
