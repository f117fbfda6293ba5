"""The engine as a whole, from its own facts to the shapes of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat import versions
from compat.wire import system as wire
from compat.wire.base import UNSET
from engine import timestamp
from engine.registry.auth import RegistryAuth
from engine.version import SERVER_VERSION

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.events import Event
    from engine.system import Info, Version

INDEX_SERVER = "https://index.docker.io/v1/"
PRODUCT = "Wharf"


def version(facts: Version, config: EngineConfig) -> wire.VersionResponse:
    details = {
        "ApiVersion": str(versions.NEWEST),
        "Arch": facts.arch,
        "BuildTime": facts.build_time,
        "Experimental": "true" if config.experimental else "false",
        "GitCommit": facts.git_commit,
        "GoVersion": facts.language,
        "KernelVersion": facts.kernel_version,
        "MinAPIVersion": str(versions.OLDEST),
        "Os": "linux",
    }
    engine = wire.ComponentVersion(name="Engine", version=SERVER_VERSION, details=details)
    others = [wire.ComponentVersion(name=n, version=v, details={}) for n, v in facts.components]
    return wire.VersionResponse(
        platform=wire.PlatformName(name=PRODUCT),
        components=(engine, *others),
        version=SERVER_VERSION,
        api_version=str(versions.NEWEST),
        min_api_version=str(versions.OLDEST),
        git_commit=facts.git_commit,
        go_version=facts.language,
        os="linux",
        arch=facts.arch,
        kernel_version=facts.kernel_version,
        experimental=config.experimental or UNSET,
        build_time=facts.build_time or UNSET,
    )


def info(facts: Info, config: EngineConfig, *, listeners: int) -> wire.InfoResponse:
    """`listeners` is the number of clients that follow the events."""
    return wire.InfoResponse(
        id=facts.id,
        containers=facts.containers,
        containers_running=facts.containers_running,
        containers_paused=facts.containers_paused,
        containers_stopped=facts.containers_stopped,
        images=facts.images,
        driver="overlay2",
        driver_status=facts.driver_status,
        plugins=wire.PluginsInfo(
            volume=facts.volume_drivers,
            network=facts.network_drivers,
            authorization=None,
            log=facts.log_drivers,
        ),
        memory_limit=facts.memory_limit,
        swap_limit=facts.swap_limit,
        kernel_memory_tcp=facts.kernel_memory_tcp or UNSET,
        cpu_cfs_period=facts.cpu_cfs_period,
        cpu_cfs_quota=facts.cpu_cfs_quota,
        cpu_shares=facts.cpu_shares,
        cpu_set=facts.cpu_set,
        pids_limit=facts.pids_limit,
        ipv4_forwarding=facts.ipv4_forwarding,
        debug=config.debug,
        n_fd=facts.open_files,
        oom_kill_disable=facts.oom_kill_disable,
        n_goroutines=facts.tasks,
        system_time=timestamp.format_ns(facts.system_time_ns),
        logging_driver=config.log_driver,
        cgroup_driver="cgroupfs",
        cgroup_version=facts.cgroup_version,
        n_events_listener=listeners,
        kernel_version=facts.kernel_version,
        operating_system=facts.operating_system,
        os_version=facts.os_version,
        os_type="linux",
        architecture=facts.architecture,
        index_server_address=INDEX_SERVER,
        registry_config=_registries(config),
        ncpu=facts.cpus,
        mem_total=facts.memory_bytes,
        docker_root_dir=config.data_root,
        http_proxy=config.http_proxy,
        https_proxy=config.https_proxy,
        no_proxy=config.no_proxy,
        name=facts.hostname,
        labels=config.labels,
        experimental_build=config.experimental,
        server_version=SERVER_VERSION,
        runtimes={name: wire.Runtime(path=path) for name, path in facts.runtimes.items()},
        default_runtime=config.default_runtime,
        live_restore_enabled=config.live_restore,
        init_binary=facts.init_binary,
        security_options=facts.security_options,
        default_address_pools=tuple(
            wire.AddressPool(base=pool.base, size=pool.size)
            for pool in config.default_address_pools
        )
        or UNSET,
        firewall_backend=wire.FirewallInfo(driver="nftables"),
        cdi_spec_dirs=(),
        warnings=facts.warnings or None,
    )


def _registries(config: EngineConfig) -> wire.RegistryConfig:
    hub = config.registries.get("docker.io", ())
    mirrors = tuple(dict.fromkeys((*config.registry_mirrors, *hub)))
    cidrs = [r for r in config.insecure_registries if "/" in r]
    names = [r for r in config.insecure_registries if "/" not in r]
    indexes = {
        name: wire.IndexInfo(mirrors=(), name=name, official=False, secure=False) for name in names
    }
    for name, found in config.registries.items():
        is_insecure = name in indexes
        indexes[name] = wire.IndexInfo(
            mirrors=found, name=name, official=False, secure=not is_insecure
        )
    indexes["docker.io"] = wire.IndexInfo(
        mirrors=mirrors, name="docker.io", official=True, secure=True
    )
    return wire.RegistryConfig(
        index_configs=indexes,
        insecure_registry_cidrs=("::1/128", "127.0.0.0/8", *cidrs),
        mirrors=mirrors or None,
    )


def event(happened: Event) -> wire.EventMessage:
    """Containers and images are told of twice: old clients read `status`, `id` and `from`."""
    is_told_twice = happened.type in {"container", "image"}
    image = happened.attributes.get("image") if happened.type == "container" else None
    return wire.EventMessage(
        status=happened.action if is_told_twice else UNSET,
        id=(happened.actor_id or UNSET) if is_told_twice else UNSET,
        source=image or UNSET,
        type=happened.type,
        action=happened.action,
        actor=wire.Actor(id=happened.actor_id, attributes=dict(happened.attributes)),
        scope=happened.scope,
        time=happened.time_ns // timestamp.SECOND,
        time_nano=happened.time_ns,
    )


def credentials(sent: wire.AuthRequest) -> RegistryAuth:
    return RegistryAuth(
        username=sent.username,
        password=sent.password,
        identity_token=sent.identitytoken,
        registry_token=sent.registrytoken,
        server_address=sent.serveraddress,
    )
