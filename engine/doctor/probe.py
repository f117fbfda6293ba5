"""Finding out what this host offers by asking or trying, leaving nothing behind.

What only the kernel can tell (will it mount an overlay there, make a bridge, a NAT chain?) is
tried in a child with namespaces of its own: they end with it.
"""

from __future__ import annotations

import errno
import grp
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.container import apparmor
from engine.linux import capability, cgroup, netlink, nftables, seccomp, syscalls, xtables
from engine.linux.cgroup import parent, setup

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`*_errno` is 0 where it worked. `missing_namespaces` and the like are empty when all is."""

    python: tuple[int, int]
    kernel: str
    machine: str
    is_root: bool
    missing_capabilities: tuple[str, ...]
    openat2_errno: int
    mount_api_errno: int
    missing_namespaces: tuple[str, ...]
    cgroup_version: int
    cgroup_controllers: frozenset[str]
    cgroup_base: str
    has_cgroup_kill: bool
    limits: dict[str, bool]
    overlay_errno: int
    data_root: str
    free_bytes: int
    bridge_errno: int
    veth_errno: int
    nat_errno: int
    ipv4_forward: bool
    dropping_chains: tuple[str, ...]
    legacy_drops: tuple[str, ...]
    has_ipv6: bool
    has_seccomp: bool
    has_libseccomp: bool
    has_apparmor: bool
    has_apparmor_profile: bool
    apparmor_parser: str
    is_selinux_enforcing: bool
    open_files: int
    exec_root: str
    exec_root_errno: int
    socket_group: str
    has_socket_group: bool


def look(config: EngineConfig) -> Facts:
    version = cgroup.version()
    unified = setup.roots().unified
    policy = apparmor.look()
    return Facts(
        python=sys.version_info[:2],
        kernel=platform.release(),
        machine=platform.machine(),
        is_root=os.geteuid() == 0,
        missing_capabilities=_missing_capabilities(),
        openat2_errno=_errno_of(_try_openat2),
        mount_api_errno=_errno_of(_try_mount_api),
        missing_namespaces=_missing_namespaces(),
        cgroup_version=version,
        cgroup_controllers=frozenset(cgroup.controllers()),
        cgroup_base=_cgroup_base() if version == 2 else "",
        has_cgroup_kill=version == 1 or _has_cgroup_kill(unified or ""),
        limits=cgroup.supported(),
        overlay_errno=_try_overlay(config.data_root),
        data_root=config.data_root,
        free_bytes=_free_bytes(config.data_root),
        bridge_errno=_errno_in_child(_try_bridge),
        veth_errno=_errno_in_child(_try_veth),
        nat_errno=_errno_in_child(_try_nat),
        ipv4_forward=_read("/proc/sys/net/ipv4/ip_forward").strip() == "1",
        dropping_chains=_dropping_chains(f"wharf-{config.instance}"),
        legacy_drops=_legacy_drops(),
        has_ipv6=os.path.exists("/proc/net/if_inet6"),
        has_seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        has_libseccomp=seccomp.is_available(),
        has_apparmor=policy.is_on,
        has_apparmor_profile=policy.has_default,
        apparmor_parser=policy.parser,
        is_selinux_enforcing=_read("/sys/fs/selinux/enforce").strip() == "1",
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        exec_root=config.exec_root,
        exec_root_errno=_errno_of(lambda: _try_socket(config.exec_root)),
        socket_group=config.group,
        has_socket_group=_has_group(config.group),
    )


def _read(path: str) -> str:
    """The file's text; "" where it is not there or not for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _errno_of(attempt: Callable[[], None]) -> int:
    try:
        attempt()
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def _errno_in_child(attempt: Callable[[], None]) -> int:
    """`_errno_of` in a process of its own, whose namespaces end with it."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            code = _errno_of(attempt) % 255
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


# The folders and the socket


def _try_socket(folder: str) -> None:
    """What lives there is sockets, files and mount points: try it in the folder or above it."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    with (
        tempfile.TemporaryDirectory(prefix="wharf-check-", dir=folder) as place,
        socket.socket(socket.AF_UNIX) as probe,
    ):
        # By a short way, whatever the length of the path.
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            probe.bind(f"/proc/self/fd/{fd}/s")
        finally:
            os.close(fd)


def _has_group(name: str) -> bool:
    """Whether the socket can be given to that group; a number needs no name."""
    try:
        grp.getgrnam(name)
    except (KeyError, ValueError):
        return name.isdecimal()
    return True


# The process and the kernel's calls


def _missing_capabilities() -> tuple[str, ...]:
    held = capability.from_set(capability.available())
    return tuple(name for name in capability.known() if name not in held)


def _try_openat2() -> None:
    os.close(syscalls.openat2(syscalls.AT_FDCWD, "/", syscalls.O_PATH))


def _try_mount_api() -> None:
    os.close(syscalls.fsopen("tmpfs"))


_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


def _missing_namespaces() -> tuple[str, ...]:
    return tuple(name for name in _NAMESPACES if not os.path.exists(f"/proc/self/ns/{name}"))


def _cgroup_base() -> str:
    """The group that systemd delegated to this process, "" where it did not."""
    return parent.delegated(parent.own_group(_read("/proc/self/cgroup")))


def _has_cgroup_kill(unified: str) -> bool:
    """The file is in every group but the root: any will do to look."""
    with os.scandir(unified) as entries:
        groups = [entry.path for entry in entries if entry.is_dir()]
    return not groups or any(os.path.exists(f"{group}/cgroup.kill") for group in groups)


# Storage


def _nearest(path: str) -> str:
    """The directory itself or the first one above that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _free_bytes(data_root: str) -> int:
    status = os.statvfs(_nearest(data_root))
    return status.f_bavail * status.f_frsize


def _try_overlay(data_root: str) -> int:
    try:
        scratch = tempfile.mkdtemp(prefix=".wharf-check-", dir=_nearest(data_root))
    except OSError as exc:
        return exc.errno or errno.EIO
    try:
        return _errno_in_child(lambda: _mount_overlay(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mount_overlay(scratch: str) -> None:
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{scratch}/{name}")
    with open(f"{scratch}/lower/file", "wb"):
        pass
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    layers = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    syscalls.mount("overlay", f"{scratch}/merged", "overlay", 0, layers)
    # A file system that cannot hold a whiteout mounts well and fails here.
    os.unlink(f"{scratch}/merged/file")


# Network


def _try_bridge() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    netlink.execute([netlink.add_bridge("wharf-check", mac="02:00:00:00:00:01")])


def _try_veth() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with open("/proc/self/ns/net", "rb") as own:
        veth = netlink.add_veth(
            "wharf-check0",
            master=0,
            mtu=1500,
            peer="wharf-check1",
            peer_mac="02:00:00:00:00:02",
            peer_netns=own.fileno(),
        )
        netlink.execute([veth])


def _try_nat() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    chain = nftables.Chain("nat", "nat", nftables.NF_INET_POST_ROUTING, 100)
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        nftables.commit(
            sock,
            [
                nftables.add_table(nftables.NFPROTO_INET, "wharf-check"),
                nftables.add_chain(nftables.NFPROTO_INET, "wharf-check", chain),
                nftables.add_rule(
                    nftables.NFPROTO_INET, "wharf-check", "nat", [nftables.masquerade()]
                ),
            ],
        )


def _dropping_chains(own_table: str) -> tuple[str, ...]:
    """Chains of others that drop what is forwarded unless one of their rules says otherwise."""
    try:
        with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
            chains = nftables.base_chains(sock)
    except OSError:
        return ()
    return tuple(
        f"{chain.table} {chain.chain}"
        for chain in chains
        if chain.hook == nftables.NF_INET_FORWARD
        and chain.policy == nftables.NF_DROP
        and chain.table != own_table
        and chain.family in (nftables.NFPROTO_INET, nftables.NFPROTO_IPV4)
    )


def _legacy_drops() -> tuple[str, ...]:
    """The families whose legacy packet filter drops what is forwarded."""
    try:
        return tuple(f"IPv{version}" for version in (4, 6) if xtables.drops_forwarded(version))
    except OSError:
        return ()
