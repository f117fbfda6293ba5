"""Which kernel parameters a container may set: those of a namespace that is its own.

runc libcontainer/configs/validate: everything else would change the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.container.failure import SpecFailure

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_IPC = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)

# Allowed without capabilities because everything behind them is the container's own.
_NETWORK_DEFAULTS = {
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv4.ip_unprivileged_port_start": "0",
}


def defaults(*, owns_network: bool) -> dict[str, str]:
    return dict(_NETWORK_DEFAULTS) if owns_network else {}


def check(sysctls: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """The parameters with dots for slashes; `own` are the new namespaces. Raises SpecFailure."""
    result: dict[str, str] = {}
    for name, value in sysctls.items():
        key = _dotted(name)
        if ".." in key or not all(part for part in key.split(".")):
            raise SpecFailure(f'sysctl "{name}" is not in a separate kernel namespace')
        _check_one(key, own)
        result[key] = value
    return result


def _check_one(key: str, own: Collection[str]) -> None:
    if key in _IPC or key.startswith("fs.mqueue."):
        if "ipc" not in own:
            raise SpecFailure(f'sysctl "{key}" is not allowed in the hosts ipc namespace')
    elif key.startswith("net."):
        if "network" not in own:
            raise SpecFailure(f'sysctl "{key}" not allowed in host network namespace')
    elif key == "kernel.domainname":
        if "uts" not in own:
            raise SpecFailure(f'sysctl "{key}" is not allowed in the hosts uts namespace')
    else:
        raise SpecFailure(f'sysctl "{key}" is not in a separate kernel namespace')


def _dotted(name: str) -> str:
    """The first separator decides: `net/ipv4/conf/eth0.1/x` keeps its dot (sysctl(8))."""
    slash, dot = name.find("/"), name.find(".")
    if slash == -1 or -1 < dot < slash:
        return name
    return name.replace("/", ".")
