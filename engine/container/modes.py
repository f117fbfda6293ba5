"""Namespaces by mode: whose network, pid, ipc, uts and cgroup namespace a container lives in.

A mode is what Docker calls it: "", "private", "host", "none", "shareable", "container:<ref>".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from engine.container.model import Config, HostConfig

_PREFIX = "container:"


def other(mode: str) -> str | None:
    """The container whose namespace is shared, None if it is not about another's."""
    return mode.removeprefix(_PREFIX) if mode.startswith(_PREFIX) else None


def shared_with(container_id: str) -> str:
    return _PREFIX + container_id


HOST_NETWORK_AND_LINKS = (
    "conflicting options: host type networking can't be used with links. "
    "This would result in undefined behavior"
)


def is_user_defined_network(mode: str) -> bool:
    """Neither one of Docker's own nor another container's."""
    return mode not in ("", "default", "bridge", "host", "none") and other(mode) is None


def is_private_network(mode: str) -> bool:
    """Whether the container has a network namespace of its own."""
    return mode != "host" and other(mode) is None


def check(config: Config, host_config: HostConfig) -> None:
    """Refuse modes that do not exist (daemon_unix.go verifyPlatformContainerSettings)."""
    _require(host_config.ipc_mode, {"", "none", "private", "host", "shareable"}, "IPC mode")
    _require(host_config.pid_mode, {"", "host"}, "PID mode", needs_ref=True)
    if host_config.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host_config.uts_mode}")
    if host_config.cgroupns_mode not in ("", "private", "host"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host_config.cgroupns_mode}")
    _check_network(config, host_config)


def _require(mode: str, known: set[str], noun: str, *, needs_ref: bool = False) -> None:
    ref = other(mode)
    if ref is None and mode not in known:
        raise InvalidParameter(f"invalid {noun}: {mode}")
    if ref == "" and needs_ref:
        raise InvalidParameter(f"invalid {noun}: {mode}")


def _check_network(config: Config, host_config: HostConfig) -> None:
    mode = host_config.network_mode
    if mode == "container" or other(mode) is not None:
        _check_shared_network(config, host_config)
    if host_config.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if mode == "host" and host_config.links:
        raise InvalidParameter(HOST_NETWORK_AND_LINKS)


def _check_shared_network(config: Config, host_config: HostConfig) -> None:
    """What another container's network leaves no room for (runconfig validateNetContainerMode)."""
    if not other(host_config.network_mode):
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    conflicts = (
        (config.hostname, "hostname and the network mode"),
        (
            host_config.links,
            "container type network can't be used with links. "
            "This would result in undefined behavior",
        ),
        (host_config.dns, "dns and the network mode"),
        (host_config.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            host_config.port_bindings or host_config.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (config.exposed_ports, "port exposing and the container type network mode"),
    )
    for present, sentence in conflicts:
        if present:
            raise InvalidParameter(f"conflicting options: {sentence}")
