"""What the resolvers of containers know: a file a network, and one a container that asks.

The documents are described where they are read (`engine.runtime.monitor.resolver`). What a file of
a network shall say is decided on the event loop and written by a thread; of two that are on their
way the later counts, whichever comes first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.network import drivers, names, nameserver, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.network.model import Endpoint, EndpointConfig, Network

HOST_NAME: Final = "host.docker.internal"
"""Resolves to the host on every network of a user's, unless that leads nowhere."""

IS_ANSWERED: Final = "is_answered"
"""In a container's document: its monitor has taken the resolver."""

_NETWORKS: Final = "names"
_CONTAINERS: Final = "resolvers"


def is_served(networks: Iterable[Network]) -> bool:
    """Whether a container on these has a resolver: on the networks of users only, as in Docker."""
    return any(not network.is_predefined for network in networks)


class Directory:
    """All files of one engine."""

    def __init__(self, exec_root: str) -> None:
        self._exec_root = exec_root
        self._lock = threading.Lock()
        self._editions = itertools.count(1)
        self._written: dict[str, int] = {}

    def network_path(self, network_id: str) -> str:
        return f"{self._exec_root}/{_NETWORKS}/{network_id}"

    def container_path(self, container_id: str) -> str:
        return f"{self._exec_root}/{_CONTAINERS}/{container_id}"

    def edition(self, network: Network, endpoints: Iterable[Endpoint]) -> Callable[[], None]:
        """What the network's file says from now on, with `endpoints` on it; to be called in a
        thread. Raises OSError there.
        """
        hosts = [
            [list(endpoint.dns_names), endpoint.addresses]
            for endpoint in endpoints
            if endpoint.dns_names
        ]
        data = msgspec.json.encode({"name": network.name, "hosts": hosts})
        number, path = next(self._editions), self.network_path(network.id)

        def write() -> None:
            with self._lock:
                if self._written.get(path, 0) < number:
                    _replace(path, data)
                    self._written[path] = number

        return write

    def forget_network(self, network_id: str) -> None:
        """Nobody stands on it any more, nor will; in a thread."""
        path = self.network_path(network_id)
        with self._lock:
            self._written.pop(path, None)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def write_container(self, container_id: str, document: Mapping[str, Any]) -> None:
        """In a thread, before the container has its resolver; raises OSError."""
        _replace(self.container_path(container_id), msgspec.json.encode(document))

    def change_container(self, container_id: str, changes: Mapping[str, Any]) -> bool:
        """Put other values in the place of a container's own; False if nobody answers out of it. In
        a thread.
        """
        try:
            with open(self.container_path(container_id), "rb") as file:
                document = msgspec.json.decode(file.read(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.MsgspecError):
            return False
        changed = {**document, **changes}
        self.write_container(container_id, changed)
        return bool(changed.get(IS_ANSWERED))

    def forget_container(self, container_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.container_path(container_id))

    def sweep(self, *, containers: set[str], networks: set[str]) -> None:
        """Remove what belongs to nobody any more; in a thread."""
        for folder, kept in ((_CONTAINERS, containers), (_NETWORKS, networks)):
            path = f"{self._exec_root}/{folder}"
            for name in os.listdir(path) if os.path.isdir(path) else ():
                if name not in kept:
                    os.unlink(f"{path}/{name}")


def _replace(path: str, data: bytes) -> None:
    """Whole or not at all; it need not survive the host, whose next start knows none of it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{threading.get_ident()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def servers(given: Sequence[str], host: Sequence[str]) -> list[tuple[str, bool]]:
    """Who is asked for everything else, and whether from the host's namespace.

    What was named for the container is reached from the container; what the host has may be its
    own loopback or a network that only the host is on.
    """
    if given:
        # Its resolver, asked by itself, would ask itself again.
        return [(address, False) for address in given if address != nameserver.ADDRESS]
    return [(address, True) for address in host]


def places(
    directory: Directory, standing: Sequence[tuple[Network, Endpoint]], upstream: str
) -> dict[str, Any]:
    """The part of a container's document that its networks decide, in the order they are asked.

    `upstream` is "" where nothing is to be asked of anybody.
    """
    ordered = sorted(standing, key=lambda pair: _order(*pair))
    return {
        "networks": [
            {"path": directory.network_path(network.id), "aliases": _aliases(endpoint.config)}
            for network, endpoint in ordered
            if not network.is_predefined
        ],
        "hosts": _hosts(ordered),
        "netns": upstream,
        "forwards": any(settings.leads_out(network) for network, _ in ordered),
    }


def _order(network: Network, endpoint: Endpoint) -> tuple[int, bool, bool, str]:
    """As dockerd's: by priority, then what leads out, and that for both families, by name."""
    priority, is_internal, name = settings.gateway_order(network, endpoint.config)
    is_single = len(endpoint.addresses) < 2
    return priority, is_internal, is_single, name


def _aliases(config: EndpointConfig) -> dict[str, str]:
    """The names by which this container alone knows others (`--link other:alias`)."""
    pairs = (link.rpartition(":") for link in config.links or ())
    return {(alias or name).lower(): name or alias for name, _, alias in pairs}


def _hosts(ordered: Iterable[tuple[Network, Endpoint]]) -> dict[str, list[str]]:
    for network, endpoint in ordered:
        gateways = [g for g in (endpoint.gateway, endpoint.ipv6_gateway) if g]
        is_host = drivers.of(network).is_host_gateway and settings.leads_out(network)
        if not network.is_predefined and is_host and gateways:
            return {HOST_NAME: gateways}
    return {}


def host_servers(host: names.ResolvConf) -> list[str]:
    """Those of the host's file; the ones Docker takes where it has none."""
    return list(host.nameservers or names.DEFAULT_IPV4)
