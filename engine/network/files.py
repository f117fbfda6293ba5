"""The files that tell a container about names, written and changed in place.

They are mounted into containers, so the inode has to stay: no temporary file, no renaming. All of
it blocks. What is in them is decided in `engine.network.names`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from engine.network import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.config import EngineConfig
    from engine.network.model import SandboxRequest

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"


def read(path: str) -> str:
    """The text of a file; none is an empty one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def host_has_ipv6() -> bool:
    return os.path.exists("/proc/sys/net/ipv6")


def write(path: str, content: str) -> None:
    """In place, as containers have the file itself mounted; at no time is it empty."""
    data = content.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def write_all(
    request: SandboxRequest,
    config: EngineConfig,
    *,
    own: Sequence[str],
    gateways: Sequence[str],
    has_own_namespace: bool,
) -> None:
    """Before a container starts. `own` are its addresses, `gateways` those of the host."""
    if request.hostname_path:
        write(request.hostname_path, f"{request.hostname}\n")
    if request.hosts_path:
        extra = [*names.extra_hosts(request.extra_hosts, gateways), *request.linked_hosts]
        write(request.hosts_path, _hosts(request, extra, own, has_own_namespace))
    if request.resolv_conf_path:
        content = names.resolv_conf(
            names.parse_resolv_conf(read(RESOLV_CONF)),
            source=RESOLV_CONF,
            nameservers=request.dns or config.dns,
            search=request.dns_search or config.dns_search,
            options=request.dns_options or config.dns_opts,
            has_own_namespace=has_own_namespace,
            has_ipv6=any(":" in address for address in own),
        )
        write(request.resolv_conf_path, content)


def _hosts(
    request: SandboxRequest,
    extra: Sequence[tuple[str, str]],
    own: Sequence[str],
    has_own_namespace: bool,
) -> str:
    """A container of the host's network has the host's own file, unless it adds to it."""
    if not has_own_namespace and not extra:
        return read(HOSTS)
    own_names = names.own_names(request.hostname, request.domainname)
    return names.hosts(extra, own, own_names, has_ipv6=host_has_ipv6())


def add_own(request: SandboxRequest, own: Iterable[str]) -> None:
    """A running container got addresses."""
    if request.hosts_path:
        line = names.own_names(request.hostname, request.domainname)
        with open(request.hosts_path, "a", encoding="utf-8") as file:
            file.writelines(f"{address}\t{line}\n" for address in own)


def drop_own(path: str, own: Iterable[str]) -> None:
    """A running container lost addresses."""
    gone = set(own)
    lines = read(path).splitlines(keepends=True)
    write(path, "".join(line for line in lines if line.partition("\t")[0] not in gone))


def move_names(path: str, first_names: Iterable[str], addresses: Iterable[str]) -> None:
    """What begins with one of these names is elsewhere now, in each family of addresses."""
    wanted = set(first_names)
    at = {":" in address: address for address in addresses}
    lines: list[str] = []
    for line in read(path).splitlines(keepends=True):
        address, tab, rest = line.partition("\t")
        if tab and _first_name(line) in wanted:
            address = at.get(":" in address, address)
        lines.append(f"{address}{tab}{rest}")
    write(path, "".join(lines))


def drop_name(path: str, first_name: str) -> None:
    lines = read(path).splitlines(keepends=True)
    write(path, "".join(line for line in lines if _first_name(line) != first_name))


def _first_name(line: str) -> str:
    words = line.partition("\t")[2].split()
    return words[0] if words else ""
