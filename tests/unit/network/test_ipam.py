"""Addresses and subnets are given out once."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.network import ipam
from engine.network.model import IPAM, Subnet

STEPS = st.lists(st.one_of(st.just("allocate"), st.integers(0, 40), st.integers(-41, -1)))


@given(
    steps=STEPS,
    prefix=st.sampled_from(("10.0.0.0/27", "10.0.0.0/30", "10.0.0.0/31", "fd00::/123")),
)
def test_no_address_is_had_twice(steps: list[str | int], prefix: str) -> None:
    """Whatever is allocated, taken and released, in whatever order."""
    subnet = ip_network(prefix)
    pool = ipam.Pool(subnet)
    had: set[object] = set()
    for step in steps:
        if step == "allocate":
            try:
                address = pool.allocate()
            except ipam.NoAddressLeft:
                continue
            assert address not in had
            assert address in subnet
            had.add(address)
        elif isinstance(step, int) and step >= 0:
            address = subnet.network_address + step
            try:
                pool.take(address)
            except (ipam.AddressInUse, ipam.AddressOutOfRange):
                continue
            assert address not in had
            had.add(address)
        elif isinstance(step, int):
            address = subnet.network_address - step - 1
            pool.release(address)
            had.discard(address)
    assert {a for a in subnet if a in pool} == had


def test_the_lowest_free_address_is_given() -> None:
    pool = ipam.Pool(ip_network("10.0.0.0/24"))
    first, second, third = (str(pool.allocate()) for _ in range(3))
    assert (first, second, third) == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    pool.release(ip_address("10.0.0.2"))
    assert str(pool.allocate()) == "10.0.0.2"
    assert str(pool.allocate()) == "10.0.0.4"


def test_the_edges_of_a_subnet_are_nobody_s() -> None:
    pool = ipam.Pool(ip_network("10.0.0.0/29"))
    assert [str(pool.allocate()) for _ in range(6)] == [f"10.0.0.{n}" for n in range(1, 7)]
    with pytest.raises(ipam.NoAddressLeft):
        pool.allocate()
    with pytest.raises(ipam.AddressInUse):
        pool.take(ip_address("10.0.0.7"))
    with pytest.raises(ipam.AddressOutOfRange):
        pool.take(ip_address("10.0.0.8"))


def test_a_range_narrows_what_is_given_not_what_may_be_asked() -> None:
    pool = ipam.Pool(ip_network("10.0.0.0/24"), ip_network("10.0.0.128/31"))
    assert [str(pool.allocate()), str(pool.allocate())] == ["10.0.0.128", "10.0.0.129"]
    with pytest.raises(ipam.NoAddressLeft):
        pool.allocate()
    pool.take(ip_address("10.0.0.9"))


def test_a_huge_subnet_costs_nothing() -> None:
    pool = ipam.Pool(ip_network("fd00::/64"))
    pool.take(ip_address("fd00::ffff:ffff:ffff:ffff"))
    assert str(pool.allocate()) == "fd00::1"


@given(st.lists(st.integers(0, 30), max_size=40))
def test_no_two_subnets_overlap(choices: list[int]) -> None:
    space = ipam.AddressSpace(ipam.PREDEFINED_IPV4)
    taken: list[ipam.Pool] = []
    for choice in choices:
        if choice < 20:
            try:
                taken.append(space.take(space.free(4, ())))
            except ipam.NoPoolLeft:
                continue
        elif choice < 28 and taken:
            space.release(taken.pop(choice % len(taken)))
        else:
            wanted = ip_network(f"172.{choice}.0.0/{10 + choice % 12}", strict=False)
            try:
                taken.append(space.take(wanted))
            except ipam.PoolOverlap:
                continue
        subnets = [pool.subnet for pool in taken]
        assert [a for a in subnets for b in subnets if a is not b and a.overlaps(b)] == []


def test_pools_avoid_what_is_reserved() -> None:
    space = ipam.AddressSpace(ipam.PREDEFINED_IPV4)
    reserved = [ip_network("172.16.0.0/15"), ip_network("172.18.9.0/24"), ip_network("fd00::/8")]
    assert str(space.free(4, reserved)) == "172.19.0.0/16"
    with pytest.raises(ipam.NoPoolLeft) as nothing:
        space.free(4, [ip_network("172.16.0.0/12"), ip_network("192.168.0.0/16")])
    assert str(nothing.value) == "all predefined address pools have been fully subnetted"


def test_pools_are_taken_in_order_and_not_out_of_each_other() -> None:
    given = [ipam.Predefined(ip_network(base), 24) for base in ("10.2.0.0/16", "10.1.0.0/23")]
    inner = ipam.Predefined(ip_network("10.2.7.0/24"), 26)
    space = ipam.AddressSpace([inner, *given])
    found = [space.take(space.free(4, ())).subnet for _ in range(3)]
    assert [str(subnet) for subnet in found] == ["10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/24"]


def test_ranges_of_one_subnet_share_its_addresses() -> None:
    space = ipam.AddressSpace(())
    subnet = ip_network("10.0.0.0/24")
    low = space.take(subnet, ip_network("10.0.0.0/25"))
    high = space.take(subnet, ip_network("10.0.0.128/25"))
    with pytest.raises(ipam.PoolOverlap):
        space.take(subnet, ip_network("10.0.0.0/25"))
    with pytest.raises(ipam.PoolOverlap):
        space.take(ip_network("10.0.0.0/16"))
    assert [str(low.allocate()), str(high.allocate())] == ["10.0.0.1", "10.0.0.128"]
    high.take(ip_address("10.0.0.2"))
    assert str(low.allocate()) == "10.0.0.3"
    space.release(high)
    assert str(low.allocate()) == "10.0.0.2"
    space.release(low)
    space.take(ip_network("10.0.0.0/16"))


def test_ipv6_pools_are_the_engine_s_own() -> None:
    one, two = ipam.predefined_ipv6("one"), ipam.predefined_ipv6("two")
    assert one.base != two.base
    assert one.base.is_private
    assert next(one.pools()).prefixlen == 64


@pytest.mark.parametrize(
    ("subnet", "said"),
    [
        (Subnet(subnet="x"), "invalid subnet x: invalid CIDR block notation"),
        (Subnet(), "invalid subnet : invalid CIDR block notation"),
        (
            Subnet(subnet="10.0.0.0/255.0.0.0"),
            "invalid subnet 10.0.0.0/255.0.0.0: invalid CIDR block notation",
        ),
        (Subnet(subnet="10.9.0.1/24"), "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"),
        (
            Subnet(subnet="10.9.0.0/24", gateway="10.8.0.1"),
            "invalid gateway 10.8.0.1: parent subnet 10.9.0.0/24 doesn't contain this address",
        ),
        (
            Subnet(subnet="10.9.0.0/24", gateway="::1"),
            "invalid gateway ::1: parent subnet is an IPv4 block",
        ),
        (Subnet(subnet="10.9.0.0/24", gateway="y"), "invalid gateway y: invalid address"),
        (
            Subnet(subnet="10.9.0.0/24", ip_range="10.9.0.0/16"),
            "* invalid ip-range 10.9.0.0/16: "
            "CIDR block is bigger than its parent subnet 10.9.0.0/24",
        ),
        (
            Subnet(subnet="10.9.0.0/24", ip_range="10.8.0.0/25"),
            "invalid ip-range 10.8.0.0/25: parent subnet 10.9.0.0/24 doesn't contain ip-range",
        ),
        (
            Subnet(subnet="10.9.0.0/24", ip_range="fd00::/80"),
            "invalid ip-range fd00::/80: parent subnet is an IPv4 block",
        ),
        (
            Subnet(subnet="10.9.0.0/24", aux_addresses={"a": "10.9.1.1"}),
            "invalid auxiliary address a: parent subnet 10.9.0.0/24 doesn't contain this address",
        ),
    ],
)
def test_bad_subnets_are_named(subnet: Subnet, said: str) -> None:
    with pytest.raises(ipam.InvalidIPAM) as refused:
        ipam.check(IPAM(config=(subnet,)), enable_ipv6=True)
    assert str(refused.value) == f"invalid network config:\n{said.removeprefix('* ')}"


def test_several_faults_are_a_list() -> None:
    wrong = Subnet(subnet="10.9.0.1/24", gateway="y")
    with pytest.raises(ipam.InvalidIPAM) as refused:
        ipam.check(IPAM(config=(wrong,)), enable_ipv6=False)
    assert str(refused.value) == (
        "invalid network config:\n"
        "* invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24\n"
        "* invalid gateway y: invalid address"
    )


def test_ipv6_subnets_are_ignored_where_ipv6_is_off() -> None:
    ipam.check(IPAM(config=(Subnet(subnet="fd00::1/64"),)), enable_ipv6=False)
    with pytest.raises(ipam.InvalidIPAM):
        ipam.check(IPAM(config=(Subnet(subnet="fd00::1/64"),)), enable_ipv6=True)
