"""Networks: the public verbs, and what goes on between them.

Order at boot: `open_engine`, then `adopt` for every container that runs, then `settle`, which makes
the kernel agree with that in one transaction and sweeps what nobody claims. Which networks there
are is kept in `catalogue`, who stands on them in `standing`; what changes that is `attachments` for
a whole container and `connections` for one of its networks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from engine import offload
from engine.errors import NoSuchNetwork
from engine.network import filters, sandbox
from engine.network.attachments import Attachments
from engine.network.catalogue import Catalogue
from engine.network.connections import Connections
from engine.network.discovery import Directory
from engine.network.endpoints import Endpoints
from engine.network.firewall import Firewall
from engine.network.gateways import Gateways
from engine.network.model import Network, NetworkView
from engine.network.naming import Naming
from engine.network.publishing import Publishing
from engine.network.standing import Standings
from engine.network.watch import Watch
from engine.work import Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from engine.config import EngineConfig
    from engine.events import EventBus
    from engine.ids import NetworkId
    from engine.network.model import (
        Endpoint,
        EndpointConfig,
        Joined,
        MovedPorts,
        NetworkRequest,
        PublishedPort,
        Sandbox,
        SandboxRequest,
    )
    from engine.storage.database import Database

log = logging.getLogger(__name__)

# A namespace whose processes are gone is taken away by the kernel well within that.
_REAP_AFTER_S = 2.0
_CLOSE_S = 10.0


class Networks:
    """All networks of one engine. Its verbs are called on the event loop."""

    def __init__(self, config: EngineConfig, database: Database, events: EventBus) -> None:
        self._config = config
        self._firewall: Firewall | None = None
        wanted = ((4, config.iptables), (6, config.ip6tables))
        if versions := frozenset(version for version, is_wanted in wanted if is_wanted):
            prefix = sandbox.link_prefix(config.instance)
            self._firewall = Firewall(config.instance, link_prefix=prefix, versions=versions)
            self._firewall.allows_direct = config.allow_direct_routing
        self._standings = Standings()
        directory = Directory(config.exec_root)
        self._catalogue = Catalogue(
            config,
            database,
            events,
            firewall=self._firewall,
            members_of=self._standings.members,
            forget=directory.forget_network,
        )
        gateways = Gateways(self._catalogue)
        endpoints = Endpoints(config, self._catalogue)
        self._publishing = Publishing(config, self._firewall, gateways)
        self._naming = Naming(config, self._catalogue, self._standings, endpoints, directory)
        together = (self._catalogue, self._standings, endpoints, self._naming, gateways)
        self._attachments = Attachments(config, *together, self._publishing, left=self._reap_later)
        self._connections = Connections(*together, self._publishing)
        self._left: list[str] = []
        self._something_left = asyncio.Event()
        self._work = Work()
        self._watch: Watch | None = None
        self._is_settled = False
        self._unread: set[str] = set()

    # The engine's life

    async def open_engine(self) -> None:
        """Read the networks and make their bridges; running containers notice nothing."""
        await offload.kernel(self._publishing.learn_host)
        await self._catalogue.open()
        self._work.keep_running(self._reap(), what="remove links")

    async def settle(self, unread: Mapping[str, str] | None = None) -> None:
        """Make the firewall anew with what was adopted, and sweep what nobody claims.

        `unread` are containers (name by id) that may run with endpoints nobody knows: any link may
        be theirs, and the addresses that they turn out to have are.
        """
        unread = unread or {}
        self._unread = set(unread)
        for container_id, name in unread.items():
            where = sandbox.path(self._config.exec_root, container_id)
            found = await offload.kernel(sandbox.addresses, where)
            self._attachments.reserve(container_id, found, name=name)
        await offload.kernel(self._catalogue.write_firewall)
        await self._naming.settle(unread)
        links = self._catalogue.links()
        await offload.kernel(
            lambda: sandbox.sweep(
                self._config.exec_root,
                self._config.instance,
                keep_ids=self._standings.ids() | set(unread),
                keep_links=None if unread else links | self._attachments.links(),
            )
        )
        if self._firewall is not None:
            await offload.kernel(self._firewall.warn_of_what_is_in_the_way)
            self._watch = await Watch.over(self._firewall, self._work)
        self._is_settled = True

    async def close_engine(self) -> None:
        """End our own work. Running containers keep their network, firewall and ports.

        Where none runs, nothing of this engine stays in the host's network; the next start makes
        it again.
        """
        await self._work.close(_CLOSE_S)
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        # Before that, nobody knows yet what runs.
        is_idle = not self._standings.ids() and not self._unread
        if self._is_settled and is_idle:
            await self._remove_from_host()
        if self._firewall is not None:
            await offload.kernel(self._firewall.close)

    async def _remove_from_host(self) -> None:
        try:
            if self._firewall is not None:
                await offload.kernel(self._firewall.remove)
            await self._catalogue.remove_links()
        except OSError as error:
            log.warning("cannot clear the host's network: %s", error)

    def _reap_later(self, links: Sequence[str]) -> None:
        if links:
            self._left += links
            self._something_left.set()

    async def _reap(self) -> None:
        """Links go with their namespace, unless a process still holds that."""
        while True:
            await self._something_left.wait()
            await asyncio.sleep(_REAP_AFTER_S)
            self._something_left.clear()
            links, self._left = self._left, []
            try:
                await offload.kernel(sandbox.reap, links)
            except OSError as error:
                log.warning("cannot remove links: %s", error)
            except Exception:
                log.exception("cannot remove links")

    # Which networks there are

    def find(self, ref: str) -> Network:
        """By id, name or prefix of an id. Raises NoSuchNetwork, NetworkAmbiguous."""
        return self._catalogue.find(ref)

    def _view(self, network: Network) -> NetworkView:
        return NetworkView(network=network, members=self._standings.members(network.id))

    async def list(
        self, wanted: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[NetworkView, ...]:
        """Oldest first; `wanted` are Docker's filters."""
        return tuple(filters.select(map(self._view, self._catalogue.all()), wanted or {}))

    async def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> NetworkView:
        """`verbose` adds what only a cluster has; `scope` is "local" or matches nothing."""
        network = self._catalogue.find(ref)
        if scope not in ("", network.scope):
            raise NoSuchNetwork(ref)
        return self._view(network)

    async def create(self, request: NetworkRequest) -> tuple[NetworkId, str]:
        """The id of the new network, and a warning or ""."""
        network = await self._work.do(self._catalogue.create(request), what="create network")
        return network.id, ""

    async def remove(self, ref: str) -> None:
        """Raises NetworkInUse, NetworkNotRemovable."""
        await self._work.do(self._catalogue.remove(ref), what="remove network")

    async def prune(self, wanted: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
        """Remove what nobody stands on; the names of what is gone."""
        removed = self._work.do(self._catalogue.prune(wanted or {}), what="prune networks")
        return tuple(await removed)

    # Who stands on them

    def check(self, mode: str, endpoints: Mapping[str, EndpointConfig]) -> None:
        """What dockerd refuses when a container is created; a missing network is not of it."""
        self._attachments.check(endpoints)

    async def open(self, request: SandboxRequest) -> Sandbox:
        """Give a container its network. Undoes itself where it fails or is cancelled."""
        return await self._attachments.open(request)

    def announce(self, container_id: str) -> None:
        """Publish that the container came to its networks: its process stands."""
        self._attachments.announce(container_id)

    def announce_leave(self, container_id: str) -> None:
        """Publish that it left them, of one that is about to come back to all of them."""
        self._attachments.announce_leave(container_id)

    async def answered(self, request: SandboxRequest) -> None:
        """The resolver that came of `connect` is the monitor's: the container is led to it."""
        await self._naming.answered(request)

    async def rename(self, container_id: str, new: str, hostname: str) -> None:
        """A running container is found by its new name, and by the old one no more."""
        await self._naming.rename(container_id, new, hostname)

    async def close(self, container_id: str) -> None:
        """Take a container's network away; one that has none is no error."""
        await self._attachments.close(container_id)
        self._unread.discard(container_id)

    def adopt(
        self,
        container_id: str,
        endpoints: Sequence[Endpoint],
        ports: Sequence[PublishedPort],
        *,
        name: str,
        mode: str,
    ) -> None:
        """At boot: a container that runs has its addresses and ports still."""
        self._attachments.adopt(container_id, endpoints, ports, name=name, mode=mode)

    def resolve(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        current: Sequence[Endpoint],
    ) -> Endpoint:
        """The endpoint that a container which does not run is to have; nothing is taken."""
        return self._connections.resolve(ref, config, request, current)

    async def connect(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        note: Callable[[Endpoint], Awaitable[None]],
    ) -> Joined:
        """Put a running container on one more network; `note` is told before the kernel is."""
        return await self._connections.connect(ref, config, request, note)

    async def disconnect(
        self,
        ref: str,
        request: SandboxRequest,
        hand_over: Callable[[MovedPorts], Awaitable[None]],
        *,
        force: bool = False,
    ) -> MovedPorts | None:
        """Take a running container off a network; None where its ports stay as they were.

        Ports that lead elsewhere are handed over before its address is anybody else's. `force` goes
        on where the kernel refuses, and where the network itself is gone.
        """
        return await self._connections.disconnect(ref, request, hand_over, force=force)

    def released(self, moved: MovedPorts) -> None:
        """The monitor holds the sockets no more of ports that are gone: they are free."""
        self._connections.released(moved)
