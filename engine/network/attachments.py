"""Who stands on which network: sandboxes opened, closed, taken over at boot, changed while alive.

Addresses and ids are decided on the event loop, where nothing can come between; what the kernel
has to do is then one crossing to a worker thread, which undoes itself where it fails. A caller that
is cancelled meanwhile gets the crossing undone before it hears of it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, TypeVar

import msgspec

from engine import ids, offload
from engine.errors import EngineError, Forbidden, NoSuchNetwork, WharfError
from engine.linux import conntrack, oserror
from engine.network import (
    discovery,
    drivers,
    files,
    host,
    names,
    nameserver,
    ports,
    publishing,
    sandbox,
    settings,
)
from engine.network.gateways import Gateways
from engine.network.model import (
    DEFAULT,
    HOST,
    Endpoint,
    EndpointConfig,
    Joined,
    Listener,
    Member,
    MovedPorts,
    Network,
    PublishedPort,
    Resolver,
    Sandbox,
    SandboxRequest,
)
from engine.network.publishing import Publishing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from engine.config import EngineConfig
    from engine.network.catalogue import Catalogue
    from engine.network.firewall import Firewall

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface

T = TypeVar("T")

log = logging.getLogger(__name__)


class EndpointExists(Forbidden):
    def __init__(self, name: str, network: str) -> None:
        super().__init__(f"endpoint with name {name} already exists in network {network}")


class NotConnected(EngineError):
    def __init__(self, container_id: str, network: str) -> None:
        super().__init__(f"container {container_id} is not connected to network {network}")


class NoSandboxToJoin(EngineError):
    def __init__(self, ref: str) -> None:
        super().__init__(f"joining network namespace of container: No such container: {ref}")


@dataclass(slots=True)
class _Standing:
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

    def without(self, endpoint: Endpoint) -> _Standing:
        """As it will stand once it has left there."""
        return replace(self, endpoints=[e for e in self.endpoints if e is not endpoint])

    @property
    def addresses(self) -> list[str]:
        return [address for endpoint in self.endpoints for address in endpoint.addresses]


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
    """What it made that is the receiver's to close.

    `listeners` is None where the published ports stay as they were.
    """

    listeners: list[Listener] | None = None
    published: tuple[PublishedPort, ...] = ()
    resolver: Resolver | None = None


class Attachments:
    """`left` is told the links of a sandbox that was let go."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        firewall: Firewall | None,
        left: Callable[[Sequence[str]], None],
    ) -> None:
        self._config = config
        self._firewall = firewall
        self._left = left
        self._standing: dict[str, _Standing] = {}
        self._directory = discovery.Directory(config.exec_root)
        self.catalogue: Catalogue
        self._gateways: Gateways
        self._publishing: Publishing

    def learn_host(self) -> None:
        """What of the host decides about ports; before anything is opened or adopted; blocks."""
        self._gateways = Gateways(self.catalogue)
        self._publishing = Publishing(
            self._config,
            self._firewall,
            self._gateways,
            host_has_ipv6=files.host_has_ipv6(),
        )

    def members(self, network_id: str) -> tuple[Member, ...]:
        return tuple(
            _member(container_id, standing.name, endpoint)
            for container_id, standing in self._standing.items()
            for endpoint in standing.endpoints
            if endpoint.network_id == network_id
        )

    def container_ids(self) -> set[str]:
        return set(self._standing)

    def links(self) -> set[str]:
        return {self._link(e) for s in self._standing.values() for e in s.endpoints}

    def check(self, endpoints: Mapping[str, EndpointConfig]) -> None:
        """What is refused when a container is created; a missing network is not of it."""
        for name, config in sorted(endpoints.items()):
            try:
                network = self.catalogue.find(settings.network_name(name))
            except WharfError:
                network = None
            settings.check(name, network, config, at_create=True)

    # Opening

    async def open(self, request: SandboxRequest) -> Sandbox:
        if request.container_id in self._standing:
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
        standing = self._standing.get(container_id)
        if standing is not None and settings.joined(standing.mode) is None:
            standing.has_left = False
            self._publish(self._networks(standing), "connect", container_id)

    def announce_leave(self, container_id: str) -> None:
        standing = self._standing.get(container_id)
        if standing is not None and settings.joined(standing.mode) is None:
            standing.has_left = True
            self._publish(self._networks(standing), "disconnect", container_id)

    def _networks(self, standing: _Standing) -> list[Network]:
        """Those that it stands on, but for what was adopted and is not known any more."""
        found = (self.catalogue.get(e.network_id) for e in standing.endpoints)
        return [network for network in found if network is not None]

    async def _join(self, request: SandboxRequest, ref: str) -> Sandbox:
        other = self._standing[self._find(ref)]
        self._standing[request.container_id] = _Standing(request.name, request.mode, other.path)
        return Sandbox(id="", key="", netns_path=other.path)

    def _find(self, ref: str) -> str:
        if ref in self._standing:
            return ref
        named = [i for i, standing in self._standing.items() if standing.name == ref]
        found = named or ids.matches(ref, self._standing)
        if len(found) != 1:
            raise NoSandboxToJoin(ref)
        return found[0]

    async def _open(self, request: SandboxRequest) -> Sandbox:
        chosen = self._chosen(request)
        networks = [network for network, _ in chosen]
        is_host = drivers.of(networks[0]).is_host_namespace
        where = None if is_host else sandbox.path(self._config.exec_root, request.container_id)
        standing = _Standing(request.name, request.mode, where)
        self._standing[request.container_id] = standing
        try:
            for network, config in chosen:
                standing.endpoints.append(self._endpoint(network, config, request))
            made = await self._realise(request, standing)
        except BaseException:
            self._forget(request.container_id)
            self._publish(networks, "disconnect", request.container_id)
            await self._tell(networks)
            raise
        standing.ports = made.published
        default = f"{self._config.exec_root}/{sandbox.FOLDER}/{host.SANDBOX}"
        return Sandbox(
            id=ids.generate(),
            key=where or default,
            netns_path=where,
            endpoints=tuple(standing.endpoints),
            ports=standing.ports,
            listeners=tuple(made.listeners or ()),
            resolver=made.resolver,
        )

    def _chosen(self, request: SandboxRequest) -> list[tuple[Network, EndpointConfig]]:
        wanted = settings.wanted(request.mode, request.endpoints)
        chosen = [
            (self.catalogue.find(settings.network_name(ref)), config)
            for ref, config in wanted.items()
        ]
        settings.check_together([network for network, _ in chosen])
        for network, config in chosen:
            settings.check(network.name, network, config, at_create=False)
        return chosen

    def _publish(self, networks: Sequence[Network], action: str, container_id: str) -> None:
        for network in networks:
            self.catalogue.publish(network, action, container=container_id)

    async def _realise(self, request: SandboxRequest, standing: _Standing) -> _Made:
        """Carry the plan out; once more where a bridge was gone, which the kernel says vaguely."""
        try:
            await self._need_links(standing, again=False)
            try:
                return await self._carry_out(request, standing)
            except OSError:
                await self._need_links(standing, again=True)
            return await self._carry_out(request, standing)
        except ports.PortError as error:
            raise self._publishing.failed(request.name, standing.endpoints, error) from error
        except OSError as error:
            reason = oserror.reason(error)
            raise EngineError(f"cannot make the sandbox: {reason}") from error

    async def _need_links(self, standing: _Standing, *, again: bool) -> None:
        for network in self._networks(standing):
            if again or not self.catalogue.is_set_up(network):
                await self.catalogue.set_up(network)

    async def _carry_out(self, request: SandboxRequest, standing: _Standing) -> _Made:
        plan = self._plan(request, standing)
        undo = self._undo(plan)
        return await offload.to_the_end(
            offload.kernel(self._do, plan), lambda made: offload.kernel(undo, made)
        )

    def _plan(self, request: SandboxRequest, standing: _Standing) -> _Plan:
        places = self._places(standing)
        return _Plan(
            request=request,
            path=standing.path,
            links=self._known_ports(standing),
            gateways=self._gateways.routes(standing.endpoints),
            addresses=tuple(standing.addresses),
            host_gateways=self.catalogue.host_gateways(),
            ports=self._publishing.plan(request, standing.endpoints),
            places=places if discovery.is_served(self._networks(standing)) else None,
            editions=self._editions(self._networks(standing)),
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
            path = self._write_document(plan.request, plan.places, is_answered=True)
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
            listeners=listeners,
            published=plan.ports.published(listeners),
            resolver=made.resolver,
        )

    def _undo(self, plan: _Plan) -> Callable[[_Made], None]:
        def undo(made: _Made) -> None:
            self._publishing.undo(made.listeners or ())
            if made.resolver is not None:
                nameserver.close(made.resolver.fds)
            if plan.path is not None:
                self._carry_away(plan.request.container_id, plan.links)

        return undo

    # Who is called what

    def _places(self, standing: _Standing) -> dict[str, object] | None:
        """What its networks mean to its resolver, if it has or gets one."""
        if standing.path is None or not standing.owns_sandbox:
            return None
        found = [(self.catalogue.get(e.network_id), e) for e in standing.endpoints]
        known = [(network, endpoint) for network, endpoint in found if network is not None]
        return discovery.places(self._directory, known, standing.path)

    def _write_document(
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

    def _editions(self, networks: Iterable[Network]) -> tuple[Callable[[], None], ...]:
        """What there is to write now that somebody came or went."""
        return tuple(
            self._directory.edition(network, self._endpoints_on(network.id))
            for network in networks
            if not network.is_predefined and self.catalogue.get(network.id) is not None
        )

    def _endpoints_on(self, network_id: str) -> Iterator[Endpoint]:
        for standing in self._standing.values():
            yield from (e for e in standing.endpoints if e.network_id == network_id)

    async def _tell(self, networks: Iterable[Network]) -> None:
        """Those that stand there still learn who does."""
        editions = self._editions(networks)
        if not editions:
            return

        def write() -> None:
            for each in editions:
                try:
                    each()
                except OSError as error:
                    log.warning("names of a network cannot be written: %s", error)

        await offload.to_the_end(offload.kernel(write))

    def forget_network(self, network_id: str) -> None:
        """It is gone, and nobody stands on it; in a worker thread."""
        self._directory.forget_network(network_id)

    async def settle_names(self, unread: Iterable[str]) -> None:
        """At boot, when all that runs is known: write all of it, and remove what is nobody's.

        `unread` are containers that may run as well.
        """
        networks = [network for network in self.catalogue.all() if not network.is_predefined]
        await self._tell(networks)
        await offload.kernel(
            functools.partial(
                self._directory.sweep,
                containers={*self._standing, *unread},
                networks={network.id for network in networks},
            )
        )

    async def rename(self, container_id: str, new: str, hostname: str) -> None:
        """A container that runs is called otherwise from now on."""
        standing = self._standing.get(container_id)
        if standing is None:
            return
        standing.name = new
        standing.endpoints = [
            names.renamed(endpoint, new, container_id, hostname) for endpoint in standing.endpoints
        ]
        await self._tell(self._networks(standing))

    # What an endpoint gets

    def _endpoint(
        self, network: Network, config: EndpointConfig, request: SandboxRequest
    ) -> Endpoint:
        """Addresses, MAC and names; taken, nothing done yet."""
        driver = drivers.of(network)
        endpoint = Endpoint(
            network_name=network.name,
            network_id=network.id,
            config=config,
            endpoint_id=ids.generate(),
            dns_names=None if network.is_predefined else _dns_names(config, request),
            has_ports=driver.has_ports,
        )
        is_main = network.name == settings.network_name(request.mode)
        asked = config.mac_address or (request.mac_address if is_main else "")
        try:
            mac = driver.mac(asked.lower().replace("-", ":"))
        except WharfError as error:
            name = f"failed to create endpoint {request.name} on network {network.name}"
            error.args = (f"{name}: {error}",)
            raise
        placed = msgspec.structs.replace(endpoint, mac_address=mac)
        return self.catalogue.subnets.place(placed, network)

    def _link(self, endpoint: Endpoint) -> str:
        return sandbox.link_name(self._config.instance, endpoint.endpoint_id)

    def _port(self, endpoint: Endpoint) -> sandbox.Port | None:
        """The endpoint's interface; None where its network gives none."""
        network = self.catalogue.find(endpoint.network_id)
        via = drivers.of(network).via(network, self.catalogue.link_index(network))
        if via is None:
            return None
        placed = (
            (endpoint.ipv4_address, endpoint.ipv4_prefix),
            (endpoint.ipv6_address, endpoint.ipv6_prefix),
        )
        return sandbox.Port(
            link=self._link(endpoint),
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

    # Closing, and taking over at boot

    async def close(self, container_id: str) -> None:
        standing = self._standing.get(container_id)
        if standing is None or standing.owns_sandbox:
            links = [self._link(e) for e in standing.endpoints] if standing else []
            known = self._known_ports(standing) if standing else ()
            # The kernel first: an address is free when nothing answers for it any more.
            await offload.to_the_end(offload.kernel(self._carry_away, container_id, known, links))
            if standing and standing.ports:
                forget = functools.partial(_forget_flows, standing.addresses, standing.ports)
                await offload.to_the_end(offload.kernel(forget))
            self._left(links)
        if standing is None:
            return
        self._forget(container_id)
        await self._tell(self._networks(standing))
        if not standing.has_left:
            self._publish(self._networks(standing), "disconnect", container_id)

    def _known_ports(self, standing: _Standing) -> tuple[sandbox.Port, ...]:
        """But for those on networks whose rows cannot be read."""
        known = (e for e in standing.endpoints if self.catalogue.get(e.network_id) is not None)
        return tuple(port for port in map(self._port, known) if port is not None)

    def _carry_away(
        self, container_id: str, known: Sequence[sandbox.Port], links: Sequence[str] = ()
    ) -> None:
        """In a worker thread: firewall, links, namespace; all tried, the first failure raised.

        `links` are names on the host of ports that are not known.
        """
        where = sandbox.path(self._config.exec_root, container_id)
        with contextlib.ExitStack() as steps:
            steps.callback(sandbox.remove, where, known, links)
            steps.callback(self._directory.forget_container, container_id)
            steps.callback(self._publishing.close, container_id)

    def _forget(self, container_id: str) -> None:
        """Give back addresses and ports."""
        standing = self._standing.pop(container_id, None)
        if standing is None:
            return
        for endpoint in standing.endpoints:
            self.catalogue.subnets.withdraw(endpoint)
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
        standing = _Standing(name, mode, where, list(endpoints), tuple(published))
        self._standing[container_id] = standing
        for endpoint in endpoints:
            self.catalogue.subnets.place_again(endpoint)
        self._publishing.adopt(container_id, endpoints, published)

    def reserve(self, container_id: str, addresses: Sequence[Interface], *, name: str) -> None:
        """At boot: what runs and is known by its id only stands where its addresses are."""
        endpoints = [
            endpoint
            for network in self.catalogue.all()
            if (endpoint := _found(network, addresses)) is not None
        ]
        if not endpoints:
            return
        where = sandbox.path(self._config.exec_root, container_id)
        self._standing[container_id] = _Standing(name, DEFAULT, where, endpoints)
        for endpoint in endpoints:
            self.catalogue.subnets.place_again(endpoint)

    # Changing what is alive

    def resolve(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        current: Sequence[Endpoint],
    ) -> Endpoint:
        network = self.catalogue.find(ref)
        settings.check(network.name, network, config, at_create=False)
        settings.check_connect(request.mode, network, current)
        return Endpoint(
            network_name=network.name,
            network_id=network.id,
            config=config,
            mac_address=config.mac_address,
            dns_names=None if network.is_predefined else _dns_names(config, request),
        )

    async def connect(
        self,
        ref: str,
        config: EndpointConfig,
        request: SandboxRequest,
        note: Callable[[Endpoint], Awaitable[None]],
    ) -> Joined:
        network = self.catalogue.find(ref)
        standing = self._standing.get(request.container_id)
        if standing is None:
            raise EngineError(f"container {request.container_id} has no network sandbox")
        settings.check(network.name, network, config, at_create=False)
        if any(e.network_id == network.id for e in standing.endpoints):
            raise EndpointExists(request.name, network.name)
        settings.check_connect(standing.mode, network, standing.endpoints)
        endpoint = self._endpoint(network, config, request)
        before = list(standing.endpoints)
        standing.endpoints.append(endpoint)
        try:
            await note(endpoint)
            await self._need_links(standing, again=False)
            unplug = self._unplugging(standing, endpoint, request.hosts_path)
            places, editions = self._places(standing), self._editions([network])
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
            await self._tell([network])
            raise failed from error
        except BaseException as error:
            if isinstance(error, OSError):  # the link may be there, and the file not written
                unplug = self._unplugging(standing, endpoint, request.hosts_path)
                with contextlib.suppress(OSError):
                    await offload.to_the_end(offload.kernel(unplug))
            self._take_off(request.container_id, endpoint)
            await self._tell([network])
            if isinstance(error, OSError):
                raise EngineError(f"cannot connect to network {network.name}: {error}") from error
            raise
        self._publish([network], "connect", request.container_id)
        return Joined(
            endpoint=endpoint,
            resolver=made.resolver,
            ports=self._took(standing, plan, made.listeners),
        )

    def _plug(
        self,
        request: SandboxRequest,
        standing: _Standing,
        endpoint: Endpoint,
        places: dict[str, object] | None,
        editions: Sequence[Callable[[], None]],
        plan: publishing.Plan | None,
    ) -> _Made:
        """In a worker thread: links and routes, the files that name the addresses, the ports."""
        port = self._port(endpoint)
        if port is None or standing.path is None:
            return _Made()
        sandbox.connect(standing.path, port, self._gateways.routes(standing.endpoints))
        files.add_own(request, endpoint.addresses)
        for write in editions:
            write()
        resolver = self._name(request, standing.path, places)
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
        standing: _Standing,
        made: Sequence[Listener],
    ) -> None:
        """In a worker thread."""
        self._publishing.undo(made)
        self._publishing.lead_back(request.container_id, before, standing.ports)

    def _took(
        self,
        standing: _Standing,
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

    def _name(
        self, request: SandboxRequest, where: str, places: dict[str, object] | None
    ) -> Resolver | None:
        """In a worker thread: what the container's resolver knows, or one, if it needs it now."""
        if places is None or self._directory.change_container(request.container_id, places):
            return None
        if not places["networks"]:
            return None  # the default bridge alone
        path = self._write_document(request, places, is_answered=False)
        return Resolver(fds=nameserver.open_in(where), path=path)

    async def answered(self, request: SandboxRequest) -> None:
        """The monitor has taken the resolver that came of `connect`: the container may ask it."""
        await offload.to_the_end(offload.kernel(self._lead_to_resolver, request))

    def _lead_to_resolver(self, request: SandboxRequest) -> None:
        self._directory.change_container(request.container_id, {discovery.IS_ANSWERED: True})
        files.resolve_by(request, self._config, nameserver.ADDRESS)

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
        if network is not None:
            drivers.of(network).check_disconnect()
        network_id, name = (network.id, network.name) if network else (ref, ref)
        standing = self._standing.get(container_id)
        found = [e for e in standing.endpoints if e.network_id == network_id] if standing else []
        if standing is None or not found:
            raise NotConnected(container_id, name)
        # It stands there until the kernel has let go of it: nobody removes the network before.
        is_left = True
        unplug = self._unplugging(standing, found[0], request.hosts_path)
        rest = standing.without(found[0])
        places = self._places(rest)
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
                await self._unname(container_id, places, [network] if network else [])
        if network is not None:
            self._publish([network], "disconnect", container_id)
        return moved

    async def _follow(
        self,
        request: SandboxRequest,
        standing: _Standing,
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
                forget = functools.partial(_forget_flows, left.addresses, standing.ports)
                await offload.to_the_end(offload.kernel(forget))
            except (OSError, ports.PortError) as error:
                log.warning("ports of container %s are lost: %s", request.container_id, error)
                continue
            return self._took(standing, attempt, made)
        return None

    async def _unname(
        self, container_id: str, places: dict[str, object] | None, networks: Sequence[Network]
    ) -> None:
        if places is not None:
            with contextlib.suppress(OSError):  # it goes on knowing names that nobody has
                await offload.to_the_end(
                    offload.kernel(self._directory.change_container, container_id, places)
                )
        await self._tell(networks)

    def _find_to_leave(self, ref: str, *, force: bool) -> Network | None:
        """None where there is none any more and that is no reason to stay."""
        try:
            return self.catalogue.find(ref)
        except NoSuchNetwork:
            if not force:
                raise
            return None

    def _take_off(self, container_id: str, endpoint: Endpoint) -> None:
        """Give its addresses back, unless the whole sandbox was let go of meanwhile."""
        standing = self._standing.get(container_id)
        if standing is not None and endpoint in standing.endpoints:
            standing.endpoints.remove(endpoint)
            self.catalogue.subnets.withdraw(endpoint)

    def _unplugging(
        self, standing: _Standing, endpoint: Endpoint, hosts_path: str
    ) -> Callable[[], None]:
        """What a worker thread has to do, all of it known: it asks for no network any more."""
        routes = self._gateways.routes(standing.without(endpoint).endpoints)
        is_known = self.catalogue.get(endpoint.network_id) is not None
        port = self._port(endpoint) if is_known else None
        where = standing.path if port is not None or not is_known else None
        link = self._link(endpoint)
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


def _forget_flows(addresses: Sequence[str], published: Sequence[PublishedPort]) -> None:
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


def _dns_names(config: EndpointConfig, request: SandboxRequest) -> tuple[str, ...]:
    short = ids.short(request.container_id)
    return names.dns_names(request.name, config.aliases or (), short, request.hostname)


def _found(network: Network, addresses: Sequence[Interface]) -> Endpoint | None:
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
