"""How containers on networks of their users find each other, and everybody else."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually
from tests.support import dns
from tests.support.dns import NXDOMAIN, SERVFAIL, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Wharf

pytestmark = pytest.mark.stock
SLEEP = ("busybox", "sleep", "1000")


class Net:
    """Networks and containers whose names begin with the test's."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self._networks: list[str] = []

    def network(self, suffix: str, *options: str) -> str:
        made = f"{self.name}-{suffix}"
        self.engine.docker("network", "create", *options, made)
        self._networks.append(made)
        return made

    def run(self, suffix: str, network: str, *options: str) -> str:
        made = f"{self.name}-{suffix}"
        command = ("run", "-d", "--stop-signal", "KILL", "--name", made, "--network", network)
        self.engine.docker(*command, *options, *SLEEP)
        return made

    def address(self, container: str, network: str, family: int = 4) -> str:
        found = self.engine.inspect(container)["NetworkSettings"]["Networks"][network]
        return str(found["IPAddress" if family == 4 else "GlobalIPv6Address"])

    def gateway(self, network: str) -> str:
        (found, *_) = self.engine.call("GET", f"/networks/{network}").json()["IPAM"]["Config"]
        return str(found["Gateway"])

    def ask(self, container: str, name: str, kind: str = "A", *, tcp: bool = False) -> Answer:
        pid = self.engine.inspect(container)["State"]["Pid"]
        return dns.ask(pid, name, kind, tcp=tcp)

    def ask_host(self, name: str) -> int:
        """What the host's own server says, by its code."""
        with open("/etc/resolv.conf", encoding="ascii") as file:
            servers = [line.split()[1] for line in file if line.startswith("nameserver")]
        if not servers:
            pytest.skip("the host has no name server")
        family = socket.AF_INET6 if ":" in servers[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(15)
            sock.connect((servers[0], 53))
            sock.send(dns.question(name, "A"))
            try:
                return dns.read(sock.recv(65535)).code
            except OSError:
                return SERVFAIL

    def resolv_conf(self, container: str) -> list[str]:
        text = self.engine.out("exec", container, "cat", "/etc/resolv.conf")
        return [line for line in text.splitlines() if line and not line.startswith("# ")]

    def close(self) -> None:
        listed = self.engine.out("ps", "-aq", "--filter", f"name={self.name}").split()
        if listed:
            self.engine.docker("rm", "-f", *listed)
        for network in self._networks:
            self.engine.docker("network", "rm", network, check=False)


@pytest.fixture
def net(engine: Engine, name: str) -> Iterator[Net]:
    made = Net(engine, name)
    yield made
    made.close()


def found(*values: str) -> Answer:
    return Answer(0, values)


def test_by_all_its_names(net: Net) -> None:
    network = net.network("net")
    web = net.run("web", network, "--network-alias", "Alias", "--hostname", "host-of-web")
    other = net.run("other", network)
    address = net.address(web, network)
    short = net.engine.inspect(web)["Id"][:12]
    for name in (web, web.upper(), short, "host-of-web", "alias", f"{web}.{network}"):
        assert net.ask(other, name) == found(address), name
    assert net.ask(other, web, tcp=True) == found(address)
    assert net.ask(web, web) == found(address)
    assert net.ask(other, web, "AAAA") == found()
    assert net.ask(other, web, "MX") == found()
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert net.ask(other, reverse, "PTR") == found(f"{web}.{network}")


def test_ipv6(net: Net) -> None:
    network = net.network("net", "--ipv6", "--subnet", "fd00:7:7::/64")
    web, other = net.run("web", network), net.run("other", network)
    assert net.ask(other, web, "AAAA") == found(net.address(web, network, 6))
    assert net.ask(other, web) == found(net.address(web, network))


def test_several_share_an_alias(net: Net) -> None:
    network = net.network("net")
    mates = [net.run(f"m{n}", network, "--network-alias", "mate") for n in range(3)]
    addresses = {net.address(mate, network) for mate in mates}
    answers = [net.ask(mates[0], "mate").values for _ in range(30)]
    assert {frozenset(values) for values in answers} == {frozenset(addresses)}
    assert len({values[0] for values in answers}) > 1
    net.engine.docker("stop", mates[1])
    addresses = {net.address(mates[n], network) for n in (0, 2)}
    assert set(net.ask(mates[0], "mate").values) == addresses


def test_names_come_and_go(net: Net) -> None:
    network = net.network("net")
    web, other = net.run("web", network), net.run("other", network)
    net.engine.docker("stop", web)
    assert net.ask(other, web).values == ()
    net.engine.docker("start", web)
    assert net.ask(other, web) == found(net.address(web, network))
    net.engine.docker("network", "disconnect", network, web)
    assert net.ask(other, web).values == ()
    net.engine.docker("network", "connect", "--alias", "new", network, web)
    assert net.ask(other, "new") == found(net.address(web, network))
    renamed = f"{web}-renamed"
    net.engine.docker("rename", web, renamed)
    assert net.ask(other, renamed) == found(net.address(renamed, network))
    assert net.ask(other, web).values == ()
    net.engine.docker("rm", "-f", renamed)
    assert net.ask(other, renamed).values == ()


def test_an_alias_stays_when_its_container_is_renamed(net: Net) -> None:
    network = net.network("net")
    web = net.run("web", network, "--network-alias", f"{net.name}-web", "--hostname", "host")
    other = net.run("other", network)
    net.engine.docker("rename", web, f"{web}-later")
    address = net.address(f"{web}-later", network)
    for name in (f"{web}-later", web, "host"):
        assert net.ask(other, name) == found(address)


def test_only_of_networks_it_stands_on(net: Net) -> None:
    one, two = net.network("one"), net.network("two")
    web, other = net.run("web", one), net.run("other", two)
    assert net.ask(other, web).values == ()
    net.engine.docker("network", "connect", one, other)
    assert net.ask(other, web) == found(net.address(web, one))
    assert net.ask(other, f"{web}.{one}") == found(net.address(web, one))
    assert net.ask(other, f"{web}.{two}").values == ()


def test_a_link_is_a_name_for_one_alone(net: Net) -> None:
    network = net.network("net")
    web = net.run("web", network)
    linked, other = net.run("linked", network, "--link", f"{web}:db"), net.run("other", network)
    assert net.ask(linked, "db") == found(net.address(web, network))
    assert net.ask(other, "db").values == ()


def test_joining_the_first_network_of_a_user(net: Net) -> None:
    """From the default bridge, where the host's servers are asked."""
    network = net.network("net")
    web, late = net.run("web", network), net.run("late", "bridge")
    assert "nameserver 127.0.0.11" not in net.resolv_conf(late)
    net.engine.docker("network", "connect", network, late)
    assert net.ask(late, web) == found(net.address(web, network))
    assert net.ask(web, late) == found(net.address(late, network))
    assert "nameserver 127.0.0.11" in net.resolv_conf(late)


def test_resolv_conf(net: Net) -> None:
    network = net.network("net")
    options = ("--dns-search", "a.test", "--dns-opt", "timeout:3", "--dns", "192.0.2.53")
    assert net.resolv_conf(net.run("one", network, *options)) == [
        "nameserver 127.0.0.11",
        "search a.test",
        "options timeout:3 ndots:0",
    ]
    given = net.run("two", network, "--dns-opt", "ndots:5")
    assert "options ndots:5" in net.resolv_conf(given)


# Everybody else


def test_other_servers(net: Net) -> None:
    """The first does not listen, so the second is asked; what is known here is asked of nobody."""
    network = net.network("net")
    gateway = net.gateway(network)
    with dns.server(gateway, ["192.0.2.80"]) as seen:
        web = net.run("web", network, "--dns", "127.0.0.1", "--dns", gateway)
        assert net.ask(web, "www.example.com") == found("192.0.2.80")
        assert net.ask(web, "www.example.com", tcp=True) == found("192.0.2.80")
        net.ask(web, web)
    assert set(seen) == {"www.example.com"}


def test_what_a_server_says_is_said(net: Net) -> None:
    network = net.network("net")
    gateway = net.gateway(network)
    web = net.run("web", network, "--dns", gateway)
    with dns.server(gateway, [], NXDOMAIN):
        assert net.ask(web, "nosuch.example.com") == Answer(NXDOMAIN, ())
    with dns.server(gateway, [], SERVFAIL):
        assert net.ask(web, "broken.example.com") == Answer(SERVFAIL, ())


def test_n1_nothing_leaves_from_an_internal_network(net: Net) -> None:
    """CVE-2024-29018: a name is a way out, too. A server that is within may be asked."""
    network = net.network("net", "--internal")
    web, other = net.run("web", network), net.run("other", network)
    assert net.ask(web, "secret.example.com") == Answer(SERVFAIL, ())
    assert net.ask(web, "9.9.9.9.in-addr.arpa", "PTR") == Answer(SERVFAIL, ())
    assert net.ask(web, "x.example.com", "TXT") == Answer(SERVFAIL, ())
    assert net.ask(web, other) == found(net.address(other, network))
    gateway = net.gateway(network)
    inside = net.run("inside", network, "--dns", gateway)
    with dns.server(gateway, ["192.0.2.80"]):
        assert net.ask(inside, "secret.example.com") == found("192.0.2.80")


def test_n1_nor_from_a_container_that_stands_on_none(net: Net) -> None:
    network = net.network("net")
    web = net.run("web", network)
    net.engine.docker("network", "disconnect", network, web)
    assert net.ask(web, "secret.example.com") == Answer(SERVFAIL, ())


def test_from_within_to_the_outside(net: Net) -> None:
    """Off an internal network and on the default one: the host's servers are asked again."""
    network = net.network("net", "--internal")
    web = net.run("web", network)
    assert net.ask(web, "nosuch.invalid").code == SERVFAIL
    net.engine.docker("network", "disconnect", network, web)
    net.engine.docker("network", "connect", "bridge", web)
    assert net.ask(web, "nosuch.invalid").code == net.ask_host("nosuch.invalid")


def test_n4_what_is_no_question(net: Net) -> None:
    """Names that point to themselves, random bytes, the longest message: the next is answered."""
    network = net.network("net")
    web, other = net.run("web", network), net.run("other", network)
    pid = net.engine.inspect(other)["State"]["Pid"]
    bytes_ = random.Random(4)
    header = b"\0\1\1\0\0\1\0\0\0\0\0\0"
    messages = [
        header + b"\xc0\x0c\0\1\0\1",
        header + b"\x3f" + b"a" * 400,
        header[:4] + b"\xff" * 8 + b"\1a\0\0\1\0\1",
        *(
            header + label + b"\0011" * 3 + b"\7in-addr\4arpa\0\0\x0c\0\1"
            for label in (b"\1\xff", b"\2a\0", b"\1-")
        ),
        b"",
        *(bytes_.randbytes(bytes_.randrange(200)) for _ in range(2000)),
        *(header + bytes_.randbytes(60) for _ in range(2000)),
    ]
    dns.throw(pid, messages)
    assert net.ask(other, web) == found(net.address(web, network))
    assert net.ask(other, web, tcp=True) == found(net.address(web, network))


# Beyond Docker


@pytest.mark.beyond
def test_the_host_has_a_name(net: Net) -> None:
    network = net.network("net")
    web = net.run("web", network)
    assert net.ask(web, "host.docker.internal") == found(net.gateway(network))
    assert "host.docker.internal" not in net.engine.out("exec", web, "cat", "/etc/hosts")
    inside = net.run("inside", net.network("inside", "--internal"))
    assert net.ask(inside, "host.docker.internal") == Answer(SERVFAIL, ())


@pytest.mark.beyond
def test_names_are_answered_while_there_is_no_daemon(net: Net, wharf: Wharf) -> None:
    network = net.network("net")
    web, other = net.run("web", network), net.run("other", network)
    address = net.address(web, network)
    pid = wharf.inspect(other)["State"]["Pid"]
    wharf.kill()
    assert dns.ask(pid, web) == found(address)
    assert dns.ask(pid, web, tcp=True) == found(address)
    wharf.start()
    assert dns.ask(pid, web) == found(address)
    net.engine.docker("rm", "-f", web)
    assert eventually(lambda: dns.ask(pid, web).values, lambda values: values == ()) == ()
    late = net.run("late", network)
    assert dns.ask(pid, late) == found(net.address(late, network))
