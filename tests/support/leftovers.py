"""What a Wharf instance may leave on a host, so that a test run can end by finding none of it."""

from __future__ import annotations

import os
from pathlib import Path

from engine.network.sandbox import link_prefix


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def mounts(root: Path) -> list[str]:
    """Mounts of the host below or of an instance's folders."""
    return [f"mount {line}" for line in _lines("/proc/self/mountinfo") if str(root) in line]


def processes(root: Path) -> list[str]:
    """Processes other than ours whose command line names an instance's folders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if str(root) in command:
                found.append(f"process {entry.name} {command.strip()}")
    return found


def links(instance: str) -> list[str]:
    prefix = link_prefix(instance)
    return [f"link {name}" for name in os.listdir("/sys/class/net") if name.startswith(prefix)]


def cgroups(instance: str) -> list[str]:
    found = []
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {directory}/{name}" for name in names if name == f"wharf-{instance}"]
        if directory.count("/") > 5:
            names.clear()
    return found


def nft_tables(instance: str) -> list[str]:
    """The nftables tables of this network namespace that carry the instance's name."""
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=0) as nft:
        names = [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    return [f"nft table {name}" for name in names if name == f"wharf-{instance}"]


def of(root: Path, instance: str) -> list[str]:
    """All that is left of the instance whose folders are below `root`."""
    return [
        *mounts(root),
        *processes(root),
        *links(instance),
        *cgroups(instance),
        *nft_tables(instance),
    ]
