"""Networks made, changed, removed, and found again by the next engine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec
import pytest

from engine.errors import (
    EngineError,
    Forbidden,
    InvalidParameter,
    NoSuchNetwork,
    UnreadableNetwork,
)
from engine.ids import generate
from engine.linux import netlink, netns
from engine.network import bridge, catalogue, files, ipam, none, ports, sandbox
from engine.network import host as host_driver
from engine.network.model import (
    IPAM,
    EndpointConfig,
    EndpointIPAM,
    NetworkRequest,
    PortBinding,
    Subnet,
)
from tests.kernel.network.fake_host import NEIGHBOUR, UPLINK, FakeHost, in_fake_host

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from engine.network.manager import Networks
    from engine.network.model import Endpoint, MovedPorts, SandboxRequest

    Address = IPv4Address | IPv6Address


@in_fake_host
async def test_the_predefined_networks_keep_their_ids(host: FakeHost) -> None:
    first = await host.networks()
    ids = {v.network.name: v.network.id for v in await first.list()}
    assert list(ids) == ["none", "host", "bridge"]
    bridge = first.find("bridge")
    assert (bridge.subnets[0].subnet, bridge.subnets[0].gateway) == ("172.17.0.0/16", "172.17.0.1")
    assert bridge.options["com.docker.network.bridge.name"] == bridge.link
    await first.close_engine()
    second = await host.networks()
    assert {v.network.name: v.network.id for v in await second.list()} == ids
    assert second.find("bridge") == bridge
    await second.close_engine()


@in_fake_host
async def test_the_default_subnet_avoids_what_the_host_uses(host: FakeHost) -> None:
    host.ip("addr add 172.17.5.1/24 dev uplink", "route add 172.18.0.0/17 via 192.0.2.1")
    networks = await host.networks()
    assert networks.find("bridge").subnets[0].subnet == "172.19.0.0/16"
    await networks.create(NetworkRequest(name="next"))
    assert networks.find("next").subnets[0].subnet == "172.20.0.0/16"
    await networks.close_engine()


@in_fake_host
async def test_bip_and_fixed_cidr_decide_the_default_bridge(host: FakeHost) -> None:
    networks = await host.networks(bip="10.77.0.1/24", fixed_cidr="10.77.0.128/25", mtu=1400)
    opened = await networks.open(host.request())
    endpoint = opened.endpoints[0]
    assert (endpoint.ipv4_address, endpoint.ipv4_prefix, endpoint.gateway) == (
        "10.77.0.128",
        24,
        "10.77.0.1",
    )
    link = networks.find("bridge").link
    mtu, addresses = await host.link(link)
    assert mtu == 1400
    assert "10.77.0.1/24" in addresses
    # It goes on standing, because a container does.
    await networks.close_engine()
    changed = await host.networks(bip="10.78.0.1/24", mtu=1300)
    mtu, addresses = await host.link(link)
    assert mtu == 1300
    assert "10.78.0.1/24" in addresses
    assert "10.77.0.1/24" not in addresses
    await changed.close_engine()


@in_fake_host
async def test_a_bridge_of_the_users_is_made_and_comes_back(host: FakeHost) -> None:
    networks = await host.networks()
    options = {"com.docker.network.driver.mtu": "1390"}
    request = NetworkRequest(name="mine", enable_ipv6=True, options=options)
    await networks.create(request)
    network = networks.find("mine")
    wanted = {f"{s.gateway}/{s.subnet.partition('/')[2]}" for s in network.subnets}
    assert len(wanted) == 2
    mtu, addresses = await host.link(network.link)
    assert (mtu, addresses & wanted) == (1390, wanted)
    await networks.close_engine()
    assert host.links() == set()
    again = await host.networks()
    mtu, addresses = await host.link(network.link)
    assert (mtu, addresses & wanted) == (1390, wanted)
    await again.remove("mine")
    assert network.link not in host.links()
    await again.close_engine()


@in_fake_host
async def test_a_bridge_that_cannot_be_made_leaves_nothing(host: FakeHost) -> None:
    networks = await host.networks()
    before = host.links()
    options = {"com.docker.network.driver.mtu": "9"}
    with pytest.raises(EngineError, match="invalid argument"):
        await networks.create(NetworkRequest(name="mine", options=options))
    with pytest.raises(NoSuchNetwork):
        networks.find("mine")
    assert host.links() == before
    await networks.close_engine()


@in_fake_host
async def test_a_link_that_was_there_before_stays(host: FakeHost) -> None:
    networks = await host.networks()
    host.ip("link add name lan type bridge", "link set lan mtu 1280")

    def on(link: str) -> NetworkRequest:
        return NetworkRequest(name="mine", options={"com.docker.network.bridge.name": link})

    with pytest.raises(bridge.NotABridge, match="existing interface lo is not a bridge"):
        await networks.create(on("lo"))
    assert (await host.link("lo"))[1] == {"127.0.0.1/8", "::1/128"}
    await networks.create(on("lan"))
    assert await host.link("lan") == (1280, {f"{networks.find('mine').subnets[0].gateway}/16"})
    await networks.close_engine()
    again = await host.networks()
    await again.remove("mine")
    assert (await host.link("lan"))[0] == 1280
    await again.close_engine()


@in_fake_host
async def test_the_next_engine_takes_over_what_runs(host: FakeHost) -> None:
    first = await host.networks()
    bindings = {"80/tcp": (PortBinding(host_port="8080"),)}
    kept_request = host.request("kept", port_bindings=bindings)
    lost_request = host.request("lost", port_bindings={"80/tcp": (PortBinding(host_port="81"),)})
    kept = await first.open(kept_request)
    lost = await first.open(lost_request)
    host.serve(kept.netns_path, 80, "kept")
    await first.close_engine()
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"kept {NEIGHBOUR}"

    second = await host.networks(settle=False)
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"kept {NEIGHBOUR}"
    second.adopt(kept_request.container_id, kept.endpoints, kept.ports, name="kept", mode="bridge")
    await second.settle()
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"kept {NEIGHBOUR}"
    assert host.sandboxes() == [kept_request.container_id[:12]]
    prefix = sandbox.link_prefix(host.config().instance)
    assert {link for link in host.links() if link.startswith(prefix)} == {
        second.find("bridge").link,
        sandbox.link_name(host.config().instance, kept.endpoints[0].endpoint_id),
    }
    assert [m.name for m in (await second.inspect("bridge")).members] == ["kept"]
    # Its address and its port are not given to the next; the lost one's are.
    ports.close(lost.listeners)
    new = await second.open(host.request("new", port_bindings=lost_request.port_bindings))
    assert new.endpoints[0].ipv4_address == lost.endpoints[0].ipv4_address
    with pytest.raises(EngineError, match="port is already allocated"):
        await second.open(host.request("thief", port_bindings=bindings))
    await second.close(kept_request.container_id)
    assert await host.ask(host.neighbour, UPLINK, 8080) is None
    await second.close_engine()


@in_fake_host
async def test_sweeping_spares_what_is_not_ours(host: FakeHost) -> None:
    networks = await host.networks()
    folder = f"{host.folder}/run/netns"
    os.makedirs(folder, exist_ok=True)
    netns.create(f"{folder}/{generate()[:12]}", lambda _: None)
    # What a crash between creating and mounting leaves.
    os.close(os.open(f"{folder}/{generate()[:12]}", os.O_CREAT))
    prefix = sandbox.link_prefix(host.config().instance)
    with netlink.Socket() as sock:
        for name in (f"{prefix}123456789", "wh0000abcdef012"):
            sock.execute(netlink.add_bridge(name, mac="02:00:00:00:09:09"))
    await networks.settle()
    assert host.sandboxes() == []
    assert host.links() == {networks.find("bridge").link, "wh0000abcdef012"}
    await networks.close_engine()


async def taken(_moved: MovedPorts) -> None:
    """A monitor that holds what it is told to."""


async def noted(endpoint: Endpoint) -> None:
    """Before the kernel knows of it."""
    assert endpoint.endpoint_id


@in_fake_host
async def test_a_network_that_cannot_be_left_is_not_left(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(NetworkRequest(name="aaa"))
    wanted = host.request("one", mode="aaa")
    opened = await networks.open(wanted)

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with mock.patch.object(sandbox, "disconnect", refuse), pytest.raises(EngineError, match="busy"):
        await networks.disconnect("aaa", wanted, taken)
    (member,) = (await networks.inspect("aaa")).members
    assert member.endpoint_id == opened.endpoints[0].endpoint_id
    other = await networks.open(host.request("two", mode="aaa"))
    assert other.endpoints[0].ipv4_address != opened.endpoints[0].ipv4_address
    await networks.disconnect("aaa", wanted, taken)
    assert len((await networks.inspect("aaa")).members) == 1
    await networks.close_engine()


async def beside_a_network(host: FakeHost) -> tuple[Networks, SandboxRequest, set[str]]:
    """A container that runs and is not on network aaa, and the links that there are."""
    networks = await host.networks()
    await networks.create(NetworkRequest(name="aaa"))
    wanted = host.request("one")
    await networks.open(wanted)
    return networks, wanted, host.links()


@in_fake_host
async def test_a_network_that_cannot_be_told_of_is_not_joined(host: FakeHost) -> None:
    networks, wanted, before = await beside_a_network(host)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch.object(files, "add_own", refuse), pytest.raises(EngineError, match="No space"):
        await networks.connect("aaa", EndpointConfig(), wanted, noted)
    assert host.links() == before
    assert not (await networks.inspect("aaa")).members
    await networks.close_engine()


@in_fake_host
async def test_a_network_is_not_removed_while_somebody_leaves_it(host: FakeHost) -> None:
    networks, wanted, before = await beside_a_network(host)
    await networks.connect("aaa", EndpointConfig(), wanted, noted)
    under_way, may_go_on = threading.Event(), threading.Event()
    disconnect = sandbox.disconnect

    def slowly(*given: Any) -> None:
        under_way.set()
        may_go_on.wait(10)
        disconnect(*given)

    with mock.patch.object(sandbox, "disconnect", slowly):
        leaving = asyncio.create_task(networks.disconnect("aaa", wanted, taken))
        await asyncio.to_thread(under_way.wait, 10)
        with pytest.raises(catalogue.NetworkInUse):
            await networks.remove("aaa")
        assert await networks.prune() == ()
        may_go_on.set()
        await leaving
    assert host.links() == before
    await networks.remove("aaa")
    await networks.close_engine()


@in_fake_host
async def test_a_network_is_not_removed_while_joining_it_is_undone(host: FakeHost) -> None:
    networks, wanted, before = await beside_a_network(host)
    under_way, may_go_on = threading.Event(), threading.Event()
    disconnect = sandbox.disconnect

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def slowly(*given: Any) -> None:
        under_way.set()
        may_go_on.wait(10)
        disconnect(*given)

    with (
        mock.patch.object(files, "add_own", refuse),
        mock.patch.object(sandbox, "disconnect", slowly),
    ):
        joining = asyncio.create_task(networks.connect("aaa", EndpointConfig(), wanted, noted))
        await asyncio.to_thread(under_way.wait, 10)
        with pytest.raises(catalogue.NetworkInUse):
            await networks.remove("aaa")
        may_go_on.set()
        with pytest.raises(EngineError, match="No space"):
            await joining
    assert host.links() == before
    await networks.remove("aaa")
    await networks.close_engine()


@in_fake_host
async def test_a_network_that_is_gone_is_left_by_force(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(NetworkRequest(name="aaa"))
    await networks.create(NetworkRequest(name="bbb"))
    wanted = host.request("one")
    await networks.open(wanted)
    before = host.links()
    endpoint = (await networks.connect("aaa", EndpointConfig(), wanted, noted)).endpoint
    del networks._catalogue._networks[endpoint.network_id]
    with pytest.raises(NoSuchNetwork):
        await networks.disconnect(endpoint.network_id, wanted, taken)
    await networks.connect("bbb", EndpointConfig(), wanted, noted)
    await networks.disconnect("bbb", wanted, taken)
    await networks.disconnect(endpoint.network_id, wanted, taken, force=True)
    assert host.links() == before
    await networks.close_engine()


@in_fake_host
async def test_connecting_and_disconnecting_what_runs(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(NetworkRequest(name="aaa"))
    wanted = host.request("one", port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    opened = await networks.open(wanted)
    mate = await networks.open(host.request("mate", mode="aaa"))
    host.serve(opened.netns_path, 80, "one")
    endpoint = (
        await networks.connect("aaa", EndpointConfig(aliases=("web",)), wanted, noted)
    ).endpoint
    assert endpoint.dns_names == ("one", "web", wanted.container_id[:12])
    assert await host.ask(mate.netns_path, endpoint.ipv4_address, 80) is not None
    assert f"{endpoint.ipv4_address}\tone\n" in host.read(wanted.hosts_path)
    # Published ports follow the network by which it leads out, whichever that is.
    assert await host.ask(host.neighbour, UPLINK, 80) == f"one {NEIGHBOUR}"
    with pytest.raises(Forbidden, match="endpoint with name one already exists in network aaa"):
        await networks.connect("aaa", EndpointConfig(), wanted, noted)
    with pytest.raises(host_driver.CannotConnect):
        await networks.connect("host", EndpointConfig(), wanted, noted)
    with pytest.raises(none.OnlyNetwork):
        await networks.connect("none", EndpointConfig(), wanted, noted)
    await networks.disconnect("aaa", wanted, taken)
    assert endpoint.ipv4_address not in host.read(wanted.hosts_path)
    assert await host.ask(mate.netns_path, endpoint.ipv4_address, 80) is None
    assert await host.ask(host.neighbour, UPLINK, 80) == f"one {NEIGHBOUR}"
    with pytest.raises(EngineError, match="is not connected to network aaa"):
        await networks.disconnect("aaa", wanted, taken)
    assert host.happened()[-2:] == [("connect", "aaa"), ("disconnect", "aaa")]
    await networks.close_engine()


@in_fake_host
async def test_a_network_in_use_is_not_removed(host: FakeHost) -> None:
    networks = await host.networks()
    identifier, warning = await networks.create(NetworkRequest(name="used", labels={"a": "b"}))
    await networks.create(NetworkRequest(name="idle"))
    opened = await networks.open(host.request("one", mode="used"))
    short = opened.endpoints[0].endpoint_id[:12]
    with pytest.raises(catalogue.NetworkInUse) as refused:
        await networks.remove("used")
    assert str(refused.value) == (
        f'error while removing network: network used has active endpoints (name:"one" id:"{short}")'
    )
    assert warning == ""
    view = await networks.inspect(identifier[:20])
    assert [m.ipv4_address for m in view.members] == ["172.18.0.2/16"]
    assert await networks.prune() == ("idle",)
    with pytest.raises(catalogue.NetworkNotRemovable):
        await networks.remove("bridge")
    assert host.happened() == [
        ("create", "used"),
        ("create", "idle"),
        ("destroy", "idle"),
        ("prune", ""),
    ]
    await networks.close_engine()


@in_fake_host
async def test_a_removed_network_leaves_nothing(host: FakeHost) -> None:
    networks = await host.networks()
    before = host.links()
    await networks.create(
        NetworkRequest(name="gone", ipam=IPAM(config=(Subnet(subnet="10.9.0.0/24"),)))
    )
    assert host.links() != before
    await networks.remove("gone")
    assert host.links() == before
    await networks.create(
        NetworkRequest(name="gone", ipam=IPAM(config=(Subnet(subnet="10.9.0.0/24"),)))
    )
    await networks.close_engine()
    again = await host.networks()
    assert again.find("gone").subnets[0].gateway == "10.9.0.1"
    await again.close_engine()


@in_fake_host
async def test_nobody_starts_on_a_network_that_is_being_removed(host: FakeHost) -> None:
    networks = await host.networks()
    before = host.links()
    await networks.create(NetworkRequest(name="going"))
    begun, go_on = threading.Event(), threading.Event()
    table = networks._catalogue._table
    real = table.delete

    def slow(key: str) -> None:
        begun.set()
        go_on.wait(10)
        real(key)

    table.delete = slow  # type: ignore[method-assign]
    asked = asyncio.ensure_future(networks.remove("going"))
    await asyncio.to_thread(begun.wait, 10)
    with pytest.raises(NoSuchNetwork):
        await networks.open(host.request("late", mode="going"))
    asked.cancel()  # a client that leaves ends nothing
    go_on.set()
    await networks.close_engine()
    assert host.happened()[-1] == ("destroy", "going")
    assert host.links() <= before


@in_fake_host
async def test_a_removal_that_fails_leaves_the_network(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(NetworkRequest(name="stays"))

    def fail(_: str) -> None:
        raise EngineError("database or disk is full")

    networks._catalogue._table.delete = fail  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="disk is full"):
        await networks.remove("stays")
    await networks.open(host.request("one", mode="stays"))
    await networks.close_engine()


@in_fake_host
async def test_a_row_that_cannot_be_read_is_passed_over_and_keeps_its_bridge(
    host: FakeHost,
) -> None:
    first = await host.networks()
    await first.create(NetworkRequest(name="broken"))
    opened = await first.open(host.request("one", mode="broken"))
    link = first.find("broken").link
    table = first._catalogue._table
    await asyncio.to_thread(table.put, first.find("broken").id, b"no row", name="broken")
    await asyncio.to_thread(table.put, first.find("none").id, b"nor this", name="none")
    await first.close_engine()

    second = await host.networks(settle=False)
    assert [v.network.name for v in await second.list()] == ["host", "bridge", "none"]
    second.adopt("c" * 64, opened.endpoints, (), name="one", mode="broken")
    await second.settle()
    assert link in host.links()
    with pytest.raises(catalogue.NetworkExists):
        await second.create(NetworkRequest(name="broken"))
    with pytest.raises(catalogue.NetworkInUse, match="broken has active endpoints"):
        await second.remove("broken")
    await second.close("c" * 64)
    with pytest.raises(UnreadableNetwork, match="broken not found: its record cannot be read"):
        await second.inspect("broken")
    for _ in range(100):  # the kernel takes the links of a namespace away in its own time
        with contextlib.suppress(catalogue.NetworkInUse):
            await second.remove("broken")
            break
        await asyncio.sleep(0.05)
    assert link not in host.links()
    await second.create(NetworkRequest(name="broken"))
    await second.close_engine()


@in_fake_host
async def test_networks_of_other_versions_keep_no_engine_from_its_start(host: FakeHost) -> None:
    first = await host.networks()
    await first.create(NetworkRequest(name="even"))
    changes: dict[str, dict[str, Any]] = {
        "odd": {"options": {"com.docker.network.host_ipv4": "junk"}},
        "odder": {"driver": "overlay"},
    }
    for name, change in changes.items():
        await first.create(NetworkRequest(name=name))
        network = first.find(name)
        row = msgspec.json.encode(msgspec.structs.replace(network, **change))
        first._catalogue._table.put(network.id, row, name=name)
    await first.close_engine()
    second = await host.networks()
    names = [v.network.name for v in await second.list()]
    assert sorted(names) == ["bridge", "even", "host", "none"]
    for name in changes:
        with pytest.raises(UnreadableNetwork):
            await second.inspect(name)
        await second.remove(name)
        await second.create(NetworkRequest(name=name))
    await second.close_engine()


@in_fake_host
async def test_what_runs_keeps_its_addresses_also_if_nobody_knows_it(host: FakeHost) -> None:
    """Its row cannot be read: the kernel says where it stands."""
    first = await host.networks()
    await first.create(NetworkRequest(name="aaa", enable_ipv6=True))
    wanted = host.request("one", mode="aaa")
    (held,) = (await first.open(wanted)).endpoints
    await first.close_engine()
    second = await host.networks(settle=False)
    await second.settle({wanted.container_id: "one", "f" * 64: "elsewhere"})
    (member,) = (await second.inspect("aaa")).members
    assert (member.container_id, member.name) == (wanted.container_id, "one")
    assert member.ipv4_address == f"{held.ipv4_address}/16"
    assert member.ipv6_address == f"{held.ipv6_address}/64"
    with pytest.raises(catalogue.NetworkInUse):
        await second.remove("aaa")
    (other,) = (await second.open(host.request("two", mode="aaa"))).endpoints
    assert other.ipv4_address != held.ipv4_address
    assert other.ipv6_address != held.ipv6_address
    await second.close(wanted.container_id)
    (third,) = (await second.open(host.request("three", mode="aaa"))).endpoints
    assert (third.ipv4_address, third.ipv6_address) == (held.ipv4_address, held.ipv6_address)
    await second.close_engine()


@in_fake_host
async def test_a_network_that_cannot_be_made_leaves_nothing(host: FakeHost) -> None:
    networks = await host.networks()
    before = host.links()
    with pytest.raises(ipam.PoolOverlap):
        await networks.create(
            NetworkRequest(name="x", ipam=IPAM(config=(Subnet(subnet="172.17.3.0/24"),)))
        )
    with pytest.raises(ipam.NoSuchPlugin):
        await networks.create(NetworkRequest(name="x", driver="nope"))
    with pytest.raises(host_driver.OneInstance):
        await networks.create(NetworkRequest(name="x", driver="host"))
    with pytest.raises(catalogue.NetworkExists):
        await asyncio.gather(*(networks.create(NetworkRequest(name="y")) for _ in range(2)))
    await networks.remove("y")
    assert host.links() == before
    assert [v.network.name for v in await networks.list()] == ["none", "host", "bridge"]
    await networks.close_engine()


@in_fake_host
async def test_static_addresses_are_had_once(host: FakeHost) -> None:
    networks = await host.networks()
    subnet = Subnet(subnet="10.9.0.0/24", aux_addresses={"printer": "10.9.0.2"})
    await networks.create(NetworkRequest(name="net", ipam=IPAM(config=(subnet,))))

    def asks(name: str, address: str) -> dict[str, object]:
        config = EndpointConfig(ipam=EndpointIPAM(ipv4_address=address))
        return {"name": name, "mode": "net", "endpoints": {"net": config}}

    one = await networks.open(host.request(**asks("one", "10.9.0.3")))
    assert one.endpoints[0].ipv4_address == "10.9.0.3"
    for taken in ("10.9.0.3", "10.9.0.1", "10.9.0.2", "10.9.0.255"):
        with pytest.raises(ipam.AddressInUse) as refused:
            await networks.open(host.request(**asks("two", taken)))
        assert str(refused.value).endswith("networking: Address already in use")
    three = await networks.open(host.request("three", mode="net"))
    assert three.endpoints[0].ipv4_address == "10.9.0.4"
    with pytest.raises(InvalidParameter, match="no configured subnet or ip-range contain"):
        networks.check("net", {"net": EndpointConfig(ipam=EndpointIPAM(ipv4_address="10.8.0.1"))})
    await networks.close_engine()


@in_fake_host
async def test_nobody_gets_an_address_that_ports_still_lead_to(host: FakeHost) -> None:
    networks = await host.networks()
    for name in ("aaa", "bbb"):
        await networks.create(NetworkRequest(name=name))
    bindings = {"80/tcp": (PortBinding(host_port="80"),)}
    wanted = host.request("one", mode="aaa", port_bindings=bindings)
    (held,) = (await networks.open(wanted)).endpoints
    await networks.connect("bbb", EndpointConfig(), wanted, noted)
    seen: list[tuple[str, list[str]]] = []

    async def take(moved: MovedPorts) -> None:
        (target,) = {each.target_ip for each in moved.listeners if ":" not in each.host_ip}
        members = (await networks.inspect("aaa")).members
        seen.append((target, [member.ipv4_address for member in members]))

    await networks.disconnect("aaa", wanted, take)
    assert (await networks.inspect("aaa")).members == ()
    ((target, still_there),) = seen
    assert target != held.ipv4_address
    assert still_there == [f"{held.ipv4_address}/16"]
    await networks.close(wanted.container_id)
    await networks.close_engine()
