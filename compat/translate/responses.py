"""Containers, from the engine's model to the API's shapes. Pure.

Where the model has one status, the API has booleans that overlap: `Running` is true while a
container is paused or waits to be restarted.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from compat.translate.ago import ago
from compat.translate.requests import DEFAULT_NETWORK, is_user_defined
from compat.wire import containers as wire
from compat.wire.base import UNSET
from engine import ids, timestamp
from engine.container import keys, model
from engine.container.model import Status
from engine.network.ports import parse_container_port

if TYPE_CHECKING:
    from collections.abc import Iterable

NEVER = "0001-01-01T00:00:00Z"
DRIVER = "overlay2"

_ALIVE = frozenset({Status.RUNNING, Status.PAUSED, Status.RESTARTING})


def moment(ns: int) -> str:
    return timestamp.format_ns(ns) if ns else NEVER


# Inspect


def inspect(view: model.ContainerView, *, short_id_is_alias: bool) -> wire.ContainerInspectResponse:
    """`short_id_is_alias`: before 1.45 clients looked for the id among the aliases."""
    container = view.container
    sizes = view.sizes
    return wire.ContainerInspectResponse(
        id=container.id,
        created=timestamp.format_ns(container.created_ns),
        path=container.path,
        args=container.args,
        state=state(container),
        image=container.image_id,
        resolv_conf_path=container.resolv_conf_path,
        hostname_path=container.hostname_path,
        hosts_path=container.hosts_path,
        # dockerd chooses it at the first start.
        log_path=container.log_path if container.state.started_ns else "",
        name=f"/{container.name}",
        restart_count=container.state.restart_count,
        driver=DRIVER,
        platform=container.platform_os,
        app_armor_profile=container.apparmor_profile,
        exec_ids=view.exec_ids or None,
        host_config=host_config(container.host_config, _links(view)),
        graph_driver=wire.GraphDriver(
            data={"ID": container.id, **view.directories} if view.directories else None, name=DRIVER
        ),
        size_rw=UNSET if sizes is None else sizes.rw_bytes,
        size_root_fs=UNSET if sizes is None else sizes.rootfs_bytes,
        mounts=tuple(mount_point(m) for m in container.mount_points),
        config=config(container),
        network_settings=network_settings(container, short_id_is_alias=short_id_is_alias),
    )


def state(container: model.Container) -> wire.State:
    now = container.state
    return wire.State(
        status=str(now.status),
        running=now.status in _ALIVE,
        paused=now.status is Status.PAUSED,
        restarting=now.status is Status.RESTARTING,
        oom_killed=now.oom_killed,
        dead=now.status is Status.DEAD,
        pid=now.pid,
        exit_code=now.exit_code,
        error=now.error,
        started_at=moment(now.started_ns),
        finished_at=moment(now.finished_ns),
        health=UNSET if now.health is None else health(now.health),
    )


def health(now: model.Health) -> wire.Health:
    return wire.Health(
        status=str(now.status),
        failing_streak=now.failing_streak,
        log=tuple(
            wire.HealthcheckResult(
                start=moment(r.start_ns),
                end=moment(r.end_ns),
                exit_code=r.exit_code,
                output=r.output,
            )
            for r in now.log
        ),
    )


def config(container: model.Container) -> wire.Config:
    asked = container.config
    return wire.Config(
        hostname=asked.hostname,
        domainname=asked.domainname,
        user=asked.user,
        attach_stdin=asked.attach_stdin,
        attach_stdout=asked.attach_stdout,
        attach_stderr=asked.attach_stderr,
        exposed_ports=dict.fromkeys(asked.exposed_ports, wire.EMPTY) or UNSET,
        tty=asked.tty,
        open_stdin=asked.open_stdin,
        stdin_once=asked.stdin_once,
        env=asked.env or None,
        cmd=asked.cmd,
        healthcheck=UNSET if asked.healthcheck is None else _healthcheck(asked.healthcheck),
        args_escaped=asked.args_escaped or UNSET,
        image=asked.image,
        volumes=dict.fromkeys(asked.volumes, wire.EMPTY) or None,
        working_dir=asked.working_dir,
        entrypoint=asked.entrypoint,
        network_disabled=asked.network_disabled or UNSET,
        mac_address=_main_mac_address(container) or UNSET,
        on_build=asked.on_build or None,
        labels=asked.labels,
        stop_signal=asked.stop_signal or UNSET,
        stop_timeout=UNSET if asked.stop_timeout_s is None else asked.stop_timeout_s,
        shell=asked.shell or UNSET,
    )


def _main_mac_address(container: model.Container) -> str:
    """The one that was asked for, shown where clients before 1.44 look for it."""
    mode = container.host_config.network_mode
    asked = (e.config.mac_address for e in container.endpoints if e.network_name == mode)
    return next(asked, "") or container.config.mac_address


def _healthcheck(asked: model.Healthcheck) -> wire.HealthConfig:
    return wire.HealthConfig(
        test=asked.test or UNSET,
        interval=asked.interval_ns or UNSET,
        timeout=asked.timeout_ns or UNSET,
        start_period=asked.start_period_ns or UNSET,
        start_interval=asked.start_interval_ns or UNSET,
        retries=asked.retries or UNSET,
    )


def _links(view: model.ContainerView) -> tuple[str, ...]:
    """Each as "/name:/holder/alias"."""
    holder = view.container.name
    return tuple(f"/{name}:/{holder}/{alias}" for name, alias in view.links)


def host_config(host: model.HostConfig, links: tuple[str, ...] = ()) -> wire.HostConfig:
    limits = host.resources
    return wire.HostConfig(
        binds=host.binds,
        container_id_file=host.container_id_file,
        log_config=wire.LogConfig(type=host.log_config.type, config=host.log_config.config),
        network_mode=host.network_mode,
        port_bindings=None
        if host.port_bindings is None
        else {
            port: tuple(
                wire.PortBinding(host_ip=b.host_ip, host_port=b.host_port) for b in bindings
            )
            for port, bindings in host.port_bindings.items()
        },
        restart_policy=wire.RestartPolicy(
            name=str(host.restart_policy.name),
            maximum_retry_count=host.restart_policy.maximum_retry_count,
        ),
        auto_remove=host.auto_remove,
        volume_driver=host.volume_driver,
        volumes_from=host.volumes_from,
        console_size=host.console_size,
        annotations=host.annotations or UNSET,
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        cgroupns_mode=host.cgroupns_mode,
        dns=host.dns,
        dns_options=host.dns_options,
        dns_search=host.dns_search,
        extra_hosts=host.extra_hosts,
        group_add=host.group_add,
        ipc_mode=host.ipc_mode,
        cgroup=host.cgroup,
        links=links or None,
        oom_score_adj=host.oom_score_adj,
        pid_mode=host.pid_mode,
        privileged=host.privileged,
        publish_all_ports=host.publish_all_ports,
        readonly_rootfs=host.readonly_rootfs,
        security_opt=host.security_opt,
        storage_opt=host.storage_opt or UNSET,
        tmpfs=host.tmpfs or UNSET,
        uts_mode=host.uts_mode,
        userns_mode=host.userns_mode,
        shm_size=host.shm_size_bytes,
        sysctls=host.sysctls or UNSET,
        runtime=host.runtime or UNSET,
        isolation=host.isolation,
        cpu_shares=limits.cpu_shares,
        memory=limits.memory_bytes,
        nano_cpus=limits.nano_cpus,
        cgroup_parent=limits.cgroup_parent,
        blkio_weight=limits.blkio_weight,
        blkio_weight_device=_weights(limits.blkio_weight_device),
        blkio_device_read_bps=_throttles(limits.blkio_device_read_bps),
        blkio_device_write_bps=_throttles(limits.blkio_device_write_bps),
        blkio_device_read_iops=_throttles(limits.blkio_device_read_iops),
        blkio_device_write_iops=_throttles(limits.blkio_device_write_iops),
        cpu_period=limits.cpu_period_us,
        cpu_quota=limits.cpu_quota_us,
        cpu_realtime_period=limits.cpu_realtime_period_us,
        cpu_realtime_runtime=limits.cpu_realtime_runtime_us,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        devices=_devices(limits.devices),
        device_cgroup_rules=limits.device_cgroup_rules,
        device_requests=_device_requests(limits.device_requests),
        memory_reservation=limits.memory_reservation_bytes,
        memory_swap=limits.memory_swap_bytes,
        memory_swappiness=limits.memory_swappiness,
        oom_kill_disable=limits.oom_kill_disable,
        pids_limit=limits.pids_limit,
        ulimits=None
        if limits.ulimits is None
        else tuple(wire.Ulimit(name=u.name, hard=u.hard, soft=u.soft) for u in limits.ulimits),
        cpu_count=limits.cpu_count,
        cpu_percent=limits.cpu_percent,
        io_maximum_iops=limits.io_maximum_iops,
        io_maximum_bandwidth=limits.io_maximum_bandwidth,
        mounts=tuple(_mount(m) for m in host.mounts or ()) or UNSET,
        masked_paths=host.masked_paths,
        readonly_paths=host.readonly_paths,
        init=UNSET if host.has_init is None else host.has_init,
    )


def _weights(kept: Iterable[model.WeightDevice] | None) -> tuple[wire.WeightDevice, ...] | None:
    if kept is None:
        return None
    return tuple(wire.WeightDevice(path=d.path, weight=d.weight) for d in kept)


def _throttles(
    kept: Iterable[model.ThrottleDevice] | None,
) -> tuple[wire.ThrottleDevice, ...] | None:
    if kept is None:
        return None
    return tuple(wire.ThrottleDevice(path=d.path, rate=d.rate) for d in kept)


def _devices(kept: Iterable[model.DeviceMapping] | None) -> tuple[wire.DeviceMapping, ...] | None:
    if kept is None:
        return None
    return tuple(
        wire.DeviceMapping(
            path_on_host=d.path_on_host,
            path_in_container=d.path_in_container,
            cgroup_permissions=d.cgroup_permissions,
        )
        for d in kept
    )


def _device_requests(
    kept: Iterable[model.DeviceRequest] | None,
) -> tuple[wire.DeviceRequest, ...] | None:
    if kept is None:
        return None
    return tuple(
        wire.DeviceRequest(
            driver=r.driver,
            count=r.count,
            device_ids=r.device_ids,
            capabilities=r.capabilities,
            options=r.options,
        )
        for r in kept
    )


def _mount(asked: model.MountRequest) -> wire.Mount:
    bind, volume, tmpfs = asked.bind_options, asked.volume_options, asked.tmpfs_options
    return wire.Mount(
        type=asked.type or UNSET,
        source=asked.source or UNSET,
        target=asked.target or UNSET,
        read_only=asked.read_only or UNSET,
        consistency=asked.consistency or UNSET,
        bind_options=UNSET
        if bind is None
        else wire.BindOptions(
            propagation=bind.propagation or UNSET,
            non_recursive=bind.non_recursive or UNSET,
            create_mountpoint=bind.create_mountpoint or UNSET,
            read_only_non_recursive=bind.read_only_non_recursive or UNSET,
            read_only_force_recursive=bind.read_only_force_recursive or UNSET,
        ),
        volume_options=UNSET if volume is None else _volume_options(volume),
        image_options=UNSET
        if asked.image_subpath is None
        else wire.ImageOptions(subpath=asked.image_subpath or UNSET),
        tmpfs_options=UNSET
        if tmpfs is None
        else wire.TmpfsOptions(
            size_bytes=tmpfs.size_bytes or UNSET,
            mode=tmpfs.mode or UNSET,
            options=tmpfs.options or UNSET,
        ),
    )


def _volume_options(asked: model.VolumeOptions) -> wire.VolumeOptions:
    driver = wire.VolumeDriver(
        name=asked.driver_name or UNSET, options=asked.driver_options or UNSET
    )
    return wire.VolumeOptions(
        no_copy=asked.no_copy or UNSET,
        labels=asked.labels or UNSET,
        subpath=asked.subpath or UNSET,
        driver_config=driver if asked.has_driver_config else UNSET,
    )


def mount_point(kept: model.MountPoint) -> wire.MountPoint:
    return wire.MountPoint(
        type=str(kept.type),
        name=kept.name or UNSET,
        source=kept.source,
        destination=kept.destination,
        driver=kept.driver or UNSET,
        mode=kept.mode,
        rw=kept.is_writable,
        propagation=kept.propagation,
    )


# Networks of a container


def network_settings(
    container: model.Container, *, short_id_is_alias: bool
) -> wire.NetworkSettings:
    """The default bridge's endpoint is shown once more at the top, where it was before networks."""
    default = next((e for e in container.endpoints if e.network_name == DEFAULT_NETWORK), None)
    networks = {
        e.network_name: endpoint(e, extra_aliases=_extra(container, e) if short_id_is_alias else ())
        for e in container.endpoints
    }
    shared: dict[str, str | int] = {}
    if default is not None:
        shared = {
            "endpoint_id": default.endpoint_id,
            "gateway": default.gateway,
            "global_ipv6_address": default.ipv6_address,
            "global_ipv6_prefix_len": default.ipv6_prefix,
            "ip_address": default.ipv4_address,
            "ip_prefix_len": default.ipv4_prefix,
            "ipv6_gateway": default.ipv6_gateway,
            "mac_address": default.mac_address,
        }
    return wire.NetworkSettings(
        sandbox_id=container.sandbox_id,
        sandbox_key=container.sandbox_key,
        ports=_port_map(container),
        networks=networks,
        **shared,  # type: ignore[arg-type]
    )


def _extra(container: model.Container, e: model.Endpoint) -> tuple[str, ...]:
    if not is_user_defined(e.network_name):
        return ()
    return (ids.short(container.id), container.config.hostname)


def endpoint(e: model.Endpoint, *, extra_aliases: tuple[str, ...] = ()) -> wire.EndpointSettings:
    asked = e.config
    aliases = asked.aliases
    if extra_aliases:
        aliases = tuple(dict.fromkeys((*(aliases or ()), *extra_aliases)))
    return wire.EndpointSettings(
        ipam_config=None if asked.ipam is None else _ipam(asked.ipam),
        links=asked.links,
        aliases=aliases,
        mac_address=e.mac_address,
        driver_opts=asked.driver_opts or None,
        gw_priority=asked.gw_priority,
        network_id=e.network_id,
        endpoint_id=e.endpoint_id,
        gateway=e.gateway,
        ip_address=e.ipv4_address,
        ip_prefix_len=e.ipv4_prefix,
        ipv6_gateway=e.ipv6_gateway,
        global_ipv6_address=e.ipv6_address,
        global_ipv6_prefix_len=e.ipv6_prefix,
        dns_names=e.dns_names,
    )


def _ipam(asked: model.EndpointIPAM) -> wire.EndpointIPAMConfig:
    return wire.EndpointIPAMConfig(
        ipv4_address=asked.ipv4_address or UNSET,
        ipv6_address=asked.ipv6_address or UNSET,
        link_local_ips=asked.link_local_ips or UNSET,
    )


def _is_open(container: model.Container) -> bool:
    return container.state.status in {Status.RUNNING, Status.PAUSED}


def _port_map(container: model.Container) -> dict[str, tuple[wire.PortBinding, ...] | None]:
    if not _is_open(container) or not container.sandbox_key:
        return {}
    found: dict[str, tuple[wire.PortBinding, ...] | None] = {}
    if any(endpoint.exposes for endpoint in container.endpoints):
        ports = map(parse_container_port, container.config.exposed_ports)
        found = dict.fromkeys(f"{number}/{protocol}" for number, protocol in ports)
    for port in container.ports:
        binding = wire.PortBinding(host_ip=port.host_ip, host_port=str(port.host_port or ""))
        key = f"{port.container_port}/{port.protocol}"
        found[key] = (*(found.get(key) or ()), binding)
    return found


# List


def summary(view: model.ContainerView, now_ns: int) -> wire.ContainerSummary:
    container = view.container
    sizes = view.sizes
    host = container.host_config
    return wire.ContainerSummary(
        id=container.id,
        names=tuple(sorted(f"/{name}" for name in (container.name, *view.link_names))),
        image=view.image_name or container.config.image,
        image_id=container.image_id,
        command=command(container),
        created=container.created_ns // timestamp.SECOND,
        ports=_ports(container),
        size_rw=(sizes.rw_bytes if sizes else 0) or UNSET,
        size_root_fs=(sizes.rootfs_bytes if sizes else 0) or UNSET,
        labels=container.config.labels,
        state=str(container.state.status),
        status=status(container.state, now_ns),
        host_config=wire.SummaryHostConfig(
            network_mode=host.network_mode or UNSET, annotations=host.annotations or UNSET
        ),
        network_settings=wire.SummaryNetworkSettings(
            networks={e.network_name: _summary_endpoint(e) for e in container.endpoints}
        ),
        mounts=tuple(mount_point(m) for m in container.mount_points),
    )


def _summary_endpoint(e: model.Endpoint) -> wire.EndpointSettings:
    """Without what was asked for by name: a list shows how things stand."""
    return wire.EndpointSettings(
        ipam_config=None if e.config.ipam is None else _ipam(e.config.ipam),
        mac_address=e.mac_address,
        network_id=e.network_id,
        endpoint_id=e.endpoint_id,
        gateway=e.gateway,
        ip_address=e.ipv4_address,
        ip_prefix_len=e.ipv4_prefix,
        ipv6_gateway=e.ipv6_gateway,
        global_ipv6_address=e.ipv6_address,
        global_ipv6_prefix_len=e.ipv6_prefix,
        gw_priority=e.config.gw_priority,
    )


def command(container: model.Container) -> str:
    """Path and arguments on one line; what holds a space stands in quotes."""
    arguments = (f"'{a}'" if " " in a else a for a in container.args)
    return " ".join((container.path, *arguments))


def _ports(container: model.Container) -> tuple[wire.Port, ...]:
    if not _is_open(container) or not any(e.exposes for e in container.endpoints):
        return ()
    published = {(p.container_port, p.protocol) for p in container.ports}
    exposed = [
        wire.Port(private_port=number, type=protocol)
        for number, protocol in map(parse_container_port, container.config.exposed_ports)
        if (number, protocol) not in published
    ]
    opened = (
        wire.Port(
            ip=p.host_ip or UNSET,
            private_port=p.container_port,
            public_port=p.host_port or UNSET,
            type=p.protocol,
        )
        for p in container.ports
    )
    return (*opened, *exposed)


def status(now: model.State, now_ns: int) -> str:
    """The sentence of `docker ps`: "Up 5 minutes (healthy)", "Exited (137) 2 hours ago"."""
    match now.status:
        case Status.PAUSED:
            return f"Up {ago(now_ns - now.started_ns)} (Paused)"
        case Status.RUNNING:
            return f"Up {ago(now_ns - now.started_ns)}{_health_note(now.health)}"
        case Status.RESTARTING:
            return f"Restarting ({now.exit_code}) {ago(now_ns - now.finished_ns)} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case Status.EXITED:
            if not now.finished_ns:
                return ""
            return f"Exited ({now.exit_code}) {ago(now_ns - now.finished_ns)} ago"


def _health_note(now: model.Health | None) -> str:
    if now is None or now.status is model.HealthStatus.NONE:
        return ""
    if now.status is model.HealthStatus.STARTING:
        return " (health: starting)"
    return f" ({now.status})"


# Execs


_NO_TEXT = re.compile("[\udc80-\udcff]")  # each a byte that is no UTF-8


def change(found: model.Change) -> wire.FilesystemChange:
    return wire.FilesystemChange(path=_NO_TEXT.sub("\ufffd", found.path), kind=found.kind)


def exec_inspect(found: model.Exec) -> wire.ExecInspectResponse:
    asked = found.config
    entrypoint, *arguments = asked.cmd
    return wire.ExecInspectResponse(
        id=found.id,
        running=found.is_running,
        exit_code=found.exit_code,
        process_config=wire.ExecProcessConfig(
            tty=asked.tty,
            entrypoint=entrypoint,
            arguments=tuple(arguments),
            privileged=asked.is_privileged,
            user=asked.user or UNSET,
        ),
        open_stdin=asked.attach_stdin,
        open_stderr=asked.attach_stderr,
        open_stdout=asked.attach_stdout,
        can_remove=False,
        container_id=found.container_id,
        # Bytes, which Go writes in base64.
        detach_keys=base64.b64encode(keys.parse(asked.detach_keys)).decode(),
        pid=found.pid,
    )
