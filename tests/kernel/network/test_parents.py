"""Networks that hang on a link of the host: macvlan and ipvlan, on a host of its own."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from engine.errors import EngineError
from engine.linux import iproute, netlink, netns
from engine.network import sandbox
from engine.network.model import (
    IPAM,
    EndpointConfig,
    EndpointIPAM,
    NetworkRequest,
    PortBinding,
    Subnet,
)
from tests.kernel.network.fake_host import NEIGHBOUR, UPLINK, FakeHost, in_fake_host
from tests.support.linkkinds import needs

if TYPE_CHECKING:
    from engine.network.manager import Networks
    from engine.network.model import Endpoint, MovedPorts

SUBNET = Subnet(subnet="192.0.2.0/24", ip_range="192.0.2.64/26", gateway=NEIGHBOUR)

OTHER = Subnet(subnet="10.1.0.0/24")


def parted(name: str, driver: str, subnet: Subnet = SUBNET, **options: str) -> NetworkRequest:
    given = {"parent": "uplink", **options}
    return NetworkRequest(
        name=name,
        driver=driver,
        ipam=IPAM(config=(subnet,)),
        options={key: value for key, value in given.items() if value},
    )


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def inside(path: str | None) -> dict[str, str]:
    """Kind of each link in a sandbox but lo."""
    assert path is not None

    def look(_: int) -> dict[str, str]:
        with netlink.Socket() as sock:
            found = {name: netlink.link(sock, name) for name in names() - {"lo"}}
        return {name: link.kind for name, link in found.items() if link is not None}

    return netns.enter(path, look)


def routes(path: str | None) -> list[tuple[int, str, int]]:
    """(version, gateway or "", link's index) of the default routes in a sandbox."""
    assert path is not None

    def look(_: int) -> list[tuple[int, str, int]]:
        with iproute._socket() as route:
            return [(v, str(g or ""), i) for v, g, i in iproute._default_routes(route)]

    return netns.enter(path, look)


async def taken(_moved: MovedPorts) -> None:
    """A monitor that holds what it is told to."""


async def noted(_: Endpoint) -> None:
    pass


@needs("macvlan")
@in_fake_host
async def test_a_macvlan_container_is_on_the_link_itself(host: FakeHost) -> None:
    networks = await host.networks()
    before = names()
    await networks.create(parted("lan", "macvlan"))
    ports = {"80/tcp": (PortBinding(host_port="8080"),)}
    wanted = host.request("one", mode="lan", exposed_ports=("80/tcp",), port_bindings=ports)
    opened = await networks.open(wanted)
    (endpoint,) = opened.endpoints
    assert (endpoint.ipv4_address, endpoint.gateway) == ("192.0.2.64", NEIGHBOUR)
    assert (opened.ports, opened.listeners) == ((), ())
    assert inside(opened.netns_path) == {"eth0": "macvlan"}
    host.serve(opened.netns_path, 80, "hello")
    host.serve(host.neighbour, 80, "neighbour")
    assert await host.ask(host.neighbour, "192.0.2.64", 80) == f"hello {NEIGHBOUR}"
    assert await host.ask(opened.netns_path, NEIGHBOUR, 80) == "neighbour 192.0.2.64"
    assert names() == before
    await networks.close(wanted.container_id)
    await networks.remove("lan")
    assert names() == before
    await networks.close_engine()


@needs("macvlan")
@in_fake_host
async def test_a_parent_may_be_had_alone_again_at_once(host: FakeHost) -> None:
    host.ip("link add alone type veth peer name other", "link set alone up")
    networks = await host.networks()
    await networks.create(parted("lan", "macvlan", parent="alone", macvlan_mode="passthru"))
    for _ in range(5):
        wanted = host.request("one", mode="lan", mac_address="02:00:00:00:77:01")
        opened = await networks.open(wanted)
        assert opened.netns_path is not None
        # A process that holds the namespace holds no link that another may need.
        held = os.open(opened.netns_path, os.O_RDONLY)
        await networks.close(wanted.container_id)
        os.close(held)
    with pytest.raises(EngineError, match="cannot use mode passthru, macvlan network "):
        await networks.create(
            parted("b", "macvlan", OTHER, parent="alone", macvlan_mode="passthru")
        )
    with pytest.raises(EngineError, match=r"is already using parent interface alone in mode"):
        await networks.create(parted("b", "macvlan", OTHER, parent="alone"))
    await networks.close_engine()


@needs("macvlan")
@in_fake_host
async def test_what_runs_comes_to_a_macvlan_network_and_leaves_it(host: FakeHost) -> None:
    networks = await host.networks()
    low = Subnet(subnet="192.0.2.0/24", ip_range="192.0.2.64/26", gateway=NEIGHBOUR)
    high = Subnet(subnet="192.0.2.0/24", ip_range="192.0.2.128/26", gateway="192.0.2.129")
    await networks.create(parted("zlow", "macvlan", low))
    await networks.create(parted("zhigh", "macvlan", high))
    wanted = host.request("one")
    opened = await networks.open(wanted)
    bridge_gateway = opened.endpoints[0].gateway
    at_first = names()
    for name in ("zlow", "zhigh"):
        await networks.connect(name, EndpointConfig(), wanted, noted)
    kinds = {"eth0": "veth", "eth1": "macvlan", "eth2": "macvlan"}
    assert inside(opened.netns_path) == kinds
    # Also by what another name the container gave the link.
    netns.enter(opened.netns_path or "", lambda _: host.ip("link set eth1 down name mine"))
    await networks.disconnect("zlow", wanted, taken)
    assert inside(opened.netns_path) == {"eth0": "veth", "eth2": "macvlan"}
    await networks.disconnect("zhigh", wanted, taken)
    assert inside(opened.netns_path) == {"eth0": "veth"}
    assert [gateway for _, gateway, _ in routes(opened.netns_path)] == [bridge_gateway]
    assert names() == at_first
    await networks.close_engine()


@needs("macvlan")
@in_fake_host
async def test_a_link_that_cannot_be_made_leaves_nothing(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(parted("lan", "macvlan"))
    before = names()

    def refuse(*_: object, **__: object) -> netlink.Message:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with (
        mock.patch.object(netlink, "add_on_parent", refuse),
        pytest.raises(EngineError, match="failed to create the macvlan port: device or resource"),
    ):
        await networks.open(host.request("one", mode="lan"))
    assert (names(), host.sandboxes()) == (before, [])
    (view,) = [v for v in await networks.list() if v.network.name == "lan"]
    assert view.members == ()
    await networks.close_engine()


@needs("macvlan")
@in_fake_host
async def test_a_parent_that_came_anew_is_found(host: FakeHost) -> None:
    host.ip("link add cable type veth peer name other", "link set cable up")
    networks = await host.networks()
    await networks.create(parted("lan", "macvlan", parent="cable"))
    host.ip("link del cable")
    with pytest.raises(EngineError, match="the requested parent interface cable was not found"):
        await networks.open(host.request("one", mode="lan"))
    host.ip("link add cable type veth peer name other", "link set cable up")
    opened = await networks.open(host.request("two", mode="lan"))
    assert inside(opened.netns_path) == {"eth0": "macvlan"}
    await networks.close_engine()


@needs("macvlan", "dummy", "vlan")
@in_fake_host
async def test_parents_that_were_made_go_and_come_back(host: FakeHost) -> None:
    host.ip("link set uplink up")
    networks = await host.networks()
    before = names()
    dummy, _ = await networks.create(
        parted("dummy", "macvlan", Subnet(subnet="10.1.0.0/24"), parent="")
    )
    for number, name in enumerate(("one", "two")):
        subnet = Subnet(subnet=f"10.2.{number}.0/24")
        await networks.create(parted(name, "macvlan", subnet, parent="uplink.50"))
    made = {f"dm-{dummy[:12]}", "uplink.50"}
    assert names() - before == made
    opened = await networks.open(host.request("one", mode="dummy"))
    assert (opened.endpoints[0].gateway, routes(opened.netns_path)) == ("", [])
    # A host that starts anew has none of them.
    await networks.close_engine()
    host.ip(*(f"link del {name}" for name in made))
    again = await host.networks(settle=False)
    assert made <= names()
    await again.settle()
    await again.remove("one")
    assert made <= names()
    await again.remove("two")
    await again.remove("dummy")
    assert names() == before
    await again.close_engine()


@needs("macvlan", "vlan")
@in_fake_host
async def test_a_parent_that_was_there_stays(host: FakeHost) -> None:
    host.ip("link set uplink up", "link add link uplink name uplink.7 type vlan id 7")
    networks = await host.networks()
    await networks.create(parted("lan", "macvlan", parent="uplink.7"))
    await networks.remove("lan")
    assert "uplink.7" in names()
    await networks.close_engine()


@needs("dummy")
@in_fake_host
async def test_what_a_crash_left_is_swept(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.close_engine()
    before = names()
    config = host.config()
    alias = sandbox.mark(config.instance)
    temporary = sandbox.link_name(config.instance, "0123456789abcdef")

    def leave() -> None:
        iproute.add_dummy("dm-0123456789ab", temporary=temporary, alias=alias)
        iproute.add_dummy("dm-fedcba987654", temporary=temporary, alias="wharf-another")
        host.ip(f"link add {temporary} type dummy")

    await asyncio.to_thread(leave)
    again = await host.networks()
    assert names() - before - host.links() == {"dm-fedcba987654"}
    assert temporary not in names()
    await again.close_engine()


@needs("ipvlan")
@in_fake_host
async def test_an_ipvlan_container_has_its_parents_mac(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(parted("lan", "ipvlan"))
    opened = await networks.open(host.request("one", mode="lan"))
    (endpoint,) = opened.endpoints
    assert (endpoint.mac_address, endpoint.gateway) == ("", NEIGHBOUR)
    assert inside(opened.netns_path) == {"eth0": "ipvlan"}
    host.serve(opened.netns_path, 80, "hello")
    assert await host.ask(host.neighbour, endpoint.ipv4_address, 80) == f"hello {NEIGHBOUR}"
    asks = host.request("two", mode="lan", mac_address="02:00:00:00:00:09")
    with pytest.raises(EngineError, match="failed to create endpoint two on network lan: ipvlan "):
        await networks.open(asks)
    with pytest.raises(EngineError, match=r"network di-\w{12} is already using parent inter"):
        await networks.create(parted("b", "ipvlan", Subnet(subnet="10.1.0.0/24")))
    await networks.close_engine()


@needs("ipvlan")
@in_fake_host
async def test_a_routed_ipvlan_leads_out_by_its_link(host: FakeHost) -> None:
    networks = await host.networks()
    routed = Subnet(subnet="10.77.0.0/24")
    for mode in ("l3", "l3s"):
        await networks.create(parted(mode, "ipvlan", routed, ipvlan_mode=mode))
        assert networks.find(mode).subnets == (routed,)
        wanted = host.request("one", mode=mode)
        opened = await networks.open(wanted)
        (endpoint,) = opened.endpoints
        assert (endpoint.ipv4_address, endpoint.gateway) == ("10.77.0.1", "")
        assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, "")]
        add = f"route add 10.77.0.0/24 via {UPLINK}"
        netns.enter(host.neighbour, lambda _, add=add: host.ip(add))  # type: ignore[misc]
        host.serve(opened.netns_path, 80, "hello")
        assert await host.ask(host.neighbour, "10.77.0.1", 80) == f"hello {NEIGHBOUR}"
        netns.enter(host.neighbour, lambda _: host.ip("route del 10.77.0.0/24"))
        await leave_and_come_back(networks, host, mode)
        await networks.close(wanted.container_id)
        await networks.remove(mode)
    await networks.close_engine()


async def leave_and_come_back(networks: Networks, host: FakeHost, mode: str) -> None:
    wanted = host.request("three")
    opened = await networks.open(wanted)
    (before,) = routes(opened.netns_path)
    static = EndpointConfig(ipam=EndpointIPAM(ipv4_address="10.77.0.9"), gw_priority=5)
    await networks.connect(mode, static, wanted, noted)
    assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, "")]
    await networks.disconnect("bridge", wanted, taken)
    assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, "")]
    await networks.connect("bridge", EndpointConfig(), wanted, noted)
    assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, "")]
    await networks.disconnect(mode, wanted, taken)
    assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, before[1])]
    assert inside(opened.netns_path) == {"eth0": "veth"}
    await networks.close(wanted.container_id)


@in_fake_host
async def test_a_default_route_may_lead_to_a_link_alone(host: FakeHost) -> None:
    networks = await host.networks()
    subnets = (Subnet(subnet="10.1.0.0/24"), Subnet(subnet="fd91::/64"))
    both = NetworkRequest(name="both", enable_ipv6=True, ipam=IPAM(config=subnets))
    await networks.create(both)
    opened = await networks.open(host.request("one", mode="both"))
    (endpoint,) = opened.endpoints
    by_gateway = routes(opened.netns_path)
    assert [(v, gateway) for v, gateway, _ in by_gateway] == [(4, "10.1.0.1"), (6, "fd91::1")]
    own = [ip_address(text) for text in endpoint.addresses]
    gateways = [ip_address(text) for text in ("10.1.0.1", "fd91::1")]
    for wanted, found in (
        (own, [(4, ""), (6, "")]),
        (own[:1], [(4, "")]),
        ([gateways[0], own[1]], [(4, "10.1.0.1"), (6, "")]),
        (gateways, [(4, "10.1.0.1"), (6, "fd91::1")]),
        ([], []),
    ):
        change = functools.partial(iproute.replace_default_routes, wanted)
        host.within(opened.netns_path, change)
        assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == found

    def at_the_start() -> None:
        index = socket.if_nametoindex("eth0")
        netlink.execute(netlink.add_default_route(index, a, is_on_link=True) for a in own)

    host.within(opened.netns_path, at_the_start)
    assert [(v, gateway) for v, gateway, _ in routes(opened.netns_path)] == [(4, ""), (6, "")]
    await networks.close_engine()
