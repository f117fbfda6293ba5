"""Sandboxes of containers: opened, closed, taken over at boot.

Addresses and ids are decided on the event loop, where nothing can come between; what the kernel
has to do is then one crossing to a worker thread, which undoes itself where it fails. A caller that
is cancelled meanwhile gets the crossing undone before it hears of it.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import ids, offload
from engine.errors import EngineError, WharfError
from engine.linux import oserror
from engine.network import (
    discovery,
    drivers,
    endpoints,
    files,
    host,
    names,
    nameserver,
    ports,
    publishing,
    sandbox,
    settings,
)
from engine.network.endpoints import EndpointExists
from engine.network.model import DEFAULT, HOST, Resolver, Sandbox
from engine.network.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from engine.config import EngineConfig
    from engine.network.catalogue import Catalogue
    from engine.network.endpoints import Endpoints
    from engine.network.gateways import Gateways
    from engine.network.model import (
        Endpoint,
        EndpointConfig,
        Listener,
        Network,
        PublishedPort,
        SandboxRequest,
    )
    from engine.network.naming import Naming
    from engine.network.publishing import Publishing
    from engine.network.standing import Standings

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that the worker thread does to open one sandbox."""

    request: SandboxRequest
    path: str | None
    links: tuple[sandbox.Port, ...]
    gateways: tuple[Address, ...]
    addresses: tuple[str, ...]
    host_gateways: tuple[str, ...]
    ports: publishing.Plan
    places: dict[str, object] | None
    """Of the document of the container's resolver; None for none."""
    editions: tuple[Callable[[], None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What it made that is the receiver's to close."""

    listeners: tuple[Listener, ...] = ()
    published: tuple[PublishedPort, ...] = ()
    resolver: Resolver | None = None


class Attachments:
    """`left` is told the links of a sandbox that was let go."""

    def __init__(
        self,
        config: EngineConfig,
        catalogue: Catalogue,
        standings: Standings,
        endpoints: Endpoints,
        naming: Naming,
        gateways: Gateways,
        publishing: Publishing,
        *,
        left: Callable[[Sequence[str]], None],
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._standings = standings
        self._endpoints = endpoints
        self._naming = naming
        self._gateways = gateways
        self._publishing = publishing
        self._left = left

    def links(self) -> set[str]:
        return {self._endpoints.link(each) for each in self._standings.endpoints()}

    def check(self, endpoints: Mapping[str, EndpointConfig]) -> None:
        """What is refused when a container is created; a missing network is not of it."""
        for name, config in sorted(endpoints.items()):
            try:
                network = self._catalogue.find(settings.network_name(name))
            except WharfError:
                network = None
            settings.check(name, network, config, at_create=True)

    # Opening

    async def open(self, request: SandboxRequest) -> Sandbox:
        if self._standings.get(request.container_id) is not None:
            await self.close(request.container_id)
        if (ref := settings.joined(request.mode)) is not None:
            return await self._join(request, ref)
        try:
            return await self._open(request)
        except names.BadNameserver:
            raise
        except WharfError as error:
            error.args = (f"failed to set up container networking: {error}",)
            raise

    def announce(self, container_id: str) -> None:
        """Tell of the networks that a container came to; a start that failed before never did."""
        standing = self._standings.get(container_id)
        if standing is not None and settings.joined(standing.mode) is None:
            standing.has_left = False
            self._publish(self._endpoints.networks(standing), "connect", container_id)

    def announce_leave(self, container_id: str) -> None:
        standing = self._standings.get(container_id)
        if standing is not None and settings.joined(standing.mode) is None:
            standing.has_left = True
            self._publish(self._endpoints.networks(standing), "disconnect", container_id)

    async def _join(self, request: SandboxRequest, ref: str) -> Sandbox:
        other = self._standings.find(ref)
        standing = Standing(request.name, request.mode, other.path)
        self._standings.add(request.container_id, standing)
        return Sandbox(id="", key="", netns_path=other.path)

    async def _open(self, request: SandboxRequest) -> Sandbox:
        chosen = self._chosen(request)
        networks = [network for network, _ in chosen]
        is_host = any(drivers.of(network).is_host_namespace for network in networks)
        where = None if is_host else sandbox.path(self._config.exec_root, request.container_id)
        standing = Standing(request.name, request.mode, where)
        self._standings.add(request.container_id, standing)
        try:
            for network, config in chosen:
                standing.endpoints.append(self._endpoints.make(network, config, request))
            made = await self._realise(request, standing)
        except BaseException:
            self._forget(request.container_id)
            self._publish(networks, "disconnect", request.container_id)
            await self._naming.tell(networks)
            raise
        standing.ports = made.published
        default = f"{self._config.exec_root}/{sandbox.FOLDER}/{host.SANDBOX}"
        return Sandbox(
            id=ids.generate(),
            key=where or default,
            netns_path=where,
            endpoints=tuple(standing.endpoints),
            ports=standing.ports,
            listeners=made.listeners,
            resolver=made.resolver,
        )

    def _chosen(self, request: SandboxRequest) -> list[tuple[Network, EndpointConfig]]:
        """The networks to stand on, eth0's first: that of the mode, then by name."""
        chosen = [
            (self._catalogue.find(settings.network_name(ref)), config)
            for ref, config in request.endpoints.items()
        ]
        main = self._endpoints.main(request.mode)
        chosen.sort(key=lambda pair: (pair[0] is not main, pair[0].name))
        networks = [network for network, _ in chosen]
        settings.check_together(request.mode, networks)
        for place, (network, config) in enumerate(chosen):
            if network in networks[:place]:
                raise EndpointExists(request.name, network.name)
            settings.check(network.name, network, config, at_create=False)
        return chosen

    def _publish(self, networks: Sequence[Network], action: str, container_id: str) -> None:
        for network in networks:
            self._catalogue.publish(network, action, container=container_id)

    async def _realise(self, request: SandboxRequest, standing: Standing) -> _Made:
        """Carry the plan out; once more where a bridge was gone, which the kernel says vaguely."""
        try:
            await self._catalogue.need_links(self._endpoints.networks(standing), again=False)
            try:
                return await self._carry_out(request, standing)
            except OSError:
                await self._catalogue.need_links(self._endpoints.networks(standing), again=True)
            return await self._carry_out(request, standing)
        except ports.PortError as error:
            raise self._publishing.failed(request.name, standing.endpoints, error) from error
        except OSError as error:
            reason = oserror.reason(error)
            raise EngineError(f"cannot make the sandbox: {reason}") from error

    async def _carry_out(self, request: SandboxRequest, standing: Standing) -> _Made:
        plan = self._plan(request, standing)
        undo = self._undo(plan)
        return await offload.to_the_end(
            offload.kernel(self._do, plan), lambda made: offload.kernel(undo, made)
        )

    def _plan(self, request: SandboxRequest, standing: Standing) -> _Plan:
        places, networks = self._naming.places(standing), self._endpoints.networks(standing)
        return _Plan(
            request=request,
            path=standing.path,
            links=self._endpoints.ports(standing),
            gateways=self._gateways.routes(standing.endpoints),
            addresses=tuple(standing.addresses),
            host_gateways=self._catalogue.host_gateways(),
            ports=self._publishing.plan(request, standing.endpoints),
            places=places if discovery.is_served(networks) else None,
            editions=self._naming.editions(networks),
        )

    def _do(self, plan: _Plan) -> _Made:
        """In a worker thread: files, namespace, sockets, firewall."""
        files.write_all(
            plan.request,
            self._config,
            own=plan.addresses,
            gateways=plan.host_gateways,
            has_own_namespace=plan.path is not None,
            resolver=nameserver.ADDRESS if plan.places is not None else "",
        )
        if plan.path is None:
            return _Made()
        if plan.places is None:
            sandbox.create(plan.path, plan.links, plan.gateways, lambda: None)
            made = _Made()
        else:
            path = self._naming.write(plan.request, plan.places, is_answered=True)
            last = nameserver.open_here
            fds = sandbox.create(plan.path, plan.links, plan.gateways, last)
            made = _Made(resolver=Resolver(fds=fds, path=path))
        try:
            for write in plan.editions:
                write()
            listeners = self._publishing.open(plan.request.container_id, plan.ports)
        except BaseException:
            self._undo(plan)(made)
            raise
        return _Made(
            listeners=tuple(listeners),
            published=plan.ports.published(listeners),
            resolver=made.resolver,
        )

    def _undo(self, plan: _Plan) -> Callable[[_Made], None]:
        def undo(made: _Made) -> None:
            self._publishing.undo(made.listeners)
            if made.resolver is not None:
                nameserver.close(made.resolver.fds)
            if plan.path is not None:
                self._carry_away(plan.request.container_id, plan.links)

        return undo

    # Closing, and taking over at boot

    async def close(self, container_id: str) -> None:
        standing = self._standings.get(container_id)
        if standing is None or standing.owns_sandbox:
            links = [self._endpoints.link(e) for e in standing.endpoints] if standing else []
            known = self._endpoints.ports(standing) if standing else ()
            # The kernel first: an address is free when nothing answers for it any more.
            await offload.to_the_end(offload.kernel(self._carry_away, container_id, known, links))
            if standing and standing.ports:
                forget = functools.partial(
                    publishing.forget_flows, standing.addresses, standing.ports
                )
                await offload.to_the_end(offload.kernel(forget))
            self._left(links)
        if standing is None:
            return
        self._forget(container_id)
        await self._naming.tell(self._endpoints.networks(standing))
        if not standing.has_left:
            self._publish(self._endpoints.networks(standing), "disconnect", container_id)

    def _carry_away(
        self, container_id: str, known: Sequence[sandbox.Port], links: Sequence[str] = ()
    ) -> None:
        """In a worker thread: firewall, links, namespace; all tried, the first failure raised.

        `links` are names on the host of ports that are not known.
        """
        where = sandbox.path(self._config.exec_root, container_id)
        with contextlib.ExitStack() as steps:
            steps.callback(sandbox.remove, where, known, links)
            steps.callback(self._naming.forget, container_id)
            steps.callback(self._publishing.close, container_id)

    def _forget(self, container_id: str) -> None:
        """Give back addresses and ports."""
        standing = self._standings.remove(container_id)
        if standing is None:
            return
        for endpoint in standing.endpoints:
            self._catalogue.subnets.withdraw(endpoint)
        self._publishing.release(standing.ports)

    def adopt(
        self,
        container_id: str,
        endpoints: Sequence[Endpoint],
        published: Sequence[PublishedPort],
        *,
        name: str,
        mode: str,
    ) -> None:
        is_shared = settings.joined(mode) is not None or settings.network_name(mode) == HOST
        where = None if is_shared else sandbox.path(self._config.exec_root, container_id)
        standing = Standing(name, mode, where, list(endpoints), tuple(published))
        self._standings.add(container_id, standing)
        for endpoint in endpoints:
            self._catalogue.subnets.place_again(endpoint)
        self._publishing.adopt(container_id, endpoints, published)

    def reserve(self, container_id: str, addresses: Sequence[Interface], *, name: str) -> None:
        """At boot: what runs and is known by its id only stands where its addresses are."""
        found = [
            endpoint
            for network in self._catalogue.all()
            if (endpoint := endpoints.found(network, addresses)) is not None
        ]
        if not found:
            return
        where = sandbox.path(self._config.exec_root, container_id)
        self._standings.add(container_id, Standing(name, DEFAULT, where, found))
        for endpoint in found:
            self._catalogue.subnets.place_again(endpoint)
