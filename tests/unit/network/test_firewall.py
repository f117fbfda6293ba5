"""Published ports as elements of maps: one a port, one a range."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.linux import nftables as nft
from engine.network import firewall
from engine.network.model import Listener, PublishedPort

TCP, UDP = 6, 17


def publication(host_port: int, target_port: int, host: str = "0.0.0.0") -> firewall.Publication:
    return firewall.Publication(
        protocol="tcp",
        host_ip=ip_address(host),
        host_port=host_port,
        target_ip=ip_address("172.17.0.2"),
        target_port=target_port,
    )


def test_a_port_on_any_address() -> None:
    found = firewall.elements([publication(8080, 80)])
    key = bytes((TCP, 0, 0, 0)) + (8080).to_bytes(2, "big") + bytes(2)
    data = ip_address("172.17.0.2").packed + (80).to_bytes(2, "big") + bytes(2)
    assert found == {"ports4": [nft.Element(key, data)]}


def test_a_port_on_one_address() -> None:
    found = firewall.elements([publication(8080, 80, "127.0.0.1")])
    assert list(found) == ["ports4-at"]
    assert found["ports4-at"][0].key.startswith(ip_address("127.0.0.1").packed)


def test_a_range_is_one_element() -> None:
    found = firewall.elements([publication(port, port) for port in range(7000, 7100)])
    assert list(found) == ["ranges4"]
    (element,) = found["ranges4"]
    assert element.key[4:6] == (7000).to_bytes(2, "big")
    assert element.end is not None
    assert element.end[4:6] == (7099).to_bytes(2, "big")
    assert element.data == ip_address("172.17.0.2").packed


def test_a_range_that_shifts_is_single_ports() -> None:
    found = firewall.elements([publication(port, port + 1) for port in range(7000, 7100)])
    assert {name: len(content) for name, content in found.items()} == {"ports4": 100}


@given(st.sets(st.integers(1, 300)), st.sets(st.integers(1, 300)))
def test_elements_say_exactly_what_is_published(same: set[int], shifted: set[int]) -> None:
    found = [publication(p, p) for p in same] + [publication(1000 + p, p) for p in shifted]
    covered: dict[int, int] = {}
    for name, content in firewall.elements(found).items():
        for element in content:
            first = int.from_bytes(element.key[4:6], "big")
            if name == "ranges4":
                assert element.end is not None
                last = int.from_bytes(element.end[4:6], "big")
                covered.update({port: port for port in range(first, last + 1)})
            else:
                assert first not in covered
                covered[first] = int.from_bytes(element.data[4:6], "big")
    assert covered == {p.host_port: p.target_port for p in found}


def test_what_may_be_asked_for_directly_stands_once() -> None:
    both = [
        msgspec.structs.replace(publication(8080, 80, host), is_direct=True)
        for host in ("0.0.0.0", "127.0.0.1")
    ]
    found = firewall.elements(both)
    assert {name: len(content) for name, content in found.items()} == {
        "direct4": 1,
        "ports4": 1,
        "ports4-at": 1,
    }
    assert firewall.elements([msgspec.structs.replace(publication(0, 80), is_direct=True)]) == {
        "direct4": found["direct4"]
    }


def test_a_routed_port_has_no_host_port() -> None:
    rows = [PublishedPort(container_port=53, protocol="udp", host_ip="::", host_port=0)]
    (found,) = firewall.adopted(rows, ["172.17.0.2", "fd00::2"])
    assert found.is_direct
    assert str(found.target_ip) == "fd00::2"
    assert firewall.adopted(rows, ["172.17.0.2"]) == ()


def listener(host: str, target: str) -> Listener:
    return Listener(
        fd=-1, protocol="udp", host_ip=host, host_port=53, target_ip=target, target_port=53
    )


def test_what_the_kernel_cannot_do_is_left_to_the_relay() -> None:
    found = firewall.publications(
        [
            listener("0.0.0.0", "172.17.0.2"),
            listener("::", "172.17.0.2"),
            listener("::", "fd00::2"),
            listener("::1", "fd00::2"),
        ]
    )
    assert [(str(p.host_ip), str(p.target_ip)) for p in found] == [
        ("0.0.0.0", "172.17.0.2"),
        ("::", "fd00::2"),
    ]


def test_a_row_says_the_same_as_the_sockets_did() -> None:
    listeners = [listener("0.0.0.0", "172.17.0.2"), listener("::", "172.17.0.2")]
    rows = [
        PublishedPort(container_port=53, protocol="udp", host_ip=item.host_ip, host_port=53)
        for item in listeners
    ]
    assert firewall.adopted(rows, ["172.17.0.2"]) == firewall.publications(listeners)


def test_the_table_replaces_itself_in_one_transaction() -> None:
    bridge = firewall.Bridge(link="wh1", subnets=("10.0.0.0/8", "fd00::/64"))
    plan = firewall.table("wharf-0", [bridge], [publication(80, 80)], guard=True)
    kinds = [message.type & 0xFF for message in plan[:3]]
    assert kinds == [nft.NFT_MSG_NEWTABLE, nft.NFT_MSG_DELTABLE, nft.NFT_MSG_NEWTABLE]
    guarded = len(plan) - len(firewall.table("wharf-0", [bridge], [], guard=False))
    assert guarded == 6  # five rules of the guard, one message with the element


def test_a_family_that_is_off_has_no_rules() -> None:
    bridge = firewall.Bridge(link="wh1", subnets=("10.0.0.0/8", "fd00::/64"))

    def rules(*versions: int) -> int:
        plan = firewall.table("wharf-0", [bridge], [], guard=True, versions=frozenset(versions))
        return sum(message.type & 0xFF == nft.NFT_MSG_NEWRULE for message in plan)

    assert rules(4, 6) > rules(4) > rules(6) > 0
