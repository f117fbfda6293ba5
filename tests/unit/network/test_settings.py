"""What may be asked of a place on a network."""

from __future__ import annotations

import pytest

from engine.errors import InvalidParameter
from engine.ids import NetworkId
from engine.network import host, none, settings
from engine.network.model import (
    IPAM,
    Endpoint,
    EndpointConfig,
    EndpointIPAM,
    Network,
    Subnet,
)


def network(name: str, driver: str = "bridge", **changes: object) -> Network:
    facts: dict[str, object] = {"id": NetworkId(name * 8), "created_ns": 1, **changes}
    return Network(name=name, driver=driver, **facts)  # type: ignore[arg-type]


BRIDGE = network("bridge", subnets=(Subnet(subnet="172.17.0.0/16"),))
HOST, NONE = network("host", "host"), network("none", "null")
USER = network("user", ipam=IPAM(config=(Subnet(subnet="10.9.0.0/24"),)))


def at(address: str) -> EndpointConfig:
    return EndpointConfig(ipam=EndpointIPAM(ipv4_address=address))


@pytest.mark.parametrize(
    ("chosen", "config", "said"),
    [
        (
            BRIDGE,
            at("172.17.0.9"),
            "invalid config for network bridge: invalid endpoint settings:\n"
            "user specified IP address is supported on user defined networks only",
        ),
        (
            BRIDGE,
            at("10.8.0.1"),
            "invalid config for network bridge: invalid endpoint settings:\n"
            "* user specified IP address is supported on user defined networks only\n"
            "* no configured subnet or ip-range contain the IP address 10.8.0.1",
        ),
        (
            NONE,
            at("10.8.0.1"),
            "invalid config for network none: invalid endpoint settings:\n"
            "* user specified IP address is supported on user defined networks only\n"
            "* user specified IP address is supported only when connecting to networks with user "
            "configured subnets",
        ),
        (
            BRIDGE,
            EndpointConfig(aliases=("x",)),
            "invalid config for network bridge: invalid endpoint settings:\n"
            "network-scoped alias is supported only for containers in user defined networks",
        ),
        (
            USER,
            at("10.8.0.1"),
            "invalid config for network user: invalid endpoint settings:\n"
            "no configured subnet or ip-range contain the IP address 10.8.0.1",
        ),
        (
            USER,
            at("0.0.0.0"),
            "invalid config for network user: invalid endpoint settings:\n"
            "* invalid IPv4 address: 0.0.0.0\n"
            "* no configured subnet or ip-range contain the IP address 0.0.0.0",
        ),
        (
            USER,
            at("1.2.3.400"),
            "invalid config for network user: invalid endpoint settings:\n"
            "* invalid IPv4 address: 1.2.3.400\n"
            "* no configured subnet or ip-range contain the IP address 1.2.3.400",
        ),
        (
            USER,
            EndpointConfig(mac_address="zz"),
            "invalid config for network user: invalid MAC address zz",
        ),
    ],
)
def test_refusals_at_create(chosen: Network, config: EndpointConfig, said: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        settings.check(chosen.name, chosen, config, at_create=True)
    assert str(refused.value) == said


def test_a_refusal_at_start_names_no_network() -> None:
    with pytest.raises(InvalidParameter) as refused:
        settings.check("user", USER, at("10.8.0.1"), at_create=False)
    assert str(refused.value).startswith("invalid endpoint settings:\n")


def test_what_is_fine_passes() -> None:
    settings.check("user", USER, at("10.9.0.7"), at_create=True)
    settings.check("later", None, EndpointConfig(aliases=("x",)), at_create=True)
    settings.check(
        "bridge", BRIDGE, EndpointConfig(mac_address="02-42-AC-11-00-02"), at_create=True
    )


def test_host_and_none_bear_no_other() -> None:
    settings.check_together("host", [HOST])
    settings.check_together("none", [USER])
    settings.check_together("user", [])
    for others in ([HOST, BRIDGE], [USER]):
        with pytest.raises(settings.SharedNamespace):
            settings.check_together("host", others)
    with pytest.raises(host.CannotConnect):
        settings.check_together("user", [HOST])
    with pytest.raises(none.OnlyNetwork):
        settings.check_together("user", [USER, NONE])


@pytest.mark.parametrize(
    "text", ["0a:0b:0c:0d:0e:0f", "0A-0B-0C-0D-0E-0F", "0a0b.0c0d.0E0F"], ids=str
)
def test_a_mac_address_has_several_forms(text: str) -> None:
    settings.check("user", USER, EndpointConfig(mac_address=text), at_create=True)
    assert settings.mac(text) == "0a:0b:0c:0d:0e:0f"


def test_connecting() -> None:
    here = [Endpoint(network_name="bridge")]
    settings.check_connect("bridge", USER, here)
    with pytest.raises(host.CannotConnect):
        settings.check_connect("bridge", HOST, here)
    with pytest.raises(none.OnlyNetwork):
        settings.check_connect("bridge", NONE, here)
    with pytest.raises(none.OnlyNetwork):
        settings.check_connect("none", USER, [Endpoint(network_name="none")])
    with pytest.raises(settings.SharedNamespace):
        settings.check_connect("host", USER, [Endpoint(network_name="host")])
    with pytest.raises(settings.SharedNamespace):
        settings.check_connect("container:x", USER, [])


def test_the_default_route_s_network() -> None:
    inside = network("aaa", is_internal=True)
    order = sorted(
        ((USER, EndpointConfig()), (inside, EndpointConfig()), (BRIDGE, EndpointConfig())),
        key=lambda pair: settings.gateway_order(*pair),
    )
    assert [n.name for n, _ in order] == ["bridge", "user", "aaa"]
    assert settings.gateway_order(USER, EndpointConfig(gw_priority=1)) < settings.gateway_order(
        BRIDGE, EndpointConfig()
    )
