"""What a Wharf instance may leave on a host, so that a test run can end by finding none of it.

`of` finds, and a test fails on what it finds. `remove` is for the end of a run, whatever happened
in it: an engine that was killed and is never started again cannot clear the host itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from engine.linux import netlink, nftables, syscalls
from engine.network import sandbox
from engine.network.firewall import Firewall

END_TIMEOUT_S = 10.0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def mounts(root: Path) -> list[str]:
    """Mounts of the host below or of an instance's folders."""
    return [f"mount {line}" for line in _lines("/proc/self/mountinfo") if str(root) in line]


def processes(root: Path) -> list[str]:
    """Processes other than ours that name an instance's folders or hold files of theirs open."""
    return [f"process {pid} {command}" for pid, command in _naming(root)]


def _naming(root: Path) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                command = b" ".join(words).decode(errors="replace").strip()
                if str(root) in command or (
                    command.startswith("wharf") and _holds(entry / "fd", root)
                ):
                    found.append((int(entry.name), command))
    return found


def _holds(descriptors: Path, root: Path) -> bool:
    """The engine's small processes do not say whose they are, but have its journal or log open."""
    return any(os.readlink(fd).startswith(f"{root}/") for fd in descriptors.iterdir())


def links(instance: str) -> list[str]:
    """Those that have a name or an alias of the instance's."""
    prefix, alias = sandbox.link_prefix(instance), sandbox.mark(instance)
    with netlink.Socket() as sock:
        found = list(netlink.names(sock))
    return [f"link {name}" for name, mark in found if name.startswith(prefix) or mark == alias]


def cgroups(instance: str) -> list[str]:
    return [f"cgroup {path}" for path in _cgroups(instance)]


def _cgroups(instance: str) -> list[str]:
    """The instance's own folder in every hierarchy."""
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{directory}/{name}" for name in names if name == f"wharf-{instance}"]
        if directory.count("/") > 5:
            names.clear()
    return found


def nft_tables(instance: str) -> list[str]:
    """The nftables tables of this network namespace that carry the instance's name."""
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        names = nftables.tables(sock, family=0)
    return [f"nft table {name}" for name in names if name == f"wharf-{instance}"]


def accepts(instance: str) -> list[str]:
    """Rules of the instance in chains that are not its own."""
    with netlink.Socket(netlink.NETLINK_NETFILTER) as sock:
        return [
            f"rule {rule.handle} in {chain.table} {chain.chain}: {rule.comment}"
            for chain in nftables.base_chains(sock)
            for rule in nftables.rules(sock, chain.family, chain.table, chain.chain)
            if rule.comment.startswith(f"wharf-{instance} ")
        ]


def of(root: Path, instance: str) -> list[str]:
    """All that is left of the instance whose folders are below `root`."""
    return [
        *mounts(root),
        *processes(root),
        *links(instance),
        *cgroups(instance),
        *nft_tables(instance),
        *accepts(instance),
    ]


def kill(root: Path, instance: str) -> None:
    """End all processes of the instance: the engine's own and its containers'."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while (pids := _pids(root, instance)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def remove(root: Path, instance: str) -> None:
    """Take all of it away: processes, mounts, links, rules, cgroups."""
    kill(root, instance)
    points = [line.split()[4] for line in _lines("/proc/self/mountinfo")]
    for point in sorted((p for p in points if Path(p).is_relative_to(root)), reverse=True):
        with contextlib.suppress(OSError):
            syscalls.umount2(point, syscalls.MNT_DETACH)
    sandbox.sweep("", instance, keep_ids=set(), keep_links=set())
    if nft_tables(instance) or accepts(instance):
        firewall = Firewall(instance, link_prefix=sandbox.link_prefix(instance))
        firewall.remove()
        firewall.close()
    for group in _groups(instance):
        with contextlib.suppress(OSError):
            os.rmdir(group)


def _groups(instance: str) -> list[str]:
    """The instance's cgroups, the innermost first."""
    return [d for path in _cgroups(instance) for d, _, _ in os.walk(path, topdown=False)]


def _pids(root: Path, instance: str) -> set[int]:
    inside = (line for group in _groups(instance) for line in _lines(f"{group}/cgroup.procs"))
    return {pid for pid, _ in _naming(root)} | {int(line) for line in inside}
