"""What dockerd finds wrong with a create request before it does anything.

Pure: sentences and order are those of moby daemon/container.go and daemon_unix.go; on top stand
the refusals of what would be written raw into files.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from typing import TYPE_CHECKING, cast

import msgspec

from engine import signals
from engine.container import capabilities, limits, modes, mounts, security
from engine.container.model import CreateRequest, RestartPolicyName
from engine.errors import InvalidParameter, Unclassified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.container.model import Config, Healthcheck, HostConfig, RestartPolicy

_MIN_DURATION_NS = 1_000_000
_PORT = re.compile(r"[0-9]{1,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST_GATEWAY = "host-gateway"


def check(
    request: CreateRequest,
    host: limits.Host,
    *,
    runtimes: frozenset[str],
    available: frozenset[str],
) -> tuple[CreateRequest, list[str]]:
    """The request as it will be honoured, with a warning for each part that will not.

    `available` are the capabilities this daemon has to give. Raises InvalidParameter.
    """
    _check_characters(request)
    config = _check_config(request.config)
    warnings = _check_host_config(request.host_config, available)
    resources, more = limits.verify(request.host_config.resources, host)
    host_config = msgspec.structs.replace(request.host_config, resources=resources)
    warnings += more + _check_platform(config, host_config, runtimes)
    _check_later(host_config)
    checked = msgspec.structs.replace(request, config=config, host_config=host_config)
    return checked, warnings


def _check_characters(request: CreateRequest) -> None:
    """NUL ends a string for the kernel; a line break forges lines in the files we write."""
    if b"\\u0000" in msgspec.json.encode(request) and _has_nul(msgspec.to_builtins(request)):
        raise InvalidParameter("invalid request: NUL characters are not allowed")
    host_config = request.host_config
    for noun, values in (
        ("hostname", (request.config.hostname,)),
        ("domainname", (request.config.domainname,)),
        ("add-host", host_config.extra_hosts or ()),
        ("dns", host_config.dns or ()),
        ("dns-search", host_config.dns_search or ()),
        ("dns-option", host_config.dns_options or ()),
        ("cgroup-parent", (host_config.resources.cgroup_parent,)),
    ):
        for value in values:
            if _CONTROL.search(value):
                raise InvalidParameter(
                    f"invalid {noun}: control characters are not allowed: {value!r}"
                )


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value)
        return any(_has_nul(part) for item in pairs.items() for part in item)
    if isinstance(value, (list, tuple)):
        return any(_has_nul(part) for part in cast("list[object]", value))
    return False


# Config


def _check_config(config: Config) -> Config:
    working_dir = config.working_dir
    if working_dir and not working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        signals.check_stop_signal(config.stop_signal)
    for entry in config.env:
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if config.healthcheck is not None:
        _check_healthcheck(config.healthcheck)
    return msgspec.structs.replace(config, working_dir=_normal(working_dir) if working_dir else "")


def _normal(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def _check_healthcheck(check: Healthcheck) -> None:
    for value, noun in (
        (check.interval_ns, "Interval"),
        (check.timeout_ns, "Timeout"),
        (check.start_period_ns, "StartPeriod"),
        (check.start_interval_ns, "StartInterval"),
    ):
        if value != 0 and value < _MIN_DURATION_NS:
            raise InvalidParameter(f"{noun} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


# HostConfig


def _check_host_config(host_config: HostConfig, available: frozenset[str]) -> list[str]:
    warnings: list[str] = []
    policy = host_config.restart_policy
    if host_config.auto_remove and policy.name is not RestartPolicyName.NO:
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    for request in host_config.mounts or ():
        if request.type == "image":
            warnings.append("Image mount is an experimental feature")
        mounts.check_mount(request)
    for entry in host_config.extra_hosts or ():
        _check_extra_host(entry)
    _check_port_bindings(host_config)
    check_restart_policy(policy)
    capabilities.normalize(host_config.cap_add or (), available, "CapAdd")
    capabilities.normalize(host_config.cap_drop or (), available, "CapDrop")
    if host_config.isolation not in ("", "default"):
        raise InvalidParameter(
            f"invalid isolation ({host_config.isolation}): linux only supports 'default'"
        )
    if "" in host_config.annotations:
        raise InvalidParameter(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    return warnings


def _check_extra_host(entry: str) -> None:
    name, separator, address = entry.partition(":")
    if not separator or not name:
        raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if address == _HOST_GATEWAY:
        return
    if not _is_address(address.removeprefix("[").removesuffix("]")):
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"')


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_port_bindings(host_config: HostConfig) -> None:
    for port, bindings in (host_config.port_bindings or {}).items():
        number = port.partition("/")[0]
        if number and not _is_port(number):  # "" is no port, and nothing comes of it
            raise InvalidParameter(f'invalid port specification: "{number}"')
        for binding in bindings:
            if binding.host_ip and not _is_address(binding.host_ip):
                raise InvalidParameter(f"invalid IP address: {binding.host_ip}")
            text = binding.host_port.partition("/")[0]
            first, _, last = text.partition("-")
            if text and not _is_range(first, last or first):
                raise InvalidParameter(f'invalid port specification: "{binding.host_port}"')


def _is_range(first: str, last: str) -> bool:
    return _is_port(first) and _is_port(last) and int(first) <= int(last)


def _is_port(text: str) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text) <= 65535


def check_restart_policy(policy: RestartPolicy) -> None:
    """moby container.ValidateRestartPolicy."""
    if policy.name is RestartPolicyName.ON_FAILURE:
        if policy.maximum_retry_count < 0:
            raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    elif policy.maximum_retry_count != 0:
        text = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        if policy.maximum_retry_count < 0:
            text += " and cannot be negative"
        raise InvalidParameter(text)


def _check_platform(config: Config, host_config: HostConfig, runtimes: frozenset[str]) -> list[str]:
    warnings: list[str] = []
    modes.check(config, host_config)
    if host_config.shm_size_bytes < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if not -1000 <= host_config.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host_config.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host_config.network_mode == "host" and host_config.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    if host_config.runtime and host_config.runtime not in runtimes:
        raise InvalidParameter(f"unknown or invalid runtime name: {host_config.runtime}")
    for target in host_config.tmpfs:
        mounts.check_target(target)
    return warnings


def _check_later(host_config: HostConfig) -> None:
    """What dockerd looks at when it makes the container, after the image was found."""
    security.parse(host_config.security_opt or ())
    for bind in host_config.binds or ():
        mounts.parse_bind(bind, host_config.volume_driver)
    parent = host_config.resources.cgroup_parent
    if ".." in parent.split("/"):
        raise InvalidParameter(f"invalid cgroup-parent: {parent}: must not contain '..'")
    _check_storage_opt(host_config.storage_opt or {})
    for link in host_config.links or ():
        parse_link(link)


def _check_storage_opt(options: Mapping[str, str]) -> None:
    """moby daemon/graphdriver/overlay2: a size is the only option there is, and none to be had."""
    for name in sorted(option.lower() for option in options):
        if name != "size" and "size" not in options:
            raise Unclassified(f"Unknown option {name}")
    if options:
        raise Unclassified(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
        )


def parse_link(text: str) -> tuple[str, str]:
    """`name[:alias]`, or `/name:/holder/alias` of an existing container's config."""
    if not text:
        raise Unclassified("empty string specified for links")
    parts = text.split(":")
    if len(parts) > 2:
        raise Unclassified(f"bad format for links: {text}")
    name, alias = parts[0], parts[-1]
    if len(parts) == 2 and name.startswith("/"):
        return name[1:], alias.rpartition("/")[2]
    return name, alias
