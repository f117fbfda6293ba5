"""The runtime-spec's configuration: what a runtime is told about one container.

https://github.com/opencontainers/runtime-spec/blob/v1.2.1/config.md; field names are the spec's in
snake_case. Only what Linux has and this engine uses. Pure: documents in, documents out.
"""

from __future__ import annotations

from typing import cast

import msgspec

VERSION = "1.2.1"


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Base: camelCase on the outside, and what has its default is left out."""


class User(Document, frozen=True, kw_only=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Box(Document, frozen=True, kw_only=True):
    height: int
    width: int


class Capabilities(Document, frozen=True, kw_only=True):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Document, frozen=True, kw_only=True):
    type: str
    soft: int
    hard: int


class Process(Document, frozen=True, kw_only=True):
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None


class Root(Document, frozen=True, kw_only=True):
    path: str
    readonly: bool = False


class Mount(Document, frozen=True, kw_only=True):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Namespace(Document, frozen=True, kw_only=True):
    """`path` names an existing one to join; "" asks for a new one."""

    type: str
    path: str = ""


class Device(Document, frozen=True, kw_only=True):
    type: str
    path: str
    major: int
    minor: int
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A rule of the device cgroup; None is any number, type "a" any device."""

    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(Document, frozen=True, kw_only=True):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")


class Cpu(Document, frozen=True, kw_only=True):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""


class Pids(Document, frozen=True, kw_only=True):
    limit: int


class WeightDevice(Document, frozen=True, kw_only=True):
    major: int
    minor: int
    weight: int


class ThrottleDevice(Document, frozen=True, kw_only=True):
    major: int
    minor: int
    rate: int


class BlockIO(Document, frozen=True, kw_only=True):
    weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleReadIOPSDevice"
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleWriteIOPSDevice"
    )


class Resources(Document, frozen=True, kw_only=True):
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")


class Linux(Document, frozen=True, kw_only=True):
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources | None = None
    rootfs_propagation: str = ""
    sysctl: dict[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


class Spec(Document, frozen=True, kw_only=True):
    oci_version: str
    process: Process
    root: Root
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    linux: Linux = Linux()
    annotations: dict[str, str] = {}


def document(value: Document) -> dict[str, object]:
    """The value as plain JSON types under the spec's names."""
    return cast("dict[str, object]", msgspec.to_builtins(value))
