"""A container's network from open to close, on a host of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from ipaddress import ip_address

import pytest

from engine.errors import NoSuchNetwork
from engine.linux import netlink, netns
from engine.network import ports, publishing
from engine.network.model import EndpointConfig, NetworkRequest, PortBinding, SandboxRequest
from tests.kernel.network.fake_host import NEIGHBOUR, UPLINK, FakeHost, in_fake_host


def published(
    host: FakeHost, name: str, *bindings: PortBinding, key: str = "80/tcp"
) -> SandboxRequest:
    return host.request(name, exposed_ports=(key,), port_bindings={key: bindings})


@in_fake_host
async def test_published_port_answers_from_everywhere(host: FakeHost) -> None:
    networks = await host.networks()
    opened = await networks.open(published(host, "one", PortBinding(host_port="8080")))
    other = await networks.open(host.request("two"))
    host.serve(opened.netns_path, 80, "hello")
    gateway, own = opened.endpoints[0].gateway, opened.endpoints[0].ipv4_address
    beside = other.endpoints[0].ipv4_address
    assert await host.ask(None, own, 80) == f"hello {gateway}"
    assert await host.ask(None, "127.0.0.1", 8080) == f"hello {gateway}"
    assert await host.ask(None, UPLINK, 8080) == f"hello {UPLINK}"
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"hello {NEIGHBOUR}"
    assert await host.ask(other.netns_path, UPLINK, 8080) == f"hello {gateway}"
    assert await host.ask(other.netns_path, gateway, 8080) == f"hello {gateway}"
    assert await host.ask(other.netns_path, own, 80) == f"hello {beside}"
    assert await host.ask(opened.netns_path, UPLINK, 8080) == f"hello {gateway}"
    await networks.close(opened.endpoints[0].network_id)
    await networks.close_engine()


@in_fake_host
async def test_udp_and_a_range_of_ports_answer(host: FakeHost) -> None:
    networks = await host.networks()
    request = host.request(
        port_bindings={
            "53/udp": (PortBinding(host_port="5353"),),
            **{f"{p}/tcp": (PortBinding(host_port=str(p)),) for p in range(7000, 7040)},
        }
    )
    opened = await networks.open(request)
    host.serve(opened.netns_path, 53, "name", kind="udp")
    for port in (7000, 7039):
        host.serve(opened.netns_path, port, str(port))
    assert await host.ask(host.neighbour, UPLINK, 5353, kind="udp") == f"name {NEIGHBOUR}"
    assert await host.ask(None, UPLINK, 5353, kind="udp") == f"name {UPLINK}"
    assert await host.ask(host.neighbour, UPLINK, 7000) == f"7000 {NEIGHBOUR}"
    assert await host.ask(host.neighbour, UPLINK, 7039) == f"7039 {NEIGHBOUR}"
    assert await host.ask(host.neighbour, UPLINK, 7040) is None
    await networks.close_engine()


@in_fake_host
async def test_containers_reach_the_world_as_the_host(host: FakeHost) -> None:
    networks = await host.networks()
    opened = await networks.open(host.request())
    host.serve(host.neighbour, 80, "world")
    assert await host.ask(opened.netns_path, NEIGHBOUR, 80) == f"world {UPLINK}"
    await networks.close_engine()


@in_fake_host
async def test_files_tell_the_container_its_names(host: FakeHost) -> None:
    networks = await host.networks()
    request = host.request(
        hostname="web",
        domainname="example.org",
        extra_hosts=("db:10.1.2.3", "up:host-gateway"),
        dns=("10.9.9.9",),
        dns_search=("example.org",),
    )
    opened = await networks.open(request)
    endpoint = opened.endpoints[0]
    folder = f"{host.folder}/one"
    lines = host.read(f"{folder}/hosts").splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-3:] == [
        "10.1.2.3\tdb",
        f"{endpoint.gateway}\tup",
        f"{endpoint.ipv4_address}\tweb.example.org web",
    ]
    text = host.read(f"{folder}/resolv.conf")
    assert "nameserver 10.9.9.9\nsearch example.org\n" in text
    assert "# Overrides: [nameservers search]" in text
    assert host.read(f"{folder}/hostname") == "web\n"
    await networks.close_engine()


@in_fake_host
async def test_closing_leaves_nothing_and_frees_at_once(host: FakeHost) -> None:
    networks = await host.networks()
    bridges = host.links()
    request = published(host, "one", PortBinding(host_port="8080"))
    first = await networks.open(request)
    ports.close(first.listeners)
    await networks.close(request.container_id)
    await networks.close(request.container_id)
    again = published(host, "two", PortBinding(host_port="8080"))
    second = await networks.open(again)
    networks.announce(again.container_id)
    assert second.endpoints[0].ipv4_address == first.endpoints[0].ipv4_address
    host.serve(second.netns_path, 80, "second")
    assert await host.ask(host.neighbour, UPLINK, 8080) == f"second {NEIGHBOUR}"
    ports.close(second.listeners)
    await networks.close(again.container_id)
    assert await host.ask(host.neighbour, UPLINK, 8080) is None
    assert host.sandboxes() == []
    assert await host.becomes(bridges, host.links)
    # Nobody said of the first that its process stands.
    assert host.happened() == [
        ("disconnect", "bridge"),
        ("connect", "bridge"),
        ("disconnect", "bridge"),
    ]
    await networks.close_engine()


@in_fake_host
async def test_a_link_goes_although_a_process_holds_the_namespace(host: FakeHost) -> None:
    networks = await host.networks()
    bridges = host.links()
    request = host.request()
    opened = await networks.open(request)
    held = os.open(opened.netns_path or "", os.O_RDONLY)
    host.serve(opened.netns_path, 80, "ghost")
    await networks.close(request.container_id)
    assert await host.ask(None, opened.endpoints[0].ipv4_address, 80) is None
    await asyncio.sleep(2.5)
    assert host.links() == bridges
    os.close(held)
    await networks.close_engine()


@in_fake_host
async def test_conflicts_read_as_docker_says_them(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.open(published(host, "one", PortBinding(host_port="8080")))
    start = (
        r"failed to set up container networking: driver failed programming external "
        r"connectivity on endpoint two \([0-9a-f]{64}\): "
    )
    with pytest.raises(publishing.ConnectivityFailed) as taken:
        await networks.open(published(host, "two", PortBinding(host_port="8080")))
    said = f"{start}Bind for 0.0.0.0:8080 failed: port is already allocated"
    assert re.fullmatch(said, str(taken.value))
    host.serve(None, 9090, "process")
    with pytest.raises(publishing.ConnectivityFailed) as bound:
        await networks.open(published(host, "two", PortBinding(host_port="9090")))
    said = (
        f"{start}failed to bind host port for 0.0.0.0:9090:172.17.0.3:80/tcp: "
        "address already in use"
    )
    assert re.fullmatch(said, str(bound.value))
    # What failed has left nothing: the next gets its address, and the range its next port.
    opened = await networks.open(published(host, "two", PortBinding(host_port="9090-9092")))
    assert opened.endpoints[0].ipv4_address == "172.17.0.3"
    assert {port.host_port for port in opened.ports} == {9091}
    await networks.close_engine()


@in_fake_host
async def test_an_unknown_network_is_named(host: FakeHost) -> None:
    networks = await host.networks()
    with pytest.raises(NoSuchNetwork) as missing:
        await networks.open(host.request(mode="nowhere"))
    assert str(missing.value) == (
        "failed to set up container networking: network nowhere not found"
    )
    await networks.close_engine()


@in_fake_host
async def test_modes_share_or_do_without(host: FakeHost) -> None:
    networks = await host.networks()
    plain = host.request()
    opened = await networks.open(plain)
    joined = await networks.open(host.request("two", mode=f"container:{plain.container_id}"))
    assert (joined.netns_path, joined.key, joined.endpoints) == (opened.netns_path, "", ())
    on_host = await networks.open(host.request("three", mode="host"))
    assert on_host.netns_path is None
    assert on_host.key == f"{host.folder}/run/netns/default"
    assert on_host.endpoints[0].network_name == "host"
    alone = await networks.open(host.request("four", mode="none"))
    assert alone.endpoints[0].ipv4_address == ""
    names = await asyncio.to_thread(
        netns.enter, alone.netns_path or "", lambda _: sorted(os.listdir("/proc/sys/net/ipv4/conf"))
    )
    assert names == ["all", "default", "lo"]
    await networks.close_engine()


@in_fake_host
async def test_a_cancelled_open_leaves_nothing(host: FakeHost) -> None:
    networks = await host.networks()
    request = published(host, "one", PortBinding(host_port="8080"))
    for turns in range(12):
        task = asyncio.create_task(networks.open(request))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            ports.close((await task).listeners)
            await networks.close(request.container_id)
        assert host.sandboxes() == []
    view = await networks.inspect("bridge")
    assert view.members == ()
    opened = await networks.open(request)
    assert opened.endpoints[0].ipv4_address == "172.17.0.2"
    await networks.close_engine()


@in_fake_host
async def test_a_new_container_can_be_found_by_ipv6_at_once(host: FakeHost) -> None:
    """One address after the other for the same container, so that the host remembers old ones."""
    networks = await host.networks(ipv6=True)
    for number in range(20):
        request = host.request(f"c{number}")
        opened = await networks.open(request)
        address = opened.endpoints[0].ipv6_address
        group = f"1ff{ip_address(address).packed[-3:].hex()}"
        groups = await asyncio.to_thread(
            host.within, opened.netns_path, lambda: host.read("/proc/thread-self/net/igmp6")
        )
        assert group in groups
        host.serve(opened.netns_path, 80, "there")
        assert await host.ask(None, address, 80) is not None
        await networks.close(request.container_id)
    await networks.close_engine()


@in_fake_host
async def test_a_bridge_that_somebody_removed_is_made_again(host: FakeHost) -> None:
    networks = await host.networks()
    link = networks.find("bridge").link
    with netlink.Socket() as sock:
        sock.execute(netlink.delete_link(link))
    opened = await networks.open(host.request())
    host.serve(opened.netns_path, 80, "there")
    assert await host.ask(None, opened.endpoints[0].ipv4_address, 80) is not None
    await networks.close_engine()


@in_fake_host
async def test_many_at_once_get_different_addresses(host: FakeHost) -> None:
    networks = await host.networks()
    requests = [published(host, f"c{number}", PortBinding()) for number in range(30)]
    opened = await asyncio.gather(*map(networks.open, requests))
    addresses = {o.endpoints[0].ipv4_address for o in opened}
    assert len(addresses) == 30
    assert len({p.host_port for o in opened for p in o.ports}) == 30
    await asyncio.gather(*(networks.close(r.container_id) for r in requests))
    assert (await networks.inspect("bridge")).members == ()
    await networks.close_engine()


@in_fake_host
async def test_gateway_priority_decides_the_default_route(host: FakeHost) -> None:
    networks = await host.networks()
    for name in ("aa", "zz"):
        await networks.create(NetworkRequest(name=name))
    request = host.request(
        mode="aa", endpoints={"aa": EndpointConfig(), "zz": EndpointConfig(gw_priority=1)}
    )
    opened = await networks.open(request)
    host.serve(host.neighbour, 80, "world")
    assert [e.network_name for e in opened.endpoints] == ["aa", "zz"]

    def routes() -> list[str]:
        rows = [line.split() for line in host.read("/proc/thread-self/net/route").splitlines()[1:]]
        gateways = [bytes.fromhex(row[2])[::-1] for row in rows if row[1] == "00000000"]
        return [str(ip_address(gateway)) for gateway in gateways]

    assert await asyncio.to_thread(host.within, opened.netns_path, routes) == [
        opened.endpoints[1].gateway
    ]
    await networks.close_engine()


@in_fake_host
async def test_a_client_that_goes_on_sending_finds_the_next_container(host: FakeHost) -> None:
    """Its flow is tracked, with the address of the container that was there before."""
    networks = await host.networks()
    request = published(host, "one", PortBinding(host_port="5353"), key="53/udp")
    first = await networks.open(request)
    old = host.serve(first.netns_path, 53, "first", kind="udp")
    await asyncio.to_thread(host.send_raw, host.neighbour, UPLINK, 5353)
    assert await host.becomes([NEIGHBOUR], lambda: old)
    ports.close(first.listeners)
    await networks.close(request.container_id)
    await networks.open(host.request("squatter"))
    second = await networks.open(
        published(host, "two", PortBinding(host_port="5353"), key="53/udp")
    )
    assert second.endpoints[0].ipv4_address != first.endpoints[0].ipv4_address
    new = host.serve(second.netns_path, 53, "second", kind="udp")
    await asyncio.to_thread(host.send_raw, host.neighbour, UPLINK, 5353)
    assert await host.becomes([NEIGHBOUR], lambda: new)
    await networks.close_engine()
