"""Networks that hang on a link of the host: macvlan and ipvlan."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

from engine.network import sandbox
from tests.e2e.conftest import own_wharf
from tests.support.engine import Wharf
from tests.support.linkkinds import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine


@pytest.fixture
def parent() -> Iterator[str]:
    """A link of the host that leads nowhere but is up."""
    link = f"wt{uuid.uuid4().hex[:8]}"
    with IPRoute() as route:
        route.link("add", ifname=link, kind="veth", peer=f"{link}p")
        for name in (link, f"{link}p"):
            (index,) = route.link_lookup(ifname=name)
            route.link("set", index=index, state="up")
    yield link
    with IPRoute() as route:
        route.link("del", ifname=link)


def links(engine: Engine) -> set[str]:
    """Those of the host that this engine may have made: others come and go beside it."""
    with IPRoute() as route:
        names = {str(item.get("ifname")) for item in route.get_links()}
    own = sandbox.link_prefix(engine.instance) if isinstance(engine, Wharf) else "dm-"
    return {name for name in names if name.startswith((own, "dm-", "di-")) or "." in name}


def network(engine: Engine, name: str, *options: str, subnet: str = "10.93.0.0/24") -> None:
    given = ("--subnet", subnet) if subnet else ()
    engine.docker("network", "create", *given, *options, name)


def shown(engine: Engine, name: str, what: str) -> Any:
    return json.loads(engine.out("inspect", "-f", f"{{{{json {what}}}}}", name))


def sleeper(engine: Engine, name: str, *options: str) -> None:
    engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "120")


@needs("macvlan")
def test_containers_on_a_macvlan_network_find_each_other(
    engine: Engine, name: str, parent: str
) -> None:
    before = links(engine)
    network(engine, name, "-d", "macvlan", "-o", f"parent={parent}")
    options = ("--network", name, "--network-alias", "friend", "--mac-address", "02:42:0a:5d:00:09")
    sleeper(engine, name, *options, "--ip", "10.93.0.9", "-p", "8093:80")
    other = engine.out("run", "--rm", "--network", name, "busybox", "ping", "-c", "1", "friend")
    assert "64 bytes from 10.93.0.9" in other
    settings = shown(engine, name, ".NetworkSettings")
    (place,) = settings["Networks"].values()
    assert (settings["Ports"], place["Gateway"]) == ({}, "10.93.0.1")
    assert (place["MacAddress"], place["IPPrefixLen"]) == ("02:42:0a:5d:00:09", 24)
    assert engine.out("ps", "--format", "{{.Ports}}", "--filter", f"name={name}").strip() == ""
    inside = engine.out("exec", name, "ip", "link", "show", "eth0")
    assert "02:42:0a:5d:00:09" in inside
    assert "nameserver 127.0.0.11" in engine.out("exec", name, "cat", "/etc/resolv.conf")
    assert links(engine) == before
    engine.docker("restart", "-t", "0", name)
    assert "10.93.0.9/24" in engine.out("exec", name, "ip", "-o", "address", "show", "eth0")
    engine.docker("rm", "-f", name)
    engine.docker("network", "rm", name)
    assert links(engine) == before


@needs("macvlan")
def test_what_runs_comes_to_a_macvlan_network_and_leaves(
    engine: Engine, name: str, parent: str
) -> None:
    network(engine, name, "-d", "macvlan", "-o", f"parent={parent}")
    sleeper(engine, f"{name}-x")
    usual = engine.out("exec", f"{name}-x", "ip", "route")
    for _ in range(2):
        engine.docker("network", "connect", "--alias", "mine", name, f"{name}-x")
        assert "eth1" in engine.out("exec", f"{name}-x", "ip", "route")
        asked = ("run", "--rm", "--network", name, "busybox", "ping", "-c", "1", "mine")
        assert "64 bytes from 10.93.0.2" in engine.out(*asked)
        engine.docker("network", "disconnect", name, f"{name}-x")
        assert engine.out("exec", f"{name}-x", "ip", "route") == usual
    engine.docker("rm", "-f", f"{name}-x")


@needs("macvlan")
def test_an_internal_macvlan_network_leads_nowhere(engine: Engine, name: str, parent: str) -> None:
    network(engine, name, "-d", "macvlan", "-o", f"parent={parent}", "--internal")
    sleeper(engine, name, "--network", name)
    assert shown(engine, name, ".NetworkSettings.Networks")[name]["Gateway"] == ""
    assert "default" not in engine.out("exec", name, "ip", "route")
    # Nobody needs a gateway, so the first address is a container's.
    assert "10.93.0.1/24" in engine.out("exec", name, "ip", "-o", "address", "show", "eth0")


@needs("macvlan")
def test_several_subnets_and_both_families(engine: Engine, name: str, parent: str) -> None:
    options = ("-d", "macvlan", "-o", f"parent={parent}", "--ipv6", "--subnet", "fd93::/64")
    network(engine, name, *options, "--subnet", "10.94.0.0/24")
    for asked, gateway in (("10.93.0.7", "10.93.0.1"), ("10.94.0.7", "10.94.0.1")):
        run = ("run", "--rm", "--network", name, "--ip", asked, "busybox")
        said = engine.out(*run, "sh", "-c", "ip route; ip -6 route")
        assert f"default via {gateway} dev eth0" in said
        assert "default via fd93::1 dev eth0" in said


@needs("macvlan")
def test_who_has_the_parent(engine: Engine, name: str, parent: str) -> None:
    options = ("-d", "macvlan", "-o", f"parent={parent}")
    network(engine, name, *options)
    network(engine, f"{name}-b", *options, subnet="10.94.0.0/24")
    alone = ("network", "create", *options, "-o", "macvlan_mode=passthru", f"{name}-c")
    refused = engine.docker(*alone, check=False).stderr.decode()
    assert "cannot use mode passthru, macvlan network " in refused
    assert refused.strip().endswith(f" is already using parent interface {parent}")


def test_one_ipvlan_network_a_parent(engine: Engine, name: str, parent: str) -> None:
    options = ("-d", "ipvlan", "-o", f"parent={parent}")
    network(engine, name, *options)
    first = engine.out("network", "inspect", "-f", "{{.Id}}", name).strip()
    refused = engine.docker("network", "create", *options, f"{name}-b", check=False)
    said = f"network di-{first[:12]} is already using parent interface {parent}"
    assert said in refused.stderr.decode()
    asks = ("run", "--rm", "--network", name, "--mac-address", "02:42:0a:5d:00:09", "busybox")
    refused = engine.docker(*asks, "true", check=False)
    assert refused.returncode == 125
    said = "ipvlan interfaces do not support custom mac address assignment"
    assert said in refused.stderr.decode()


@needs("ipvlan")
@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_containers_on_an_ipvlan_network(engine: Engine, name: str, parent: str, mode: str) -> None:
    network(engine, name, "-d", "ipvlan", "-o", f"parent={parent}", "-o", f"ipvlan_mode={mode}")
    sleeper(engine, name, "--network", name, "--ip", "10.93.0.9")
    place = shown(engine, name, ".NetworkSettings.Networks")[name]
    assert place["Gateway"] == ("10.93.0.1" if mode == "l2" else "")
    route = engine.out("exec", name, "ip", "route").splitlines()[0].split()
    assert route[:3] == ["default"] + (["via", "10.93.0.1"] if mode == "l2" else ["dev", "eth0"])
    said = engine.out("run", "--rm", "--network", name, "busybox", "ping", "-c", "1", name)
    assert "64 bytes from 10.93.0.9" in said


@needs("macvlan", "dummy", "vlan")
def test_a_parent_is_made_and_goes(engine: Engine, name: str, parent: str) -> None:
    before = links(engine)
    network(engine, name, "-d", "macvlan")
    made = engine.out("network", "inspect", "-f", "{{.Id}}", name).strip()
    network(engine, f"{name}-v", "-d", "macvlan", "-o", f"parent={parent}.50", subnet="")
    assert links(engine) - before == {f"dm-{made[:12]}", f"{parent}.50"}
    engine.docker("run", "--rm", "--network", name, "busybox", "ip", "link", "show", "eth0")
    for each in (name, f"{name}-v"):
        engine.docker("network", "rm", each)
    assert links(engine) == before


@pytest.fixture
def killable() -> Iterator[Wharf]:
    with own_wharf() as wharf:
        yield wharf


@needs("macvlan")
def test_a_macvlan_container_outlives_the_daemon(killable: Wharf, name: str, parent: str) -> None:
    network(killable, name, "-d", "macvlan", "-o", f"parent={parent}")
    sleeper(killable, name, "--network", name)
    route = killable.out("exec", name, "ip", "route")
    killable.kill()
    killable.start()
    assert killable.out("exec", name, "ip", "route") == route
    asked = ("run", "--rm", "--network", name, "busybox", "ping", "-c", "1", name)
    assert "64 bytes from 10.93.0.2" in killable.out(*asked)
    killable.docker("network", "disconnect", name, name)
    assert "eth0" not in killable.out("exec", name, "ip", "link")
    killable.docker("network", "connect", name, name)
    assert killable.out("exec", name, "ip", "route") == route
    killable.docker("rm", "-f", name)


@needs("ipvlan", "vlan")
def test_made_parents_come_back_with_the_host(killable: Wharf, name: str, parent: str) -> None:
    before = links(killable)
    network(killable, name, "-d", "ipvlan", "-o", f"parent={parent}.60")
    sleeper(killable, name, "--network", name, "--restart", "no")
    killable.kill()
    subprocess.run(["busybox", "ip", "link", "del", f"{parent}.60"], check=True)
    killable.start()
    assert f"{parent}.60" in links(killable)
    killable.docker("restart", "-t", "0", name)
    assert "10.93.0.2/24" in killable.out("exec", name, "ip", "-o", "address", "show", "eth0")
    killable.docker("rm", "-f", name)
    killable.docker("network", "rm", name)
    assert not {each for each in links(killable) - before if each.startswith(parent)}


@needs("macvlan")
def test_ports_are_published_where_the_container_leads_out(
    engine: Engine, name: str, parent: str
) -> None:
    network(engine, f"{name}-a", "-d", "macvlan", "-o", f"parent={parent}")
    network(engine, f"{name}-b", subnet="10.95.0.0/24")
    for priority, gateway in ((0, "10.93.0.1"), (1, "10.95.0.1")):
        options = ("--network", f"{name}-a", "--network", f"name={name}-b,gw-priority={priority}")
        sleeper(engine, name, *options, "-p", "127.0.0.1::80")
        assert f"default via {gateway} " in engine.out("exec", name, "ip", "route")
        published = shown(engine, name, ".NetworkSettings.Ports").get("80/tcp")
        assert bool(published) == (priority == 1)
        engine.docker("rm", "-f", name)


def test_both_families_lead_out_the_same_way(engine: Engine, name: str) -> None:
    network(engine, f"{name}-a", subnet="10.93.0.0/24")
    network(engine, f"{name}-b", "--ipv6", "--subnet", "fd95::/64", subnet="10.95.0.0/24")
    sleeper(engine, name, "--network", f"{name}-a", "--network", f"{name}-b")
    said = engine.out("exec", name, "sh", "-c", "ip route; ip -6 route")
    assert "default via 10.95.0.1 " in said
    assert "default via fd95::1 " in said
