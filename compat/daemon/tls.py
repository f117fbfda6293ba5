"""The TLS side of `tcp://` listeners: the daemon's certificate, and the CA of its clients."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import EngineConfig


class TlsError(Exception):
    """The certificates cannot be used; `str()` says which and why."""


def server_context(config: EngineConfig) -> ssl.SSLContext | None:
    """The context for TCP listeners, None without TLS; raises TlsError."""
    if not config.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as exc:
        raise TlsError(
            "invalid TLS configuration: Could not load X509 key pair "
            f'(cert: "{config.tls_cert}", key: "{config.tls_key}"): {_reason(exc)}'
        ) from exc
    if config.tls_verify:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.tls_ca_cert)
        except (OSError, ValueError) as exc:
            raise TlsError(
                "invalid TLS configuration: could not read CA certificate "
                f'"{config.tls_ca_cert}": {_reason(exc)}'
            ) from exc
    return context


def _reason(exc: Exception) -> str:
    strerror: object = getattr(exc, "strerror", None)
    return str(strerror or exc)
