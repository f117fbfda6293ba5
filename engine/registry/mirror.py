"""Which endpoints serve a registry's name: Docker Hub's own hosts, mirrors, insecure registries.

The rules are dockerd's (moby registry/config.go, service_v2.go):
- `docker.io` is served by the mirrors in their order, then by registry-1.docker.io;
- any other domain by itself, over https; before that by its mirrors, if the configuration names
  some, which dockerd's cannot. What holds for mirrors of `docker.io` holds for them: they get no
  credentials and no pushes, and where one fails the next is asked;
- an insecure registry over https without verification first, then over plain http. Insecure is
  what the configuration lists, by name or by the network its address is in, and always loopback.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from engine.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"
INDEX_HOST = "index.docker.io"
INDEX_SERVER = f"https://{INDEX_HOST}/v1/"
ALWAYS_INSECURE = ("::1/128", "127.0.0.0/8")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one registry answers. `url` has no trailing slash; `/v2/` comes behind it."""

    url: str
    is_mirror: bool = False
    is_secure: bool = True

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def is_https(self) -> bool:
        return self.url.startswith("https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What `info` says of one registry."""

    name: str
    mirrors: tuple[str, ...] = ()
    is_secure: bool = True
    is_official: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """All that the configuration says about registries (`RegistryConfig` of `info`)."""

    insecure_cidrs: tuple[Network, ...] = ()
    indexes: Mapping[str, IndexInfo] = field(default_factory=dict[str, IndexInfo])
    mirrors: tuple[str, ...] = ()
    """Of `docker.io`."""
    mirrors_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Of other registries, by `host[:port]`."""


def service_config(
    mirrors: Iterable[str],
    insecure_registries: Iterable[str],
    registries: Mapping[str, Iterable[str]] | None = None,
) -> ServiceConfig:
    """The facts, checked; `registries` are mirrors by registry, of `docker.io` some more.

    Raises InvalidParameter with dockerd's sentence.
    """
    mirrors_of = {
        check_registry(name): tuple(dict.fromkeys(check_mirror(mirror) for mirror in found))
        for name, found in (registries or {}).items()
    }
    more = mirrors_of.pop(HUB, ())
    unique = tuple(dict.fromkeys((*(check_mirror(mirror) for mirror in mirrors), *more)))
    cidrs: dict[Network, None] = {}
    indexes: dict[str, IndexInfo] = {}
    for written in (*insecure_registries, *ALWAYS_INSECURE):
        match check_insecure(written):
            case str() as host:
                indexes[host] = IndexInfo(name=host, is_secure=False)
            case network:
                cidrs[network] = None
    indexes[HUB] = IndexInfo(name=HUB, mirrors=unique, is_official=True)
    return ServiceConfig(
        insecure_cidrs=tuple(cidrs), indexes=indexes, mirrors=unique, mirrors_of=mirrors_of
    )


def check_registry(name: str) -> str:
    """The name by which references know a registry; raises InvalidParameter."""
    if not _DOMAIN.fullmatch(name):
        raise InvalidParameter(f'"{name}" is no registry: must be a host or host:port')
    return HUB if is_hub(name) else name


def check_mirror(url: str) -> str:
    """The mirror's URL with one slash at its end; raises InvalidParameter."""
    scheme, separator, _ = url.partition("://")
    choice = "must use either 'https://' or 'http://'"
    if not separator or not scheme:
        raise InvalidParameter(f'invalid mirror: no scheme specified for "{url}": {choice}')
    try:
        parts = urlsplit(url)
        hostname, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidParameter(f'invalid mirror: "{url}" is not a valid URI: {exc}') from exc
    if scheme not in {"http", "https"}:
        raise InvalidParameter(
            f'invalid mirror: unsupported scheme "{scheme}" in "{url}": {choice}'
        )
    if parts.query or parts.fragment:
        raise InvalidParameter(f'invalid mirror: query or fragment at end of the URI "{url}"')
    if parts.username is not None:
        shown = parts._replace(netloc=f"{parts.username}:xxxxx@{hostname}").geturl()
        raise InvalidParameter(f'invalid mirror: username/password not allowed in URI "{shown}"')
    if not hostname or _CONTROL.search(url):
        raise InvalidParameter(f'invalid mirror: "{url}" is not a valid URI')
    return url.removesuffix("/") + "/"


def check_insecure(written: str) -> str | Network:
    """`host[:port]` or a network as one entry of `insecure-registries` names it."""
    name = HUB if written == INDEX_HOST else written
    if name.startswith("-") or name.endswith("-"):
        raise InvalidParameter(f"invalid index name ({name}). Cannot begin or end with a hyphen")
    name = re.sub(r"^https?://", "", name, flags=re.IGNORECASE)
    if "://" in name:
        raise InvalidParameter(f"insecure registry {name} should not contain '://'")
    try:
        return ipaddress.ip_network(name, strict=False) if "/" in name else _host_port(name)
    except ValueError:
        raise InvalidParameter(
            f'insecure registry {name} is not valid: invalid host "{name}"'
        ) from None


def _host_port(name: str) -> str:
    port = name.rpartition(":")[2] if re.search(r"[^:]:[0-9]+$|\]:", name) else ""
    if port.isdecimal() and int(port) > 65535:
        raise InvalidParameter(f'insecure registry {name} is not valid: invalid port "{port}"')
    if not _DOMAIN.fullmatch(name):
        ipaddress.ip_address(name.strip("[]"))
    return name


def host_of(netloc: str) -> str:
    """The host of `host[:port]`, without the brackets of an IPv6 address."""
    return urlsplit(f"//{netloc}").hostname or netloc


def is_hub(domain: str) -> bool:
    return domain in {HUB, INDEX_HOST}


async def is_secure(
    config: ServiceConfig, host: str, resolve: Callable[[str], Awaitable[Iterable[str]]]
) -> bool:
    """Whether `host[:port]` must prove who it is.

    `resolve` gives the addresses of a name; a name that cannot be resolved is secure.
    """
    if host in config.indexes:
        return config.indexes[host].is_secure
    name = host_of(host)
    try:
        addresses = [ipaddress.ip_address(name)]
    except ValueError:
        addresses = [ipaddress.ip_address(a.partition("%")[0]) for a in await resolve(name)]
    return not any(address in network for address in addresses for network in config.insecure_cidrs)


async def endpoints(
    config: ServiceConfig,
    domain: str,
    resolve: Callable[[str], Awaitable[Iterable[str]]],
    *,
    with_mirrors: bool = True,
) -> tuple[Endpoint, ...]:
    """The endpoints for a domain, in the order in which they are tried."""
    mirrors = config.mirrors if is_hub(domain) else config.mirrors_of.get(domain, ())
    first = [
        Endpoint(
            url=url.rstrip("/"),
            is_mirror=True,
            is_secure=await is_secure(config, urlsplit(url).netloc, resolve),
        )
        for url in (mirrors if with_mirrors else ())
    ]
    if is_hub(domain):
        return (*first, Endpoint(url=f"https://{HUB_HOST}"))
    if await is_secure(config, domain, resolve):
        return (*first, Endpoint(url=f"https://{domain}"))
    return (
        *first,
        Endpoint(url=f"https://{domain}", is_secure=False),
        Endpoint(url=f"http://{domain}", is_secure=False),
    )
