"""Which networks there are: their rows, their subnets, their links.

A row is written last and removed first: what a crash leaves is a link without a row, which the
next boot sweeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

import msgspec

from engine import filters, ids, offload
from engine.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NoSuchNetwork,
    NotImplementedHere,
    UnreadableNetwork,
    WharfError,
)
from engine.ids import NetworkId
from engine.network import (
    bridge,
    bridge_options,
    drivers,
    forwarding,
    host,
    none,
    request,
    sandbox,
    subnets,
)
from engine.network import filters as network_filters
from engine.network.model import (
    DEFAULT,
    HOST,
    NONE,
    PREDEFINED,
    Member,
    Network,
    NetworkRequest,
    Subnet,
)
from engine.storage import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from engine.config import EngineConfig
    from engine.events import EventBus
    from engine.network.firewall import Firewall
    from engine.storage.database import Database

    Prefix = IPv4Network | IPv6Network

log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(Network).decode


class NetworkExists(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists")


class NetworkNotRemovable(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is a pre-defined network and cannot be removed")


class NetworkInUse(Forbidden):
    def __init__(self, name: str, members: Sequence[Member]) -> None:
        listed = ", ".join(f'name:"{m.name}" id:"{ids.short(m.endpoint_id)}"' for m in members)
        super().__init__(
            f"error while removing network: network {name} has active endpoints ({listed})"
        )


class ConfigurationInUse(Forbidden):
    def __init__(self, name: str) -> None:
        super().__init__(f'error while removing network: configuration network "{name}" is in use')


class NetworkAmbiguous(InvalidParameter):
    def __init__(self, ref: str, count: int) -> None:
        super().__init__(f"network {ref} is ambiguous ({count} matches found based on ID prefix)")


class Catalogue:
    """`members_of` says who stands on a network; who does keeps it. `forget` is called in a thread
    with the id of one that is gone.
    """

    def __init__(
        self,
        config: EngineConfig,
        database: Database,
        events: EventBus,
        *,
        firewall: Firewall | None,
        members_of: Callable[[str], tuple[Member, ...]],
        forget: Callable[[str], None],
    ) -> None:
        self._config = config
        self._table = database.table("network")
        self._events = events
        self._firewall = firewall
        self._members_of = members_of
        self._forget = forget
        self._networks: dict[str, Network] = {}
        self._unreadable: dict[str, str] = {}  # the names by the ids
        self._links: dict[str, int] = {}
        self._changes = asyncio.Lock()
        self._forwards_for_us = False
        self.subnets = subnets.Subnets(config)

    # Finding

    def named(self, name: str) -> Network | None:
        return next((n for n in self._networks.values() if n.name == name), None)

    def get(self, network_id: str) -> Network | None:
        return self._networks.get(network_id)

    def find(self, ref: str) -> Network:
        """By id, name or prefix of an id.

        Raises NoSuchNetwork, of one whose row cannot be read UnreadableNetwork, NetworkAmbiguous.
        """
        if ref in self._networks:
            return self._networks[ref]
        if (network := self.named(ref)) is not None:
            return network
        found = ids.matches(ref, self._networks)
        if len(found) > 1:
            raise NetworkAmbiguous(ref, len(found))
        if not found:
            unreadable = self._find_unreadable(ref)
            raise UnreadableNetwork(ref, unreadable) if unreadable else NoSuchNetwork(ref)
        return self._networks[found[0]]

    def _find_unreadable(self, ref: str) -> str | None:
        """The id of the one network that `ref` names and whose row cannot be read."""
        exact = [key for key, name in self._unreadable.items() if ref in (key, name)]
        found = exact or ids.matches(ref, self._unreadable)
        return found[0] if len(found) == 1 else None

    def all(self) -> list[Network]:
        return sorted(self._networks.values(), key=lambda n: n.created_ns)

    def links(self) -> set[str]:
        """What all networks hang on, also those whose rows cannot be read."""
        unknown = {link.link for key in self._unreadable for link in self._unknown(key)}
        return unknown | {network.link for network in self._networks.values()}

    def _unknown(self, network_id: str) -> list[Network]:
        """All that a network whose row cannot be read may have been, as far as its id says."""
        name, instance = self._unreadable[network_id], self._config.instance
        return [
            msgspec.structs.replace(
                request.new(name, driver.name),
                id=NetworkId(network_id),
                link=driver.link({}, network_id, instance),
            )
            for driver in drivers.ALL.values()
            if driver.has_link
        ]

    def host_gateways(self) -> tuple[str, ...]:
        """By what addresses a container reaches the host."""
        if self._config.host_gateway_ips:
            return self._config.host_gateway_ips
        default = self.named(DEFAULT)
        return () if default is None else tuple(s.gateway for s in default.subnets if s.gateway)

    # Making and removing

    async def create(self, wanted: NetworkRequest) -> Network:
        async with self._changes:
            wanted = request.with_families(wanted, self._config)
            request.check(wanted)
            if self.named(wanted.name) is not None or wanted.name in self._unreadable.values():
                raise NetworkExists(wanted.name)
            template = self.named(wanted.config_from) if wanted.config_from else None
            network = request.compose(wanted, template, self._config)
            if network.is_config_only:
                await self._keep(network)
            else:
                network = await self._make(network)
        self.publish(network, "create")
        return network

    async def _make(self, network: Network) -> Network:
        """Subnets, link, firewall, row: in that order, all undone where one fails."""
        driver = drivers.of(network)
        async with contextlib.AsyncExitStack() as undo:
            reserved = await offload.kernel(subnets.in_use_on_host)
            given = self.subnets.allocate(network, reserved)
            undo.callback(self.subnets.release, network.id)
            is_foreign = any(name == network.link for _, name in socket.if_nameindex())
            network = msgspec.structs.replace(network, subnets=given, is_link_foreign=is_foreign)
            driver.check_made(network, self._networks.values())
            undo.push_async_callback(self._unmake, network)
            await self.set_up(network, is_new=True)
            if network.enable_ipv6 and driver.rules(network) is not None:
                await offload.kernel(self._forward)
            self._networks[network.id] = network
            await offload.kernel(self.write_firewall)
            await self._keep(network)
            undo.pop_all()
        return network

    async def _unmake(self, network: Network) -> None:
        self._networks.pop(network.id, None)
        self._links.pop(network.id, None)
        driver = drivers.of(network)
        if driver.rules(network) is not None:
            await offload.kernel(self.write_firewall)
        # Several may hang on one link, which goes with the last of them.
        if not any(other.link == network.link for other in self._networks.values()):
            await offload.kernel(driver.teardown, network, self._config.instance)

    async def _keep(self, network: Network) -> None:
        document = msgspec.json.encode(network)
        await offload.disk(self._table.put, network.id, document, name=network.name)
        self._networks[network.id] = network

    async def remove(self, ref: str) -> None:
        async with self._changes:
            try:
                network = self.find(ref)
            except UnreadableNetwork as exc:
                await self._remove_unreadable(exc.network_id)
            else:
                await self._remove(network)

    async def _remove_unreadable(self, network_id: str) -> None:
        """Its row, and the link that its id gives it; one with a name of its user's stays."""
        possible = self._unknown(network_id)
        network = next(n for n in possible if n.driver == bridge.NAME)
        if members := self._members_of(network_id):
            raise NetworkInUse(network.name, members)
        if await offload.kernel(bridge.has_ports, network):
            # Of a container that is not known either.
            raise NetworkInUse(network.name, ())
        await offload.disk(self._table.delete, network_id)
        del self._unreadable[network_id]
        for each in possible:
            await offload.kernel(drivers.of(each).teardown, each, self._config.instance)
        self.publish(network, "destroy")

    async def _remove(self, network: Network) -> None:
        if network.is_predefined:
            raise NetworkNotRemovable(network.name)
        if members := self._members_of(network.id):
            raise NetworkInUse(network.name, members)
        if any(n.config_from == network.name for n in self._networks.values()):
            raise ConfigurationInUse(network.name)
        # From here on nobody finds it, so nobody comes to stand on what is being taken away.
        del self._networks[network.id]
        try:
            await offload.disk(self._table.delete, network.id)
        except BaseException:
            self._networks[network.id] = network
            raise
        if network.is_config_only:
            return
        try:
            await self._unmake(network)
        finally:
            self.subnets.release(network.id)
        await offload.kernel(self._forget, network.id)
        self.publish(network, "destroy")

    async def prune(self, wanted: Mapping[str, Sequence[str]]) -> list[str]:
        """Remove what nobody stands on; the names of what is gone."""
        filters.check(wanted, network_filters.PRUNE)
        until = filters.until_ns(wanted)
        removed: list[str] = []
        async with self._changes:
            for network in self.all():
                is_young = until is not None and network.created_ns > until
                if network.is_predefined or network.is_config_only or is_young:
                    continue
                if not filters.passes_labels(wanted, network.labels):
                    continue
                try:
                    await self._remove(network)
                except NetworkInUse:
                    continue
                except (OSError, WharfError):
                    log.warning("network %s could not be pruned", network.name, exc_info=True)
                    continue
                removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    def publish(self, network: Network, action: str, *, container: str = "") -> None:
        attributes = {"container": container} if container else {}
        attributes |= {"name": network.name, "type": network.driver}
        self._events.publish("network", action, network.id, attributes)

    # In the kernel

    async def need_links(self, networks: Iterable[Network], *, again: bool) -> None:
        """Set up those that are not; with `again`, all."""
        for network in networks:
            if again or not self.is_set_up(network):
                await self.set_up(network)

    async def set_up(self, network: Network, *, is_new: bool = False) -> None:
        """Make what the network hangs on, or mend it. Raises WharfError."""
        driver = drivers.of(network)
        if driver.has_link:
            setup = functools.partial(driver.setup, is_new=is_new)
            self._links[network.id] = await offload.kernel(setup, network, self._config.instance)
        if driver.rules(network) is not None:
            is_guarded = self._firewall is not None and 4 in self._firewall.versions
            await offload.kernel(bridge.route_loopback, network, is_guarded)

    def is_set_up(self, network: Network) -> bool:
        return not drivers.of(network).has_link or network.id in self._links

    def link_index(self, network: Network) -> int:
        return self._links.get(network.id, 0)

    def write_firewall(self) -> None:
        """The whole table, with all networks there are; blocks."""
        if self._firewall is not None:
            told = [drivers.of(n).rules(n) for n in list(self._networks.values())]
            found = [rules for rules in told if rules is not None]
            self._firewall.rebuild(found, guard=self._forwards_for_us)

    def _forward(self) -> None:
        """Remembers, for as long as the host runs, that it forwards because of us; blocks."""
        config = self._config
        mark = os.path.join(config.exec_root, "forwarding")
        if config.ip_forward:
            routed = [n for n in list(self._networks.values()) if drivers.of(n).rules(n)]
            if forwarding.enable(ipv6=any(n.enable_ipv6 for n in routed)):
                os.makedirs(config.exec_root, exist_ok=True)
                os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        self._forwards_for_us = os.path.exists(mark) and not config.ip_forward_no_drop

    # At boot and at the end

    async def open(self) -> None:
        """Read the rows and make the links; running containers notice nothing."""
        await self._read()
        for network in list(self._networks.values()):
            if network.name != DEFAULT:
                self.subnets.take_again(network)
        for name, driver in ((NONE, none.NAME), (HOST, host.NAME)):
            if self.named(name) is None:
                await self._keep(request.new(name, driver))
        try:
            await self._open_default()
        except WharfError as error:
            error.args = (f'error creating default "bridge" network: {error}',)
            raise
        for network in self.all():
            await self._set_up_at_boot(network)
        await offload.kernel(self._forward)

    async def _read(self) -> None:
        """All rows; what cannot be read is left alone, unless it is a network that always is."""
        self._networks, unreadable = await offload.disk(rows.read, self._table, _decode)
        for key in unreadable:
            name = await offload.disk(self._table.name_of, key) or ""
            if name in PREDEFINED:
                await offload.disk(self._table.delete, key)
            else:
                self._unreadable[key] = name
        for key, network in list(self._networks.items()):
            try:
                drivers.named(network.driver).check(network.options)
            except WharfError as error:
                if network.is_predefined:
                    continue  # whose options are the configuration's
                log.warning("network %s is not what this engine knows: %s", network.name, error)
                self._unreadable[key] = network.name
                del self._networks[key]

    async def _set_up_at_boot(self, network: Network) -> None:
        """A network that cannot be made stays known; who starts on it is told why."""
        try:
            await self.set_up(network)
        except (OSError, WharfError) as error:
            log.warning("cannot make the link of network %s: %s", network.name, error)

    async def _open_default(self) -> None:
        """The default network as the configuration has it now; its id and its link stay."""
        config = self._config
        kept = self.named(DEFAULT)
        if config.bridge == "none":
            if kept is not None:
                del self._networks[kept.id]
            return
        if config.bridge:
            raise NotImplementedHere("a bridge made by somebody else (--bridge) is not supported")
        network = kept or request.new(DEFAULT, bridge.NAME)
        link = network.link or await offload.kernel(self._default_link, network.id)
        reserved = await offload.kernel(subnets.in_use_at_start, link)
        asked = [self._default_subnet(4, network, reserved)]
        if config.ipv6:
            asked.append(self._default_subnet(6, network, reserved))
        made = msgspec.structs.replace(
            network,
            link=link,
            enable_ipv6=config.ipv6,
            subnets=tuple(self.subnets.take(network.id, entry) for entry in asked),
            options=_default_options(config, link),
        )
        others = [n for n in self._networks.values() if n.id != made.id]
        drivers.of(made).check_made(made, others)
        if kept is not None and kept.subnets != made.subnets:
            await offload.kernel(bridge.readdress, made)
        await self._keep(made)

    def _default_link(self, network_id: str) -> str:
        """docker0 is for the host's own engine, and only if no other engine has it."""
        taken = {name for _, name in socket.if_nameindex()}
        if self._config.is_default_instance and bridge.DEFAULT_LINK not in taken:
            return bridge.DEFAULT_LINK
        return sandbox.link_name(self._config.instance, network_id)

    def _default_subnet(self, version: int, network: Network, reserved: Sequence[Prefix]) -> Subnet:
        """From --bip, else what it was before, else the first pool that the host leaves free."""
        config = self._config
        bip, fixed, chosen = (
            (config.bip, config.fixed_cidr, config.default_gateway)
            if version == 4
            else (config.bip6, config.fixed_cidr_v6, config.default_gateway_v6)
        )
        found = [s for s in network.subnets if subnets.version_of(s.subnet) == version]
        before = next((s for s in found if not subnets.overlaps(s.subnet, reserved)), None)
        gateway = ""
        if bip:
            gateway, subnet = str(ip_interface(bip).ip), str(ip_interface(bip).network)
        elif fixed:
            subnet = str(ip_network(fixed, strict=False))
        elif before is not None:
            gateway, subnet = before.gateway, before.subnet
        else:
            subnet = str(self.subnets.free_pool(version, reserved))
        auxiliary = {subnets.DEFAULT_GATEWAY_AUX[version]: chosen} if chosen else {}
        return Subnet(subnet=subnet, ip_range=fixed, gateway=gateway, aux_addresses=auxiliary)

    async def remove_links(self) -> None:
        for network in self.all():
            driver = drivers.of(network)
            await offload.kernel(driver.teardown, network, self._config.instance)


def _default_options(config: EngineConfig, link: str) -> dict[str, str]:
    return {
        bridge_options.DEFAULT_BRIDGE: "true",
        bridge_options.ENABLE_ICC: str(config.icc).lower(),
        bridge_options.ENABLE_MASQUERADE: str(config.ip_masq).lower(),
        bridge_options.HOST_BINDING: config.ip,
        bridge_options.BRIDGE_NAME: link,
        bridge_options.MTU: str(config.mtu),
    }
