"""Published ports: what is refused and how, ranges, and what holds while no daemon runs."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually, own_wharf
from tests.support.questions import Question, ask, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.engine import Engine, Reply

Bindings = dict[str, list[dict[str, str]]]
FAILED = "failed to set up container networking: "
PROGRAMMING = f"{FAILED}driver failed programming external connectivity on endpoint "


def binding(port: str, address: str = "") -> list[dict[str, str]]:
    return [{"HostIp": address, "HostPort": port}]


def create(
    engine: Engine, name: str, bindings: Bindings, exposed: Sequence[str] = (), **host: Any
) -> Reply:
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "100"],
        "ExposedPorts": {port: {} for port in (*exposed, *bindings)},
        "HostConfig": {"PortBindings": bindings, **host},
    }
    return engine.call("POST", f"/containers/create?name={name}", body)


def started(engine: Engine, name: str) -> str:
    """What the start fails with, without the endpoint's id; "" for nothing."""
    reply = engine.call("POST", f"/containers/{name}/start")
    if reply.status == 204:
        return ""
    assert reply.status == 500, reply.message
    head, _, rest = reply.message.partition(f"endpoint {name} (")
    return f"{head}endpoint {rest.partition('): ')[2]}" if rest else reply.message


def ports(engine: Engine, name: str) -> dict[str, Any]:
    return dict(engine.inspect(name)["NetworkSettings"]["Ports"])


@pytest.mark.stock
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("80/tcp", "1-100000"),
        ("80/tcp", "100000"),
        ("80/tcp", "9010-9000"),
        ("80/tcp", "-1"),
        ("80/tcp", "abc"),
        ("80/tcp", " 9000"),
        ("80-82/tcp", "9000"),
        ("100000/tcp", "9000"),
    ],
)
def test_what_is_no_port(engine: Engine, name: str, spec: str, text: str) -> None:
    reply = create(engine, name, {spec: binding(text)})
    wrong = spec.partition("/")[0] if spec != "80/tcp" else text
    assert (reply.status, reply.message) == (400, f'invalid port specification: "{wrong}"')
    assert engine.call("GET", f"/containers/{name}/json").status == 404


@pytest.mark.stock
@pytest.mark.parametrize(
    ("spec", "text", "why"),
    [
        ("80/tcp", "0-10", "invalid port range: 0-10"),
        ("80/foo", "9000", "unknown protocol"),
        ("/tcp", "9000", "unknown protocol"),
    ],
)
def test_what_cannot_be_published(
    engine: Engine, name: str, spec: str, text: str, why: str
) -> None:
    assert create(engine, name, {spec: binding(text)}).status == 201
    assert started(engine, name) == PROGRAMMING + why
    assert engine.inspect(name)["State"]["Status"] == "created"
    assert ports(engine, name) == {}


@pytest.mark.stock
def test_an_address_that_is_not_the_host_s(engine: Engine, name: str) -> None:
    create(engine, name, {"80/tcp": binding("9000", "8.8.8.8")})
    said = started(engine, name)
    assert said.startswith(f"{PROGRAMMING}failed to bind host port for 8.8.8.8:9000:")
    assert said.endswith(":80/tcp: cannot assign requested address")


@pytest.mark.stock
def test_spellings_of_one_port(engine: Engine, name: str) -> None:
    for number, spec in enumerate(("80", "80/", "80/TCP", "80/tcp/x")):
        each = f"{name}-{number}"
        assert create(engine, each, {spec: binding("", "127.0.0.1")}).status == 201
        assert started(engine, each) == ""
        assert list(ports(engine, each)) == ["80/tcp"]


@pytest.mark.stock
def test_only_what_is_exposed_is_published(engine: Engine, name: str) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "100"],
        "HostConfig": {"PortBindings": {"80/tcp": binding("")}},
    }
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201
    assert started(engine, name) == ""
    assert ports(engine, name) == {}


@pytest.mark.stock
def test_exposed_ranges_are_published_one_by_one(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "--expose",
        "70-72",
        "--expose",
        "75/udp",
        "-P",
        "busybox",
        "top",
    )
    found = ports(engine, name)
    assert sorted(found) == ["70/tcp", "71/tcp", "72/tcp", "75/udp"]
    numbers = [int(bindings[0]["HostPort"]) for bindings in found.values()]
    assert len(set(numbers[:3])) == 3
    assert all(number >= 32768 for number in numbers)
    assert all(one["HostPort"] == two["HostPort"] for one, two in found.values())


@pytest.mark.stock
def test_an_internal_network_shows_no_ports(engine: Engine, name: str) -> None:
    engine.docker("network", "create", "--internal", name)
    flags = ("--network", name, "-p", "80", "--expose", "81")
    engine.docker("run", "-d", "--name", name, *flags, "busybox", "top")
    assert ports(engine, name) == {}
    assert engine.out("port", name) == ""
    assert engine.out("ps", "--filter", f"name={name}", "--format", "{{.Ports}}") == ""


@pytest.mark.stock
def test_a_range_is_used_up(engine: Engine, name: str) -> None:
    """In turn, going on from where the last one of that range was given."""
    holders: dict[str, str] = {}
    for number in range(3):
        each = f"{name}-{number}"
        engine.docker("run", "-d", "--name", each, "-p", "45200-45202:80", "busybox", "top")
        holders[ports(engine, each)["80/tcp"][0]["HostPort"]] = each
    assert sorted(holders) == ["45200", "45201", "45202"]
    create(engine, name, {"80/tcp": binding("45200-45202")})
    assert started(engine, name) == f"{PROGRAMMING}all ports are allocated"
    engine.docker("rm", "-f", holders["45201"])
    assert started(engine, name) == ""
    assert ports(engine, name)["80/tcp"][0]["HostPort"] == "45201"


@pytest.mark.stock
def test_what_fails_half_way_leaves_nothing(engine: Engine, name: str) -> None:
    """The last of several ports is taken: the others are free again, and a later start has all."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        bindings = {
            "80/tcp": binding("45210", "127.0.0.1"),
            "81/udp": binding("45211", "127.0.0.1"),
            "90/tcp": binding(str(taken), "127.0.0.1"),
        }
        assert create(engine, name, bindings).status == 201
        for _ in range(2):
            assert started(engine, name).endswith(":90/tcp: address already in use")
            assert engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == ""
            for kind, port in ((socket.SOCK_STREAM, 45210), (socket.SOCK_DGRAM, 45211)):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
    assert started(engine, name) == ""
    assert sorted(ports(engine, name)) == ["80/tcp", "81/udp", "90/tcp"]


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        return False
    return True


@pytest.mark.stock
def test_sctp(engine: Engine, name: str) -> None:
    create(engine, name, {"80/sctp": binding("45220", "127.0.0.1")})
    said = started(engine, name)
    if not has_sctp():
        why = "failed to listen on 127.0.0.1:45220: protocol not supported"
        assert said == f"{PROGRAMMING}error starting userland proxy: {why}"
        return
    assert said == ""
    assert ports(engine, name) == {"80/sctp": binding("45220", "127.0.0.1")}
    assert engine.out("port", name) == "80/sctp -> 127.0.0.1:45220"
    create(engine, f"{name}-2", {"81/sctp": binding("45220", "127.0.0.1")})
    why = "Bind for 127.0.0.1:45220 failed: port is already allocated"
    assert started(engine, f"{name}-2") == PROGRAMMING + why
    create(engine, f"{name}-3", {"81/tcp": binding("45220", "127.0.0.1")})
    assert started(engine, f"{name}-3") == ""


@pytest.mark.stock
@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
def test_a_routed_port_has_no_number(engine: Engine, name: str, families: Sequence[int]) -> None:
    flags = [f"-o=com.docker.network.bridge.gateway_mode_ipv{v}=routed" for v in families]
    engine.docker("network", "create", "--ipv6", *flags, name)
    engine.docker(
        "run", "-d", "--name", name, "--network", name, "-p", "45230:80", "busybox", "top"
    )
    numbers = {v: "" if v in families else "45230" for v in (4, 6)}
    four, six = binding(numbers[4], "0.0.0.0"), binding(numbers[6], "::")
    assert ports(engine, name) == {"80/tcp": [*four, *six]}
    assert engine.out("port", name).splitlines() == [
        f"80/tcp -> 0.0.0.0:{numbers[4]}",
        f"80/tcp -> [::]:{numbers[6]}",
    ]
    [listed] = engine.call("GET", f'/containers/json?filters={{"name":["{name}"]}}').json()
    assert [port.get("PublicPort", "") for port in listed["Ports"]] == [
        int(number) if number else "" for number in numbers.values()
    ]


@pytest.mark.stock
@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("bridge.gateway_mode_ipv4", "x", "failed to parse {} value: x (unknown gateway mode x)"),
        (
            "bridge.gateway_mode_ipv6",
            "isolated",
            "gateway mode 'isolated' can only be used for an internal network",
        ),
        (
            "bridge.inhibit_ipv4",
            "x",
            'failed to parse {} value: x (strconv.ParseBool: parsing "x": invalid syntax)',
        ),
        ("host_ipv4", "x", "failed to parse {} value: x (nil ip)"),
        ("host_ipv6", "", "failed to parse {} value:  (nil ip)"),
        ("enable_ipv6", "x", 'driver-opt "{}" is not a valid bool'),
        ("enable_ipv4", "false", "IPv4 or IPv6 must be enabled"),
        ("advertise_addr_nmsgs", "4", "{} must be in the range 0 to 3"),
        ("advertise_addr_nmsgs", "x", 'value for option {} "x" must be an integer'),
        ("advertise_addr_ms", "99", "{} must be in the range 100 to 2000"),
        ("advertise_addr_ms", "x", 'value for option {} "x" must be integer milliseconds'),
    ],
)
def test_options_that_mean_nothing(
    engine: Engine, name: str, option: str, text: str, said: str
) -> None:
    full = f"com.docker.network.{option}"
    done = engine.docker("network", "create", "-o", f"{full}={text}", name, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == (
        f"Error response from daemon: {said.format(full)}"
    )


@pytest.mark.stock
def test_families_by_option(engine: Engine, name: str) -> None:
    option = "com.docker.network.enable_ipv6"
    for flags, enabled, kept in (
        ((f"-o={option}=true",), True, {option: "true"}),
        ((f"-o={option}=true", "--ipv6=false"), False, {}),
        ((f"-o={option}=nonsense", "--ipv6"), True, {}),
    ):
        engine.docker("network", "create", *flags, name)
        found = engine.call("GET", f"/networks/{name}").json()
        engine.docker("network", "rm", name)
        assert (found["EnableIPv6"], found["Options"]) == (enabled, kept)


@pytest.mark.stock
def test_what_a_container_calls_its_links(engine: Engine, name: str) -> None:
    for letter, prefix in (("a", "lan"), ("b", "lan"), ("c", "")):
        flags = ("-o", f"com.docker.network.container_iface_prefix={prefix}")
        engine.docker("network", "create", *flags, f"{name}-{letter}")
    networks = [f"--network={name}-{letter}" for letter in "abc"]
    engine.docker("run", "-d", "--name", name, *networks, "busybox", "top")
    assert sorted(engine.out("exec", name, "ls", "/sys/class/net").split()) == [
        "eth0",
        "lan0",
        "lan1",
        "lo",
    ]


@pytest.mark.stock
def test_networks_whose_bridge_has_no_address(engine: Engine, name: str) -> None:
    option = "com.docker.network.bridge"
    modes = (f"-o={option}.gateway_mode_ipv4=isolated", f"-o={option}.gateway_mode_ipv6=isolated")
    for flags, own, gateway in (
        (("--internal", *modes, "--ipv6", "--subnet=fd00:232::/64"), "10.232.6.1", ""),
        (("--internal", f"-o={option}.inhibit_ipv4=true"), "10.232.6.1", ""),
        ((f"-o={option}.inhibit_ipv4=true",), "10.232.6.2", "10.232.6.1"),
    ):
        engine.docker("network", "create", *flags, "--subnet=10.232.6.0/24", name)
        engine.docker("run", "-d", "--name", name, "--network", name, "busybox", "top")
        network = engine.call("GET", f"/networks/{name}").json()
        stands = engine.inspect(name)["NetworkSettings"]["Networks"][name]
        engine.docker("rm", "-f", name)
        engine.docker("network", "rm", name)
        assert (stands["IPAddress"], stands["Gateway"]) == (own, gateway)
        if not gateway:
            assert all("Gateway" not in config for config in network["IPAM"]["Config"])


@pytest.mark.beyond
def test_a_range_of_a_thousand(engine: Engine, name: str) -> None:
    thousand = {f"{port}/tcp": binding(str(port)) for port in range(20000, 21000)}
    assert create(engine, name, thousand).status == 201
    assert started(engine, name) == ""
    found = ports(engine, name)
    assert {number: {each["HostPort"] for each in found[number]} for number in found} == {
        f"{port}/tcp": {str(port)} for port in range(20000, 21000)
    }


@pytest.fixture
def served() -> Iterator[int]:
    """The host port of a container whose daemon was killed."""
    with own_wharf() as wharf, contextlib.ExitStack() as stack:
        flags = [
            f"-p={address}:{port}:80/{protocol}"
            for address, port in (("0.0.0.0", 45240), ("[::]", 45240))
            for protocol in ("tcp", "udp")
        ]
        wharf.docker("run", "-d", "--name", "web", *flags, "busybox", "sleep", "100")
        pid = wharf.inspect("web")["State"]["Pid"]
        stack.enter_context(serving(f"/proc/{pid}/ns/net", (80,)))
        wharf.kill()
        yield 45240
        wharf.start()
        assert ports(wharf, "web")


@pytest.mark.beyond
def test_ports_go_on_while_the_daemon_is_dead(served: int) -> None:
    for address in ("127.0.0.1", "::1"):
        for protocol in ("tcp", "udp"):
            assert ask(Question(None, address, served, protocol)), (address, protocol)


# Ports follow the network by which a container leads out


SERVE = "mkdir /w; echo hello > /w/index.html; exec httpd -f -h /w"


@pytest.fixture
def three(engine: Engine, name: str) -> Iterator[list[str]]:
    """Networks in the order of their names, the last of them internal."""
    made = [f"{name[:40]}-{letter}" for letter in "abi"]
    for network in made:
        internal = ("--internal",) if network.endswith("i") else ()
        engine.docker("network", "create", *internal, network)
    yield made
    engine.docker("rm", "-f", name, check=False)
    engine.docker("network", "rm", *made)


def serve(engine: Engine, name: str, network: str, port: str) -> None:
    given = ("--name", name, "--network", network, "-p", port)
    engine.docker("run", "-d", *given, "busybox", "sh", "-c", SERVE)


BOTH = {"127.0.0.1", "::1"}
"""The kernel leads packets from the one to the container, the relay what comes to the other."""


def answers(port: int) -> set[str]:
    """Where on this host something does."""

    def one(address: str) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, port), 2) as sock,
        ):
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"200 OK" in sock.recv(4096)
        return False

    return {address for address in BOTH if one(address)}


def begins(port: int) -> None:
    assert eventually(lambda: answers(port), lambda found: found == BOTH) == BOTH


def shown(engine: Engine, name: str) -> set[str]:
    return {each["HostPort"] for found in ports(engine, name).values() for each in found or ()}


@pytest.mark.stock
def test_ports_follow_the_gateway(engine: Engine, name: str, three: list[str]) -> None:
    first, second, _ = three
    serve(engine, name, first, "46200:80")
    begins(46200)
    for verb, network in (
        ("connect", second),
        ("disconnect", first),
        ("connect", first),
        ("disconnect", second),
    ):
        engine.docker("network", verb, network, name)
        assert answers(46200) == BOTH, f"after {verb} {network}"
        assert shown(engine, name) == {"46200"}
    engine.docker("network", "disconnect", first, name)
    assert answers(46200) == set()
    assert ports(engine, name) == {}
    assert engine.out("port", name) == ""


@pytest.mark.beyond
def test_a_port_that_another_has_meanwhile(engine: Engine, name: str, three: list[str]) -> None:
    """Who cannot publish does not join. dockerd leaves half of it, which cannot stay nor go."""
    first, _, _ = three
    serve(engine, name, first, "46204:80")
    begins(46204)
    engine.docker("network", "disconnect", first, name)
    other = f"{name}-x"
    engine.docker("run", "-d", "--name", other, "-p", "46204:80", "busybox", "sh", "-c", SERVE)
    refused = engine.docker("network", "connect", first, name, check=False)
    assert b"Bind for 0.0.0.0:46204 failed: port is already allocated" in refused.stderr
    assert engine.inspect(name)["NetworkSettings"]["Networks"] == {}
    engine.docker("rm", "-f", other)
    engine.docker("network", "connect", first, name)
    assert answers(46204) == BOTH


@pytest.mark.stock
def test_ports_come_with_a_way_out(engine: Engine, name: str, three: list[str]) -> None:
    first, _, internal = three
    serve(engine, name, internal, "46201:80")
    assert answers(46201) == set()
    assert ports(engine, name) == {}
    engine.docker("network", "connect", first, name)
    begins(46201)
    assert shown(engine, name) == {"46201"}
    engine.docker("network", "disconnect", first, name)
    assert answers(46201) == set()
    assert ports(engine, name) == {}


@pytest.mark.stock
def test_the_highest_priority_has_the_ports(engine: Engine, name: str, three: list[str]) -> None:
    first, second, _ = three
    serve(engine, name, first, "46202:80")
    begins(46202)
    engine.docker("network", "connect", "--gw-priority", "5", second, name)
    gateway = engine.inspect(name)["NetworkSettings"]["Networks"][second]["Gateway"]
    assert f"default via {gateway}" in engine.out("exec", name, "ip", "route")
    assert answers(46202) == BOTH
    engine.docker("network", "disconnect", second, name)
    assert answers(46202) == BOTH


@pytest.mark.beyond
def test_a_number_that_nobody_chose_stays(engine: Engine, name: str, three: list[str]) -> None:
    """dockerd chooses another one."""
    first, second, _ = three
    serve(engine, name, first, "80")
    (number,) = shown(engine, name)
    engine.docker("network", "connect", "--gw-priority", "5", second, name)
    assert shown(engine, name) == {number}
    begins(int(number))


@pytest.mark.beyond
def test_moved_ports_outlive_the_daemon() -> None:
    with own_wharf() as wharf:
        for network in ("one", "two"):
            wharf.docker("network", "create", network)
        serve(wharf, "box", "one", "46203:80")
        begins(46203)
        wharf.docker("network", "connect", "two", "box")
        wharf.docker("network", "disconnect", "one", "box")
        wharf.kill()
        assert answers(46203) == BOTH
        wharf.start()
        assert answers(46203) == BOTH
        assert shown(wharf, "box") == {"46203"}
        wharf.docker("network", "connect", "one", "box")
        wharf.docker("network", "disconnect", "two", "box")
        assert answers(46203) == BOTH
        wharf.docker("rm", "-f", "box")
        assert answers(46203) == set()
