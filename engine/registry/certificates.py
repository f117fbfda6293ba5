"""TLS contexts with the CAs and client certificates of certs.d, as dockerd reads them."""

from __future__ import annotations

import os
import ssl

from engine.errors import InvalidParameter
from engine.linux import oserror


def insecure_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def contexts_of(folder: str) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """Contexts with the CAs and client certificates of a certs.d folder; None without a folder.

    `*.crt` are CAs, `*.cert` with a `*.key` of the same name client certificates. The second
    context, for other hosts, knows the CAs alone.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidParameter(f"open {folder}: {oserror.reason(exc)}") from exc
    home, elsewhere = ssl.create_default_context(), ssl.create_default_context()
    for name in names:
        path = os.path.join(folder, name)
        stem, extension = os.path.splitext(name)
        if extension == ".crt":
            _load_ca(path, home, elsewhere)
        elif extension == ".cert":
            _load_client_certificate(path, f"{stem}.key", names, home)
        elif extension == ".key" and f"{stem}.cert" not in names:
            raise InvalidParameter(f"missing client certificate {stem}.cert for key {name}")
    return home, elsewhere


def _load_ca(path: str, *contexts: ssl.SSLContext) -> None:
    try:
        for context in contexts:
            context.load_verify_locations(path)
    except ssl.SSLError:
        # Go skips what is no certificate (AppendCertsFromPEM).
        return
    except OSError as exc:
        raise InvalidParameter(f"open {path}: {oserror.reason(exc)}") from exc


def _load_client_certificate(
    path: str, key: str, names: list[str], context: ssl.SSLContext
) -> None:
    if key not in names:
        raise InvalidParameter(
            f"missing key {key} for client certificate {os.path.basename(path)}. "
            "CA certificates must use the extension .crt"
        )
    try:
        context.load_cert_chain(path, os.path.join(os.path.dirname(path), key))
    except (ssl.SSLError, OSError) as exc:
        raise InvalidParameter(f"cannot load client certificate {path}: {exc}") from exc
