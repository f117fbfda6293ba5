"""Sockets that hold a port of the host: ip(7), ipv6(7), tcp(7), udp(7), sctp(7)."""

from __future__ import annotations

import socket

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Those that have ports and are known here, and their numbers (RFC 5237)."""

_BACKLOG = 4096
_IP_PKTINFO, _IPV6_RECVPKTINFO = 8, 49


def bind(protocol: str, host: str, port: int, *, is_dual: bool = False) -> int:
    """A bound descriptor; a stream listens. Raises OSError.

    One that `is_dual`, for which `host` is "::", is for any address of both families: who comes by
    IPv4 has an IPv4-mapped address there (RFC 3493, section 3.7).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    # Without the layer that Python puts around it: there may be thousands.
    sock = socket.SocketType(family, kind | socket.SOCK_CLOEXEC, PROTOCOLS[protocol])
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_dual else 1)
        if kind == socket.SOCK_DGRAM:
            # An answer has to leave from the address that was asked.
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock.detach()
