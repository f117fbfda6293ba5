"""The sockets that the daemon listens on: made, checked and taken away again.

All of it happens before the first request and blocks shortly. A socket in the file system is bound
under another name, given its owner and mode, and only then renamed to its own: there is no instant
at which somebody else could connect (open(2) checks the mode at connect time).
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import ipaddress
import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.config import EngineConfig

log = logging.getLogger(__name__)

DEFAULT_GROUP = "docker"
SOCKET_MODE = 0o660
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn

# How long a connect may take that only asks whether anybody is there.
_PROBE_TIMEOUT_S = 2.0


class ListenError(Exception):
    """The daemon cannot listen there; `str()` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening socket. `path` is the file that belongs to it and goes with it, or "".

    `inode` is that file's, so that a successor's file of the same name is left alone.
    """

    socket: socket.socket
    address: str
    path: str = ""
    inode: int = 0

    def close(self) -> None:
        if self.path:
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(self.path).st_ino == self.inode:
                    os.unlink(self.path)
        self.socket.close()


def open_all(config: EngineConfig, passed_fds: Sequence[int]) -> list[Listener]:
    """Listen at every host of the configuration, or at none; raises ListenError.

    `passed_fds` are systemd's; each is used or closed.
    """
    with contextlib.ExitStack() as undo:
        found: list[Listener] = []
        for host in config.hosts:
            scheme, _, address = host.partition("://")
            for listener in _open(scheme, address, config, passed_fds):
                undo.callback(listener.close)
                found.append(listener)
        undo.pop_all()
    return found


def _open(
    scheme: str, address: str, config: EngineConfig, passed_fds: Sequence[int]
) -> Iterator[Listener]:
    match scheme:
        case "unix":
            yield _unix(address, _group_id(config.group))
        case "tcp":
            yield _tcp(address, config)
        case _:
            yield from _activated(address, passed_fds, config)


# unix://


def _group_id(group: str) -> int:
    """The group that owns the socket; without a group of the default name, the daemon's own."""
    if not group:
        return os.getgid()
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        pass
    if group.isdecimal():
        return int(group)
    if group != DEFAULT_GROUP:
        raise ListenError(f"group {group} not found")
    log.warning("there is no group %s: only root can use the socket", group)
    return os.getgid()


def _unix(path: str, gid: int) -> Listener:
    if path.startswith("@"):
        raise ListenError(
            f"can't create unix socket {path}: an abstract socket has no owner and no mode, "
            "so every process on this host could use it"
        )
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with _directory_lock(os.path.dirname(path)):
            _refuse_living(path)
            bound = _bound(path, gid)
            return Listener(socket=bound, address=path, path=path, inode=os.lstat(path).st_ino)
    except OSError as exc:
        raise ListenError(f"can't create unix socket {path}: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def _directory_lock(directory: str) -> Iterator[None]:
    """One daemon at a time looks who is there and takes the place."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _refuse_living(path: str) -> None:
    """Raise ListenError if somebody listens at the path, or if what is there is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise ListenError(f"can't create unix socket {path}: there is a symbolic link")
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"can't create unix socket {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (TimeoutError, BlockingIOError):
            # Its queue is full: somebody has it open who does not get to accepting.
            pass
    raise ListenError(
        f"can't create unix socket {path}: another engine is listening there; "
        "stop it first, or choose another socket with --host"
    )


def _bound(path: str, gid: int) -> socket.socket:
    """A listening socket with owner and mode, then with its name."""
    temporary = f"{path}.{os.getpid()}"
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        umask = os.umask(0o177)
        try:
            listener.bind(temporary)
        finally:
            os.umask(umask)
        undo.callback(_unlink_if_there, temporary)
        os.chown(temporary, -1, gid)
        os.chmod(temporary, SOCKET_MODE)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        os.rename(temporary, path)
        undo.pop_all()
    return listener


def _unlink_if_there(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# tcp://


def is_loopback(host: str) -> bool:
    """Whether an address of a socket is this host's own and nobody else's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_hosts(config: EngineConfig) -> None:
    """Raise ListenError for a TCP host that `open_all` would refuse whatever else holds it."""
    for host in config.hosts:
        scheme, _, address = host.partition("://")
        if scheme == "tcp":
            _resolve(address, config)


def _tcp(address: str, config: EngineConfig) -> Listener:
    family, kind, protocol, target = _resolve(address, config)
    listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, target[0] != "::")
        listener.bind(target)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        reason = (exc.strerror or str(exc)).lower()
        raise ListenError(f"listen tcp {address}: bind: {reason}") from exc
    return Listener(socket=listener, address=address)


def _resolve(
    address: str, config: EngineConfig
) -> tuple[socket.AddressFamily, socket.SocketKind, int, tuple[Any, ...]]:
    """What to listen with; raises ListenError where nobody shall."""
    host, _, port = address.rpartition(":")
    try:
        candidates = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise ListenError(f"failed to lookup {host} address in host specification") from exc
    # Go listens on the first IPv4 address of a name if it has one.
    family, kind, protocol, _, target = min(candidates, key=lambda c: c[0] != socket.AF_INET)
    _refuse_insecure(f"tcp://{address}", str(target[0]), config)
    return family, kind, protocol, target


def _refuse_insecure(host: str, ip: str, config: EngineConfig) -> None:
    """Raise ListenError where anyone on the network would be root on this host."""
    if config.tls and config.tls_verify:
        return
    if is_loopback(ip):
        log.warning("%s is open to every process on this host, and gives root to it", host)
        return
    if not config.allow_insecure_tcp:
        raise ListenError(
            f"refusing to listen on {host}: without --tlsverify everybody who reaches this address "
            "would be root on this host (--allow-insecure-tcp allows it all the same)"
        )
    log.warning("%s is open to everybody who reaches it, and gives root on this host", host)


# fd://


def _activated(address: str, passed_fds: Sequence[int], config: EngineConfig) -> Iterator[Listener]:
    """The sockets of systemd: all (`fd://`, `fd://*`), or the one of that number."""
    if not passed_fds:
        raise ListenError(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    wanted = list(passed_fds)
    if address not in {"", "*"}:
        if not address.isdecimal():
            raise ListenError(f"failed to parse systemd fd address: should be a number: {address}")
        if int(address) not in passed_fds:
            raise ListenError("too few socket activated files passed in by systemd")
        wanted = [int(address)]
    for fd in passed_fds:
        if fd in wanted:
            yield _adopted(fd, config)
        else:
            os.close(fd)


def _adopted(fd: int, config: EngineConfig) -> Listener:
    """A passed descriptor, which must be a listening stream socket."""
    try:
        listener = socket.socket(fileno=fd)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ListenError(f"failed to listen on systemd activated file: fd {fd}") from exc
    if listener.type != socket.SOCK_STREAM or not is_listening:
        raise ListenError(f"failed to listen on systemd activated file: fd {fd}")
    listener.setblocking(False)
    if listener.family == socket.AF_UNIX:
        return Listener(socket=listener, address=str(listener.getsockname()))
    ip, port = listener.getsockname()[:2]
    _refuse_insecure(f"fd://{fd} ({ip}:{port})", str(ip), config)
    return Listener(socket=listener, address=f"{ip}:{port}")
