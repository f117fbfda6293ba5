"""From what a client said to the numbers of host ports, and their sockets."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.network import ports
from engine.network.model import SHARED, PortBinding

ANY4 = ip_address("0.0.0.0")
IPV4, IPV6 = ip_address("172.17.0.2"), ip_address("fd00::2")
NUMBERS = st.integers(1, 65535)


@given(NUMBERS, NUMBERS)
def test_a_range_is_two_numbers_in_order(one: int, two: int) -> None:
    text = f"{one}-{two}"
    if one <= two:
        assert ports.parse_host_port(text) == (one, two)
    else:
        with pytest.raises(ports.InvalidPort):
            ports.parse_host_port(text)


@given(st.text(max_size=12))
def test_whatever_is_typed_is_a_range_or_refused(text: str) -> None:
    try:
        first, last = ports.parse_host_port(text)
    except (ports.InvalidPort, ports.InvalidRange):
        return
    assert 0 <= first <= last <= 65535
    number = text.partition("/")[0]
    assert number in ("", str(first).zfill(len(number))) or "-" in number


@pytest.mark.parametrize("text", ["x", "70000", "90-80", "1-", "-1", "1-2-3", "٣", " 80"])
def test_bad_host_ports_are_named(text: str) -> None:
    with pytest.raises(ports.InvalidPort) as refused:
        ports.parse_host_port(text)
    assert str(refused.value) == f'invalid port specification: "{text}"'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80/tcp", (80, "tcp")),
        ("80", (80, "tcp")),
        ("53/UDP", (53, "udp")),
        ("9/sctp", (9, "sctp")),
        ("80/", (80, "tcp")),
        ("80/udp/x", (80, "udp")),
        ("70-72/udp", (0, "udp")),
        ("70000", (0, "tcp")),
        ("9" * 5000, (0, "tcp")),
    ],
)
def test_container_ports(text: str, found: tuple[int, str]) -> None:
    assert ports.parse_container_port(text) == found


@pytest.mark.parametrize("text", ["80/foo", "/tcp", "", "/"])
def test_bad_container_ports(text: str) -> None:
    bindings = {text: (PortBinding(host_port="80"),)}
    with pytest.raises(ports.UnknownProtocol, match="unknown protocol"):
        ports.requests((text,), bindings, publish_all=False)
    assert ports.requests((text,), {}, publish_all=False) == []
    assert ports.requests((), bindings, publish_all=False) == []


def test_a_range_from_nothing() -> None:
    with pytest.raises(ports.InvalidRange, match="invalid port range: 0-9"):
        ports.parse_host_port("0-9")


def test_ipv4_that_is_written_as_ipv6() -> None:
    assert expand(PortBinding(host_ip="::ffff:127.0.0.1", host_port="80")) == [
        ("127.0.0.1", "172.17.0.2")
    ]


def test_exact_ports_come_before_ranges() -> None:
    found = ports.requests(
        ("443/tcp", "70/tcp", "80/tcp", "80/udp"),
        {
            "80/udp": (PortBinding(host_port="8080"),),
            "80/tcp": (PortBinding(host_port="9000-9010"), PortBinding(host_port="8080")),
            "70/tcp": (PortBinding(),),
        },
        publish_all=True,
    )
    assert [(r.container_port, r.protocol, r.first) for r in found] == [
        (80, "tcp", 8080),
        (80, "udp", 8080),
        (70, "tcp", 0),
        (80, "tcp", 9000),
        (443, "tcp", 0),
    ]


def test_publish_all_adds_only_what_has_no_binding() -> None:
    bindings = {"80/tcp": (PortBinding(host_port="1"),)}
    found = ports.requests(("80/tcp", "81/tcp"), bindings, publish_all=True)
    assert [(r.container_port, r.first) for r in found] == [(80, 1), (81, 0)]
    assert len(ports.requests(("80/tcp", "81/tcp"), bindings, publish_all=False)) == 1


def expand(
    *bindings: PortBinding, ipv6: bool = False, default: str = "0.0.0.0", host: bool = True
) -> list[tuple[str, str]]:
    found = ports.expand(
        ports.requests(("80/tcp",), {"80/tcp": bindings}, publish_all=False),
        ports.Place(
            ipv4=IPV4,
            ipv6=IPV6 if ipv6 else None,
            default=ip_address(default),
            host_has_ipv6=host,
        ),
    )
    return [(a, b) for wanted in found for a, b in wanted.addresses]


def test_any_address_is_both_families() -> None:
    both = [("0.0.0.0", "172.17.0.2"), ("::", "172.17.0.2")]
    assert expand(PortBinding(host_port="80")) == both
    assert expand(PortBinding(host_port="80"), host=False) == both[:1]
    assert expand(PortBinding(host_port="80"), ipv6=True) == [both[0], ("::", "fd00::2")]
    assert expand(PortBinding(host_ip="0.0.0.0", host_port="80")) == both[:1]
    assert expand(PortBinding(host_ip="::", host_port="80")) == both[1:]
    assert expand(PortBinding(host_port="80"), default="127.0.0.1") == [("127.0.0.1", "172.17.0.2")]


def test_a_routed_family_is_opened_and_not_bound() -> None:
    bindings = {"80/tcp": (PortBinding(host_port="80"), PortBinding(host_ip="127.0.0.1"))}
    asked = ports.requests(bindings, bindings, publish_all=False)

    def place(*routed: int, ipv6: bool = True) -> ports.Place:
        return ports.Place(
            ipv4=IPV4,
            ipv6=IPV6 if ipv6 else None,
            default=ANY4,
            host_has_ipv6=True,
            routed=frozenset(routed),
        )

    def bound(where: ports.Place) -> list[str]:
        found = ports.expand(asked, where)
        return [host for wanted in found for host, _ in wanted.addresses]

    def opened(where: ports.Place) -> list[tuple[str, int]]:
        return [(port.host_ip, port.host_port) for port in ports.opened(asked, where)]

    assert opened(place()) == []
    assert bound(place(4, 6)) == []
    assert opened(place(4, 6)) == [("0.0.0.0", 0), ("::", 0)]
    assert bound(place(6)) == ["0.0.0.0", "127.0.0.1"]
    assert opened(place(6)) == [("::", 0)]
    # The host's IPv6 side is led to such a container by the relay.
    assert bound(place(4, ipv6=False)) == ["::"]
    assert opened(place(4, ipv6=False)) == [("0.0.0.0", 0)]


def test_bindings_that_differ_in_address_share_a_number() -> None:
    found = ports.expand(
        ports.requests(
            ("80/tcp",),
            {"80/tcp": (PortBinding(host_ip="127.0.0.1"), PortBinding(host_ip="127.0.0.2"))},
            publish_all=False,
        ),
        ports.Place(
            ipv4=IPV4,
            ipv6=None,
            default=ANY4,
            host_has_ipv6=True,
        ),
    )
    assert len(found) == 1
    assert [host for host, _ in found[0].addresses] == ["127.0.0.1", "127.0.0.2"]


ADDRESSES = st.sampled_from(("0.0.0.0", "127.0.0.1", "10.0.0.1", "::", "::1"))
REQUESTS = st.tuples(
    st.lists(ADDRESSES, min_size=1, max_size=2, unique=True),
    st.sampled_from(("tcp", "udp")),
    st.sampled_from(((0, 0), (5, 5), (4, 8), (30, 32), (31, 31))),
)


@given(st.lists(st.one_of(REQUESTS, st.integers(0, 9)), max_size=30))
def test_no_port_is_had_twice(steps: list[object]) -> None:
    """Not on one address, nor on any address and one of its family at once."""
    allocator = ports.PortAllocator((30, 40))
    held: list[tuple[list[str], str, int]] = []
    for step in steps:
        if isinstance(step, int):
            if held:
                hosts, protocol, port = held.pop(step % len(held))
                for host in hosts:
                    allocator.release(host, protocol, port)
            continue
        assert isinstance(step, tuple)
        hosts, protocol, (first, last) = step
        try:
            port = allocator.request(list(hosts), protocol, first, last)
        except ports.PortError:
            continue
        low, high = (first, last) if first else (30, 40)
        assert low <= port <= high
        for others, other_protocol, other in held:
            if (other_protocol, other) == (protocol, port):
                assert not any(_overlap(a, b) for a in hosts for b in others)
        held.append((hosts, protocol, port))


def _overlap(one: str, two: str) -> bool:
    a, b = ip_address(one), ip_address(two)
    return a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified)


def test_a_range_goes_round() -> None:
    allocator = ports.PortAllocator()
    assert [allocator.request(["0.0.0.0"], "tcp", 7, 9) for _ in range(3)] == [7, 8, 9]
    allocator.release("0.0.0.0", "tcp", 7)
    allocator.release("0.0.0.0", "tcp", 8)
    assert allocator.request(["0.0.0.0"], "tcp", 7, 9) == 7
    allocator.release("0.0.0.0", "tcp", 7)
    assert allocator.request(["0.0.0.0"], "tcp", 7, 9) == 8
    assert allocator.request(["0.0.0.0"], "tcp", 7, 9) == 7
    with pytest.raises(ports.NoPortLeft, match="all ports are allocated"):
        allocator.request(["0.0.0.0"], "tcp", 7, 9)


def test_a_taken_port_is_named_with_its_address() -> None:
    allocator = ports.PortAllocator()
    allocator.request(["0.0.0.0", "::"], "tcp", 8080, 8080)
    with pytest.raises(ports.PortAllocated) as refused:
        allocator.request(["0.0.0.0", "::"], "tcp", 8080, 8080)
    assert str(refused.value) == "Bind for 0.0.0.0:8080 failed: port is already allocated"
    with pytest.raises(ports.PortAllocated):
        allocator.request(["127.0.0.1"], "tcp", 8080, 8080)
    assert allocator.request(["0.0.0.0"], "udp", 8080, 8080) == 8080


def test_a_failed_request_takes_nothing() -> None:
    allocator = ports.PortAllocator()
    allocator.take("127.0.0.1", "tcp", 80)
    with pytest.raises(ports.PortAllocated):
        allocator.request(["10.0.0.1", "127.0.0.1"], "tcp", 80, 80)
    assert allocator.request(["10.0.0.1"], "tcp", 80, 80) == 80


def _wanted(*hosts: str, protocol: str = "tcp", port: int = 0) -> ports.Wanted:
    pairs = tuple((host, "fd00::2" if ":" in host else "172.17.0.2") for host in hosts)
    return ports.Wanted(
        protocol=protocol, container_port=80, first=port, last=port, addresses=pairs
    )


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_any_address_of_both_families_is_one_socket(protocol: str) -> None:
    made = ports.PortAllocator().bind(_wanted("0.0.0.0", "::", protocol=protocol))
    try:
        assert [each.fd == SHARED for each in made] == [False, True]
        assert [(each.host_ip, each.target_ip) for each in made] == [
            ("0.0.0.0", "172.17.0.2"),
            ("::", "fd00::2"),
        ]
        assert made[0].host_port == made[1].host_port
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with socket.socket(family, kind) as other, pytest.raises(OSError, match="in use"):
                other.bind((host, made[0].host_port))
    finally:
        ports.close(made)


@pytest.mark.parametrize(
    ("family", "host", "said"),
    [
        (socket.AF_INET, "0.0.0.0", "0.0.0.0:{}:172.17.0.2:80/tcp: address already in use"),
        (socket.AF_INET, "127.0.0.1", "0.0.0.0:{}:172.17.0.2:80/tcp: address already in use"),
        (socket.AF_INET6, "::1", "[::]:{}:[fd00::2]:80/tcp: address already in use"),
    ],
)
def test_the_family_that_cannot_be_had_is_named(
    family: socket.AddressFamily, host: str, said: str
) -> None:
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ports.PortNotBound) as refused:
            ports.PortAllocator().bind(_wanted("0.0.0.0", "::", port=port))
        assert str(refused.value) == "failed to bind host port for " + said.format(port)
