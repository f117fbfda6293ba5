"""What clients ask for, from the API's shapes to the engine's model. Pure.

The one place that decides what null and absence mean: a list keeps the difference where dockerd
shows it back (`Dns: null` and `Dns: []`), a map or a string does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from compat import versions
from compat.wire.base import UNSET
from engine.container import model
from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import UnsetType

    from compat.versions import Version
    from compat.wire import containers as wire

T = TypeVar("T")

DEFAULT_NETWORK = "bridge"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"

_NO_CONFIG = "config cannot be empty in order to create a container"


def _or(value: T | UnsetType | None, default: T) -> T:
    return default if value is None or value is UNSET else value


def _maybe(value: T | UnsetType | None) -> T | None:
    return None if value is UNSET else value


# Create


def create(
    body: wire.ContainerCreateRequest, *, name: str, platform: str, version: Version
) -> tuple[model.CreateRequest, tuple[str, ...]]:
    """The request and the warnings that its wording earns. Raises InvalidParameter."""
    if body == type(body)(host_config=body.host_config, networking_config=body.networking_config):
        raise InvalidParameter(_NO_CONFIG)
    _check_windows(body.host_config)
    check_kernel_memory(body.host_config, version)
    host = host_config(body, version)
    endpoints = _endpoints(body, host.network_mode)
    several: list[str] = []
    if len(endpoints) > 1 and not versions.has(version, "create.several-networks"):
        raise InvalidParameter(
            "Container cannot be created with multiple network endpoints: " + ", ".join(endpoints)
        )
    for step in (_volume_driver, _mac_address, _sysctls):
        host, endpoints, warning = step(body, host, endpoints, version)
        several += [warning] if warning else []
    request = model.CreateRequest(
        name=name,
        platform=platform,
        config=config(body),
        host_config=host,
        endpoints=endpoints,
    )
    return request, tuple(several)


def _check_windows(host: wire.HostConfig | None) -> None:
    """What only another system's daemon does (moby runconfig.validateIsolation, validateQoS)."""
    if host is None:
        return
    if host.isolation.lower() not in {"", "default"}:
        raise InvalidParameter(
            f"invalid isolation ({host.isolation}): linux only supports 'default'"
        )
    for amount, what in (
        (host.io_maximum_bandwidth, "bandwidth configuration"),
        (host.io_maximum_iops, "IOPs configuration"),
    ):
        if amount:
            raise InvalidParameter(f"invalid option: QoS maximum {what} is not supported on linux")


def config(body: wire.Config) -> model.Config:
    health = _maybe(body.healthcheck)
    stop_signal = _or(body.stop_signal, "")
    return model.Config(
        image=_or(body.image, ""),
        hostname=body.hostname,
        domainname=body.domainname,
        user=body.user,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        exposed_ports=tuple(_or(body.exposed_ports, {})),
        tty=body.tty,
        open_stdin=body.open_stdin,
        stdin_once=body.stdin_once,
        env=body.env or (),
        cmd=body.cmd,
        entrypoint=body.entrypoint,
        args_escaped=_or(body.args_escaped, False),
        healthcheck=None if health is None else _health(health),
        volumes=tuple(body.volumes or ()),
        working_dir=body.working_dir,
        network_disabled=_or(body.network_disabled, False),
        mac_address="",
        on_build=body.on_build,
        labels=body.labels or {},
        stop_signal=stop_signal or None,
        stop_timeout_s=_maybe(body.stop_timeout),
        shell=_maybe(body.shell),
    )


def _health(sent: wire.HealthConfig) -> model.Healthcheck:
    return model.Healthcheck(
        test=_or(sent.test, ()),
        interval_ns=_or(sent.interval, 0),
        timeout_ns=_or(sent.timeout, 0),
        start_period_ns=_or(sent.start_period, 0),
        start_interval_ns=_or(sent.start_interval, 0),
        retries=_or(sent.retries, 0),
    )


def host_config(body: wire.ContainerCreateRequest, version: Version) -> model.HostConfig:
    from compat.wire.containers import HostConfig

    host = body.host_config or HostConfig()
    height, width = host.console_size
    return model.HostConfig(
        resources=resources(host),
        binds=host.binds,
        container_id_file=host.container_id_file,
        log_config=model.LogConfig(type=host.log_config.type, config=host.log_config.config or {}),
        network_mode=_network_mode(host.network_mode),
        port_bindings=None
        if host.port_bindings is None
        else {
            port: tuple(
                model.PortBinding(host_ip=b.host_ip, host_port=b.host_port) for b in bindings or ()
            )
            for port, bindings in host.port_bindings.items()
        },
        restart_policy=restart_policy(host.restart_policy),
        auto_remove=host.auto_remove and versions.has(version, "create.removes-itself"),
        volume_driver=host.volume_driver,
        volumes_from=host.volumes_from,
        console_size=(height, width),
        annotations=_or(host.annotations, {}),
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        cgroupns_mode=host.cgroupns_mode,
        dns=host.dns,
        dns_options=host.dns_options,
        dns_search=host.dns_search,
        extra_hosts=host.extra_hosts,
        group_add=host.group_add,
        ipc_mode=_ipc_mode(host.ipc_mode, version),
        cgroup=host.cgroup,
        links=host.links,
        oom_score_adj=host.oom_score_adj,
        pid_mode=host.pid_mode,
        privileged=host.privileged,
        publish_all_ports=host.publish_all_ports,
        readonly_rootfs=host.readonly_rootfs,
        security_opt=host.security_opt,
        storage_opt=_or(host.storage_opt, {}),
        tmpfs=_or(host.tmpfs, {}),
        uts_mode=host.uts_mode,
        userns_mode=host.userns_mode,
        shm_size_bytes=host.shm_size,
        sysctls=_or(host.sysctls, {}),
        runtime=_or(host.runtime, ""),
        isolation=host.isolation,
        mounts=_mounts(_or(host.mounts, ()), version) or None,
        masked_paths=host.masked_paths,
        readonly_paths=host.readonly_paths,
        has_init=_maybe(host.init),
    )


def _network_mode(sent: str) -> str:
    return DEFAULT_NETWORK if sent in {"", "default"} else sent


def _ipc_mode(sent: str, version: Version) -> str:
    """Before 1.40 the default was to share, and old clients rely on it."""
    return sent or ("" if versions.has(version, "create.private-ipc") else "shareable")


def restart_policy(sent: wire.RestartPolicy) -> model.RestartPolicy:
    """Raises InvalidParameter for a name that is none; no name is "no"."""
    if sent.name not in {"", "no", "always", "on-failure", "unless-stopped"}:
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{sent.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    return model.RestartPolicy(
        name=model.RestartPolicyName(sent.name or "no"),
        maximum_retry_count=sent.maximum_retry_count,
    )


_LEAST_KERNEL_MEMORY_BYTES = 6 << 20


def check_kernel_memory(host: wire.HostConfig | None, version: Version) -> None:
    """The limit is ignored by all versions, but looked at by those that had it."""
    limit = 0 if host is None else _or(host.kernel_memory, 0)
    if versions.has(version, "limits.no-kernel-memory") or limit <= 0:
        return
    if limit < _LEAST_KERNEL_MEMORY_BYTES:
        raise InvalidParameter("Minimum kernel memory limit allowed is 6MB")


def resources(host: wire.HostConfig) -> model.Resources:
    pids = host.pids_limit
    return model.Resources(
        cpu_shares=host.cpu_shares,
        memory_bytes=host.memory,
        nano_cpus=host.nano_cpus,
        cgroup_parent=host.cgroup_parent,
        blkio_weight=host.blkio_weight,
        blkio_weight_device=_weights(host.blkio_weight_device),
        blkio_device_read_bps=_throttles(host.blkio_device_read_bps),
        blkio_device_write_bps=_throttles(host.blkio_device_write_bps),
        blkio_device_read_iops=_throttles(host.blkio_device_read_iops),
        blkio_device_write_iops=_throttles(host.blkio_device_write_iops),
        cpu_period_us=host.cpu_period,
        cpu_quota_us=host.cpu_quota,
        cpu_realtime_period_us=host.cpu_realtime_period,
        cpu_realtime_runtime_us=host.cpu_realtime_runtime,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        devices=_devices(host.devices),
        device_cgroup_rules=host.device_cgroup_rules,
        device_requests=_device_requests(host.device_requests),
        memory_reservation_bytes=host.memory_reservation,
        memory_swap_bytes=host.memory_swap,
        memory_swappiness=host.memory_swappiness,
        oom_kill_disable=host.oom_kill_disable,
        # 0 and everything below mean no limit, and always did.
        pids_limit=None if pids is None or pids <= 0 else pids,
        ulimits=None
        if host.ulimits is None
        else tuple(model.Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in host.ulimits),
        cpu_count=host.cpu_count,
        cpu_percent=host.cpu_percent,
        io_maximum_iops=host.io_maximum_iops,
        io_maximum_bandwidth=host.io_maximum_bandwidth,
    )


def _weights(sent: tuple[wire.WeightDevice, ...] | None) -> tuple[model.WeightDevice, ...] | None:
    if sent is None:
        return None
    return tuple(model.WeightDevice(path=d.path, weight=d.weight) for d in sent)


def _throttles(
    sent: tuple[wire.ThrottleDevice, ...] | None,
) -> tuple[model.ThrottleDevice, ...] | None:
    if sent is None:
        return None
    return tuple(model.ThrottleDevice(path=d.path, rate=d.rate) for d in sent)


def _devices(
    sent: tuple[wire.DeviceMapping, ...] | None,
) -> tuple[model.DeviceMapping, ...] | None:
    if sent is None:
        return None
    return tuple(
        model.DeviceMapping(
            path_on_host=d.path_on_host,
            path_in_container=d.path_in_container,
            cgroup_permissions=d.cgroup_permissions,
        )
        for d in sent
    )


def _device_requests(
    sent: tuple[wire.DeviceRequest, ...] | None,
) -> tuple[model.DeviceRequest, ...] | None:
    if sent is None:
        return None
    return tuple(
        model.DeviceRequest(
            driver=r.driver,
            count=r.count,
            device_ids=r.device_ids,
            capabilities=r.capabilities,
            options=r.options or {},
        )
        for r in sent
    )


# Mounts

_OPTIONS_OF = (("volume", "VolumeOptions"), ("bind", "BindOptions"), ("tmpfs", "TmpfsOptions"))


def _mounts(sent: tuple[wire.Mount, ...], version: Version) -> tuple[model.MountRequest, ...]:
    if versions.has(version, "create.checks-mount-options"):
        for m in sent:
            _check_options(m)
    has_image = any(m.type == "image" for m in sent)
    if has_image and not versions.has(version, "create.image-mounts"):
        raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')
    return tuple(_mount(m, version) for m in sent)


def _check_options(m: wire.Mount) -> None:
    given = (m.volume_options, m.bind_options, m.tmpfs_options)
    kind = _or(m.type, "")
    for (owner, name), options in zip(_OPTIONS_OF, given, strict=True):
        if options is not UNSET and kind != owner:
            raise InvalidParameter(f'{name} must not be specified on mount type "{kind}"')


def _mount(m: wire.Mount, version: Version) -> model.MountRequest:
    """Options of another type were let through before 1.42, and meant nothing."""
    kind = _or(m.type, "")
    image = _maybe(m.image_options)
    return model.MountRequest(
        type=kind,
        source=_or(m.source, ""),
        target=_or(m.target, ""),
        read_only=_or(m.read_only, False),
        consistency=_or(m.consistency, ""),
        bind_options=_bind_options(m, version),
        volume_options=_volume_options(m) if kind == "volume" else None,
        tmpfs_options=_tmpfs_options(m) if kind == "tmpfs" else None,
        image_subpath=None if image is None else _or(image.subpath, ""),
    )


def _bind_options(m: wire.Mount, version: Version) -> model.BindOptions | None:
    options = _maybe(m.bind_options)
    is_flat = (
        m.type == "bind"
        and _or(m.read_only, False)
        and not versions.has(version, "create.recursive-read-only")
    )
    if options is None:
        return model.BindOptions(read_only_non_recursive=True) if is_flat else None
    return model.BindOptions(
        propagation=_or(options.propagation, ""),
        non_recursive=_or(options.non_recursive, False),
        create_mountpoint=_or(options.create_mountpoint, False),
        read_only_non_recursive=is_flat or _or(options.read_only_non_recursive, False),
        read_only_force_recursive=_or(options.read_only_force_recursive, False),
    )


def _volume_options(m: wire.Mount) -> model.VolumeOptions | None:
    options = _maybe(m.volume_options)
    if options is None:
        return None
    driver = _maybe(options.driver_config)
    return model.VolumeOptions(
        no_copy=_or(options.no_copy, False),
        labels=_or(options.labels, {}),
        driver_name="" if driver is None else _or(driver.name, ""),
        driver_options={} if driver is None else _or(driver.options, {}),
        has_driver_config=driver is not None,
        subpath=_or(options.subpath, ""),
    )


def _tmpfs_options(m: wire.Mount) -> model.TmpfsOptions | None:
    options = _maybe(m.tmpfs_options)
    if options is None:
        return None
    return model.TmpfsOptions(
        size_bytes=_or(options.size_bytes, 0),
        mode=_or(options.mode, 0),
        options=_or(options.options, ()),
    )


# Networks of a container


def _endpoints(
    body: wire.ContainerCreateRequest, network_mode: str
) -> dict[str, model.EndpointConfig]:
    sent = (body.networking_config and body.networking_config.endpoints_config) or {}
    for name, settings in sent.items():
        if settings is None:
            raise InvalidParameter(f"invalid config for network {name}: EndpointsConfig is nil")
    found = {name: endpoint(settings) for name, settings in sent.items()}
    if network_mode == DEFAULT_NETWORK and "default" in found:
        found[DEFAULT_NETWORK] = found.pop("default")
    return found


def endpoint(sent: wire.EndpointSettings | None) -> model.EndpointConfig:
    if sent is None:
        return model.EndpointConfig()
    ipam = sent.ipam_config
    return model.EndpointConfig(
        ipam=None
        if ipam is None
        else model.EndpointIPAM(
            ipv4_address=_or(ipam.ipv4_address, ""),
            ipv6_address=_or(ipam.ipv6_address, ""),
            link_local_ips=_maybe(ipam.link_local_ips),
        ),
        links=sent.links,
        aliases=sent.aliases,
        mac_address=sent.mac_address,
        driver_opts=sent.driver_opts or {},
        gw_priority=sent.gw_priority,
    )


_Endpoints = dict[str, model.EndpointConfig]
_Step = tuple[model.HostConfig, _Endpoints, str]


def _volume_driver(
    body: wire.ContainerCreateRequest,
    host: model.HostConfig,
    endpoints: _Endpoints,
    version: Version,
) -> _Step:
    is_ignored = (
        host.volume_driver
        and versions.has(version, "create.warns-of-volume-driver")
        and any(
            m.type == "volume" and not (m.volume_options and m.volume_options.driver_name)
            for m in host.mounts or ()
        )
    )
    warning = (
        "WARNING: the container-wide volume-driver configuration is ignored for volumes specified "
        "via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
    )
    return host, endpoints, warning if is_ignored else ""


def _mac_address(
    body: wire.ContainerCreateRequest,
    host: model.HostConfig,
    endpoints: _Endpoints,
    version: Version,
) -> _Step:
    """The address given for the whole container belongs to its main network's endpoint."""
    asked = _or(body.mac_address, "")
    knows_endpoints = versions.has(version, "create.endpoint-mac-address")
    if not knows_endpoints and not asked:
        return host, {n: _replaced(e, mac_address="") for n, e in endpoints.items()}, ""
    if not asked:
        return host, endpoints, ""
    is_possible = host.network_mode == DEFAULT_NETWORK or is_user_defined(host.network_mode)
    if not knows_endpoints and not is_possible:
        raise InvalidParameter("conflicting options: mac-address and the network mode")
    if is_possible:
        name = _main_endpoint(host.network_mode, endpoints, version)
        had = endpoints.get(name, model.EndpointConfig())
        if knows_endpoints and had.mac_address not in {"", asked}:
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address "
                "for the main network, or be left empty"
            )
        endpoints = {**endpoints, name: _replaced(had, mac_address=asked)}
    warning = (
        "The container-wide MacAddress field is now deprecated. "
        "It should be specified in EndpointsConfig instead."
    )
    return host, endpoints, warning if knows_endpoints else ""


def _sysctls(
    body: wire.ContainerCreateRequest,
    host: model.HostConfig,
    endpoints: _Endpoints,
    version: Version,
) -> _Step:
    """Sysctls of an interface are set when it exists: they move to the endpoint's options."""
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        return host, endpoints, ""
    moved = {k: v for k, v in host.sysctls.items() if _names_interface(k)}
    if not moved:
        return host, endpoints, ""
    first = next(iter(moved))
    if versions.has(version, "create.endpoint-sysctls-only"):
        raise InvalidParameter(
            f'interface specific sysctl setting "{first}" must be supplied using '
            f"driver option '{ENDPOINT_SYSCTLS}'"
        )
    for key in moved:
        if key.split(".")[3] != "eth0":
            raise InvalidParameter(
                f"unable to determine network endpoint for sysctl {key}, use driver option "
                f"'{ENDPOINT_SYSCTLS}' to set per-interface sysctls"
            )
    name = _main_endpoint(host.network_mode, endpoints, version)
    had = endpoints.get(name, model.EndpointConfig())
    option = ",".join(_for_interface(k, v) for k, v in moved.items())
    warning = (
        f'Migrated sysctl "{",".join(moved)}" to DriverOpts{{"{ENDPOINT_SYSCTLS}":"{option}"}}.'
    )
    if before := had.driver_opts.get(ENDPOINT_SYSCTLS):
        option += f",{before}"
    endpoints = {
        **endpoints,
        name: _replaced(had, driver_opts={**had.driver_opts, ENDPOINT_SYSCTLS: option}),
    }
    left = {k: v for k, v in host.sysctls.items() if k not in moved}
    return _replaced(host, sysctls=left), endpoints, warning


def _names_interface(key: str) -> bool:
    parts = key.split(".", 4)
    return len(parts) == 5 and parts[0] == "net" and parts[3].startswith("eth")


def _for_interface(key: str, value: str) -> str:
    parts = key.split(".", 4)
    return f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}"


def _main_endpoint(network_mode: str, endpoints: Mapping[str, object], version: Version) -> str:
    """Under which name the endpoint of the main network stands, or is to stand."""
    if not endpoints or network_mode in endpoints:
        return network_mode
    if not versions.has(version, "create.several-networks"):
        return next(iter(endpoints))
    raise InvalidParameter(
        "unable to migrate container-wide MAC address to a specific network: "
        "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
    )


def is_user_defined(network_mode: str) -> bool:
    return network_mode not in {"", "default", "bridge", "host", "none"} and not (
        network_mode.startswith("container:")
    )


def _replaced(value: T, **changes: object) -> T:
    from msgspec import structs

    return structs.replace(value, **changes)  # type: ignore[type-var]


# Execs


def exec_config(body: wire.ExecCreateRequest) -> model.ExecConfig:
    if not body.cmd:
        raise InvalidParameter("No exec command specified")
    return model.ExecConfig(
        user=body.user,
        is_privileged=body.privileged,
        tty=body.tty,
        console_size=body.console_size,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        detach_keys=body.detach_keys,
        env=body.env or (),
        working_dir=body.working_dir,
        cmd=body.cmd,
    )
