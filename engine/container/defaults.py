"""What dockerd fills into a create request before it keeps it.

moby daemon/daemon_unix.go adaptContainerSettings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.container import modes, spec
from engine.container.model import Endpoint, EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.config import EngineConfig
    from engine.container.model import Config, HostConfig
    from engine.network.model import Network


def complete(
    host_config: HostConfig,
    config: EngineConfig,
    *,
    cgroup_version: int,
    find_id: Callable[[str], str],
    masked_paths: tuple[str, ...] = spec.MASKED_PATHS,
) -> HostConfig:
    """The host config as inspect will show it.

    `find_id` turns a container's name into its id, and gives back what names none.
    """
    privileged = host_config.privileged
    resources = host_config.resources
    if resources.memory_bytes > 0 and resources.memory_swap_bytes == 0:
        resources = msgspec.structs.replace(resources, memory_swap_bytes=2 * resources.memory_bytes)
    if resources.oom_kill_disable is None and cgroup_version == 1:
        resources = msgspec.structs.replace(resources, oom_kill_disable=False)
    return msgspec.structs.replace(
        host_config,
        resources=resources,
        security_opt=_security_opt(host_config),
        shm_size_bytes=host_config.shm_size_bytes or config.default_shm_size_bytes,
        ipc_mode=_resolve(host_config.ipc_mode, find_id) or config.default_ipc_mode,
        pid_mode=_resolve(host_config.pid_mode, find_id),
        network_mode=_network_mode(_resolve(host_config.network_mode, find_id)),
        cgroupns_mode=host_config.cgroupns_mode or _cgroupns(config, privileged, cgroup_version),
        runtime=host_config.runtime or config.default_runtime,
        masked_paths=_paths(host_config.masked_paths, masked_paths, privileged=privileged),
        readonly_paths=_paths(
            host_config.readonly_paths, spec.READONLY_PATHS, privileged=privileged
        ),
    )


def _resolve(mode: str, find_id: Callable[[str], str]) -> str:
    """A container is named by its id from here on, so that it may be renamed."""
    ref = modes.other(mode)
    return modes.shared_with(find_id(ref)) if ref else mode


def _security_opt(host_config: HostConfig) -> tuple[str, ...] | None:
    """What shares the host's processes or IPC has no label of its own (generateSecurityOpt)."""
    asked = host_config.security_opt
    is_open = host_config.privileged or "host" in (host_config.ipc_mode, host_config.pid_mode)
    if not is_open or any(each.partition("=")[0] == "label" for each in asked or ()):
        return asked
    return (*(asked or ()), "label=disable")


def _network_mode(mode: str) -> str:
    return "bridge" if mode in ("", "default") else mode


def _cgroupns(config: EngineConfig, privileged: bool, cgroup_version: int) -> str:
    """The host's on v1; a namespace of its own on v2, for privileged ones too."""
    if cgroup_version == 1 and privileged:
        return "host"
    return config.default_cgroupns_mode or ("private" if cgroup_version == 2 else "host")


def _paths(
    asked: tuple[str, ...] | None, default: tuple[str, ...], *, privileged: bool
) -> tuple[str, ...] | None:
    if asked is not None or privileged:
        return asked
    return default


def endpoints(
    config: Config,
    host_config: HostConfig,
    asked: Mapping[str, EndpointConfig],
    main: Network | None,
) -> tuple[Endpoint, ...]:
    """The networks the container is to stand on: those that were asked for, or else the mode's.

    `main` is the network of ones own that the mode means, if there is one by now: it goes by its
    name, however the client called it.
    """
    mode = host_config.network_mode
    if config.network_disabled or modes.other(mode) is not None:
        return ()
    named = {("bridge" if name == "default" else name): wish for name, wish in asked.items()}
    wishes = named or {mode: EndpointConfig()}
    if main is not None and main.name not in wishes:
        wishes = {
            main.name if name in (main.id, mode) else name: wish for name, wish in wishes.items()
        }
    return tuple(
        Endpoint(network_name=name, config=wish, mac_address=wish.mac_address)
        for name, wish in wishes.items()
    )
