"""The default network, and ports that answer."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
CLONE_NEWNET = 0x40000000
SERVER = ("sh", "-c", "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www")


def fetch(address: str, port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def answers(address: str, port: int) -> str:
    def probe() -> str:
        try:
            return fetch(address, port)
        except OSError as error:
            return str(error)

    return eventually(probe, lambda text: text == "served\n")


def published(engine: Engine, ref: str, port: str = "80/tcp") -> int:
    return int(engine.inspect(ref)["NetworkSettings"]["Ports"][port][0]["HostPort"])


def own_address() -> str:
    """An address of this machine other than loopback, or "" where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def test_published_port_answers_everywhere(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "-p", "80", "busybox", *SERVER)
    port = published(engine, name)
    assert answers("127.0.0.1", port) == "served\n"
    assert answers("::1", port) == "served\n"
    gateway = engine.inspect(name)["NetworkSettings"]["Gateway"]
    assert answers(gateway, port) == "served\n"
    assert engine.out("port", name, "80").splitlines() == [f"0.0.0.0:{port}", f"[::]:{port}"]
    out = engine.out("run", "--rm", "busybox", "wget", "-qO-", f"http://{gateway}:{port}/")
    assert out == "served"
    inner = engine.out("exec", name, "wget", "-qO-", f"http://{gateway}:{port}/")
    assert inner == "served"


def test_port_on_loopback_only(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "-p", "127.0.0.1::80", "busybox", *SERVER)
    port = published(engine, name)
    assert answers("127.0.0.1", port) == "served\n"
    assert engine.out("port", name) == f"80/tcp -> 127.0.0.1:{port}"
    gateway = engine.inspect(name)["NetworkSettings"]["Gateway"]
    with pytest.raises((ConnectionError, TimeoutError)):
        fetch(gateway, port)


def test_containers_reach_each_other_by_address(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", *SERVER)
    address = engine.inspect(name)["NetworkSettings"]["IPAddress"]
    out = engine.out(
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        f"for i in 1 2 3 4 5; do wget -qO- http://{address}/ && exit; sleep 0.2; done",
    )
    assert out == "served"


def socket_inside(pid: int, kind: socket.SocketKind) -> socket.socket:
    """A socket in the network namespace of `pid`, opened by a thread that ends at once."""
    opened: list[socket.socket] = []

    def enter() -> None:
        with open(f"/proc/{pid}/ns/net") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0:
                opened.append(socket.socket(socket.AF_INET, kind))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return opened[0]


def test_udp(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "-p", "127.0.0.1::9000/udp", "busybox", "sleep", "60"
    )
    port = published(engine, name, "9000/udp")
    pid = engine.inspect(name)["State"]["Pid"]
    with (
        socket_inside(pid, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("0.0.0.0", 9000))
        server.settimeout(5)
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        for word in (b"one", b"two"):
            client.send(word)
            received, sender = server.recvfrom(100)
            assert received == word
            server.sendto(b"re:" + word, sender)
            assert client.recv(100) == b"re:" + word


def test_lists_by_port(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "-p", "80", "--expose", "7000", "busybox", "top")
    port = published(engine, name)

    def found(word: str) -> bool:
        flags = ("--filter", f"name={name}", "--filter", word, "--format", "{{.Names}}")
        return engine.out("ps", *flags) == name

    assert found(f"publish={port}")
    assert found(f"publish={port - 1}-{port + 1}/tcp")
    assert not found(f"publish={port}/udp")
    assert not found("publish=80")
    assert found("expose=80")
    assert found("expose=6999-7001")
    assert not found(f"expose={port}")


def test_publish_all(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "--expose", "80", "-P", "busybox", *SERVER)
    assert answers("127.0.0.1", published(engine, name)) == "served\n"


def test_a_range_of_ports(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "-p", "127.0.0.1:45100-45104:80-84", "busybox", *SERVER
    )
    assert answers("127.0.0.1", 45100) == "served\n"
    assert len(engine.out("port", name).splitlines()) == 5


def test_a_taken_port(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", f"{name}-a", "-p", "127.0.0.1:45110:80", "busybox", *SERVER
    )
    done = engine.docker(
        "run",
        "-d",
        "--name",
        f"{name}-b",
        "-p",
        "127.0.0.1:45110:80",
        "busybox",
        *SERVER,
        check=False,
    )
    assert done.returncode == 125
    text = done.stderr.decode()
    assert "Bind for 127.0.0.1:45110 failed: port is already allocated" in text
    assert f"driver failed programming external connectivity on endpoint {name}-b" in text
    assert engine.inspect(f"{name}-b")["State"]["Status"] == "created"
    engine.docker("rm", "-f", f"{name}-a")
    engine.docker("start", f"{name}-b")
    assert answers("127.0.0.1", 45110) == "served\n"


def test_a_port_taken_by_the_host(engine: Engine, name: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = engine.docker(
            "run",
            "-d",
            "--name",
            name,
            "-p",
            f"127.0.0.1:{port}:80",
            "busybox",
            *SERVER,
            check=False,
        )
    assert done.returncode == 125
    assert b"address already in use" in done.stderr


def test_port_is_free_after_stop(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "-p", "127.0.0.1:45120:80", "busybox", *SERVER)
    assert answers("127.0.0.1", 45120) == "served\n"
    engine.docker("kill", name)
    engine.docker("wait", name)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 45120))
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == {}


def test_network_settings(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    settings = engine.inspect(name)["NetworkSettings"]
    bridge = settings["Networks"]["bridge"]
    assert settings["IPAddress"] == bridge["IPAddress"]
    out = engine.out("exec", name, "ip", "-o", "-4", "addr", "show", "eth0")
    assert f"{bridge['IPAddress']}/{bridge['IPPrefixLen']}" in out
    route = engine.out("exec", name, "ip", "route")
    assert f"default via {bridge['Gateway']} dev eth0" in route
    assert bridge["MacAddress"] in engine.out("exec", name, "ip", "link", "show", "eth0")
    network = json.loads(engine.out("network", "inspect", "bridge"))[0]
    assert network["Id"] == bridge["NetworkID"]
    assert engine.inspect(name)["Id"] in network["Containers"]


def test_hosts_file(engine: Engine) -> None:
    out = engine.out(
        "run", "--rm", "-h", "web", "--add-host", "db:10.1.2.3", "busybox", "cat", "/etc/hosts"
    )
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["127.0.0.1", "localhost"]
    assert ["10.1.2.3", "db"] in lines
    assert lines[-1][1] == "web"


def test_host_gateway(engine: Engine, name: str) -> None:
    out = engine.out("run", "--rm", "--add-host", "up:host-gateway", "busybox", "cat", "/etc/hosts")
    gateway = json.loads(engine.out("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0].get(
        "Gateway"
    )
    assert f"{gateway}\tup" in out


def test_dns_flags(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "example.test",
        "--dns-option",
        "ndots:2",
        "busybox",
        "cat",
        "/etc/resolv.conf",
    )
    lines = [line for line in out.splitlines() if line and not line.startswith("#")]
    assert lines == ["nameserver 9.9.9.9", "search example.test", "options ndots:2"]


def test_the_hosts_file_follows_a_containers_networks(engine: Engine, name: str) -> None:
    networks = [f"{name}-{letter}" for letter in "ab"]
    for network in networks:
        engine.docker("network", "create", network)
    first, second = networks
    engine.docker("run", "-d", "-h", "web", "--name", name, "--network", first, "busybox", *SERVER)

    def named_web() -> list[str]:
        lines = engine.out("exec", name, "cat", "/etc/hosts").splitlines()
        return [line.split()[0] for line in lines if line.split()[1:] == ["web"]]

    def address(network: str) -> str:
        return str(engine.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"])

    assert named_web() == [address(first)]
    engine.docker("network", "connect", second, name)
    assert named_web() == [address(first), address(second)]
    assert "default via" in engine.out("exec", name, "ip", "route")
    engine.docker("network", "disconnect", first, name)
    assert named_web() == [address(second)]
    gateway = engine.inspect(name)["NetworkSettings"]["Networks"][second]["Gateway"]
    assert f"default via {gateway} " in engine.out("exec", name, "ip", "route")


def test_network_none(engine: Engine) -> None:
    out = engine.out("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net")
    assert "eth0" not in out
    assert "lo" in out


def test_unknown_network(engine: Engine, name: str) -> None:
    done = engine.docker(
        "run", "-d", "--name", name, "--network", "nosuchnet", "busybox", "true", check=False
    )
    assert done.returncode == 125
    assert b"network nosuchnet not found" in done.stderr


def test_mac_address(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--mac-address",
        "02:42:aa:bb:cc:dd",
        "busybox",
        "cat",
        "/sys/class/net/eth0/address",
    )
    assert out == "02:42:aa:bb:cc:dd"


@pytest.mark.parametrize("mac", ["01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
def test_a_mac_address_that_no_interface_can_have(engine: Engine, mac: str) -> None:
    done = engine.docker("run", "--rm", "--mac-address", mac, "busybox", "true", check=False)
    assert done.returncode == 125
    said = done.stderr.decode()
    assert "failed to set up container networking: failed to add interface " in said
    assert f'MAC to "{mac}": cannot assign requested address' in said


def test_a_network_of_ones_own(engine: Engine, name: str) -> None:
    engine.docker("network", "create", "--subnet", "10.222.7.0/24", name)
    engine.docker(
        "run", "-d", "--name", name, "--network", name, "--ip", "10.222.7.9", "busybox", *SERVER
    )
    assert engine.inspect(name)["NetworkSettings"]["Networks"][name]["IPAddress"] == "10.222.7.9"
    done = engine.docker("network", "rm", name, check=False)
    assert b"has active endpoints" in done.stderr
    engine.docker("rm", "-f", name)
    assert engine.out("network", "rm", name) == name


def test_names_come_with_a_joined_network(engine: Engine, name: str) -> None:
    donor, guest = f"{name}-donor", f"{name}-guest"
    flags = ("--hostname", "origin", "--domainname", "example.test")
    engine.docker("run", "-d", "--name", donor, *flags, "busybox", "sleep", "100")
    engine.docker(
        "create", "--name", guest, "--network", f"container:{donor}", "busybox", "sleep", "100"
    )
    created = engine.inspect(guest)
    assert created["Config"]["Hostname"] == created["Id"][:12]
    engine.docker("start", guest)
    script = "hostname; cat /etc/hostname /proc/sys/kernel/domainname; echo $HOSTNAME"
    seen = engine.out("exec", guest, "sh", "-c", script)
    assert seen.split() == ["origin", "origin", "example.test", "origin"]
    of_donor, of_guest = engine.inspect(donor), engine.inspect(guest)
    for field in ("Hostname", "Domainname"):
        assert of_guest["Config"][field] == of_donor["Config"][field]
    for field in ("HostnamePath", "HostsPath", "ResolvConfPath"):
        assert of_guest[field] == of_donor[field]
    uts = ("readlink", "/proc/self/ns/uts")
    assert engine.out("exec", guest, *uts) != engine.out("exec", donor, *uts)


def hosts_of(engine: Engine, ref: str) -> dict[str, str]:
    """The names of each address in /etc/hosts."""
    lines = engine.out("exec", ref, "cat", "/etc/hosts").splitlines()
    return {address: names for address, _, names in (line.partition("\t") for line in lines)}


def test_a_link_is_known_on_both_sides(engine: Engine, name: str) -> None:
    target, holder = f"{name}-target", f"{name}-holder"
    flags = ("--expose", "80", "--expose", "81", "--expose", "53/udp", "-e", "FOO=a=b")
    engine.docker("run", "-d", "--name", target, *flags, "busybox", "sleep", "100")
    link = ("--link", f"{target}:al-x", "-e", "AL_X_ENV_MINE=kept")
    engine.docker("run", "-d", "--name", holder, *link, "busybox", "sleep", "100")
    found = engine.inspect(target)
    address = found["NetworkSettings"]["IPAddress"]
    names = hosts_of(engine, holder)
    assert names[address] == f"al-x {found['Config']['Hostname']} {target}"
    for words in (("env",), ("cat", "/proc/1/environ")):
        seen = engine.out("exec", holder, *words).replace("\0", "\n").splitlines()
        assert {line for line in seen if line.startswith("AL_X_")} == {
            f"AL_X_NAME=/{holder}/al-x",
            "AL_X_ENV_FOO=a=b",
            "AL_X_ENV_MINE=kept",
            f"AL_X_PORT=tcp://{address}:80",
            f"AL_X_PORT_80_TCP=tcp://{address}:80",
            f"AL_X_PORT_80_TCP_ADDR={address}",
            "AL_X_PORT_80_TCP_PORT=80",
            "AL_X_PORT_80_TCP_PROTO=tcp",
            f"AL_X_PORT_80_TCP_START=tcp://{address}:80",
            "AL_X_PORT_80_TCP_PORT_START=80",
            f"AL_X_PORT_80_TCP_END=tcp://{address}:81",
            "AL_X_PORT_80_TCP_PORT_END=81",
            f"AL_X_PORT_81_TCP=tcp://{address}:81",
            f"AL_X_PORT_81_TCP_ADDR={address}",
            "AL_X_PORT_81_TCP_PORT=81",
            "AL_X_PORT_81_TCP_PROTO=tcp",
            f"AL_X_PORT_53_UDP=udp://{address}:53",
            f"AL_X_PORT_53_UDP_ADDR={address}",
            "AL_X_PORT_53_UDP_PORT=53",
            "AL_X_PORT_53_UDP_PROTO=udp",
        }
    assert engine.inspect(holder)["HostConfig"]["Links"] == [f"/{target}:/{holder}/al-x"]
    for ref in (f"{holder}/al-x", f"/{holder}/al-x"):
        assert engine.inspect(ref)["Id"] == found["Id"]
    rows = engine.out("ps", "--no-trunc", "--format", "{{.Names}}").splitlines()
    assert f"{holder}/al-x,{target}" in rows
    assert holder in rows


def test_a_link_goes_with_the_names_and_addresses_of_both(engine: Engine, name: str) -> None:
    target, holder = f"{name}-target", f"{name}-holder"
    run = ("run", "-d", "--name")
    engine.docker(*run, target, "busybox", "sleep", "100")
    engine.docker(*run, holder, "--link", f"{target}:al", "busybox", "sleep", "100")
    old = engine.inspect(target)["NetworkSettings"]["IPAddress"]
    engine.docker("stop", "-t", "0", target)
    refused = engine.docker("exec", holder, "true", check=False).stderr.decode()
    assert f"Cannot link to a non running container: /{target} AS /{holder}/al" in refused
    engine.docker(*run, f"{name}-between", "busybox", "sleep", "100")
    engine.docker("start", target)
    new = engine.inspect(target)["NetworkSettings"]["IPAddress"]
    names = hosts_of(engine, holder)
    assert names[new].startswith("al ")
    assert new == old or not names.get(old, "").startswith("al ")
    engine.docker("rename", target, f"{target}-2")
    engine.docker("rename", holder, f"{holder}-2")
    assert engine.inspect(f"{holder}-2")["HostConfig"]["Links"] == [f"/{target}-2:/{holder}-2/al"]
    assert engine.inspect(f"{holder}-2/al")["Name"] == f"/{target}-2"
    engine.docker("rm", "-f", target + "-2")
    restarted = engine.docker("restart", "-t", "0", f"{holder}-2", check=False)
    assert b"Cannot link to a non running container: /" in restarted.stderr
    reply = engine.call("POST", f"/containers/{holder}-2/start")
    assert reply.status == 500
    assert reply.message.endswith(f" AS /{holder}-2/al")


def test_a_link_can_be_removed_alone(engine: Engine, name: str) -> None:
    target, holder = f"{name}-target", f"{name}-holder"
    engine.docker("run", "-d", "--name", target, "busybox", "sleep", "100")
    links = ("--link", f"{target}:one", "--link", f"{target}:two", "--link", f"{target}:one")
    engine.docker("run", "-d", "--name", holder, *links, "busybox", "sleep", "100")
    seen = sorted(engine.inspect(holder)["HostConfig"]["Links"])
    assert seen == [f"/{target}:/{holder}/one", f"/{target}:/{holder}/two"]
    engine.docker("rm", "--link", f"/{holder}/one")
    assert engine.inspect(holder)["HostConfig"]["Links"] == [f"/{target}:/{holder}/two"]
    reply = engine.call("GET", f"/containers/{holder}/one/json")
    assert (reply.status, reply.message) == (404, f"No such container: {holder}/one")
    assert "one" not in engine.out("exec", holder, "cat", "/etc/hosts").split()
    assert "ONE_NAME" not in engine.out("exec", holder, "env")
    for ref, status, sentence in (
        (holder, 500, "Conflict, cannot remove the default link name of the container"),
        (f"{holder}/one", 404, f"No such container: {holder}/one"),
        (f"{name}-nosuch", 404, f"No such container: {name}-nosuch"),
    ):
        reply = engine.call("DELETE", f"/containers/{ref}?link=1&force=1")
        assert (reply.status, reply.message) == (status, sentence)
    assert engine.call("DELETE", f"/containers/{holder}/two?link=1").status == 204
    assert engine.inspect(holder)["HostConfig"]["Links"] is None
    assert engine.inspect(target)["State"]["Running"] is True


def test_a_link_on_a_network_of_ones_own_is_an_alias(engine: Engine, name: str) -> None:
    target, holder = f"{name}-target", f"{name}-holder"
    engine.docker("network", "create", name)
    run = ("run", "-d", "--network", name, "--name")
    engine.docker(*run, target, "-e", "FOO=1", "--expose", "80", "busybox", "sleep", "100")
    engine.docker(*run, holder, "--link", f"{target}:al", "busybox", "sleep", "100")
    found = engine.inspect(holder)
    assert found["HostConfig"]["Links"] is None
    assert found["NetworkSettings"]["Networks"][name]["Links"] == [f"{target}:al"]
    assert "AL_" not in engine.out("exec", holder, "env")
    assert "al" not in engine.out("exec", holder, "cat", "/etc/hosts").split()
    assert engine.call("GET", f"/containers/{holder}/al/json").status == 404
