"""What a Wharf instance may leave on a host, so that a test run can end by finding none of it."""

from __future__ import annotations

import os
from pathlib import Path


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
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(root) in command:
                found.append(f"process {entry.name} {command.strip()}")
    return found


def links() -> set[str]:
    return {f"link {name}" for name in os.listdir("/sys/class/net")}


def cgroups() -> set[str]:
    found = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        if directory.count("/") > 6:
            names.clear()
        found.update(f"cgroup {directory}/{n}" for n in names if n.startswith("wharf-"))
    return found


def nft_tables() -> set[str]:
    """The nftables tables of this network namespace that are named as ours are."""
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=0) as nft:
        return {
            f"nft table {name}"
            for table in nft.get_tables()
            if str(name := table.get_attr("NFTA_TABLE_NAME")).startswith("wharf-")
        }


def snapshot() -> set[str]:
    """All that can be told apart by its name alone; compare one from before with one from after."""
    return links() | cgroups() | nft_tables()
