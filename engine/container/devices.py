"""Host devices that a container is given, and the rules that let it open them."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING

from engine.container.failure import SpecFailure
from engine.errors import Unclassified
from engine.linux import oserror
from engine.oci import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.container.model import DeviceMapping

# Docker's own rules (moby oci/defaults.go): nothing, but null zero full-less urandom random tty
# console, and never fuse. The runtime adds full, ptmx, the ptys and mknod of anything.
DEFAULT_RULES = (
    oci.DeviceRule(allow=False),
    *(
        oci.DeviceRule(allow=True, type="c", major=major, minor=minor)
        for major, minor in ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
    ),
    oci.DeviceRule(allow=False, type="c", major=10, minor=229),
)

_RULE = re.compile(r"([acb]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})")

# Directories below /dev that a privileged container gets anew instead of the host's.
_OWN = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


class DeviceError(Unclassified):
    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f'error gathering device information while adding custom device "{path}": {cause}'
        )


def parse_rule(text: str) -> oci.DeviceRule:
    """A `--device-cgroup-rule`, `c 13:* rwm`."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise Unclassified(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    return oci.DeviceRule(
        allow=True, type=kind, major=_number(major), minor=_number(minor), access=access
    )


def _number(text: str) -> int | None:
    return None if text == "*" else int(text)


def from_mapping(mapping: DeviceMapping) -> list[oci.Device]:
    """The nodes behind one `--device`: one, be it a FIFO, or all devices below a directory."""
    if not mapping.path_on_host:  # which realpath takes for the current directory
        raise DeviceError("", "no such file or directory")
    source = os.path.realpath(mapping.path_on_host)
    target = mapping.path_in_container or mapping.path_on_host
    try:
        info = os.stat(source)
    except OSError as exc:
        raise DeviceError(mapping.path_on_host, oserror.reason(exc)) from exc
    if stat.S_ISDIR(info.st_mode):
        devices = [
            device
            for path in _walk(source)
            if (device := _device(path, target + path[len(source) :])) is not None
            and device.type != "p"
        ]
    else:
        one = _device(source, target)
        devices = [one] if one is not None else []
    if not devices:
        raise DeviceError(mapping.path_on_host, "not a device node")
    return devices


def _rule_for(device: oci.Device, access: str) -> oci.DeviceRule:
    if device.type == "p":
        raise SpecFailure('invalid cgroup device type "p"')
    return oci.DeviceRule(
        allow=True, type=device.type, major=device.major, minor=device.minor, access=access
    )


def host_devices(root: str = "/dev") -> list[oci.Device]:
    """Every device node of the host, for a privileged container."""
    return [
        device
        for path in _walk(root, skip=_OWN)
        if not path.endswith("/console")
        and (device := _device(path, path)) is not None
        and device.type != "p"
    ]


def _walk(root: str, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """All that is no directory; what cannot be read is left out. As deep as it goes."""
    pending = [root]
    while pending:
        directory = pending.pop()
        folders: list[str] = []
        files: list[str] = []
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
        yield from (os.path.join(directory, name) for name in sorted(files))
        kept = (name for name in sorted(folders, reverse=True) if name not in skip)
        pending += [os.path.join(directory, name) for name in kept]


def _device(path: str, target: str) -> oci.Device | None:
    """The node at `path` as it shall be at `target`; None if it is none or has gone."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        return None
    return oci.Device(
        type=kind,
        path=target,
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        file_mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
    )


_KINDS = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}


def numbers(path: str) -> tuple[int, int]:
    """(major, minor) of the device at `path`, for the block I/O limits."""
    try:
        info = os.stat(path)
    except OSError as exc:
        raise Unclassified(f"stat {path}: {oserror.reason(exc)}") from exc
    return os.major(info.st_rdev), os.minor(info.st_rdev)


def plan(
    mappings: Sequence[DeviceMapping], rules: Sequence[str], *, privileged: bool
) -> tuple[list[oci.Device], list[oci.DeviceRule]]:
    """Nodes to make and rules to set, in order, for one container."""
    if privileged:
        return _privileged(mappings)
    devices: list[oci.Device] = []
    permissions = list(DEFAULT_RULES)
    for mapping in mappings:
        nodes = from_mapping(mapping)
        devices += nodes
        # Letters that name no access grant none.
        access = "".join(letter for letter in "rwm" if letter in mapping.cgroup_permissions)
        for node in nodes:
            if not mapping.cgroup_permissions:
                # dockerd's list begins with the default rules twice.
                at = len(DEFAULT_RULES) + len(permissions)
                raise SpecFailure(f"device access at {at} field cannot be empty")
            if access:
                permissions.append(_rule_for(node, access))
    permissions += [parse_rule(rule) for rule in rules]
    return devices, permissions


def _privileged(
    mappings: Sequence[DeviceMapping],
) -> tuple[list[oci.Device], list[oci.DeviceRule]]:
    devices = host_devices()
    for mapping in mappings:
        if mapping.path_on_host != mapping.path_in_container:
            devices += from_mapping(mapping)
    return devices, [oci.DeviceRule(allow=True)]
