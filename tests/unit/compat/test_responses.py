"""How a container looks from outside: states, sentences, ports, names of networks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.translate import responses
from compat.translate.ago import ago
from engine.container import model
from engine.container.model import Status
from engine.ids import ContainerId

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
ID = "4f" * 32


def container(**changes: Any) -> model.Container:
    given: dict[str, Any] = {
        "id": ContainerId(ID),
        "name": "web",
        "created_ns": NOW,
        "config": model.Config(image="busybox", cmd=("sh", "-c", "a b"), hostname="web1"),
        "host_config": model.HostConfig(network_mode="bridge"),
        "image_id": "sha256:" + "00" * 32,
        "path": "sh",
        "args": ("-c", "a b"),
    }
    return model.Container(**{**given, **changes})


def encoded(response: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(msgspec.json.encode(response))
    return document


def inspect(of: model.Container, **view: Any) -> dict[str, Any]:
    shown = model.ContainerView(container=of, **view)
    return encoded(responses.inspect(shown, short_id_is_alias=False))


def summary(of: model.Container, **view: Any) -> dict[str, Any]:
    return encoded(responses.summary(model.ContainerView(container=of, **view), NOW))


# What dockerd 28.5.2 gives for a container made with nothing but an image and a command.
KEYS = [
    "Id",
    "Created",
    "Path",
    "Args",
    "State",
    "Image",
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "LogPath",
    "Name",
    "RestartCount",
    "Driver",
    "Platform",
    "MountLabel",
    "ProcessLabel",
    "AppArmorProfile",
    "ExecIDs",
    "HostConfig",
    "GraphDriver",
    "Mounts",
    "Config",
    "NetworkSettings",
]
CONFIG_KEYS = [
    "Hostname",
    "Domainname",
    "User",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Env",
    "Cmd",
    "Image",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "OnBuild",
    "Labels",
]
SUMMARY_KEYS = [
    "Id",
    "Names",
    "Image",
    "ImageID",
    "Command",
    "Created",
    "Ports",
    "Labels",
    "State",
    "Status",
    "HostConfig",
    "NetworkSettings",
    "Mounts",
]
NULLS = {
    "Binds": None,
    "Dns": None,
    "CapAdd": None,
    "Devices": None,
    "Links": None,
    "SecurityOpt": None,
    "PidsLimit": None,
    "MemorySwappiness": None,
    "Ulimits": None,
}


def test_inspect_has_dockerds_keys_in_dockerds_order() -> None:
    shown = inspect(container())
    assert list(shown) == KEYS
    assert list(shown["Config"]) == CONFIG_KEYS
    assert shown["HostConfig"] | NULLS == shown["HostConfig"]
    assert (shown["ExecIDs"], shown["Mounts"]) == (None, [])
    assert shown["GraphDriver"] == {"Data": None, "Name": "overlay2"}
    assert shown["Config"]["Env"] is None
    assert shown["Config"]["Labels"] == {}


def test_a_summary_has_dockerds_keys_in_dockerds_order() -> None:
    shown = summary(container(), image_name="busybox")
    assert list(shown) == SUMMARY_KEYS
    assert shown["Command"] == "sh -c 'a b'"
    assert shown["Names"] == ["/web"]


def test_sizes_are_shown_when_asked_for_and_a_list_leaves_out_zero() -> None:
    sizes = model.Sizes(rw_bytes=0, rootfs_bytes=7)
    shown = inspect(container(), sizes=sizes)
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (0, 7)
    listed = summary(container(), sizes=sizes)
    assert "SizeRw" not in listed
    assert listed["SizeRootFs"] == 7


@pytest.mark.parametrize(
    ("status", "booleans"),
    [
        (Status.CREATED, (False, False, False, False)),
        (Status.RUNNING, (True, False, False, False)),
        (Status.PAUSED, (True, True, False, False)),
        (Status.RESTARTING, (True, False, True, False)),
        (Status.EXITED, (False, False, False, False)),
        (Status.DEAD, (False, False, False, True)),
    ],
)
def test_the_overlapping_booleans(status: Status, booleans: tuple[bool, ...]) -> None:
    shown = inspect(container(state=model.State(status=status)))["State"]
    assert shown["Status"] == status
    assert tuple(shown[k] for k in ("Running", "Paused", "Restarting", "Dead")) == booleans
    assert shown["StartedAt"] == "0001-01-01T00:00:00Z"


def state(status: Status, **changes: Any) -> model.State:
    began = {"started_ns": NOW - 300 * SECOND, "finished_ns": NOW - 7200 * SECOND}
    return model.State(status=status, **{**began, **changes})


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (state(Status.CREATED), "Created"),
        (state(Status.RUNNING), "Up 5 minutes"),
        (state(Status.RUNNING, health=model.Health()), "Up 5 minutes (health: starting)"),
        (
            state(Status.RUNNING, health=model.Health(status=model.HealthStatus.UNHEALTHY)),
            "Up 5 minutes (unhealthy)",
        ),
        (state(Status.PAUSED), "Up 5 minutes (Paused)"),
        (state(Status.EXITED, exit_code=137), "Exited (137) 2 hours ago"),
        (state(Status.EXITED, finished_ns=0), ""),
        (state(Status.RESTARTING, exit_code=1), "Restarting (1) 2 hours ago"),
        (state(Status.REMOVING), "Removal In Progress"),
        (state(Status.DEAD), "Dead"),
    ],
)
def test_sentences_of_ps(now: model.State, sentence: str) -> None:
    assert responses.status(now, NOW) == sentence


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_how_long_ago(seconds: int, words: str) -> None:
    assert ago(seconds * SECOND) == words


@given(st.integers(min_value=-(10**12), max_value=10**20))
def test_any_duration_has_words(duration_ns: int) -> None:
    assert ago(duration_ns)


ENDPOINT = model.Endpoint(
    network_name="bridge",
    network_id="aa",
    endpoint_id="bb",
    gateway="172.17.0.1",
    ipv4_address="172.17.0.2",
    ipv4_prefix=16,
    mac_address="02:42:ac:11:00:02",
)


def running(**changes: Any) -> model.Container:
    return container(
        state=model.State(status=Status.RUNNING, pid=5, started_ns=NOW),
        sandbox_id="cc",
        sandbox_key="/run/netns/cc",
        **changes,
    )


def test_the_default_bridge_is_shown_twice() -> None:
    shown = inspect(running(endpoints=(ENDPOINT,)))["NetworkSettings"]
    assert shown["IPAddress"] == shown["Networks"]["bridge"]["IPAddress"] == "172.17.0.2"
    other = msgspec.structs.replace(ENDPOINT, network_name="net")
    shown = inspect(running(endpoints=(other,)))["NetworkSettings"]
    assert (shown["IPAddress"], shown["MacAddress"]) == ("", "")
    assert shown["Networks"]["net"]["IPAddress"] == "172.17.0.2"


def test_before_1_45_the_short_id_was_an_alias_on_networks_of_the_users_own() -> None:
    own = msgspec.structs.replace(
        ENDPOINT, network_name="net", config=model.EndpointConfig(aliases=("db",))
    )
    view = model.ContainerView(container=running(endpoints=(ENDPOINT, own)))
    old = encoded(responses.inspect(view, short_id_is_alias=True))["NetworkSettings"]["Networks"]
    assert old["net"]["Aliases"] == ["db", ID[:12], "web1"]
    assert old["bridge"]["Aliases"] is None
    new = encoded(responses.inspect(view, short_id_is_alias=False))["NetworkSettings"]["Networks"]
    assert new["net"]["Aliases"] == ["db"]


def port(host_ip: str, host_port: int, number: int = 80) -> model.PublishedPort:
    return model.PublishedPort(
        container_port=number, protocol="tcp", host_ip=host_ip, host_port=host_port
    )


def test_ports_published_and_exposed() -> None:
    exposed = model.Config(image="a", exposed_ports=("80/tcp", "90/udp"))
    ports = (port("0.0.0.0", 8080), port("::", 8080))
    one = running(config=exposed, ports=ports, endpoints=(ENDPOINT,))
    assert inspect(one)["NetworkSettings"]["Ports"] == {
        "80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "8080"},
            {"HostIp": "::", "HostPort": "8080"},
        ],
        "90/udp": None,
    }
    assert summary(one)["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 90, "Type": "udp"},
    ]


def test_what_does_not_run_has_no_ports() -> None:
    exposed = model.Config(image="a", exposed_ports=("80/tcp",))
    one = container(config=exposed, endpoints=(ENDPOINT,))
    assert inspect(one)["NetworkSettings"]["Ports"] == {}
    assert summary(one)["Ports"] == []


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [("", ""), ("DEL", "fw=="), ("ctrl-^", "Hg=="), ("ctrl-[", "Gw=="), ("x", "eA==")],
)
def test_detach_keys_are_the_bytes_that_end_the_stream(spelled: str, shown: str) -> None:
    config = model.ExecConfig(cmd=("ls",), detach_keys=spelled)
    found = model.Exec(id="e", container_id=ContainerId(ID), config=config)
    assert encoded(responses.exec_inspect(found))["DetachKeys"] == shown


def test_an_exec_shows_its_command_in_two_parts_and_its_keys_in_base64() -> None:
    config = model.ExecConfig(cmd=("ls", "-l"), detach_keys="ctrl-a,b", user="root")
    found = model.Exec(id="e", container_id=ContainerId(ID), config=config)
    shown = encoded(responses.exec_inspect(found))
    assert shown["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "ls",
        "arguments": ["-l"],
        "privileged": False,
        "user": "root",
    }
    assert shown["DetachKeys"] == "AWI="
    assert shown["CanRemove"] is False
    assert shown["ExitCode"] is None
