"""What breaks a request, as Go's net/http words it: what users of Docker know and search for.

Here and in transport.py alone aiohttp's exceptions are known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket

import aiohttp

RESOLV_CONF = "/etc/resolv.conf"
_NAMESERVER = re.compile(rb"^\s*nameserver\s+(\S+)", re.MULTILINE)

FAILURES = (aiohttp.ClientError, OSError, TimeoutError, UnicodeError)  # a name IDNA cannot spell


def is_passing(exc: BaseException) -> bool:
    """Whether waiting a little may help: not where nobody is, nor against a certificate."""
    final = aiohttp.ClientConnectorError | aiohttp.ClientResponseError | aiohttp.InvalidURL
    return not isinstance(exc, final) and "[SSL: " not in str(exc)


def reason(exc: BaseException) -> str:
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return f"dial tcp: {exc.os_error.strerror}"
        case aiohttp.ClientConnectorCertificateError():
            return _certificate_reason(exc.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return _tls_reason(str(exc))
        case aiohttp.ConnectionTimeoutError():
            return "dial tcp: i/o timeout"
        case TimeoutError():
            return "context deadline exceeded (Client.Timeout or context cancellation)"
        case aiohttp.ClientConnectorError():
            return _dial_reason(exc)
        case aiohttp.ServerDisconnectedError():
            return "EOF"
        case aiohttp.ClientPayloadError():
            return "unexpected EOF"
        case aiohttp.ClientHttpProxyError():
            return exc.message
        case aiohttp.ClientResponseError():
            said = "transport connection broken: malformed HTTP response"
            return f"net/http: HTTP/1.x {said}: {exc.message.partition(chr(10))[0]}"
        case aiohttp.InvalidURL():
            return f"invalid URL: {exc}"
        case OSError() if "[SSL: " in str(exc):  # aiohttp wraps what comes after the handshake
            return _tls_reason(str(exc))
        case OSError() if exc.errno == errno.ECONNRESET:
            return "read: connection reset by peer"
        case _:
            return str(exc) or "EOF"


def look_up_reason(host: str, code: int | None) -> str:
    """Why there is no address; Go names the server that it asked, the first that the host has.

    `code` is getaddrinfo(3)'s. Blocks: it reads resolv.conf(5).
    """
    found = None
    with contextlib.suppress(OSError), open(RESOLV_CONF, "rb") as file:
        found = _NAMESERVER.search(file.read(1 << 16))
    server = found[1].decode("ascii", "replace") if found else "127.0.0.1"
    shown = f"[{server}]:53" if ":" in server else f"{server}:53"
    what = "server misbehaving" if code == socket.EAI_AGAIN else "no such host"
    return f"lookup {host} on {shown}: {what}"


def _dial_reason(exc: aiohttp.ClientConnectorError) -> str:
    inner = exc.os_error
    peer = re.search(r"\('([^']+)', (\d+)", str(inner))
    host, port = (peer[1], peer[2]) if peer else (exc.host, str(exc.port))
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if inner.errno is None:
        return f"dial tcp {shown}: {inner.strerror or inner}"
    return f"dial tcp {shown}: connect: {os.strerror(inner.errno).lower()}"


def _certificate_reason(exc: Exception) -> str:
    prefix = "tls: failed to verify certificate: x509:"
    # X509_V_ERR_*, openssl/x509_vfy.h
    match getattr(exc, "verify_code", 0):
        case 9 | 10:
            return f"{prefix} certificate has expired or is not yet valid"
        case 18 | 19 | 20 | 21:
            return f"{prefix} certificate signed by unknown authority"
        case 62 | 64:
            return f"{prefix} certificate is not valid for this host: {exc.verify_message}"  # type: ignore[attr-defined]
        case _:
            return f"{prefix} {exc}"


def _tls_reason(text: str) -> str:
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return "http: server gave HTTP response to HTTPS client"
    if found := _ALERT.search(text):
        words = found[1].lower().replace("_", " ")
        return f"remote error: tls: {_ALERTS.get(words, words)}"
    return f"tls: {text}"


# OpenSSL's "[SSL: TLSV1_ALERT_UNKNOWN_CA]", and Go's words where they are others than OpenSSL's.
_ALERT = re.compile(r"\b(?:(?:SSLV3|TLSV\d+)_ALERT_|TLSV1_(?=UNRECOGNIZED|UNSUPPORTED))([A-Z_]+)")
_ALERTS = {
    "certificate expired": "expired certificate",
    "certificate revoked": "revoked certificate",
    "certificate unknown": "unknown certificate",
    "decode error": "error decoding message",
    "decrypt error": "error decrypting message",
    "insufficient security": "insufficient security level",
    "protocol version": "protocol version not supported",
    "unknown ca": "unknown certificate authority",
}
