"""On which networks a container stands: what create asks for, what joining and leaving change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
SLEEP = ["sleep", "100"]


@pytest.fixture
def two(engine: Engine, name: str) -> Iterator[tuple[str, str]]:
    """Two networks; the second leads nowhere."""
    one, other = f"{name}-a", f"{name}-b"
    engine.docker("network", "create", one)
    engine.docker("network", "create", "--internal", other)
    yield one, other
    engine.docker("rm", "-f", name, check=False)
    engine.docker("network", "rm", one, other, check=False)


def create(engine: Engine, name: str, mode: str | None, asked: dict[str, Any] | None) -> None:
    body: dict[str, Any] = {"Image": "busybox", "Cmd": SLEEP, "HostConfig": {}}
    if mode is not None:
        body["HostConfig"]["NetworkMode"] = mode
    if asked is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": asked}
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201


def networks(engine: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = engine.inspect(name)["NetworkSettings"]["Networks"]
    return found


def interfaces(engine: Engine, name: str) -> list[str]:
    return engine.out("exec", name, "ls", "/sys/class/net").split()


@pytest.mark.parametrize("mode", [None, "", "default", "bridge", "none", "other"])
def test_what_was_asked_for_takes_the_place_of_the_mode(
    engine: Engine, name: str, two: tuple[str, str], mode: str | None
) -> None:
    """Who asks for an internal network alone has no way out beside it."""
    create(engine, name, two[0] if mode == "other" else mode, {two[1]: {}})
    assert list(networks(engine, name)) == [two[1]]
    engine.docker("start", name)
    assert list(networks(engine, name)) == [two[1]]
    assert interfaces(engine, name) == ["eth0", "lo"]


def test_a_network_is_one_by_whatever_it_is_called(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    network_id = engine.out("network", "inspect", "-f", "{{.Id}}", two[0])
    for mode, called in ((network_id, two[0]), (two[0], network_id), (network_id, network_id)):
        create(engine, name, mode, {called: {"Aliases": ["q"]}})
        assert list(networks(engine, name)) == [two[0]]
        engine.docker("start", name)
        assert networks(engine, name)[two[0]]["Aliases"] == ["q"]
        assert interfaces(engine, name) == ["eth0", "lo"]
        engine.docker("rm", "-f", name)
    create(engine, name, two[0], {network_id: {}, two[0]: {}})
    refused = engine.call("POST", f"/containers/{name}/start")
    assert refused.status == 403
    said = f"endpoint with name {name} already exists in network {two[0]}"
    assert refused.json()["message"] == f"failed to set up container networking: {said}"


def test_a_container_stays_off_the_last_network_that_it_left(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    engine.docker("run", "-d", "--name", name, "--network", two[0], "busybox", *SLEEP)
    engine.docker("network", "disconnect", two[0], name)
    for again in (("restart", "-t0", name), ("stop", "-t0", name), ("start", name)):
        engine.docker(*again)
        assert networks(engine, name) == {}
    assert interfaces(engine, name) == ["lo"]
    engine.docker("network", "connect", two[1], name)
    engine.docker("restart", "-t0", name)
    assert list(networks(engine, name)) == [two[1]]


def test_the_default_network_is_left_as_any(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    engine.docker("create", "--name", name, "busybox", *SLEEP)
    engine.docker("network", "disconnect", "bridge", name)
    engine.docker("start", name)
    assert networks(engine, name) == {}
    assert interfaces(engine, name) == ["lo"]


def test_what_was_asked_for_first_is_kept(engine: Engine, name: str, two: tuple[str, str]) -> None:
    engine.docker("create", "--name", name, "busybox", *SLEEP)
    for alias in ("x", "y"):
        engine.docker("network", "connect", "--alias", alias, two[0], name)
    assert networks(engine, name)[two[0]]["Aliases"] == ["x"]
    engine.docker("start", name)
    assert networks(engine, name)[two[0]]["Aliases"] == ["x"]


def test_another_network_of_the_same_name_is_not_joined(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    engine.docker("run", "-d", "--name", name, "--network", two[0], "busybox", *SLEEP)
    network_id = engine.out("network", "inspect", "-f", "{{.Id}}", two[0])
    engine.docker("stop", "-t0", name)
    engine.docker("network", "rm", two[0])
    engine.docker("network", "create", two[0])
    refused = engine.call("POST", f"/containers/{name}/start")
    assert refused.status == 404
    said = f"failed to set up container networking: network {network_id} not found"
    assert refused.json()["message"] == said


def test_a_network_of_configuration_alone_is_not_joined(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    configuration = f"{name}-c"
    engine.docker("network", "create", "--config-only", configuration)
    said = "cannot create endpoint on configuration-only network"
    create(engine, name, configuration, None)
    refused = engine.call("POST", f"/containers/{name}/start")
    assert refused.status == 403
    assert refused.json()["message"] == f"failed to set up container networking: {said}"
    engine.docker("rm", name)
    engine.docker("run", "-d", "--name", name, "--network", two[0], "busybox", *SLEEP)
    refused = engine.call("POST", f"/networks/{configuration}/connect", {"Container": name})
    assert (refused.status, refused.json()["message"]) == (403, said)
    engine.docker("rm", "-f", name)
    engine.docker("network", "rm", configuration)


def test_only_who_stands_on_the_hosts_network_is_told_of_it(
    engine: Engine, name: str, two: tuple[str, str]
) -> None:
    engine.docker("run", "-d", "--name", name, "--network", two[0], "busybox", *SLEEP)
    refused = engine.call("POST", "/networks/host/disconnect", {"Container": name})
    said = f"container {engine.inspect(name)['Id']} is not connected to network host"
    assert (refused.status, refused.json()["message"]) == (500, said)


def test_a_mac_address_may_be_written_with_dots(engine: Engine, name: str) -> None:
    shown = ("busybox", "cat", "/sys/class/net/eth0/address")
    said = engine.out("run", "--rm", "--mac-address", "0a0b.0c0d.0e0f", *shown)
    assert said == "0a:0b:0c:0d:0e:0f"
