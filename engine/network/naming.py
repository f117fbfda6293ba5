"""Who is called what: the documents that the resolvers of containers answer out of."""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from engine import offload
from engine.network import discovery, files, names, nameserver
from engine.network.model import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.config import EngineConfig
    from engine.network.catalogue import Catalogue
    from engine.network.discovery import Directory
    from engine.network.endpoints import Endpoints
    from engine.network.model import Network, SandboxRequest
    from engine.network.standing import Standing, Standings

log = logging.getLogger(__name__)


class Naming:
    def __init__(
        self,
        config: EngineConfig,
        catalogue: Catalogue,
        standings: Standings,
        endpoints: Endpoints,
        directory: Directory,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._standings = standings
        self._endpoints = endpoints
        self._directory = directory

    def places(self, standing: Standing) -> dict[str, object] | None:
        """What its networks mean to its resolver, if it has or gets one."""
        if standing.path is None or not standing.owns_sandbox:
            return None
        found = [(self._catalogue.get(e.network_id), e) for e in standing.endpoints]
        known = [(network, endpoint) for network, endpoint in found if network is not None]
        return discovery.places(self._directory, known, standing.path)

    def write(
        self, request: SandboxRequest, places: Mapping[str, object], *, is_answered: bool
    ) -> str:
        """In a worker thread; the path of the file."""
        given = request.dns or self._config.dns
        found = names.parse_resolv_conf(files.read(files.RESOLV_CONF))
        servers = discovery.servers(given, discovery.host_servers(found))
        self._directory.write_container(
            request.container_id,
            {**places, "servers": servers, discovery.IS_ANSWERED: is_answered},
        )
        return self._directory.container_path(request.container_id)

    def editions(self, networks: Iterable[Network]) -> tuple[Callable[[], None], ...]:
        """What there is to write now that somebody came or went."""
        return tuple(
            self._directory.edition(network, self._standings.endpoints_on(network.id))
            for network in networks
            if not network.is_predefined and self._catalogue.get(network.id) is not None
        )

    async def tell(self, networks: Iterable[Network]) -> None:
        """Those that stand there still learn who does."""
        editions = self.editions(networks)
        if not editions:
            return

        def write() -> None:
            for each in editions:
                try:
                    each()
                except OSError as error:
                    log.warning("names of a network cannot be written: %s", error)

        await offload.to_the_end(offload.kernel(write))

    async def settle(self, unread: Iterable[str]) -> None:
        """At boot, when all that runs is known: write all of it, and remove what is nobody's.

        `unread` are containers that may run as well.
        """
        networks = [network for network in self._catalogue.all() if not network.is_predefined]
        await self.tell(networks)
        await offload.kernel(
            functools.partial(
                self._directory.sweep,
                containers={*self._standings.ids(), *unread},
                networks={network.id for network in networks},
            )
        )

    async def rename(self, container_id: str, new: str, hostname: str) -> None:
        """A container that runs is called otherwise from now on."""
        standing = self._standings.get(container_id)
        if standing is None:
            return
        standing.name = new
        standing.endpoints = [
            names.renamed(endpoint, new, container_id, hostname) for endpoint in standing.endpoints
        ]
        await self.tell(self._endpoints.networks(standing))

    def resolver(
        self, request: SandboxRequest, where: str, places: dict[str, object] | None
    ) -> Resolver | None:
        """In a worker thread: what the container's resolver knows, or one, if it needs it now."""
        if places is None or self._directory.change_container(request.container_id, places):
            return None
        if not places["networks"]:
            return None  # the default bridge alone
        path = self.write(request, places, is_answered=False)
        return Resolver(fds=nameserver.open_in(where), path=path)

    async def answered(self, request: SandboxRequest) -> None:
        """The monitor has taken the resolver that came of `connect`: the container may ask it."""
        await offload.to_the_end(offload.kernel(self._lead_to_resolver, request))

    def _lead_to_resolver(self, request: SandboxRequest) -> None:
        self._directory.change_container(request.container_id, {discovery.IS_ANSWERED: True})
        files.resolve_by(request, self._config, nameserver.ADDRESS)

    async def unname(
        self, container_id: str, places: dict[str, object] | None, networks: Sequence[Network]
    ) -> None:
        if places is not None:
            with contextlib.suppress(OSError):  # it goes on knowing names that nobody has
                await offload.to_the_end(
                    offload.kernel(self._directory.change_container, container_id, places)
                )
        await self.tell(networks)

    def forget(self, container_id: str) -> None:
        """In a worker thread."""
        self._directory.forget_container(container_id)
