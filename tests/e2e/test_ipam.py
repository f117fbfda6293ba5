"""Subnets and addresses of networks: what is given, what may be asked, what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.engine import Engine

Config = list[dict[str, Any]] | None
_FAULTS = "invalid network config:\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--subnet 10.91.0.5/24", f"{_FAULTS}invalid subnet 10.91.0.5/24: it should be"),
        ("--subnet 10.91.0.0", f"{_FAULTS}invalid subnet 10.91.0.0: invalid CIDR block notation"),
        ("--subnet 10.91.0.0/33", f"{_FAULTS}invalid subnet 10.91.0.0/33: invalid CIDR"),
        ("--subnet 010.91.0.0/24", f"{_FAULTS}invalid subnet 010.91.0.0/24: invalid CIDR"),
        (
            "--subnet 10.91.0.0/24 --gateway 10.91.0.255",
            "failed to allocate gateway (10.91.0.255): Address already in use",
        ),
        (
            "--subnet 10.91.0.0/24 --gateway 10.91.0.9 --aux-address a=10.91.0.9",
            "failed to allocate secondary ip address (a:10.91.0.9): Address already in use",
        ),
        (
            "--subnet 10.91.0.0/24 --aux-address a=10.91.0.1",
            "failed to allocate secondary ip address (a:10.91.0.1): Address already in use",
        ),
        (
            "--subnet 10.91.0.0/24 --ip-range 10.91.0.5/25",
            f"{_FAULTS}invalid ip-range 10.91.0.5/25: it should be 10.91.0.0/25",
        ),
        (
            "--subnet 10.91.0.0/24 --subnet 10.92.0.0/24",
            "bridge driver doesn't support multiple subnets",
        ),
        ("--ipv4=false", "IPv4 or IPv6 must be enabled"),
        ("--ipam-driver null", "ipv4 pool is empty"),
        (
            "--ipam-driver null --subnet 10.91.0.0/24",
            "null ipam driver does not handle specific address pool requests",
        ),
        ("--ipam-driver nope", 'plugin "nope" not found'),
        ("--ipam-driver nope -d macvlan -o macvlan_mode=x", "requested macvlan mode 'x' is not"),
        ("-d macvlan -o parent=lo", "loopback interface is not a valid macvlan parent link"),
        ("-d ipvlan -o parent=lo.x", "unable to parse a valid vlan id from: x (ex. eth0.10"),
        ("-d ipvlan -o parent=nope", "invalid subinterface vlan name nope, example formatting"),
        ("-d macvlan -o parent=nope.5", "-o parent interface was not found on the host: nope"),
        ("-d macvlan -o parent=lo.4095", "vlan id must be between 1-4094, received: 4095"),
        ("--config-only --internal", "configuration network can only contain network specific"),
        ("--config-from nope", 'configuration network "nope" does not exist'),
        ("--config-from nope --label a", "user specified configurations are not supported"),
        ("--config-from nope --config-only", "a configuration network cannot depend on another"),
        ("--scope swarm", "cannot create a swarm scoped network when swarm is not active"),
        ("-d overlay", "This node is not a swarm manager."),
    ],
)
def test_what_is_refused(engine: Engine, name: str, options: str, said: str) -> None:
    refused = engine.docker("network", "create", *options.split(), name, check=False)
    assert refused.returncode == 1
    assert said in refused.stderr.decode()
    assert engine.out("network", "ls", "-q", "--filter", f"name={name}") == ""


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ("--subnet 10.91.0.0/24", [{"Subnet": "10.91.0.0/24"}]),
        (
            "--subnet 10.91.0.0/24 --ip-range 10.91.0.128/25 --aux-address a=10.91.0.3",
            [
                {
                    "Subnet": "10.91.0.0/24",
                    "IPRange": "10.91.0.128/25",
                    "AuxiliaryAddresses": {"a": "10.91.0.3"},
                }
            ],
        ),
        (
            "--ipv6 --ipv4=false --subnet fd91::/64 --gateway fd91::9",
            [{"Subnet": "fd91::/64", "Gateway": "fd91::9"}],
        ),
        ("--config-only", None),
    ],
)
def test_what_was_asked_for_is_shown(
    engine: Engine, name: str, options: str, config: Config
) -> None:
    engine.docker("network", "create", *options.split(), name)
    shown = json.loads(engine.out("network", "inspect", "-f", "{{json .IPAM}}", name))
    assert shown == {"Driver": "default", "Options": {}, "Config": config}


def test_what_was_given_is_shown_behind_what_was_asked_for(engine: Engine, name: str) -> None:
    engine.docker("network", "create", "--ipv6", "--subnet", "fd91::/64", name)
    shown = json.loads(engine.out("network", "inspect", "-f", "{{json .IPAM.Config}}", name))
    assert shown[0] == {"Subnet": "fd91::/64"}
    assert sorted(shown[1]) == ["Gateway", "Subnet"]
    assert len(shown) == 2


def addresses(engine: Engine, network: str, *options: str) -> list[str]:
    """Of eth0, with their prefixes, and the gateways."""
    script = "ip -o a show eth0 scope global | awk '{print $4}'; ip r; ip -6 r"
    said = engine.out("run", "--rm", "--network", network, *options, "busybox", "sh", "-c", script)
    lines = [line.split() for line in said.splitlines()]
    own = [words[0] for words in lines if len(words) == 1]
    return own + [words[2] for words in lines if words[:2] == ["default", "via"]]


@pytest.mark.parametrize(
    ("options", "asked", "got"),
    [
        ("--subnet 10.91.0.0/24", "", ["10.91.0.2/24", "10.91.0.1"]),
        ("--subnet 10.91.0.0/24", "--ip 10.91.0.77", ["10.91.0.77/24", "10.91.0.1"]),
        (
            "--subnet 10.91.0.0/24 --ip-range 10.91.0.128/25",
            "",
            ["10.91.0.129/24", "10.91.0.128"],
        ),
        (
            "--subnet 10.91.0.0/24 --ip-range 10.91.0.128/25",
            "--ip 10.91.0.5",
            ["10.91.0.5/24", "10.91.0.128"],
        ),
        (
            "--subnet 10.91.0.0/24 --ip-range 10.91.0.7/32 --gateway 10.91.0.1",
            "",
            ["10.91.0.7/24", "10.91.0.1"],
        ),
        ("--subnet 10.91.0.0/24 --aux-address a=10.91.0.2", "", ["10.91.0.3/24", "10.91.0.1"]),
        ("--subnet 10.91.0.0/31", "", ["10.91.0.1/31", "10.91.0.0"]),
        ("--subnet 10.91.0.0/30", "", ["10.91.0.2/30", "10.91.0.1"]),
        ("--ipv6 --ipv4=false --subnet fd91::/64", "", ["fd91::2/64", "fd91::1"]),
        ("--ipv6 --ipv4=false --subnet fd91::/64", "--ip6 fd91::77", ["fd91::77/64", "fd91::1"]),
        (
            "--ipv6 --subnet 10.91.0.0/24 --subnet fd91::/64",
            "",
            ["10.91.0.2/24", "fd91::2/64", "10.91.0.1", "fd91::1"],
        ),
    ],
)
def test_what_a_container_gets(
    engine: Engine, name: str, options: str, asked: str, got: list[str]
) -> None:
    engine.docker("network", "create", *options.split(), name)
    assert addresses(engine, name, *asked.split()) == got


def test_an_address_is_had_once_and_again(engine: Engine, name: str) -> None:
    engine.docker("network", "create", "--subnet", "10.91.0.0/30", name)
    engine.docker("run", "-d", "--name", name, "--network", name, "busybox", "sleep", "60")
    full = engine.docker("run", "--rm", "--network", name, "busybox", "true", check=False)
    assert full.returncode == 125
    said = "no available IPv4 addresses on this network's address pools: "
    assert said in full.stderr.decode()
    for address in ("10.91.0.0", "10.91.0.1", "10.91.0.2", "10.91.0.3"):
        options = ("--network", name, "--ip", address)
        taken = engine.docker("run", "--rm", *options, "busybox", "true", check=False)
        assert taken.stderr.decode().splitlines()[0].endswith("Address already in use")
    engine.docker("rm", "-f", name)
    assert addresses(engine, name)[0] == "10.91.0.2/30"


def test_subnets_do_not_overlap_unless_by_ranges(engine: Engine, name: str) -> None:
    def create(suffix: str, *options: str) -> str:
        made = engine.docker("network", "create", *options, name + suffix, check=False)
        return made.stderr.decode()

    assert create("-a", "--subnet", "10.91.0.0/24") == ""
    overlap = "invalid pool request: Pool overlaps with other one on this address space"
    for subnet in ("10.91.0.0/24", "10.91.0.128/25", "10.91.0.0/16"):
        assert overlap in create("-b", "--subnet", subnet)
    ranged = ("--subnet", "10.91.0.0/24", "--ip-range", "10.91.0.128/25")
    assert create("-b", *ranged).strip().endswith("networks have overlapping IPv4")
    engine.docker("network", "rm", f"{name}-a")
    assert create("-b", "--subnet", "10.91.0.128/25") == ""


@pytest.mark.parametrize("odd", ["a b", "x/y", "\x01\x1b[31m", "'; flush ruleset;", "é✓"])
def test_a_network_may_be_called_anything(engine: Engine, name: str, odd: str) -> None:
    called = name + odd
    engine.docker("network", "create", called)
    shown = json.loads(engine.out("network", "inspect", "-f", "{{json .Name}}", called))
    assert shown == called
    engine.docker("run", "--rm", "--network", called, "busybox", "true")
    engine.docker("network", "rm", called)
    assert engine.out("network", "ls", "-q", "--filter", f"name={name}") == ""


def test_a_network_may_have_a_very_long_name(engine: Engine, name: str) -> None:
    called = name + "z" * 10240
    engine.docker("network", "create", called)
    engine.docker("network", "rm", called)


def test_a_configuration_network_is_in_use(engine: Engine, name: str) -> None:
    options = ("--config-only", "--subnet", "10.91.0.0/24")
    engine.docker("network", "create", *options, f"{name}-c")
    engine.docker("network", "create", "--config-from", f"{name}-c", name)
    refused = engine.docker("network", "rm", f"{name}-c", check=False)
    said = f'error while removing network: configuration network "{name}-c" is in use'
    assert said in refused.stderr.decode()
    assert addresses(engine, name)[0] == "10.91.0.2/24"
    engine.docker("network", "rm", name)
    engine.docker("network", "rm", f"{name}-c")
