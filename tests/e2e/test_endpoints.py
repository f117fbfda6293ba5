"""What a container may ask of its interface on a network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
OPTION = "com.docker.network.endpoint"
ADDRESSES = "ip -o addr | sed -n 's/^[0-9]*: *\\([^ ]*\\) *inet \\([^ ]*\\).*/\\1 \\2/p'"


@pytest.fixture
def network(engine: Engine, name: str) -> Iterator[str]:
    engine.docker("network", "create", "--subnet", "10.213.7.0/24", name)
    yield name
    engine.docker("network", "rm", name)


def run(engine: Engine, network: str, fields: str, script: str) -> list[str]:
    given = f"name={network},{fields}"
    out = engine.out("run", "--rm", "--network", given, "busybox", "sh", "-c", script)
    return out.splitlines()


def refusal(engine: Engine, network: str, fields: str) -> str:
    given = f"name={network},{fields}"
    done = engine.docker("run", "--rm", "--network", given, "busybox", "true", check=False)
    assert done.returncode == 125
    said = done.stderr.decode().removeprefix("docker: Error response from daemon: ")
    return re.sub(r"\b(veth|wh)[0-9a-f]+\b", "LINK", said.partition("\n\n")[0])


def test_a_name_for_the_interface(engine: Engine, network: str) -> None:
    fields = f"driver-opt={OPTION}.ifname=front0"
    found = run(engine, network, fields, f"{ADDRESSES}; ip route | grep default")
    assert found == ["lo 127.0.0.1/8", "front0 10.213.7.2/24", "default via 10.213.7.1 dev front0 "]


def test_a_name_that_another_would_have_been_given(engine: Engine, network: str, name: str) -> None:
    engine.docker("network", "create", "--subnet", "10.213.8.0/24", f"{name}-2")
    chosen = f"name={network},driver-opt={OPTION}.ifname=eth1"
    networks = ("--network", chosen, "--network", f"{name}-2")
    try:
        out = engine.out("run", "--rm", *networks, "busybox", "sh", "-c", ADDRESSES)
        assert sorted(out.splitlines()) == [
            "eth0 10.213.8.2/24",
            "eth1 10.213.7.2/24",
            "lo 127.0.0.1/8",
        ]
    finally:
        engine.docker("network", "rm", f"{name}-2")


def test_a_name_for_one_that_comes_later(engine: Engine, network: str, name: str) -> None:
    container = f"{name}-c"
    engine.docker("run", "-d", "--name", container, "busybox", "sleep", "1000")
    engine.docker("network", "connect", "--driver-opt", f"{OPTION}.ifname=late", network, container)
    try:
        out = engine.out("exec", container, "sh", "-c", ADDRESSES)
        assert "late 10.213.7.2/24" in out.splitlines()
    finally:
        engine.docker("rm", "-f", container)


@pytest.mark.parametrize(
    ("name_", "reason"),
    [
        ("lo", "file exists"),
        ("a/b", "invalid argument"),
        ("averyveryverylongname", "numerical result out of range"),
    ],
)
def test_names_that_cannot_be(engine: Engine, network: str, name_: str, reason: str) -> None:
    assert refusal(engine, network, f"driver-opt={OPTION}.ifname={name_}") == (
        "failed to set up container networking: failed to add interface LINK to sandbox: "
        f'error renaming interface "LINK" to "{name_}": {reason}'
    )


def test_sysctls_of_the_interface(engine: Engine, network: str) -> None:
    knobs = ("net.ipv4.conf.IFNAME.log_martians=1", "net.ipv4.conf.IFNAME.arp_filter=1")
    fields = f'"driver-opt={OPTION}.sysctls={",".join(knobs)}"'
    script = "cd /proc/sys/net/ipv4/conf; cat eth0/log_martians eth0/arp_filter lo/arp_filter"
    assert run(engine, network, fields, script) == ["1", "1", "0"]


@pytest.mark.parametrize(
    ("knob", "sentence"),
    [
        (
            "net.ipv4.conf.eth0.log_martians=1",
            "invalid config for network NET: invalid endpoint settings:\nunrecognised network "
            "interface sysctl 'net.ipv4.conf.eth0.log_martians=1'; represent 'net.X.Y.ethN.Z=V' "
            "as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'",
        ),
        (
            "net.ipv4.conf.IFNAME.nosuch=1",
            "failed to set up container networking: failed to add interface LINK to sandbox: "
            "/proc/sys/net/ipv4/conf/eth0/nosuch is not a sysctl file",
        ),
        (
            "net.ipv4.conf.IFNAME.log_martians",
            "failed to set up container networking: failed to add interface LINK to sandbox: "
            "expected sysctl 'net.ipv4.conf.ifname.log_martians' to have format name=value",
        ),
    ],
)
def test_sysctls_that_are_none(engine: Engine, network: str, knob: str, sentence: str) -> None:
    said = refusal(engine, network, f'"driver-opt={OPTION}.sysctls={knob}"')
    assert said == sentence.replace("NET", network)


@pytest.mark.beyond
def test_a_sysctl_leads_nowhere_else(engine: Engine, network: str) -> None:
    """A name with a path in it is no name of the interface's."""
    knob = "net.ipv4.conf.IFNAME./../../../../kernel/hostname=owned"
    said = refusal(engine, network, f'"driver-opt={OPTION}.sysctls={knob}"')
    assert said.endswith("is not a sysctl file")


def test_an_address_of_the_link(engine: Engine, network: str) -> None:
    found = run(engine, network, "link-local-ip=169.254.8.9", ADDRESSES)
    assert found == ["lo 127.0.0.1/8", "eth0 10.213.7.2/24", "eth0 169.254.8.9/16"]


def test_a_chosen_mac_address_shows_before_the_first_start(
    engine: Engine, network: str, name: str
) -> None:
    mac = "02:42:ac:11:00:02"
    engine.docker("create", "--name", name, "busybox", "sleep", "100")
    body = {"Container": name, "EndpointConfig": {"MacAddress": mac}}
    assert engine.call("POST", f"/networks/{network}/connect", body).status == 200
    shown = engine.inspect(name)["NetworkSettings"]["Networks"]
    assert shown[network]["MacAddress"] == mac
    assert shown["bridge"]["MacAddress"] == ""
    short = engine.inspect(name)["Id"][:12]
    assert shown[network]["DNSNames"] == [name, short]
    engine.docker("rm", name)
    engine.docker("create", "--name", name, "--network", network, "--mac-address", mac, "busybox")
    shown = engine.inspect(name)["NetworkSettings"]["Networks"]
    assert shown[network]["MacAddress"] == mac
