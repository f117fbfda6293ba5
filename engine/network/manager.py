"""Networks: which there are, who stands on them, and what it takes to stand there.

Every change of the kernel happens in one crossing to a worker thread, planned before and undone
by itself where it fails; what the plan needs (addresses, ids) is decided on the event loop, where
nothing else can run between. Order at boot: `open_engine`, then `adopt` for every container that
runs, then `settle`, which makes the kernel agree with that and sweeps what nobody claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, TypeVar

import msgspec

from engine import filters, ids, offload
from engine.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidParameter,
    NoSuchNetwork,
    NotFound,
    NotImplementedHere,
    WharfError,
)
from engine.ids import NetworkId
from engine.linux import netlink
from engine.network import bridge, host, ipam, names, none, ports, sandbox, settings
from engine.network import filters as network_filters
from engine.network import firewall as firewalls
from engine.network.model import (
    DEFAULT,
    HOST,
    IPAM,
    NONE,
    PREDEFINED,
    Endpoint,
    EndpointConfig,
    Listener,
    Member,
    Network,
    NetworkRequest,
    NetworkView,
    PublishedPort,
    Sandbox,
    SandboxRequest,
    Subnet,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from engine.config import EngineConfig
    from engine.events import EventBus
    from engine.storage.database import Database

    Address = IPv4Address | IPv6Address
    Prefix = IPv4Network | IPv6Network

T = TypeVar("T")

log = logging.getLogger(__name__)

_HOST_RESOLV_CONF = "/etc/resolv.conf"
_HOST_HOSTS = "/etc/hosts"
_DEFAULT_GATEWAY_AUX = ("DefaultGatewayIPv4", "DefaultGatewayIPv6")
# A sandbox whose processes are gone is taken away by the kernel well within that.
_REAP_AFTER_S = 2.0


class NetworkExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists")


class NetworkPredefined(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f"operation is not permitted on predefined {name} network ")


class NetworkNotRemovable(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is a pre-defined network and cannot be removed")


class NetworkInUse(Forbidden):
    """`endpoints` are (container name, endpoint id)."""

    def __init__(self, name: str, endpoints: Sequence[tuple[str, str]]) -> None:
        listed = ", ".join(f'name:"{n}" id:"{ids.short(e)}"' for n, e in endpoints)
        super().__init__(
            f"error while removing network: network {name} has active endpoints ({listed})"
        )


class NetworkAmbiguous(InvalidParameter):
    def __init__(self, ref: str, count: int) -> None:
        super().__init__(f"network {ref} is ambiguous ({count} matches found based on ID prefix)")


class NoSuchPlugin(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f'plugin "{name}" not found')


class EndpointExists(Forbidden):
    def __init__(self, name: str, network: str) -> None:
        super().__init__(f"endpoint with name {name} already exists in network {network}")


class NotConnected(EngineError):
    def __init__(self, container_id: str, network: str) -> None:
        super().__init__(f"container {container_id} is not connected to network {network}")


class NoAddressOnNetwork(EngineError):
    def __init__(self, version: int, network: Network) -> None:
        super().__init__(
            f"no available IPv{version} addresses on this network's address pools: "
            f"{network.name} ({network.id})"
        )


class ConnectivityFailed(EngineError):
    """A published port cannot be had; `reason` says which and why."""

    def __init__(self, endpoint: str, endpoint_id: str, reason: str) -> None:
        super().__init__(
            f"driver failed programming external connectivity on endpoint {endpoint} "
            f"({endpoint_id}): {reason}"
        )


@dataclass(slots=True)
class _Open:
    """A container that has a sandbox now."""

    name: str
    mode: str
    path: str | None
    endpoints: list[Endpoint] = field(default_factory=list[Endpoint])
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that the worker thread does to open one sandbox."""

    container_id: str
    path: str | None
    links: tuple[sandbox.Port, ...]
    gateways: tuple[Address, ...]
    wanted: tuple[ports.Wanted, ...]
    files: tuple[tuple[str, str], ...]


class Networks:
    """All networks of one engine. Its verbs are called on the event loop."""

    def __init__(self, config: EngineConfig, database: Database, events: EventBus) -> None:
        self._config = config
        self._table = database.table("network")
        self._events = events
        self._networks: dict[str, Network] = {}
        self._pools: dict[str, dict[int, ipam.Pool]] = {}
        self._links: dict[str, int] = {}
        self._open: dict[str, _Open] = {}
        self._space = ipam.AddressSpace(_predefined(config))
        self._ports = ports.PortAllocator(ports.ephemeral_range())
        self._firewall: firewalls.Firewall | None = None
        if config.iptables or config.ip6tables:
            prefix = sandbox.link_prefix(config.instance)
            self._firewall = firewalls.Firewall(config.instance, link_prefix=prefix)
        self._changes = asyncio.Lock()
        self._left: list[str] = []
        self._cleaner: asyncio.Task[None] | None = None
        self._something_left = asyncio.Event()
        self._forwards_since_us = False

    # The engine's life

    async def open_engine(self) -> None:
        """Read the networks and make their bridges; running containers notice nothing."""
        rows = await offload.disk(self._table.items)
        kept = [msgspec.json.decode(document, type=Network) for _, document in rows]
        for network in kept:
            self._networks[network.id] = network
        await self._open_predefined()
        for network in list(self._networks.values()):
            if network.driver == bridge.NAME and network.name != DEFAULT:
                self._take_subnets(network)
                await self._set_up_at_boot(network)
        await offload.kernel(self._start_forwarding)
        self._cleaner = asyncio.get_running_loop().create_task(self._clean(), name="networks")

    async def settle(self) -> None:
        """Make the firewall anew with what was adopted, and sweep what nobody claims."""
        keep_links = {n.link for n in self._networks.values() if n.link}
        keep_links |= {self._link(e) for o in self._open.values() for e in o.endpoints}
        await offload.kernel(self._rebuild_firewall)
        await offload.kernel(
            lambda: sandbox.sweep(
                self._config.exec_root,
                self._config.instance,
                keep_ids=set(self._open),
                keep_links=keep_links,
            )
        )

    async def close_engine(self) -> None:
        """Stop our own work. Running containers keep their network, firewall and ports."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._cleaner
            self._cleaner = None
        if self._firewall is not None:
            await offload.kernel(self._firewall.close)

    async def remove_engine(self) -> None:
        """Take everything of this engine out of the host's network; nothing may run any more."""
        await self.close_engine()
        if self._firewall is not None:
            await offload.kernel(self._firewall.remove)
            await offload.kernel(self._firewall.close)
        for network in self._networks.values():
            if network.link:
                await offload.kernel(bridge.teardown, network)

    async def _open_predefined(self) -> None:
        for name, driver in ((NONE, none.NAME), (HOST, host.NAME)):
            if self._named(name) is None:
                await self._keep(_new(name, driver))
        if self._config.bridge == "none":
            return
        if self._config.bridge:
            raise NotImplementedHere("a bridge made by somebody else (--bridge) is not supported")
        network = await self._default_bridge(self._named(DEFAULT))
        await self._keep(network)
        await self._set_up_at_boot(network)

    async def _default_bridge(self, kept: Network | None) -> Network:
        """The default network as the configuration has it now; its id and link stay."""
        config = self._config
        network = kept or _new(DEFAULT, bridge.NAME)
        link = network.link or await offload.kernel(self._default_link, network.id)
        reserved = await offload.kernel(_host_subnets, link)
        subnets = [self._default_subnet(4, network, config.bip, config.fixed_cidr, reserved)]
        if config.ipv6:
            subnets.append(
                self._default_subnet(6, network, config.bip6, config.fixed_cidr_v6, reserved)
            )
        options = {
            bridge.DEFAULT_BRIDGE: "true",
            bridge.ENABLE_ICC: _truth(config.icc),
            bridge.ENABLE_MASQUERADE: _truth(config.ip_masq),
            bridge.HOST_BINDING: config.ip,
            bridge.BRIDGE_NAME: link,
            bridge.MTU: str(config.mtu),
        }
        return msgspec.structs.replace(
            network,
            link=link,
            enable_ipv6=config.ipv6,
            subnets=tuple(subnets),
            options=options,
        )

    def _default_link(self, network_id: str) -> str:
        if self._config.is_default_instance:
            with netlink.Socket() as sock:
                if netlink.link(sock, bridge.DEFAULT_LINK) is None:
                    return bridge.DEFAULT_LINK
        return sandbox.link_name(self._config.instance, network_id)

    def _default_subnet(
        self, version: int, network: Network, bip: str, fixed: str, reserved: Sequence[Prefix]
    ) -> Subnet:
        """From --bip, else what it was before, else the first pool that the host leaves free."""
        before = next((s for s in network.subnets if _version(s.subnet) == version), None)
        gateway = ""
        if bip:
            gateway, subnet = str(ip_interface(bip).ip), ip_interface(bip).network
        elif fixed:
            subnet = ip_network(fixed, strict=False)
        elif before is not None and not _overlaps(before.subnet, reserved):
            gateway, subnet = before.gateway, ip_network(before.subnet)
        else:
            subnet = self._space.allocate(version, reserved)
            self._space.release(subnet)
        chosen = self._config.default_gateway if version == 4 else self._config.default_gateway_v6
        asked = Subnet(
            subnet=str(subnet),
            ip_range=fixed,
            gateway=gateway,
            aux_addresses={_DEFAULT_GATEWAY_AUX[version == 6]: chosen} if chosen else {},
        )
        return self._take_subnet(network.id, asked, needs_gateway=True)

    async def _set_up_at_boot(self, network: Network) -> None:
        """A network that cannot be made stays known; who starts on it is told why."""
        try:
            await self._set_up(network)
        except OSError as error:
            log.warning("cannot make the bridge of network %s: %s", network.name, error)

    async def _set_up(self, network: Network) -> int:
        index = await offload.kernel(bridge.setup, network)
        self._links[network.id] = index
        return index

    def _start_forwarding(self) -> None:
        """Remembers, for as long as the host runs, that it forwards because of us."""
        config = self._config
        mark = os.path.join(config.exec_root, "forwarding")
        if config.ip_forward:
            has_ipv6 = any(n.enable_ipv6 for n in self._networks.values())
            if bridge.forward(ipv6=has_ipv6):
                os.makedirs(config.exec_root, exist_ok=True)
                with open(mark, "w", encoding="ascii"):
                    pass
        self._forwards_since_us = os.path.exists(mark) and not config.ip_forward_no_drop

    def _rebuild_firewall(self) -> None:
        if self._firewall is not None:
            self._firewall.rebuild(self._rules(), guard=self._forwards_since_us)

    def _rules(self) -> Sequence[firewalls.Bridge]:
        return [bridge.rules(n) for n in list(self._networks.values()) if n.link]

    async def _clean(self) -> None:
        """Take out later what would have kept somebody waiting."""
        while True:
            await self._something_left.wait()
            self._something_left.clear()
            try:
                links, self._left = self._left, []
                await asyncio.sleep(_REAP_AFTER_S)
                await offload.kernel(sandbox.reap, links)
            except OSError as error:
                log.warning("cannot clean up the network: %s", error)

    # Which networks there are

    def _named(self, name: str) -> Network | None:
        return next((n for n in self._networks.values() if n.name == name), None)

    def find(self, ref: str) -> Network:
        """By id, name or prefix of an id. Raises NoSuchNetwork, NetworkAmbiguous."""
        if ref in self._networks:
            return self._networks[ref]
        if (network := self._named(ref)) is not None:
            return network
        found = ids.matches(ref, self._networks)
        if len(found) > 1:
            raise NetworkAmbiguous(ref, len(found))
        if not found:
            raise NoSuchNetwork(ref)
        return self._networks[found[0]]

    def _view(self, network: Network) -> NetworkView:
        members = [
            _member(container_id, opened.name, endpoint)
            for container_id, opened in self._open.items()
            for endpoint in opened.endpoints
            if endpoint.network_id == network.id
        ]
        return NetworkView(network=network, members=tuple(members))

    async def list(
        self, wanted: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[NetworkView, ...]:
        """Newest last; `wanted` are Docker's filters."""
        ordered = sorted(self._networks.values(), key=lambda n: n.created_ns)
        return tuple(network_filters.select(map(self._view, ordered), wanted or {}))

    async def inspect(self, ref: str, *, verbose: bool = False, scope: str = "") -> NetworkView:
        """`verbose` adds what only a cluster has; `scope` is "local" or matches nothing."""
        network = self.find(ref)
        if scope not in ("", network.scope):
            raise NoSuchNetwork(ref)
        return self._view(network)

    async def create(self, request: NetworkRequest) -> tuple[NetworkId, str]:
        """The id of the new network, and a warning or ""."""
        async with self._changes:
            _check_request(request)
            if self._named(request.name) is not None:
                raise NetworkExists(request.name)
            network = self._compose(request)
            if not network.is_config_only:
                network = await self._make(network)
            else:
                await self._keep(network)
        self._publish(network, "create")
        return network.id, ""

    def _compose(self, request: NetworkRequest) -> Network:
        driver = request.driver or bridge.NAME
        source = request
        if request.config_from:
            template = self._named(request.config_from)
            if template is None or not template.is_config_only:
                raise NotFound(f'configuration network "{request.config_from}" does not exist')
            source = msgspec.structs.replace(
                request,
                ipam=template.ipam,
                options=template.options,
                labels={**template.labels, **request.labels},
                enable_ipv6=template.enable_ipv6,
                is_internal=template.is_internal,
            )
        options = {**self._config.default_network_opts.get(driver, {}), **source.options}
        network = _new(request.name, none.NAME if request.is_config_only else driver)
        link = bridge.parse(options).link if driver == bridge.NAME else ""
        return msgspec.structs.replace(
            network,
            enable_ipv4=source.enable_ipv4 is not False,
            enable_ipv6=bool(source.enable_ipv6),
            ipam=source.ipam or IPAM(),
            is_internal=source.is_internal,
            is_attachable=request.is_attachable,
            is_config_only=request.is_config_only,
            config_from=request.config_from,
            options=options,
            labels=source.labels,
            link=""
            if request.is_config_only
            else link or sandbox.link_name(self._config.instance, network.id),
        )

    async def _make(self, network: Network) -> Network:
        """Subnets, bridge, firewall, row: in that order, all undone where one fails."""
        if any(n.link == network.link for n in self._networks.values()):
            raise Forbidden(f"a network with bridge name {network.link} already exists")
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(self._release_subnets, network.id)
            network = await self._allocate_subnets(network)
            undo.push_async_callback(offload.kernel, bridge.teardown, network)
            await self._set_up(network)
            if network.enable_ipv6 and self._config.ip_forward:
                await offload.kernel(lambda: bridge.forward(ipv6=True))
            self._networks[network.id] = network
            undo.push_async_callback(self._forget, network)
            await offload.kernel(self._rebuild_firewall)
            await self._keep(network)
            undo.pop_all()
        return network

    async def _forget(self, network: Network) -> None:
        self._networks.pop(network.id, None)
        self._links.pop(network.id, None)
        await offload.kernel(self._rebuild_firewall)

    async def _keep(self, network: Network) -> None:
        document = msgspec.json.encode(network)
        await offload.disk(self._table.put, network.id, document, name=network.name)
        self._networks[network.id] = network

    async def remove(self, ref: str) -> None:
        async with self._changes:
            await self._remove(self.find(ref))

    async def _remove(self, network: Network) -> None:
        if network.is_predefined:
            raise NetworkNotRemovable(network.name)
        members = self._view(network).members
        if members:
            raise NetworkInUse(network.name, [(m.name, m.endpoint_id) for m in members])
        users = [n for n in self._networks.values() if n.config_from == network.name]
        if network.is_config_only and users:
            raise Forbidden(f"configuration network {network.name} is in use")
        # The row first: from then on a crash leaves a link, which the next boot sweeps.
        await offload.disk(self._table.delete, network.id)
        await self._forget(network)
        if network.link:
            await offload.kernel(bridge.teardown, network)
            self._release_subnets(network.id)
        if not network.is_config_only:
            self._publish(network, "destroy")

    async def prune(self, wanted: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
        """Remove what nobody stands on; the names of what is gone."""
        chosen = wanted or {}
        filters.check(chosen, network_filters.PRUNE)
        until = filters.until_ns(chosen)
        removed: list[str] = []
        async with self._changes:
            for network in list(self._networks.values()):
                is_young = until is not None and network.created_ns > until
                if network.is_predefined or network.is_config_only or is_young:
                    continue
                if not filters.passes_labels(chosen, network.labels):
                    continue
                with contextlib.suppress(NetworkInUse):
                    await self._remove(network)
                    removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return tuple(removed)

    # Subnets

    async def _allocate_subnets(self, network: Network) -> Network:
        """Take what was asked for, and a pool for each family that nothing was said about."""
        reserved = await offload.kernel(_host_subnets, "")
        families = [v for v, on in ((4, network.enable_ipv4), (6, network.enable_ipv6)) if on]
        subnets: list[Subnet] = []
        for version in families:
            asked = [s for s in network.ipam.config if _version(s.subnet) == version]
            if len(asked) > 1:
                raise Forbidden("bridge driver doesn't support multiple subnets")
            if asked:
                entry = asked[0]
            else:
                entry = Subnet(subnet=str(self._allocate_pool(version, reserved)))
            subnets.append(
                self._take_subnet(network.id, entry, needs_gateway=True, is_taken=not asked)
            )
        return msgspec.structs.replace(network, subnets=tuple(subnets))

    def _allocate_pool(self, version: int, reserved: Sequence[Prefix]) -> Prefix:
        return self._space.allocate(version, reserved)

    def _take_subnet(
        self, network_id: str, entry: Subnet, *, needs_gateway: bool, is_taken: bool = False
    ) -> Subnet:
        """The subnet with its gateway, both taken, and its auxiliary addresses."""
        subnet = ip_network(entry.subnet)
        if not is_taken:
            self._space.take(subnet)
        pool = ipam.Pool(subnet, ip_network(entry.ip_range) if entry.ip_range else None)
        self._pools.setdefault(network_id, {})[subnet.version] = pool
        for text in entry.aux_addresses.values():
            pool.take(ip_address(text))
        if entry.gateway:
            pool.take(ip_address(entry.gateway))
            return entry
        if not needs_gateway:
            return entry
        return msgspec.structs.replace(entry, gateway=str(pool.allocate()))

    def _take_subnets(self, network: Network) -> None:
        """At boot: what the row says is taken again."""
        for entry in network.subnets:
            try:
                self._take_subnet(network.id, entry, needs_gateway=False)
            except WharfError as error:
                log.warning("subnet %s of %s: %s", entry.subnet, network.name, error)

    def _release_subnets(self, network_id: str) -> None:
        for pool in self._pools.pop(network_id, {}).values():
            self._space.release(pool.subnet)

    # Who stands on them

    def check(self, mode: str, endpoints: Mapping[str, EndpointConfig]) -> None:
        """What dockerd refuses when a container is created; a missing network is not of it."""
        for name, config in sorted(endpoints.items()):
            try:
                network = self.find(settings.network_name(name))
            except WharfError:
                network = None
            settings.check(name, network, config, at_create=True)

    async def open(self, request: SandboxRequest) -> Sandbox:
        """Give a container its network. Undoes itself where it fails or is cancelled."""
        if request.container_id in self._open:
            await self.close(request.container_id)
        if (ref := settings.joined(request.mode)) is not None:
            return await self._join(request, ref)
        try:
            return await self._open_own(request)
        except WharfError as error:
            error.args = (f"failed to set up container networking: {error}",)
            raise

    async def _join(self, request: SandboxRequest, ref: str) -> Sandbox:
        other = self._open[self._find_open(ref)]
        self._open[request.container_id] = _Open(request.name, request.mode, other.path)
        await offload.disk(_write_files, [(request.hostname_path, f"{request.hostname}\n")])
        return Sandbox(id="", key="", netns_path=other.path)

    def _find_open(self, ref: str) -> str:
        if ref in self._open:
            return ref
        named = [i for i, o in self._open.items() if o.name == ref]
        found = named or ids.matches(ref, self._open)
        if len(found) != 1:
            raise EngineError(f"joining network namespace of container: No such container: {ref}")
        return found[0]

    async def _open_own(self, request: SandboxRequest) -> Sandbox:
        wanted = settings.wanted(request.mode, request.endpoints)
        chosen = [(self.find(settings.network_name(n)), c) for n, c in wanted.items()]
        settings.check_together([network for network, _ in chosen])
        for network, config in chosen:
            settings.check(network.name, network, config, at_create=False)
        is_host = chosen[0][0].driver == host.NAME
        where = None if is_host else sandbox.path(self._config.exec_root, request.container_id)
        opened = _Open(request.name, request.mode, where)
        self._open[request.container_id] = opened
        try:
            for network, config in chosen:
                opened.endpoints.append(self._allocate(network, config, request))
            listeners = await self._realise(request, opened)
        except BaseException:
            self._release(request.container_id)
            for network, _ in chosen:
                self._publish(network, "disconnect", container=request.container_id)
            raise
        opened.ports = ports.published(listeners)
        for network, _ in chosen:
            self._publish(network, "connect", container=request.container_id)
        return Sandbox(
            id=ids.generate(),
            key=where or f"{self._config.exec_root}/{sandbox.FOLDER}/{host.SANDBOX}",
            netns_path=where,
            endpoints=tuple(opened.endpoints),
            ports=opened.ports,
            listeners=tuple(listeners),
        )

    async def _realise(self, request: SandboxRequest, opened: _Open) -> Sequence[Listener]:
        """Carry the plan out; a bridge that somebody removed is made again, once."""
        for attempt in (1, 2):
            for endpoint in opened.endpoints:
                network = self._networks[endpoint.network_id]
                if network.link and (attempt == 2 or network.id not in self._links):
                    await self._set_up(network)
            plan = self._plan(request, opened)
            try:
                return await _to_the_end(offload.kernel(self._carry_out, plan), ports.close)
            except ports.PortError as error:
                endpoint = self._gateway_endpoint(opened, 4) or opened.endpoints[0]
                raise ConnectivityFailed(request.name, endpoint.endpoint_id, str(error)) from error
            except OSError as error:
                if attempt == 2 or not netlink.is_missing(error):
                    raise EngineError(f"cannot make the sandbox: {error}") from error
        raise AssertionError("unreachable")

    def _carry_out(self, plan: _Plan) -> Sequence[Listener]:
        """In a worker thread: files, namespace, sockets, firewall."""
        _write_files(plan.files)
        if plan.path is None:
            return []
        sandbox.create(plan.path, plan.links, plan.gateways)
        listeners: list[Listener] = []
        try:
            for wanted in plan.wanted:
                listeners += self._ports.bind(wanted)
            if self._firewall is not None:
                self._firewall.publish(plan.container_id, firewalls.publications(listeners))
        except BaseException:
            ports.close(listeners)
            for item in listeners:
                self._ports.release(ip_address(item.host_ip), item.protocol, item.host_port)
            sandbox.remove(plan.path, [port.link for port in plan.links])
            raise
        return listeners

    # What an endpoint gets

    def _allocate(
        self, network: Network, config: EndpointConfig, request: SandboxRequest
    ) -> Endpoint:
        """Addresses, MAC and names; all taken, nothing done yet."""
        is_main = network.name == settings.network_name(request.mode)
        mac = config.mac_address or (request.mac_address if is_main else "")
        endpoint = Endpoint(
            network_name=network.name,
            network_id=network.id,
            config=config,
            endpoint_id=ids.generate(),
        )
        if not network.is_predefined:
            endpoint = msgspec.structs.replace(
                endpoint,
                dns_names=names.dns_names(
                    request.name,
                    config.aliases or (),
                    ids.short(request.container_id),
                    request.hostname,
                ),
            )
        if network.driver != bridge.NAME:
            return endpoint
        return self._with_addresses(
            msgspec.structs.replace(endpoint, mac_address=mac.lower() or bridge.random_mac()),
            network,
        )

    def _with_addresses(self, endpoint: Endpoint, network: Network) -> Endpoint:
        taken: list[Address] = []
        asked = endpoint.config.ipam
        try:
            for version, pool in self._pools.get(network.id, {}).items():
                text = (
                    "" if asked is None else (asked.ipv4_address, asked.ipv6_address)[version == 6]
                )
                taken.append(_one(pool, text, version, network))
        except WharfError:
            for address in taken:
                self._pools[network.id][address.version].release(address)
            raise
        for address in taken:
            endpoint = _placed(endpoint, network, address)
        return endpoint

    def _release(self, container_id: str) -> _Open | None:
        """Give back addresses and ports."""
        opened = self._open.pop(container_id, None)
        if opened is None:
            return None
        for endpoint in opened.endpoints:
            self._release_addresses(endpoint)
        for port in opened.ports:
            self._ports.release(ip_address(port.host_ip), port.protocol, port.host_port)
        return opened

    def _release_addresses(self, endpoint: Endpoint) -> None:
        pools = self._pools.get(endpoint.network_id, {})
        for text in (endpoint.ipv4_address, endpoint.ipv6_address):
            if text and (address := ip_address(text)).version in pools:
                pools[address.version].release(address)

    def _link(self, endpoint: Endpoint) -> str:
        return sandbox.link_name(self._config.instance, endpoint.endpoint_id)

    def _port(self, endpoint: Endpoint) -> sandbox.Port | None:
        """The endpoint's pair of links; None where its network has none."""
        network = self._networks[endpoint.network_id]
        if not network.link:
            return None
        options = bridge.parse(network.options)
        texts = (
            (endpoint.ipv4_address, endpoint.ipv4_prefix),
            (endpoint.ipv6_address, endpoint.ipv6_prefix),
        )
        return sandbox.Port(
            link=self._link(endpoint),
            master=self._links[network.id],
            mac=endpoint.mac_address,
            mtu=options.mtu,
            addresses=tuple(ip_interface(f"{a}/{p}") for a, p in texts if a),
            is_isolated=not options.has_icc,
        )

    def _gateway_endpoint(self, opened: _Open, version: int) -> Endpoint | None:
        """The endpoint that gives the default route of a family."""
        found = [e for e in opened.endpoints if (e.gateway if version == 4 else e.ipv6_gateway)]
        if not found:
            return None
        return min(
            found, key=lambda e: settings.gateway_order(self._networks[e.network_id], e.config)
        )

    def _gateways(self, opened: _Open) -> tuple[Address, ...]:
        main4, main6 = self._gateway_endpoint(opened, 4), self._gateway_endpoint(opened, 6)
        texts = (main4.gateway if main4 else "", main6.ipv6_gateway if main6 else "")
        return tuple(ip_address(text) for text in texts if text)

    def _plan(self, request: SandboxRequest, opened: _Open) -> _Plan:
        links = [p for p in map(self._port, opened.endpoints) if p is not None]
        addresses = [a for e in opened.endpoints for a in (e.ipv4_address, e.ipv6_address) if a]
        return _Plan(
            container_id=request.container_id,
            path=opened.path,
            links=tuple(links),
            gateways=self._gateways(opened),
            wanted=tuple(self._wanted_ports(request, opened)),
            files=tuple(self._files(request, opened, addresses)),
        )

    def _wanted_ports(self, request: SandboxRequest, opened: _Open) -> Sequence[ports.Wanted]:
        main4, main6 = self._gateway_endpoint(opened, 4), self._gateway_endpoint(opened, 6)
        main = main4 or main6
        if main is None:
            return []
        options = bridge.parse(self._networks[main.network_id].options)
        return ports.expand(
            ports.requests(
                request.exposed_ports, request.port_bindings, publish_all=request.publish_all
            ),
            ipv4=ip_address(main4.ipv4_address) if main4 else None,
            ipv6=ip_address(main6.ipv6_address) if main6 else None,
            default=ip_address(options.binding or self._config.ip),
            host_has_ipv6=_host_has_ipv6(),
        )

    # Files

    def _files(
        self, request: SandboxRequest, opened: _Open, own: Sequence[str]
    ) -> Sequence[tuple[str, str]]:
        """(path, content) of hosts, resolv.conf and hostname."""
        is_host = opened.path is None
        extra = names.extra_hosts(request.extra_hosts, self._host_gateways())
        if is_host and not extra:
            hosts = _read(_HOST_HOSTS)
        else:
            own_names = names.own_names(request.hostname, request.domainname)
            hosts = names.hosts(extra, own, own_names, has_ipv6=_host_has_ipv6())
        config = self._config
        resolv_conf = names.resolv_conf(
            names.parse_resolv_conf(_read(_HOST_RESOLV_CONF)),
            source=_HOST_RESOLV_CONF,
            nameservers=request.dns or config.dns,
            search=request.dns_search or config.dns_search,
            options=request.dns_options or config.dns_opts,
            has_own_namespace=not is_host,
            has_ipv6=any(e.ipv6_address for e in opened.endpoints),
        )
        return [
            (request.hosts_path, hosts),
            (request.resolv_conf_path, resolv_conf),
            (request.hostname_path, f"{request.hostname}\n"),
        ]

    def _host_gateways(self) -> tuple[str, ...]:
        if self._config.host_gateway_ips:
            return self._config.host_gateway_ips
        default = self._named(DEFAULT)
        return () if default is None else tuple(s.gateway for s in default.subnets if s.gateway)

    # The end of a sandbox, and its return at boot

    async def close(self, container_id: str) -> None:
        """Take a container's network away; one that has none is no error."""
        opened = self._open.get(container_id)
        if opened is None or (opened.path and settings.joined(opened.mode) is None):
            links = [self._link(e) for e in opened.endpoints] if opened else []
            # The kernel first: an address is free when nothing answers for it any more.
            await _to_the_end(offload.kernel(self._carry_away, container_id, links))
            if links:
                self._left += links
                self._something_left.set()
        self._release(container_id)
        for endpoint in opened.endpoints if opened else ():
            if (network := self._networks.get(endpoint.network_id)) is not None:
                self._publish(network, "disconnect", container=container_id)

    def _carry_away(self, container_id: str, links: Sequence[str]) -> None:
        """In a worker thread: firewall, links, namespace; all tried, the first failure raised."""
        where = sandbox.path(self._config.exec_root, container_id)
        with contextlib.ExitStack() as steps:
            steps.callback(sandbox.remove, where, links)
            if self._firewall is not None:
                steps.callback(self._firewall.withdraw, container_id)

    def adopt(
        self,
        container_id: str,
        endpoints: Sequence[Endpoint],
        ports_: Sequence[PublishedPort],
        *,
        name: str,
        mode: str,
    ) -> None:
        """At boot: a container that runs has its addresses and ports still."""
        joined = settings.joined(mode) is not None
        is_host = settings.network_name(mode) == HOST
        where = None if is_host or joined else sandbox.path(self._config.exec_root, container_id)
        opened = _Open(name, mode, where, list(endpoints), tuple(ports_))
        self._open[container_id] = opened
        for endpoint in endpoints:
            for text in (endpoint.ipv4_address, endpoint.ipv6_address):
                pool = (
                    self._pools.get(endpoint.network_id, {}).get(_version(text)) if text else None
                )
                if pool is not None:
                    with contextlib.suppress(WharfError):
                        pool.take(ip_address(text))
        for port in ports_:
            self._ports.take(ip_address(port.host_ip), port.protocol, port.host_port)
        if self._firewall is not None:
            main4, main6 = self._gateway_endpoint(opened, 4), self._gateway_endpoint(opened, 6)
            targets = (main4.ipv4_address if main4 else "", main6.ipv6_address if main6 else "")
            found = firewalls.adopted(ports_, [t for t in targets if t])
            self._firewall.know(container_id, found)

    # Connecting what runs

    def resolve(
        self, ref: str, config: EndpointConfig, request: SandboxRequest, current: Sequence[Endpoint]
    ) -> Endpoint:
        """The endpoint that a container which does not run is to have; nothing is taken."""
        network = self.find(ref)
        settings.check(network.name, network, config, at_create=False)
        settings.check_connect(request.mode, network, current)
        return Endpoint(network_name=network.name, network_id=network.id, config=config)

    async def connect(self, ref: str, config: EndpointConfig, request: SandboxRequest) -> Endpoint:
        """Put a running container on one more network."""
        network = self.find(ref)
        opened = self._open.get(request.container_id)
        if opened is None:
            raise EngineError(f"container {request.container_id} has no sandbox")
        settings.check(network.name, network, config, at_create=False)
        if any(e.network_id == network.id for e in opened.endpoints):
            raise EndpointExists(request.name, network.name)
        settings.check_connect(opened.mode, network, opened.endpoints)
        endpoint = self._allocate(network, config, request)
        opened.endpoints.append(endpoint)
        try:
            if network.link and network.id not in self._links:
                await self._set_up(network)
            await _to_the_end(offload.kernel(self._plug, request, opened, endpoint))
        except BaseException as error:
            opened.endpoints.remove(endpoint)
            self._release_addresses(endpoint)
            if isinstance(error, OSError):
                raise EngineError(f"cannot connect to network {network.name}: {error}") from error
            raise
        self._publish(network, "connect", container=request.container_id)
        return endpoint

    def _plug(self, request: SandboxRequest, opened: _Open, endpoint: Endpoint) -> None:
        """In a worker thread: links, then the file that names them."""
        port = self._port(endpoint)
        if port is None or opened.path is None:
            return
        sandbox.connect(opened.path, port, self._gateways(opened))
        if request.hosts_path:
            line = names.own_names(request.hostname, request.domainname)
            with open(request.hosts_path, "a", encoding="utf-8") as file:
                file.writelines(f"{a.ip}\t{line}\n" for a in port.addresses)

    async def disconnect(
        self, ref: str, container_id: str, *, force: bool = False, hosts_path: str = ""
    ) -> Network:
        """Take a running container off a network. `force` lets a dead endpoint go as well."""
        network = self.find(ref)
        opened = self._open.get(container_id)
        if network.driver == host.NAME:
            raise host.CannotDisconnect
        found = [e for e in opened.endpoints if e.network_id == network.id] if opened else []
        if opened is None or not found:
            raise NotConnected(container_id, network.name)
        endpoint = found[0]
        opened.endpoints.remove(endpoint)
        try:
            await _to_the_end(offload.kernel(self._unplug, opened, endpoint, hosts_path))
        except OSError as error:
            if not force:
                log.warning("disconnecting %s from %s: %s", container_id, network.name, error)
        self._release_addresses(endpoint)
        self._publish(network, "disconnect", container=container_id)
        return network

    def _unplug(self, opened: _Open, endpoint: Endpoint, hosts_path: str) -> None:
        if opened.path is not None and self._networks[endpoint.network_id].link:
            sandbox.disconnect(opened.path, self._link(endpoint), self._gateways(opened))
        if hosts_path:
            gone = {a for a in (endpoint.ipv4_address, endpoint.ipv6_address) if a}
            lines = _read(hosts_path).splitlines(keepends=True)
            kept = [line for line in lines if line.split("\t")[0] not in gone]
            _write_files([(hosts_path, "".join(kept))])

    # Events

    def _publish(self, network: Network, action: str, *, container: str = "") -> None:
        attributes = {"container": container} if container else {}
        attributes |= {"name": network.name, "type": network.driver}
        self._events.publish("network", action, network.id, attributes)


async def _to_the_end(work: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
    """Await work that cannot be interrupted; a cancelled caller gets its result undone first."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            result = await task
            if undo is not None:
                undo(result)
        raise


def _predefined(config: EngineConfig) -> list[ipam.Predefined]:
    given = [
        ipam.Predefined(ip_network(p.base, strict=False), p.size)
        for p in config.default_address_pools
    ]
    found = [p for p in given if p.base.version == 4] or list(ipam.PREDEFINED_IPV4)
    found += [p for p in given if p.base.version == 6] or [ipam.predefined_ipv6(config.instance)]
    return found


def _new(name: str, driver: str) -> Network:
    return Network(
        id=NetworkId(ids.generate()), name=name, created_ns=time.time_ns(), driver=driver
    )


def _check_request(request: NetworkRequest) -> None:
    """In dockerd's order."""
    if request.name in PREDEFINED:
        raise NetworkPredefined(request.name)
    ipam.check(request.ipam, enable_ipv6=bool(request.enable_ipv6))
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    driver = request.driver or bridge.NAME
    if driver in (host.NAME, none.NAME) and not request.is_config_only:
        raise host.OneInstance(driver)
    if driver not in (bridge.NAME, host.NAME, none.NAME):
        if driver in ("macvlan", "ipvlan", "overlay"):
            raise NotImplementedHere(f"the network driver {driver} is not implemented")
        raise NoSuchPlugin(driver)
    if request.ipam is not None and request.ipam.driver not in ("", "default"):
        raise NoSuchPlugin(request.ipam.driver)
    if request.scope not in ("", "local"):
        raise Forbidden(f"cannot create a {request.scope} scoped network when swarm is not active")
    if request.is_ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.enable_ipv4 is False and not request.enable_ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")


def _member(container_id: str, name: str, endpoint: Endpoint) -> Member:
    def cidr(address: str, prefix: int) -> str:
        return f"{address}/{prefix}" if address else ""

    return Member(
        container_id=container_id,
        name=name,
        endpoint_id=endpoint.endpoint_id,
        mac_address=endpoint.mac_address,
        ipv4_address=cidr(endpoint.ipv4_address, endpoint.ipv4_prefix),
        ipv6_address=cidr(endpoint.ipv6_address, endpoint.ipv6_prefix),
    )


def _one(pool: ipam.Pool, asked: str, version: int, network: Network) -> Address:
    if asked:
        address = ip_address(asked)
        pool.take(address)
        return address
    try:
        return pool.allocate()
    except ipam.NoAddressLeft:
        raise NoAddressOnNetwork(version, network) from None


def _placed(endpoint: Endpoint, network: Network, address: Address) -> Endpoint:
    """The endpoint with one more address and, where the network leads out, its gateway."""
    subnet = next(s for s in network.subnets if _version(s.subnet) == address.version)
    auxiliary = subnet.aux_addresses.get(_DEFAULT_GATEWAY_AUX[address.version == 6], "")
    gateway = (auxiliary or subnet.gateway) if settings.has_gateway(network) else ""
    prefix = ip_network(subnet.subnet).prefixlen
    if address.version == 4:
        return msgspec.structs.replace(
            endpoint, ipv4_address=str(address), ipv4_prefix=prefix, gateway=gateway
        )
    return msgspec.structs.replace(
        endpoint, ipv6_address=str(address), ipv6_prefix=prefix, ipv6_gateway=gateway
    )


def _version(text: str) -> int:
    return 6 if ":" in text else 4


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _overlaps(text: str, others: Iterable[Prefix]) -> bool:
    subnet = ip_network(text)
    return any(subnet.overlaps(o) for o in others if o.version == subnet.version)


def _host_subnets(except_link: str) -> list[Prefix]:
    """What the host's routes and name servers say is in use elsewhere.

    A route for half of all addresses, as some VPNs have it, says nothing about who uses them.
    """
    widest = 7
    with netlink.Socket() as sock:
        own = netlink.link(sock, except_link) if except_link else None
        found = [
            r.destination
            for r in netlink.routes(sock)
            if r.destination.prefixlen > widest
            and not r.destination.is_link_local
            and (own is None or r.index != own.index)
        ]
    servers = names.parse_resolv_conf(_read(_HOST_RESOLV_CONF)).nameservers
    return found + [ip_network(s) for s in servers if not ip_address(s).is_loopback]


def _host_has_ipv6() -> bool:
    return socket.has_ipv6 and os.path.exists("/proc/sys/net/ipv6")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write_files(files: Iterable[tuple[str, str]]) -> None:
    """In place: they are mounted into containers, so the inode has to stay."""
    for path, content in files:
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            os.chmod(path, 0o644)
