"""Requests to create a network, and what of a bridge's options is understood."""

from __future__ import annotations

import contextlib
import re

import msgspec
import pytest

from engine.config import EngineConfig
from engine.errors import InvalidParameter, WharfError
from engine.network import bridge, bridge_options, driver, ipam, parent, request
from engine.network.model import IPAM, NetworkRequest, Subnet

CONFIG = EngineConfig(default_network_opts={"bridge": {bridge_options.MTU: "1400", "x": "y"}})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (NetworkRequest(name="host"), "operation is not permitted on predefined host network "),
        (NetworkRequest(name=" "), "invalid name: name is empty"),
        (NetworkRequest(name="x", driver="nope"), 'plugin "nope" not found'),
        (NetworkRequest(name="x", driver="null"), 'only one instance of "null" network is allowed'),
        (
            NetworkRequest(name="x", driver="overlay"),
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again.",
        ),
        (
            NetworkRequest(name="x", is_config_only=True, is_internal=True),
            "configuration network can only contain network specific fields. Network operator "
            "fields like [ ingress | internal | attachable | scope ] are not supported.",
        ),
        (
            NetworkRequest(name="x", is_config_only=True, config_from="y"),
            "a configuration network cannot depend on another configuration network",
        ),
        (
            NetworkRequest(name="x", config_from="y", labels={"a": "b"}),
            "user specified configurations are not supported if the network depends on a "
            "configuration network",
        ),
        (
            NetworkRequest(name="x", config_from="y", options={"a": "b"}),
            "network driver options are not supported if the network depends on a configuration "
            "network",
        ),
        (
            NetworkRequest(name="x", scope="swarm"),
            "cannot create a swarm scoped network when swarm is not active",
        ),
        (
            NetworkRequest(name="default"),
            "operation is not permitted on predefined default network ",
        ),
    ],
)
def test_refusals(wanted: NetworkRequest, said: str) -> None:
    with pytest.raises(WharfError) as refused:
        request.check(wanted)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("driver_name", "options", "said"),
    [
        (
            "macvlan",
            {"macvlan_mode": "Bridge"},
            "requested macvlan mode 'Bridge' is not valid, 'bridge' mode is the macvlan driver "
            "default",
        ),
        ("macvlan", {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        (
            "ipvlan",
            {"ipvlan_mode": "l4"},
            "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (
            "ipvlan",
            {"ipvlan_flag": "x"},
            "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default",
        ),
        ("ipvlan", {"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
    ],
)
def test_refused_options(driver_name: str, options: dict[str, str], said: str) -> None:
    wanted = NetworkRequest(name="x", driver=driver_name, options=options)
    with pytest.raises(WharfError) as refused:
        request.compose(wanted, None, CONFIG)
    assert str(refused.value) == said


def test_a_parent_is_called_as_docker_calls_it() -> None:
    for driver_name, prefix in (("macvlan", "dm-"), ("ipvlan", "di-")):
        made = request.compose(NetworkRequest(name="x", driver=driver_name), None, CONFIG)
        assert made.link == f"{prefix}{made.id[:12]}"
        options = {"parent": "eth0.50"}
        wanted = NetworkRequest(name="x", driver=driver_name, options=options)
        assert request.compose(wanted, None, CONFIG).link == "eth0.50"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "invalid subinterface vlan name nope, example formatting is eth0.10"),
        ("nope.5", "-o parent interface was not found on the host: nope"),
        (
            "lo.1.2",
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead "
            "received lo.1.2",
        ),
        ("lo.x", "unable to parse a valid vlan id from: x (ex. eth0.10 for vlan 10)"),
        ("lo.4095", "vlan id must be between 1-4094, received: 4095"),
        ("lo.-1", "vlan id must be between 1-4094, received: -1"),
    ],
)
def test_names_that_make_no_sub_interface(name: str, said: str) -> None:
    with pytest.raises(parent.BadParent) as refused:
        parent.parse_vlan(name)
    assert str(refused.value) == said
    assert parent.parse_vlan("lo.+07") == ("lo", 7)


def test_an_ipam_driver_is_looked_for_after_the_options() -> None:
    wanted = NetworkRequest(name="x", ipam=IPAM(driver="nope"))
    with pytest.raises(ipam.NoSuchPlugin) as refused:
        request.compose(wanted, None, CONFIG)
    assert str(refused.value) == 'plugin "nope" not found'


def test_a_name_may_be_anything_and_reaches_no_link() -> None:
    wanted = NetworkRequest(name='a/b "c"\n;', options={"mine": "1"})
    request.check(wanted)
    network = request.compose(wanted, None, CONFIG)
    assert network.name == wanted.name
    assert network.link == f"wh{CONFIG.instance[:4]}{network.id[:9]}"
    assert network.options == {bridge_options.MTU: "1400", "x": "y", "mine": "1"}


def test_a_template_gives_what_the_request_does_not() -> None:
    subnet = Subnet(subnet="10.9.0.0/24")
    template = request.compose(
        NetworkRequest(
            name="t", is_config_only=True, ipam=IPAM(config=(subnet,)), labels={"a": "1"}
        ),
        None,
        EngineConfig(),
    )
    assert (template.driver, template.link) == ("null", "")
    wanted = NetworkRequest(name="x", config_from="t", labels={"b": "2"})
    network = request.compose(wanted, template, EngineConfig())
    assert network.ipam.config == (subnet,)
    assert network.labels == {"a": "1", "b": "2"}
    with pytest.raises(request.NoSuchTemplate) as refused:
        request.compose(wanted, None, EngineConfig())
    assert str(refused.value) == 'configuration network "t" does not exist'


def test_options_of_a_bridge() -> None:
    found = bridge_options.parse(
        {
            bridge_options.BRIDGE_NAME: "mine",
            bridge_options.ENABLE_ICC: "False",
            bridge_options.ENABLE_MASQUERADE: "0",
            bridge_options.HOST_BINDING: "127.0.0.1",
            bridge_options.MTU: "9000",
            "unknown": "let be",
        }
    )
    assert found == bridge_options.Options(
        link="mine", has_icc=False, has_masquerade=False, binding="127.0.0.1", mtu=9000
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            bridge_options.MTU,
            "x",
            'failed to parse com.docker.network.driver.mtu value: x (strconv.Atoi: parsing "x": '
            "invalid syntax)",
        ),
        (bridge_options.MTU, "-1", "invalid MTU number: -1"),
        (
            bridge_options.ENABLE_ICC,
            "yes",
            "failed to parse com.docker.network.bridge.enable_icc value: yes "
            '(strconv.ParseBool: parsing "yes": invalid syntax)',
        ),
        (
            bridge_options.HOST_BINDING,
            "z",
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: z (nil ip)",
        ),
    ],
)
def test_bad_options(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        bridge_options.parse({name: value})
    assert str(refused.value) == said


@pytest.mark.parametrize("name", ["n5%d", "a" * 16, "a/b", "..", "a b", "a\n"])
def test_a_bridge_s_name_must_be_a_link_s(name: str) -> None:
    with pytest.raises(InvalidParameter):
        bridge_options.parse({bridge_options.BRIDGE_NAME: name})


def test_gateway_modes() -> None:
    for version, name in bridge_options.GATEWAY_MODES.items():
        for mode in bridge_options.Mode:
            options = bridge_options.parse({name: mode.value})
            assert options.mode(version) is mode
            assert options.mode(10 - version) is bridge_options.Mode.NAT
        for word in ("", "NAT", "foo"):
            with pytest.raises(InvalidParameter) as caught:
                bridge_options.parse({name: word})
            assert str(caught.value) == (
                f"failed to parse {name} value: {word} (unknown gateway mode {word})"
            )


def test_an_isolated_network_is_internal() -> None:
    options = {bridge_options.GATEWAY_MODES[6]: "isolated"}
    for is_internal in (True, False):
        wanted = NetworkRequest(name="n", options=options, is_internal=is_internal)
        made = request.compose(wanted, None, EngineConfig())
        made = msgspec.structs.replace(made, subnets=(Subnet(subnet="10.0.0.0/24"),))
        refusal = contextlib.nullcontext() if is_internal else pytest.raises(bridge.NotIsolated)
        with refusal:
            bridge.Driver().check_made(made, ())


def test_who_bears_an_address() -> None:
    options = bridge_options.parse(
        {bridge_options.INHIBIT_IPV4: "true", bridge_options.GATEWAY_MODES[6]: "isolated"}
    )
    assert not options.has_address(4)
    assert not options.has_address(6)
    assert options.needs_gateway(4, is_internal=False)
    assert not options.needs_gateway(4, is_internal=True)
    assert not options.needs_gateway(6, is_internal=True)


def test_addresses_that_packets_leave_from() -> None:
    given = {bridge_options.SOURCES[4]: "192.0.2.2", bridge_options.SOURCES[6]: "fd00::2"}
    assert bridge_options.parse(given).sources == ("192.0.2.2", "fd00::2")
    for name, text, reason in (
        (bridge_options.SOURCES[4], "foo", "nil ip"),
        (bridge_options.SOURCES[6], "", "nil ip"),
        (bridge_options.SOURCES[4], "fd00::2", "not an IPv4 address"),
    ):
        with pytest.raises(InvalidParameter, match=re.escape(f"value: {text} ({reason})")):
            bridge_options.parse({name: text})


def test_trusted_links_are_those_that_can_be() -> None:
    found = bridge_options.parse(
        {bridge_options.TRUSTED: "eth0::a b:eth0:averyveryverylongname:wg0"}
    )
    assert found.trusted == ("eth0", "a b", "wg0")


def test_a_random_mac_is_local_and_unicast() -> None:
    for _ in range(50):
        assert int(driver.random_mac()[:2], 16) & 0x03 == 0x02
