"""The files that tell a container about names, written and changed in place.

They are mounted into containers, so the inode has to stay: no temporary file, no renaming. All of
it blocks. What is in them is decided in `engine.network.names`.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from engine.network import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.config import EngineConfig
    from engine.network.model import SandboxRequest

log = logging.getLogger(__name__)

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"

# What a container makes of its file is read into memory when a name in it changes.
_LARGEST_BYTES: Final = 16 << 20

# Whoever starts, leaves a network or loses a link may change the file of the same container in a
# thread of its own. Two files that share a lock wait a moment for one another; a lock for each
# file would have to be forgotten some time.
_locks: Final = tuple(threading.Lock() for _ in range(16))


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
    data = content.encode(errors="surrogateescape")
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
    resolver: str = "",
) -> None:
    """Before a container starts. `own` are its addresses, `gateways` those of the host."""
    if request.hostname_path:
        write(request.hostname_path, f"{request.hostname}\n")
    if request.hosts_path:
        extra = [*names.extra_hosts(request.extra_hosts, gateways), *request.linked_hosts]
        write(request.hosts_path, _hosts(request, extra, own, has_own_namespace))
    if request.resolv_conf_path:
        content = _resolv_conf(
            request,
            config,
            has_own_namespace=has_own_namespace,
            has_ipv6=any(":" in address for address in own),
            resolver=resolver,
        )
        write(request.resolv_conf_path, content)


def _resolv_conf(
    request: SandboxRequest,
    config: EngineConfig,
    *,
    has_own_namespace: bool,
    has_ipv6: bool,
    resolver: str,
) -> str:
    return names.resolv_conf(
        names.parse_resolv_conf(read(RESOLV_CONF)),
        source=RESOLV_CONF,
        nameservers=request.dns or config.dns,
        search=request.dns_search or config.dns_search,
        options=request.dns_options or config.dns_opts,
        has_own_namespace=has_own_namespace,
        has_ipv6=has_ipv6,
        resolver=resolver,
    )


def resolve_by(request: SandboxRequest, config: EngineConfig, resolver: str) -> None:
    """A running container has a resolver from now on, and asks it unless it changed its file."""
    path = request.resolv_conf_path
    if not path:
        return
    current = read(path)
    made = (
        _resolv_conf(request, config, has_own_namespace=True, has_ipv6=has_ipv6, resolver="")
        for has_ipv6 in (False, True)
    )
    if current in made:
        content = _resolv_conf(
            request, config, has_own_namespace=True, has_ipv6=True, resolver=resolver
        )
        write(path, content)


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
        with _lock(request.hosts_path), open(request.hosts_path, "a", encoding="utf-8") as file:
            file.writelines(f"{address}\t{line}\n" for address in own)


def drop_own(path: str, own: Iterable[str]) -> None:
    """A running container lost addresses."""
    gone = set(own)
    _change(path, lambda lines: [line for line in lines if line.partition("\t")[0] not in gone])


def move_names(path: str, first_names: Iterable[str], addresses: Iterable[str]) -> None:
    """What begins with one of these names is elsewhere now, in each family of addresses."""
    wanted = set(first_names)
    at = {":" in address: address for address in addresses}

    def moved(line: str) -> str:
        address, tab, rest = line.partition("\t")
        if tab and _first_name(line) in wanted:
            address = at.get(":" in address, address)
        return f"{address}{tab}{rest}"

    _change(path, lambda lines: [moved(line) for line in lines])


def drop_name(path: str, first_name: str) -> None:
    _change(path, lambda lines: [line for line in lines if _first_name(line) != first_name])


def _change(path: str, change: Callable[[list[str]], list[str]]) -> None:
    """Put other lines in the place of a file's own; no other change gets lost meanwhile.

    One that is not there is not made: its container goes away. One that its container has blown up
    is left alone.
    """
    with _lock(path):
        try:
            with open(path, "rb") as file:
                data = file.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            return
        if len(data) > _LARGEST_BYTES:
            log.warning("%s is too large to be changed and stays as it is", path)
            return
        lines = data.decode(errors="surrogateescape").splitlines(keepends=True)
        write(path, "".join(change(lines)))


def _lock(path: str) -> threading.Lock:
    return _locks[hash(path) % len(_locks)]


def _first_name(line: str) -> str:
    words = line.partition("\t")[2].split()
    return words[0] if words else ""
