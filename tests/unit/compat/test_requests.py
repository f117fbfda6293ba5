"""What the stock client sends, as the engine understands it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat import versions
from compat.translate import requests, responses
from compat.wire import containers as wire
from compat.wire import reading
from engine.container import model
from engine.errors import InvalidParameter

BODIES = Path(__file__).parents[2] / "contract" / "bodies"


def body(name: str) -> wire.ContainerCreateRequest:
    return reading.read((BODIES / name).read_bytes(), wire.ContainerCreateRequest)


def create(
    sent: wire.ContainerCreateRequest, version: str = "1.51"
) -> tuple[model.CreateRequest, tuple[str, ...]]:
    at = versions.parse(version)
    return requests.create(versions.shape(sent, at), name="/n", platform="", version=at)


def test_the_bare_body_has_some_twenty_nulls_and_they_mean_what_they_should() -> None:
    raw = (BODIES / "cli-28-create-bare.json").read_text()
    assert raw.count("null") >= 20
    request, warnings = create(body("cli-28-create-bare.json"))
    assert warnings == ()
    assert request.name == "/n"
    assert request.config == model.Config(image="busybox", attach_stdout=True, attach_stderr=True)
    host = request.host_config
    assert (host.masked_paths, host.readonly_paths, host.binds) == (None, None, None)
    assert (host.dns, host.network_mode, host.restart_policy.name) == ((), "bridge", "no")
    assert host.resources.pids_limit is None
    assert request.endpoints == {"bridge": model.EndpointConfig()}


def test_the_full_body_arrives_whole() -> None:
    request, _ = create(body("cli-28-create-full.json"))
    config, host = request.config, request.host_config
    assert config.cmd == ("1000",)
    assert config.entrypoint == ("sleep",)
    assert config.exposed_ports == ("7777/tcp", "80/tcp", "9999/udp")
    assert config.volumes == ("/vanon",)
    assert (config.stop_signal, config.stop_timeout_s) == ("INT", 3)
    assert config.healthcheck == model.Healthcheck(
        test=("CMD-SHELL", "true"), interval_ns=1_000_000_000
    )
    assert host.masked_paths == host.readonly_paths == ()
    assert host.port_bindings["80/tcp"] == (
        model.PortBinding(host_ip="127.0.0.1", host_port="18181"),
    )
    assert host.mounts is not None
    tmpfs, volume, bind = host.mounts
    assert tmpfs.tmpfs_options == model.TmpfsOptions(size_bytes=1_000_000, mode=0o700)
    assert volume.volume_options == model.VolumeOptions(
        no_copy=True, labels={"a": "b"}, driver_name="local", has_driver_config=True
    )
    assert bind.bind_options == model.BindOptions(propagation="rslave")
    assert host.resources.ulimits == (model.Ulimit(name="nofile", soft=1024, hard=2048),)
    assert host.resources.memory_swap_bytes == -1
    assert host.has_init is True
    endpoint = request.endpoints["api-net"]
    assert (endpoint.aliases, endpoint.mac_address) == (("al1",), "02:42:ac:11:00:09")


def test_what_was_sent_is_shown_back() -> None:
    """All that goes into the model comes out again, but for what means the same."""
    sent = body("cli-28-create-full.json")
    request, _ = create(sent)
    shown = responses.host_config(request.host_config)
    assert shown == sent.host_config


def test_a_body_without_a_config_is_refused() -> None:
    sent = wire.ContainerCreateRequest(host_config=wire.HostConfig())
    with pytest.raises(
        InvalidParameter, match=r"^config cannot be empty in order to create a container$"
    ):
        create(sent)


def with_host(**changes: object) -> wire.ContainerCreateRequest:
    return wire.ContainerCreateRequest(
        image="a",
        host_config=wire.HostConfig(**changes),  # type: ignore[arg-type]
    )


def test_old_defaults_stay() -> None:
    assert create(with_host(), "1.39")[0].host_config.ipc_mode == "shareable"
    assert create(with_host(), "1.40")[0].host_config.ipc_mode == ""
    assert create(with_host(auto_remove=True), "1.24")[0].host_config.auto_remove is False
    assert create(with_host(auto_remove=True), "1.25")[0].host_config.auto_remove is True


def test_options_of_another_mount_type_are_refused_since_1_42() -> None:
    mount = wire.Mount(type="bind", target="/a", tmpfs_options=wire.TmpfsOptions(size_bytes=1))
    sent = with_host(mounts=(mount,))
    sentence = r'^TmpfsOptions must not be specified on mount type "bind"$'
    with pytest.raises(InvalidParameter, match=sentence):
        create(sent)
    (kept,) = create(sent, "1.41")[0].host_config.mounts or ()
    assert kept.tmpfs_options is None


def test_image_mounts_came_with_1_48() -> None:
    sent = with_host(mounts=(wire.Mount(type="image", source="a", target="/a"),))
    with pytest.raises(InvalidParameter, match=r'^Mount type "Image" needs API v1.48 or newer$'):
        create(sent, "1.47")
    assert create(sent)[0].host_config.mounts


def test_read_only_binds_were_flat_before_1_44() -> None:
    sent = with_host(mounts=(wire.Mount(type="bind", source="/a", target="/b", read_only=True),))
    (old,) = create(sent, "1.43")[0].host_config.mounts or ()
    (new,) = create(sent, "1.44")[0].host_config.mounts or ()
    assert old.bind_options == model.BindOptions(read_only_non_recursive=True)
    assert new.bind_options is None


def networks(**endpoints: wire.EndpointSettings) -> wire.NetworkingConfig:
    return wire.NetworkingConfig(endpoints_config=dict(endpoints))


def test_several_networks_came_with_1_44() -> None:
    sent = wire.ContainerCreateRequest(
        image="a", networking_config=networks(a=wire.EndpointSettings(), b=wire.EndpointSettings())
    )
    with pytest.raises(InvalidParameter, match=r"multiple network endpoints: a, b$"):
        create(sent, "1.43")
    assert set(create(sent)[0].endpoints) == {"a", "b"}


MAC = "02:42:ac:11:00:09"


def test_the_mac_address_of_the_container_moves_to_its_main_network() -> None:
    sent = wire.ContainerCreateRequest(image="a", mac_address=MAC)
    request, warnings = create(sent)
    assert request.endpoints["bridge"].mac_address == MAC
    assert warnings == (
        "The container-wide MacAddress field is now deprecated. "
        "It should be specified in EndpointsConfig instead.",
    )
    assert create(sent, "1.43")[1] == ()


def test_an_endpoints_mac_address_was_not_known_before_1_44() -> None:
    sent = wire.ContainerCreateRequest(
        image="a", networking_config=networks(bridge=wire.EndpointSettings(mac_address=MAC))
    )
    assert create(sent, "1.43")[0].endpoints["bridge"].mac_address == ""
    assert create(sent, "1.44")[0].endpoints["bridge"].mac_address == MAC


def test_two_mac_addresses_clash() -> None:
    sent = wire.ContainerCreateRequest(
        image="a",
        mac_address=MAC,
        networking_config=networks(bridge=wire.EndpointSettings(mac_address="02:42:00:00:00:01")),
    )
    with pytest.raises(InvalidParameter, match="must match the endpoint-specific MAC address"):
        create(sent)


def test_sysctls_of_an_interface_move_to_its_endpoint_until_1_47() -> None:
    sent = with_host(sysctls={"net.ipv6.conf.eth0.forwarding": "1", "kernel.msgmax": "5"})
    request, (warning,) = create(sent, "1.47")
    option = "net.ipv6.conf.IFNAME.forwarding=1"
    assert request.endpoints["bridge"].driver_opts == {requests.ENDPOINT_SYSCTLS: option}
    assert request.host_config.sysctls == {"kernel.msgmax": "5"}
    assert warning.startswith('Migrated sysctl "net.ipv6.conf.eth0.forwarding" to DriverOpts')
    with pytest.raises(InvalidParameter, match="must be supplied using driver option"):
        create(sent, "1.48")


def test_restart_policies_have_names() -> None:
    with pytest.raises(
        InvalidParameter, match=r"^invalid restart policy: unknown policy 'foo'; use"
    ):
        requests.restart_policy(wire.RestartPolicy(name="foo"))
    nameless = requests.restart_policy(wire.RestartPolicy(maximum_retry_count=3))
    assert nameless == model.RestartPolicy(maximum_retry_count=3)  # which the engine refuses


def test_an_update_is_a_host_config() -> None:
    sent = reading.read((BODIES / "cli-28-update.json").read_bytes(), wire.HostConfig)
    assert requests.resources(sent) == model.Resources(memory_bytes=100 * 2**20)
    assert requests.restart_policy(sent.restart_policy).name == "always"


def test_an_exec_without_a_command_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"^No exec command specified$"):
        requests.exec_config(wire.ExecCreateRequest())


def test_an_endpoint_that_is_null_is_refused() -> None:
    config = wire.NetworkingConfig(endpoints_config={"bridge": None})
    sent = wire.ContainerCreateRequest(image="busybox", networking_config=config)
    with pytest.raises(InvalidParameter, match=r"^invalid config for network bridge: E"):
        create(sent)
