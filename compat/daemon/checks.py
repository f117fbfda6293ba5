"""What single values must look like, each as a function from the text given to the text kept.

A value that cannot be raises ValueError with the sentence a user reads behind the option's name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from engine.errors import InvalidParameter
from engine.registry import mirror as registries

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_HTTP_HOST = "localhost"
DEFAULT_HTTP_PORT = 2375
DEFAULT_TLS_PORT = 2376
DEFAULT_UNIX_SOCKET = "/var/run/docker.sock"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


# Where the daemon listens


def host(text: str) -> str:
    """The address of a listener as it was typed; only its form is checked."""
    parse_host(text, tls=False)
    return text


def parse_host(text: str, *, tls: bool) -> str:
    """`unix://`, `tcp://` or `fd://` in full, with what was left out filled in (IANA's ports)."""
    address = text.strip()
    if not address:
        return f"tcp://{DEFAULT_HTTP_HOST}:{DEFAULT_TLS_PORT}" if tls else _unix_host("")
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    match scheme:
        case "tcp":
            return _tcp_host(text, rest)
        case "unix":
            if "://" in rest or _CONTROL.search(rest):
                raise ValueError(f"invalid bind address ({text}): invalid unix address: {rest}")
            return _unix_host(rest)
        case "fd":
            return address
        case _:
            raise ValueError(f"invalid bind address ({text}): unsupported proto '{scheme}'")


def _unix_host(path: str) -> str:
    return f"unix://{path or DEFAULT_UNIX_SOCKET}"


def _tcp_host(text: str, address: str) -> str:
    authority, slash, _ = address.partition("/")
    if slash:
        raise ValueError(f"invalid bind address ({text}): should not contain a path element")
    name, port = _split_port(text, authority)
    number = int(port) if port.isdecimal() and port.isascii() and len(port) <= 5 else 0
    if port and not 0 < number <= 65535:
        raise ValueError(f"invalid bind address ({text}): invalid port: {port}")
    return f"tcp://{name or DEFAULT_HTTP_HOST}:{number or DEFAULT_HTTP_PORT}"


def _split_port(text: str, authority: str) -> tuple[str, str]:
    """Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; the brackets stay."""
    if authority.startswith("["):
        name, bracket, port = authority.partition("]")
        if not bracket or not _is_ip(name[1:]) or port[:1] not in {"", ":"}:
            raise ValueError(f"invalid bind address ({text}): invalid IPv6 address")
        return name + "]", port[1:]
    name, _, port = authority.partition(":")
    if ":" in port or not re.fullmatch(r"[A-Za-z0-9._-]*", name, re.ASCII):
        raise ValueError(f"invalid bind address ({text}): invalid host")
    return name, port


# Registries


def mirror(text: str) -> str:
    """The URL of a mirror, with one slash at its end."""
    return _as_engine(registries.check_mirror, text)


def registry(text: str) -> str:
    """The name of a registry; Docker Hub's is `docker.io`."""
    return _as_engine(registries.check_registry, text)


def insecure_registry(text: str) -> str:
    """A host, `host:port` or a subnet; a scheme before it is taken off."""
    return _as_engine(lambda given: str(registries.check_insecure(given)), text)


def _as_engine(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except InvalidParameter as exc:
        raise ValueError(str(exc)) from None


# Names and addresses


def ip_of_dns(text: str) -> str:
    if not _is_ip(text):
        raise ValueError(f"invalid string being converted to IP address: {text}")
    return str(ipaddress.ip_address(text))


def ip(text: str) -> str:
    if not _is_ip(text.strip()):
        raise ValueError(f'failed to parse IP: "{text}"')
    return str(ipaddress.ip_address(text.strip()))


def interface(text: str) -> str:
    """An address with its prefix length, "172.17.0.1/16"."""
    try:
        if "/" in text or not text:
            return text and str(ipaddress.ip_interface(text))
    except ValueError:
        pass
    raise ValueError(f"invalid CIDR address: {text}")


def network(text: str) -> str:
    """A subnet, "172.17.4.0/22"."""
    return text and str(ipaddress.ip_interface(interface(text)).network)


_DOMAIN = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\.?",
    re.ASCII,
)


def dns_search(text: str) -> str:
    """A domain, or a dot for none."""
    domain = text.strip(" ")
    if domain == ".":
        return domain
    if len(domain) < 255 and _DOMAIN.fullmatch(domain) and re.search("[A-Za-z]", domain):
        return domain.removesuffix(".")
    raise ValueError(f"{text} is not a valid domain")


def one_line(text: str) -> str:
    """Text that is written into a file line by line, so that it may not hold a line's end."""
    if _CONTROL.search(text):
        raise ValueError(f"must not hold control characters: {text!a}")
    return text


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# Labels and the like

_RESERVED = ("com.docker.", "io.docker.", "org.dockerproject.")


def label(text: str) -> str:
    if "=" not in text:
        raise ValueError(f"bad attribute format: {text}")
    if text.lower().startswith(_RESERVED):
        raise ValueError(
            f"label {text} is not allowed: the namespaces com.docker.*, io.docker.*, "
            "and org.dockerproject.* are reserved for internal use"
        )
    return text


def generic_resource(text: str) -> str:
    if "=" not in text:
        raise ValueError(f"invalid node-generic-resource format `{text}` expected `name=value`")
    return text


def without_password(url: str) -> str:
    """The URL as it may be shown: user and password are hidden."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="xxxxx:xxxxx@" + parts.netloc.rpartition("@")[2]))
