"""What is written for resolvers to read, and in which order it counts."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from engine.ids import NetworkId
from engine.network import discovery, names
from engine.network.discovery import Directory
from engine.network.model import Endpoint, EndpointConfig, Network

if TYPE_CHECKING:
    from pathlib import Path


def network(name: str, *, internal: bool = False) -> Network:
    return Network(
        id=NetworkId(f"id-of-{name}"),
        name=name,
        created_ns=0,
        driver="bridge",
        is_internal=internal,
    )


def endpoint(
    on: Network,
    *called: str,
    ipv4: str = "10.0.0.2",
    ipv6: str = "",
    config: EndpointConfig | None = None,
) -> Endpoint:
    return Endpoint(
        network_name=on.name,
        network_id=on.id,
        config=config or EndpointConfig(),
        gateway="" if on.is_internal else "10.0.0.1",
        ipv4_address=ipv4,
        ipv6_address=ipv6,
        dns_names=called,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


def read(path: str) -> dict[str, object]:
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file))


def test_a_networks_file(directory: Directory) -> None:
    net = network("net")
    directory.edition(net, [endpoint(net, "web", "alias", ipv6="fd00::2")])()
    assert read(directory.network_path(net.id)) == {
        "name": "net",
        "hosts": [[["web", "alias"], ["10.0.0.2", "fd00::2"]]],
    }
    directory.forget_network(net.id)
    directory.forget_network(net.id)
    directory.edition(net, [])()
    assert read(directory.network_path(net.id)) == {"name": "net", "hosts": []}


def test_whoever_has_no_name_is_not_told_of(directory: Directory) -> None:
    net = network("net")
    directory.edition(net, [endpoint(net)])()
    assert read(directory.network_path(net.id))["hosts"] == []


def test_the_last_decision_counts_whichever_thread_comes_last(directory: Directory) -> None:
    net = network("net")
    for seed in range(20):
        editions = [directory.edition(net, [endpoint(net, str(n))]) for n in range(5)]
        random.Random(seed).shuffle(editions)
        for write in editions:
            write()
        assert read(directory.network_path(net.id))["hosts"] == [[["4"], ["10.0.0.2"]]]


def test_a_containers_file(directory: Directory) -> None:
    assert not directory.change_container("c", {"hosts": {}})
    asked = {"servers": [["192.0.2.1", True]], "networks": [], "is_answered": True}
    directory.write_container("c", asked)
    assert directory.change_container("c", {"networks": [{"path": "/x", "aliases": {}}]})
    assert read(directory.container_path("c")) == {
        "servers": [["192.0.2.1", True]],
        "networks": [{"path": "/x", "aliases": {}}],
        "is_answered": True,
    }
    directory.forget_container("c")
    directory.forget_container("c")
    assert not directory.change_container("c", {})


def test_a_resolver_that_nobody_has_taken_is_none(directory: Directory) -> None:
    """Its sockets are gone with the daemon that made them."""
    directory.write_container("c", {"networks": [], "is_answered": False})
    assert not directory.change_container("c", {"forwards": True})
    assert read(directory.container_path("c"))["forwards"] is True
    assert directory.change_container("c", {"is_answered": True})


def test_what_is_nobodys_is_swept(directory: Directory) -> None:
    directory.sweep(containers=set(), networks=set())
    one, two = network("one"), network("two")
    for each in (one, two):
        directory.edition(each, [])()
    for container in ("a", "b"):
        directory.write_container(container, {"is_answered": True})
    directory.sweep(containers={"a"}, networks={two.id})
    assert directory.change_container("a", {})
    assert not directory.change_container("b", {})
    with pytest.raises(FileNotFoundError):
        read(directory.network_path(one.id))
    assert read(directory.network_path(two.id))["name"] == "two"


def places(directory: Directory, *standing: tuple[Network, Endpoint]) -> dict[str, object]:
    return discovery.places(directory, standing, "/netns")


def order(found: dict[str, object]) -> list[str]:
    listed = found["networks"]
    assert isinstance(listed, list)
    return [str(one["path"]).rpartition("id-of-")[2] for one in listed]


def test_where_a_container_looks_first(directory: Directory) -> None:
    """Priority, then what leads out, then what has both families, then the name."""
    a, b, c, inner = network("a"), network("b"), network("c"), network("inner", internal=True)
    prior = EndpointConfig(gw_priority=5)
    standing = [
        (inner, endpoint(inner)),
        (a, endpoint(a)),
        (b, endpoint(b, ipv6="fd00::2")),
        (c, endpoint(c)),
    ]
    assert order(places(directory, *standing)) == ["b", "a", "c", "inner"]
    standing[3] = (c, endpoint(c, config=prior))
    assert order(places(directory, *standing)) == ["c", "b", "a", "inner"]


def test_the_default_bridge_has_no_names(directory: Directory) -> None:
    default, net = network("bridge"), network("net")
    found = places(directory, (default, endpoint(default)), (net, endpoint(net)))
    assert order(found) == ["net"]
    assert not discovery.is_served([default])
    assert discovery.is_served([default, net])


@pytest.mark.parametrize(
    ("links", "aliases"),
    [
        (None, {}),
        (("web:DB",), {"db": "web"}),
        (("web",), {"web": "web"}),
        (("a:b", "c:d"), {"b": "a", "d": "c"}),
    ],
)
def test_links(
    directory: Directory, links: tuple[str, ...] | None, aliases: dict[str, str]
) -> None:
    net = network("net")
    found = places(directory, (net, endpoint(net, config=EndpointConfig(links=links))))
    assert found["networks"] == [{"path": directory.network_path(net.id), "aliases": aliases}]


def test_only_a_way_out_leads_to_the_host(directory: Directory) -> None:
    net, inner = network("net"), network("inner", internal=True)
    found = places(directory, (inner, endpoint(inner)))
    assert (found["hosts"], found["forwards"]) == ({}, False)
    found = places(directory, (inner, endpoint(inner)), (net, endpoint(net)))
    assert found["hosts"] == {"host.docker.internal": ["10.0.0.1"]}
    assert found["forwards"] is True


def test_servers() -> None:
    assert discovery.servers(["192.0.2.1"], ["127.0.0.53"]) == [("192.0.2.1", False)]
    assert discovery.servers(["127.0.0.11", "192.0.2.1"], []) == [("192.0.2.1", False)]
    assert discovery.servers([], ["127.0.0.53"]) == [("127.0.0.53", True)]
    host = names.parse_resolv_conf("nameserver fe80::1%eth0\nnameserver ::1\n")
    assert discovery.host_servers(host) == list(host.nameservers)
    assert discovery.host_servers(names.ResolvConf()) == ["8.8.8.8", "8.8.4.4"]


def test_a_new_name_takes_the_old_ones_place() -> None:
    net = network("net")
    config = EndpointConfig(aliases=("old", "alias"))
    before = endpoint(net, "old", "alias", "0123456789ab", "host", config=config)
    after = names.renamed(before, "new", "0123456789abcdef", "host")
    # What it was called besides stays, though it is the name it had.
    assert after.dns_names == ("new", "old", "alias", "0123456789ab", "host")
    unnamed = Endpoint(network_name="bridge")
    assert names.renamed(unnamed, "new", "0123456789abcdef", "host") is unnamed
