"""What may reach what: isolation, other firewalls, and those who change ours."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from engine.linux import netlink
from engine.linux import nftables as nft
from engine.network.model import IPAM, NetworkRequest, PortBinding, Subnet
from tests.kernel.linux.test_xtables import set_forward_policy
from tests.kernel.network.fake_host import NEIGHBOUR, UPLINK, FakeHost, in_fake_host

INET = nft.NFPROTO_INET


def table(host: FakeHost) -> str:
    return f"wharf-{host.config().instance}"


def commit(*messages: netlink.Message) -> None:
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        nft.commit(sock, messages)


def has_table(host: FakeHost) -> bool:
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        return table(host) in nft.tables(sock, INET)


def forward_rules(family: int, name: str, chain: str) -> list[str]:
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        return [rule.comment for rule in nft.rules(sock, family, name, chain)]


@in_fake_host
async def test_loopback_publication_is_the_host_s_alone(host: FakeHost) -> None:
    """N2: a neighbour that addresses 127.0.0.1 over the link is not heard."""
    networks = await host.networks()
    opened = await networks.open(
        host.request(
            port_bindings={
                "53/udp": (
                    PortBinding(host_ip="127.0.0.1", host_port="5353"),
                    PortBinding(host_ip=UPLINK, host_port="5354"),
                )
            }
        )
    )
    askers = host.serve(opened.netns_path, 53, "name", kind="udp")
    gateway = opened.endpoints[0].gateway
    assert await host.ask(None, "127.0.0.1", 5353, kind="udp") == f"name {gateway}"
    askers.clear()
    await asyncio.to_thread(host.send_raw, host.neighbour, UPLINK, 5354)
    assert await host.becomes([NEIGHBOUR], lambda: askers)
    await asyncio.to_thread(host.send_raw, host.neighbour, "127.0.0.1", 5353)
    await asyncio.sleep(0.2)
    assert askers == [NEIGHBOUR]
    assert await host.ask(host.neighbour, UPLINK, 5353, kind="udp") is None
    await networks.close_engine()


@in_fake_host
async def test_a_container_cannot_reach_the_host_s_loopback(host: FakeHost) -> None:
    """Its bridge routes 127.0.0.0/8 for the sake of published ports."""
    await _ask_for_loopback(host)


@in_fake_host
async def test_nor_can_it_without_a_firewall(host: FakeHost) -> None:
    await _ask_for_loopback(host, iptables=False)


async def _ask_for_loopback(host: FakeHost, **changes: object) -> None:
    networks = await host.networks(**changes)
    opened = await networks.open(host.request())
    askers = host.serve(None, 7000, "private", kind="udp")
    gateway = opened.endpoints[0].gateway
    assert await host.ask(opened.netns_path, gateway, 7000, kind="udp") is not None
    before = len(askers)

    def forge() -> None:
        with open("/proc/sys/net/ipv4/conf/eth0/route_localnet", "w", encoding="ascii") as file:
            file.write("1")
        host.ip("addr del 127.0.0.1/8 dev lo", f"route add 127.0.0.1/32 via {gateway} dev eth0")

    await asyncio.to_thread(host.within, opened.netns_path, forge)
    assert await host.ask(opened.netns_path, "127.0.0.1", 7000, kind="udp") is None
    assert len(askers) == before
    await networks.close_engine()


@in_fake_host
async def test_networks_do_not_hear_each_other(host: FakeHost) -> None:
    networks = await host.networks()
    for name in ("red", "blue"):
        await networks.create(NetworkRequest(name=name))
    red = await networks.open(host.request("red", mode="red"))
    blue = await networks.open(
        host.request("blue", mode="blue", port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    mate = await networks.open(host.request("mate", mode="blue"))
    host.serve(blue.netns_path, 80, "blue")
    own = blue.endpoints[0].ipv4_address
    assert await host.ask(mate.netns_path, own, 80) == f"blue {mate.endpoints[0].ipv4_address}"
    assert await host.ask(red.netns_path, own, 80) is None
    assert await host.ask(host.neighbour, own, 80) is None
    # What is published is for everybody, at the host's address.
    assert await host.ask(red.netns_path, UPLINK, 80) == f"blue {blue.endpoints[0].gateway}"
    await networks.close_engine()


@in_fake_host
async def test_icc_off_parts_the_containers_of_a_network(host: FakeHost) -> None:
    networks = await host.networks(icc=False)
    one = await networks.open(
        host.request("one", port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    two = await networks.open(host.request("two"))
    host.serve(one.netns_path, 80, "one")
    host.serve(host.neighbour, 80, "world")
    assert await host.ask(two.netns_path, one.endpoints[0].ipv4_address, 80) is None
    assert await host.ask(two.netns_path, NEIGHBOUR, 80) == f"world {UPLINK}"
    assert await host.ask(two.netns_path, UPLINK, 80) == f"one {one.endpoints[0].gateway}"
    await networks.close_engine()


@in_fake_host
async def test_an_internal_network_stays_inside(host: FakeHost) -> None:
    networks = await host.networks()
    await networks.create(NetworkRequest(name="inside", is_internal=True))
    one = await networks.open(host.request("one", mode="inside"))
    two = await networks.open(host.request("two", mode="inside"))
    assert one.endpoints[0].gateway == ""
    host.serve(two.netns_path, 80, "two")
    host.serve(host.neighbour, 80, "world")
    own = one.endpoints[0].ipv4_address
    assert await host.ask(one.netns_path, two.endpoints[0].ipv4_address, 80) == f"two {own}"
    assert await host.ask(one.netns_path, NEIGHBOUR, 80) is None
    gateway = networks.find("inside").subnets[0].gateway
    await asyncio.to_thread(
        host.within,
        one.netns_path,
        lambda: host.ip(f"route add default via {gateway} dev eth0"),
    )
    assert await host.ask(one.netns_path, NEIGHBOUR, 80) is None
    await networks.close_engine()


@in_fake_host
async def test_ipv6_is_published_and_masqueraded(host: FakeHost) -> None:
    networks = await host.networks()
    subnets = (Subnet(subnet="fd00:9::/64"),)
    await networks.create(NetworkRequest(name="six", enable_ipv6=True, ipam=IPAM(config=subnets)))
    opened = await networks.open(
        host.request("one", mode="six", port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    host.serve(opened.netns_path, 80, "six")
    endpoint = opened.endpoints[0]
    assert (endpoint.ipv6_address, endpoint.ipv6_gateway) == ("fd00:9::2", "fd00:9::1")
    assert await host.ask(None, endpoint.ipv6_address, 80) == "six fd00:9::1"
    assert await host.ask(None, "fd00:9::1", 80) == "six fd00:9::1"
    other = await networks.open(host.request("two"))
    assert await host.ask(other.netns_path, UPLINK, 80) is not None
    await networks.close_engine()


@in_fake_host
async def test_another_firewall_that_drops_forwarding_lets_ours_pass(host: FakeHost) -> None:
    filter_table = nft.add_table(nft.NFPROTO_IPV4, "filter")
    dropping = nft.Chain("FORWARD", "filter", nft.NF_INET_FORWARD, 0, nft.NF_DROP)
    foreign = nft.add_rule(
        nft.NFPROTO_IPV4, "filter", "FORWARD", [nft.verdict(nft.NF_DROP)], comment="theirs"
    )
    commit(filter_table, nft.add_chain(nft.NFPROTO_IPV4, "filter", dropping), foreign)
    networks = await host.networks()
    opened = await networks.open(
        host.request(port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    host.serve(opened.netns_path, 80, "in")
    host.serve(host.neighbour, 80, "out")
    assert await host.ask(host.neighbour, UPLINK, 80) == f"in {NEIGHBOUR}"
    assert await host.ask(opened.netns_path, NEIGHBOUR, 80) == f"out {UPLINK}"
    comments = forward_rules(nft.NFPROTO_IPV4, "filter", "FORWARD")
    assert comments[-1] == "theirs"
    assert len(comments) == 3
    await networks.close_engine()
    assert forward_rules(nft.NFPROTO_IPV4, "filter", "FORWARD") == comments
    again = await host.networks()
    assert forward_rules(nft.NFPROTO_IPV4, "filter", "FORWARD") == comments
    # Nothing runs any more: with the engine goes all that is its own.
    await again.close_engine()
    assert forward_rules(nft.NFPROTO_IPV4, "filter", "FORWARD") == ["theirs"]
    assert host.links() == set()
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        assert nft.tables(sock, INET) == []


@in_fake_host
async def test_the_watch_outlives_what_it_did_not_expect(host: FakeHost) -> None:
    networks = await host.networks()
    firewall = networks._firewall
    assert firewall is not None
    real, failed = firewall.mend, threading.Event()

    def mend(*, is_touched: bool = False) -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("a reply that nobody foresaw")
        real(is_touched=is_touched)

    firewall.mend = mend  # type: ignore[method-assign]
    commit(nft.delete_table(INET, table(host)))
    assert await asyncio.to_thread(failed.wait, 10)
    commit(nft.add_table(INET, "somebody"), nft.delete_table(INET, "somebody"))
    assert await host.becomes(True, lambda: has_table(host))
    await networks.close_engine()


@in_fake_host
async def test_a_flushed_ruleset_comes_back(host: FakeHost) -> None:
    networks = await host.networks()
    opened = await networks.open(
        host.request(port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    host.serve(opened.netns_path, 80, "back")
    firewall = networks._firewall
    assert firewall is not None
    real, seen = firewall.mend, threading.Event()

    def mend(*, is_touched: bool = False) -> None:
        seen.wait(10)  # else it would be back before anybody could ask
        real(is_touched=is_touched)

    firewall.mend = mend  # type: ignore[method-assign]
    commit(nft.delete_table(INET, table(host)))
    assert await host.ask(host.neighbour, opened.endpoints[0].ipv4_address, 80) is not None
    seen.set()
    assert await host.becomes(True, lambda: has_table(host))
    assert await host.ask(host.neighbour, UPLINK, 80) == f"back {NEIGHBOUR}"
    assert await host.ask(host.neighbour, opened.endpoints[0].ipv4_address, 80) is None
    await networks.close_engine()


@in_fake_host
async def test_a_host_that_forwards_because_of_us_is_no_router(host: FakeHost) -> None:
    with netlink.Socket() as sock:
        sock.execute(netlink.add_bridge("lan", mac="02:00:00:00:01:fe"))
    host.ip("addr add 198.51.100.1/24 dev lan", "link set lan up")
    host.plug("lan", f"{host.folder}/office", "198.51.100.9", "198.51.100.1")
    host.serve(f"{host.folder}/office", 80, "office")
    assert await host.ask(None, "198.51.100.9", 80) is not None
    assert await host.ask(host.neighbour, "198.51.100.9", 80) is None
    networks = await host.networks()
    assert host.read("/proc/sys/net/ipv4/ip_forward") == "1\n"
    assert await host.ask(host.neighbour, "198.51.100.9", 80) is None
    await networks.close_engine()
    # It is still so after a restart, when forwarding was on already.
    again = await host.networks()
    assert await host.ask(host.neighbour, "198.51.100.9", 80) is None
    await again.close_engine()
    routing = await host.networks(ip_forward_no_drop=True)
    assert await host.ask(host.neighbour, "198.51.100.9", 80) is not None
    await routing.close_engine()


@in_fake_host
async def test_without_firewall_nothing_is_touched(host: FakeHost) -> None:
    networks = await host.networks(iptables=False, ip6tables=False)
    opened = await networks.open(host.request())
    host.serve(opened.netns_path, 80, "plain")
    assert await host.ask(None, opened.endpoints[0].ipv4_address, 80) is not None
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        assert nft.tables(sock, INET) == []
    await networks.close_engine()


@in_fake_host
async def test_a_family_without_firewall_is_let_be(host: FakeHost) -> None:
    for versions in (frozenset((4,)), frozenset((6,))):
        networks = await host.networks(ipv6=True, iptables=4 in versions, ip6tables=6 in versions)
        await networks.create(NetworkRequest(name="other", enable_ipv6=True))
        opened = await networks.open(one := host.request("one"))
        apart = await networks.open(two := host.request("two", mode="other"))
        host.serve(apart.netns_path, 80, "apart")
        addresses = {4: apart.endpoints[0].ipv4_address, 6: apart.endpoints[0].ipv6_address}
        for version, address in addresses.items():
            answer = await host.ask(opened.netns_path, address, 80)
            assert (answer is None) == (version in versions), (version, versions)
        for request in (one, two):
            await networks.close(request.container_id)
        await networks.remove("other")
        await networks.close_engine()


@in_fake_host
async def test_what_drops_out_of_our_reach_is_told(host: FakeHost) -> None:
    try:
        set_forward_policy(4, nft.NF_DROP)
    except OSError as error:
        pytest.skip(f"needs legacy x_tables: {error}")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("engine.network.firewall").addHandler(handler)
    networks = await host.networks()
    assert [r.getMessage().partition(":")[0] for r in records] == [
        "the legacy iptables filter drops what is forwarded over IPv4 (its FORWARD policy is DROP)"
    ]
    await networks.close_engine()


def forward_handles(host: FakeHost) -> list[int]:
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        return [rule.handle for rule in nft.rules(sock, INET, table(host), "forward")]


@in_fake_host
async def test_what_is_taken_out_of_our_table_comes_back(host: FakeHost) -> None:
    """Not only the whole table: its rules, as `nft flush table` takes them, and its elements."""
    networks = await host.networks()
    opened = await networks.open(
        host.request(port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    )
    host.serve(opened.netns_path, 80, "back")
    own = opened.endpoints[0].ipv4_address
    published = nft.Element(b"\x06\0\0\0" + b"\0\x50\0\0")

    async def is_right() -> bool:
        return (
            await host.ask(host.neighbour, UPLINK, 80) == f"back {NEIGHBOUR}"
            and await host.ask(host.neighbour, own, 80) is None
        )

    for change in (
        lambda: [nft.delete_rule(INET, table(host), "forward", h) for h in forward_handles(host)],
        lambda: nft.delete_elements(INET, table(host), "ports4", [published]),
        lambda: [nft.delete_table(INET, table(host))],
    ):
        assert await is_right()
        count = len(forward_handles(host))
        commit(*change())
        await asyncio.sleep(0.8)
        assert len(forward_handles(host)) == count
    assert await is_right()
    await networks.close_engine()


@in_fake_host
async def test_a_chain_that_is_made_anew_lets_ours_pass_again(host: FakeHost) -> None:
    """Other firewalls flush and load their chains; each time ours has to go in again."""
    networks = await host.networks()
    request = host.request(port_bindings={"80/tcp": (PortBinding(host_port="80"),)})
    opened = await networks.open(request)
    host.serve(opened.netns_path, 80, "in")
    theirs = nft.add_table(nft.NFPROTO_IPV4, "filter")
    dropping = nft.Chain("FORWARD", "filter", nft.NF_INET_FORWARD, 0, nft.NF_DROP)

    def count() -> int:
        return len(forward_rules(nft.NFPROTO_IPV4, "filter", "FORWARD"))

    for _ in range(3):
        commit(theirs, nft.delete_table(nft.NFPROTO_IPV4, "filter"), theirs)
        commit(nft.add_chain(nft.NFPROTO_IPV4, "filter", dropping))
        assert await host.becomes(2, count)
        assert await host.ask(host.neighbour, UPLINK, 80) == f"in {NEIGHBOUR}"
    await networks.close(request.container_id)
    await networks.close_engine()
    assert count() == 0
