"""Networks that a running container is connected to, or disconnected from.

As with what `attachments` does: decided on the event loop, carried out in one crossing to a worker
thread, undone where it fails or where nobody waits for it any more.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import offload
from engine.errors import EngineError, NoSuchNetwork
from engine.linux import oserror
from engine.network import drivers, files, nameserver, ports, publishing, sandbox, settings
from engine.network.endpoints import EndpointExists
from engine.network.model import Joined, MovedPorts, Resolver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from engine.network.catalogue import Catalogue
    from engine.network.endpoints import Endpoints
    from engine.network.gateways import Gateways
    from engine.network.model import (
        Endpoint,
        EndpointConfig,
        Listener,
        Network,
        SandboxRequest,
    )
    from engine.network.naming import Naming
    from engine.network.publishing import Publishing
    from engine.network.standing import Standing, Standings

    Address = IPv4Address | IPv6Address

log = logging.getLogger(__name__)


class NotConnected(EngineError):
    def __init__(self, container_id: str, network: str) -> None:
        super().__init__(f"container {container_id} is not connected to network {network}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What is the receiver's to close. `listeners` is None where ports stay as they were."""

    listeners: list[Listener] | None = None
    resolver: Resolver | None = None


class Connections:
    def __init__(
        self,
        catalogue: Catalogue,
        standings: Standings,
        endpoints: Endpoints,
        naming: Naming,
        gateways: Gateways,
        publishing: Publishing,
    ) -> None:
        self._catalogue = catalogue
        self._standings = standings
        self._endpoints = endpoints
        self._naming = naming
        self._gateways = gateways
        self._publishing = publishing

    def resolve(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        current: Sequence[Endpoint],
    ) -> Endpoint:
        """Of a container that does not run."""
        network = self._catalogue.find(ref)
        settings.check(network.name, network, config, at_create=False)
        settings.check_connect(request.mode, network, current)
        return self._endpoints.note(network, config, request)

    async def connect(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        note: Callable[[Endpoint], Awaitable[None]],
    ) -> Joined:
        network = self._catalogue.find(ref)
        standing = self._standings.get(request.container_id)
        if standing is None:
            raise EngineError(f"container {request.container_id} has no network sandbox")
        settings.check(network.name, network, config, at_create=False)
        if any(e.network_id == network.id for e in standing.endpoints):
            raise EndpointExists(request.name, network.name)
        settings.check_connect(standing.mode, network, standing.endpoints)
        endpoint = self._endpoints.make(network, config, request)
        before = list(standing.endpoints)
        standing.endpoints.append(endpoint)
        try:
            await note(endpoint)
            await self._catalogue.need_links(self._endpoints.networks(standing), again=False)
            unplug = self._unplugging(standing, endpoint, request.hosts_path)
            places, editions = self._naming.places(standing), self._naming.editions([network])
            plan = self._moved(request, before, standing.endpoints)

            async def undo(made: _Made) -> None:
                if made.resolver is not None:
                    nameserver.close(made.resolver.fds)
                if made.listeners is not None:
                    await offload.kernel(self._move_back, request, before, standing, made.listeners)
                await offload.kernel(unplug)

            made = await offload.to_the_end(
                offload.kernel(self._plug, request, standing, endpoint, places, editions, plan),
                undo,
            )
        except ports.PortError as error:
            with contextlib.suppress(OSError):
                await offload.to_the_end(offload.kernel(unplug))
            failed = self._publishing.failed(request.name, standing.endpoints, error)
            self._take_off(request.container_id, endpoint)
            await self._naming.tell([network])
            raise failed from error
        except BaseException as error:
            if isinstance(error, OSError):  # the link may be there, and the file not written
                unplug = self._unplugging(standing, endpoint, request.hosts_path)
                with contextlib.suppress(OSError):
                    await offload.to_the_end(offload.kernel(unplug))
            self._take_off(request.container_id, endpoint)
            await self._naming.tell([network])
            if isinstance(error, OSError):
                raise EngineError(f"cannot connect to network {network.name}: {error}") from error
            raise
        self._catalogue.publish(network, "connect", container=request.container_id)
        return Joined(
            endpoint=endpoint,
            resolver=made.resolver,
            ports=self._took(standing, plan, made.listeners),
        )

    def _plug(
        self,
        request: SandboxRequest,
        standing: Standing,
        endpoint: Endpoint,
        places: dict[str, object] | None,
        editions: Sequence[Callable[[], None]],
        plan: publishing.Plan | None,
    ) -> _Made:
        """In a worker thread: links and routes, the files that name the addresses, the ports."""
        port = self._endpoints.port(endpoint)
        if port is None or standing.path is None:
            return _Made()
        sandbox.connect(standing.path, port, self._gateways.routes(standing.endpoints))
        files.add_own(request, endpoint.addresses)
        for write in editions:
            write()
        resolver = self._naming.resolver(request, standing.path, places)
        if plan is None:
            return _Made(resolver=resolver)
        try:
            listeners = self._publishing.move(request.container_id, plan, standing.ports)
        except BaseException:
            if resolver is not None:
                nameserver.close(resolver.fds)
            raise
        return _Made(listeners=listeners, resolver=resolver)

    # Ports follow the network by which the container leads out

    def _moved(
        self, request: SandboxRequest, before: Sequence[Endpoint], after: Sequence[Endpoint]
    ) -> publishing.Plan | None:
        """What is to be published then; None where nothing changes."""
        plan, old = self._publishing.plan(request, after), self._publishing.plan(request, before)
        is_same = (plan.wanted, plan.opened) == (old.wanted, old.opened)
        return None if is_same and plan.direct == old.direct else plan

    def _move_back(
        self,
        request: SandboxRequest,
        before: Sequence[Endpoint],
        standing: Standing,
        made: Sequence[Listener],
    ) -> None:
        """In a worker thread."""
        self._publishing.undo(made)
        self._publishing.lead_back(request.container_id, before, standing.ports)

    def _took(
        self,
        standing: Standing,
        plan: publishing.Plan | None,
        listeners: Sequence[Listener] | None,
    ) -> MovedPorts | None:
        if plan is None or listeners is None:
            return None
        published = plan.published(listeners)
        gone = tuple(port for port in standing.ports if port not in published)
        standing.ports = published
        return MovedPorts(published=published, gone=gone, listeners=tuple(listeners))

    def released(self, moved: MovedPorts) -> None:
        """The monitor holds those no more that are gone."""
        self._publishing.release(moved.gone)

    # Leaving

    async def disconnect(
        self,
        ref: str,
        request: SandboxRequest,
        hand_over: Callable[[MovedPorts], Awaitable[None]],
        *,
        force: bool,
    ) -> MovedPorts | None:
        """With `force` also off a network that is gone, by its id."""
        container_id = request.container_id
        network = self._find_to_leave(ref, force=force)
        network_id, name = (network.id, network.name) if network else (ref, ref)
        standing = self._standings.get(container_id)
        found = [e for e in standing.endpoints if e.network_id == network_id] if standing else []
        if standing is None or not found:
            raise NotConnected(container_id, name)
        if network is not None:
            drivers.of(network).check_disconnect()
        # It stands there until the kernel has let go of it: nobody removes the network before.
        is_left = True
        unplug = self._unplugging(standing, found[0], request.hosts_path)
        rest = standing.without(found[0])
        places = self._naming.places(rest)
        plan = self._moved(request, standing.endpoints, rest.endpoints)
        moved: MovedPorts | None = None
        try:
            await offload.to_the_end(offload.kernel(unplug))
        except OSError as error:
            is_left = force
            if not force:
                raise EngineError(
                    f"container {container_id} failed to leave network {name}: "
                    f"{oserror.reason(error)}"
                ) from error
        finally:
            if is_left:
                if plan is not None:
                    moved = await self._follow(request, standing, found[0], plan)
                if moved is not None:  # before: whoever has its address next is to have no ports
                    await hand_over(moved)
                self._take_off(container_id, found[0])
                await self._naming.unname(container_id, places, [network] if network else [])
        if network is not None:
            self._catalogue.publish(network, "disconnect", container=container_id)
        return moved

    async def _follow(
        self,
        request: SandboxRequest,
        standing: Standing,
        left: Endpoint,
        plan: publishing.Plan,
    ) -> MovedPorts | None:
        """Publish by what the container leads out now; what cannot be is published no more."""
        for attempt in (plan, publishing.Plan()):
            try:
                made = await offload.to_the_end(
                    offload.kernel(
                        self._publishing.move, request.container_id, attempt, standing.ports
                    )
                )
                forget = functools.partial(publishing.forget_flows, left.addresses, standing.ports)
                await offload.to_the_end(offload.kernel(forget))
            except (OSError, ports.PortError) as error:
                log.warning("ports of container %s are lost: %s", request.container_id, error)
                continue
            return self._took(standing, attempt, made)
        return None

    def _find_to_leave(self, ref: str, *, force: bool) -> Network | None:
        """None where there is none any more and that is no reason to stay."""
        try:
            return self._catalogue.find(ref)
        except NoSuchNetwork:
            if not force:
                raise
            return None

    def _take_off(self, container_id: str, endpoint: Endpoint) -> None:
        """Give its addresses back, unless the whole sandbox was let go of meanwhile."""
        standing = self._standings.get(container_id)
        if standing is not None and endpoint in standing.endpoints:
            standing.endpoints.remove(endpoint)
            self._catalogue.subnets.withdraw(endpoint)

    def _unplugging(
        self, standing: Standing, endpoint: Endpoint, hosts_path: str
    ) -> Callable[[], None]:
        """What a worker thread has to do, all of it known: it asks for no network any more."""
        routes = self._gateways.routes(standing.without(endpoint).endpoints)
        is_known = self._catalogue.get(endpoint.network_id) is not None
        port = self._endpoints.port(endpoint) if is_known else None
        where = standing.path if port is not None or not is_known else None
        link = self._endpoints.link(endpoint)
        return functools.partial(_unplug, where, link, port, routes, endpoint, hosts_path)


def _unplug(
    where: str | None,
    link: str,
    port: sandbox.Port | None,
    routes: Sequence[Address],
    endpoint: Endpoint,
    hosts_path: str,
) -> None:
    """In a worker thread: the link with its routes, then the file that named the addresses."""
    if where is not None:
        sandbox.disconnect(where, link, port, routes)
    if hosts_path:
        files.drop_own(hosts_path, endpoint.addresses)
