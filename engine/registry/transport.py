"""HTTP as registries speak it: the only aiohttp client of the engine.

One request in, one response out; redirects are followed here and bounded. Three things are refused
whatever a registry says:
- credentials go to no other origin than the one they were given for;
- a registry that had to prove who it is cannot send us on to plain http;
- a registry out there cannot send us to loopback or link-local addresses, where the host's own
  services and the metadata of clouds answer.

Failures are told as Go's net/http words them, which is what users of Docker know and search for.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from engine import offload
from engine.errors import EngineError, InvalidParameter
from engine.linux import oserror
from engine.registry import failure
from engine.registry.challenge import Challenge
from engine.registry.challenge import parse as parse_challenges
from engine.registry.mirror import Endpoint, host_of
from engine.version import DOCKER_VERSION, VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator

    from aiohttp.abc import ResolveResult

    from engine.errors import WharfError

CERTS_DIR = "/etc/docker/certs.d"
USER_AGENT = f"docker/{DOCKER_VERSION} wharf/{VERSION} os/linux"
MOST_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAME_METHOD = frozenset({307, 308})
CONNECT_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 60.0
"""No byte for so long ends a response. dockerd waits for ever."""
UPLOAD_TIMEOUT_S = 600.0
"""A registry that stores what it was sent somewhere else may be quiet for minutes meanwhile."""
SHORT_TIMEOUT_S = 15.0
"""A ping, a token, a login (moby registry/auth.go)."""
LONGEST_HEADER = 32 * 1024  # signed URLs of object stores are long

# The metadata service of one big cloud on IPv6; all others are link-local.
_METADATA = ipaddress.ip_address("fd00:ec2::254")


_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, UnicodeError)  # a name IDNA cannot spell


class Unreachable(EngineError):
    """No answer, or one that broke off; `reason` is what happened."""

    def __init__(self, method: str, url: str, reason: str) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.reason = reason


class BrokenOff(Unreachable):
    """An answer that began and did not end; Go says then no more than what happened."""

    def __init__(self, reason: str) -> None:
        EngineError.__init__(self, reason)
        self.reason = reason


class Stray(EngineError):
    """A registry sent us where it may not."""

    def __init__(self, method: str, url: str, reason: str) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Which proxy stands between us and a URL (as Go's http.ProxyFromEnvironment)."""

    http: str = ""
    https: str = ""
    exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, http: str, https: str, no_proxy: str, environment: Mapping[str, str]) -> Proxies:
        """What was configured, else what the environment says."""

        def get(configured: str, name: str) -> str:
            return configured or environment.get(name, "") or environment.get(name.lower(), "")

        exceptions = get(no_proxy, "NO_PROXY").split(",")
        return cls(
            http=get(http, "HTTP_PROXY"),
            https=get(https, "HTTPS_PROXY"),
            exceptions=tuple(e.strip().lower() for e in exceptions if e.strip()),
        )

    def for_url(self, url: URL) -> str | None:
        proxy = self.https if url.scheme == "https" else self.http
        host = (url.host or "").lower()
        if not proxy or host == "localhost" or _is_loopback(host):
            return None
        if any(_is_exception(entry, host, url.port) for entry in self.exceptions):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def _is_exception(entry: str, host: str, port: int | None) -> bool:
    """One entry of no_proxy: `*`, a name and all below it, `.name`, an address, a network."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name, _, wanted = entry.partition(":")
        if wanted and wanted != str(port):
            return False
        name = name.removeprefix("*")
        return host.endswith(name) if name.startswith(".") else f".{host}".endswith(f".{name}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def is_inside(host: str) -> bool:
    """Whether the address is one that only this host and its link know."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address == _METADATA
    )


class _OutsideResolver(ThreadedResolver):
    """Names resolve to addresses out there, or not at all."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = 0,  # type: ignore[assignment]
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        outside = [one for one in found if not is_inside(one["host"])]
        if not outside:
            raise OSError(None, f"{host} is an address of this host or link")
        return outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A registry's endpoint with the TLS contexts for it and for where it sends us."""

    endpoint: Endpoint
    home: ssl.SSLContext | None = None
    elsewhere: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return self.endpoint.url

    @property
    def may_go_inside(self) -> bool:
        return not self.endpoint.is_secure or is_inside(host_of(self.endpoint.host))

    def is_home(self, url: URL) -> bool:
        return _origin_of(URL(self.url)) == _origin_of(url)

    def has(self, url: str) -> bool:
        """Whether the URL is one of this origin, so that credentials for it may go there."""
        try:
            return self.is_home(URL(url, encoded=True))
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body is still to be read; only valid inside `Transport.request`."""

    method: str
    url: str
    _inner: aiohttp.ClientResponse = field(repr=False)
    _is_elsewhere: bool = False  # of an origin that a redirect led to

    @property
    def status(self) -> int:
        return self._inner.status

    @property
    def is_success(self) -> bool:
        return 200 <= self._inner.status < 400

    @property
    def reason(self) -> str:
        return self._inner.reason or ""

    @property
    def content_length(self) -> int | None:
        return self._inner.content_length

    @property
    def content_type(self) -> str:
        return self._inner.headers.get("Content-Type", "").partition(";")[0].strip()

    def header(self, name: str) -> str:
        return self._inner.headers.get(name, "")

    @property
    def location(self) -> str:
        """The whole URL that the Location header means, "" without one. Raises Unreachable."""
        said = self.header("Location")
        return str(_joined(self.method, self._inner.url, said)) if said else ""

    @property
    def challenges(self) -> tuple[Challenge, ...]:
        """How to say who asks; nobody is told that only a redirect led to (CVE-2020-15157)."""
        if self.status != 401 or self._is_elsewhere:
            return ()
        return parse_challenges(self._inner.headers.getall("WWW-Authenticate", []))

    async def read_some(self) -> bytes:
        """The next bytes of the body as they arrive; b"" is its end."""
        try:
            return await self._inner.content.readany()
        except _FAILURES as exc:
            raise BrokenOff(_reason(exc)) from exc

    async def read(self, most_bytes: int) -> bytes:
        """The whole body; raises InvalidParameter where it is longer than allowed."""
        parts: list[bytes] = []
        size = 0
        while chunk := await self.read_some():
            parts.append(chunk)
            size += len(chunk)
            if size > most_bytes:
                raise InvalidParameter(
                    f'{self.method.capitalize()} "{self.url}": '
                    f"response exceeds the limit of {most_bytes} bytes"
                )
        return b"".join(parts)

    async def failure(self) -> WharfError:
        """What this answer of 400 and above means."""
        body = await self.read(1 << 20)
        content_type = self.header("Content-Type")
        return failure.from_response(self.status, self.reason, content_type, body, self.challenges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """`total_s` None is no limit on the whole, as for blobs."""

    total_s: float | None = SHORT_TIMEOUT_S
    idle_s: float = IDLE_TIMEOUT_S


SHORT = Timeouts()
MANIFEST = Timeouts(total_s=120.0)
BLOB = Timeouts(total_s=None)
UPLOAD = Timeouts(total_s=None, idle_s=UPLOAD_TIMEOUT_S)

Body: TypeAlias = "bytes | AsyncIterator[bytes]"
"""What a request brings along; an iterator is sent as it comes and only once."""


class _Sent:
    """A body on its way. Whoever takes nothing of it for `idle_s` ends the request.

    What goes wrong while it is made is kept in `error`: aiohttp would tell only that it broke off.
    """

    def __init__(self, chunks: AsyncIterator[bytes], idle_s: float) -> None:
        self._chunks = chunks
        self._idle_s = idle_s
        self.patience: asyncio.Timeout | None = None
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self._chunks:
                self._wait(self._idle_s)
                yield chunk
                self._wait(None)  # making the next one takes the time it takes
        except Exception as exc:
            self.error = exc
            raise
        finally:
            self._wait(None)  # the answer has its own time

    def _wait(self, most_s: float | None) -> None:
        if self.patience is None or self.patience.expired():
            return
        when = None if most_s is None else asyncio.get_running_loop().time() + most_s
        self.patience.reschedule(when)


class Transport:
    """Open connections are kept and shared; `close` ends them. Opens nothing before it is used."""

    def __init__(self, *, certs_dir: str = CERTS_DIR, proxies: Proxies | None = None) -> None:
        self._certs_dir = certs_dir
        self._proxies = proxies or Proxies()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def origin(self, endpoint: Endpoint) -> Origin:
        """The endpoint with its TLS contexts; raises InvalidParameter for bad certs.d files."""
        if not endpoint.is_secure:
            context = await self._shared("insecure", _insecure_context)
            return Origin(endpoint=endpoint, home=context, elsewhere=context)
        default = await self._shared("default", ssl.create_default_context)
        folder = os.path.join(self._certs_dir, endpoint.host)
        own = await offload.disk(_contexts_of, folder)
        home, elsewhere = own or (default, default)
        return Origin(endpoint=endpoint, home=home, elsewhere=elsewhere)

    async def _shared(self, name: str, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        if name not in self._contexts:
            self._contexts[name] = await offload.disk(make)
        return self._contexts[name]

    @asynccontextmanager
    async def request(
        self,
        origin: Origin,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: Body | None = None,
        timeouts: Timeouts = SHORT,
    ) -> AsyncGenerator[Response]:
        """The answer to `method url`, after at most ten redirects; raises Unreachable or Stray.

        `url` may lie on another origin than `origin`'s, as a token server does. An Authorization
        header is sent to the origin of `url` only. What a `body` raises is raised as it is.
        """
        at = _parsed(method, url)
        first = _origin_of(at)
        sent = dict(headers or {})
        location = ""
        for _ in range(MOST_REDIRECTS + 1):
            self._check(origin, method, at)
            data = form if form is not None else body
            is_elsewhere = _origin_of(at) != first
            once = self._once(origin, method, at, sent, data, timeouts, is_elsewhere=is_elsewhere)
            async with once as response:
                location = response.header("Location")
                target = _target(method, at, response.status, location, data)
                if target is None:
                    yield response
                    return
            at = target
            if _origin_of(at) != first:
                sent.pop("Authorization", None)
        raise Unreachable(method, location, f"stopped after {MOST_REDIRECTS} redirects")

    def _check(self, origin: Origin, method: str, url: URL) -> None:
        if url.scheme not in {"http", "https"} or not url.host:
            reason = f'unsupported protocol scheme "{url.scheme}"'
            raise Stray(method, _shown(url), reason)
        if origin.is_home(url):
            return
        if origin.endpoint.is_https and origin.endpoint.is_secure and url.scheme != "https":
            raise Stray(method, _shown(url), "a registry with https may not lead to plain http")
        if is_inside(url.host) and not origin.may_go_inside:
            raise Stray(method, _shown(url), "a registry may not lead to an address of this host")

    @asynccontextmanager
    async def _once(
        self,
        origin: Origin,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        data: Mapping[str, str] | Body | None,
        timeouts: Timeouts,
        *,
        is_elsewhere: bool,
    ) -> AsyncGenerator[Response]:
        is_home = origin.is_home(url)
        proxy = self._proxies.for_url(url)
        # A proxy may well be on this host; it looks names up by itself.
        is_free = is_home or origin.may_go_inside or proxy is not None
        session = self._session("anywhere" if is_free else "outside")
        context = origin.home if is_home else origin.elsewhere
        timeout = aiohttp.ClientTimeout(
            total=timeouts.total_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeouts.idle_s
        )
        sent = (
            None
            if data is None or isinstance(data, bytes | Mapping)
            else _Sent(data, timeouts.idle_s)
        )
        with _in_words_of_go(method, _shown(url), sent):
            async with _patience(sent):
                response = await session.request(
                    method,
                    url,
                    headers=headers,
                    data=data if sent is None else sent,
                    allow_redirects=False,
                    ssl=context if context is not None else True,
                    proxy=proxy,
                    timeout=timeout,
                )
        try:
            yield Response(method, _shown(url), response, is_elsewhere)
        finally:
            # Whoever did not read to the end does not want the rest: end the connection.
            response.close()

    def _session(self, name: str) -> aiohttp.ClientSession:
        if name not in self._sessions:
            resolver = _OutsideResolver() if name == "outside" else ThreadedResolver()
            self._sessions[name] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=resolver, limit=0, ttl_dns_cache=30, socket_factory=_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                max_line_size=LONGEST_HEADER,
                max_field_size=LONGEST_HEADER,
                requote_redirect_url=False,
            )
        return self._sessions[name]


@asynccontextmanager
async def _patience(sent: _Sent | None) -> AsyncGenerator[None]:
    """Raises TimeoutError when nobody takes any more of what is being sent."""
    if sent is None:
        yield
        return
    try:
        async with asyncio.timeout(None) as sent.patience:
            yield
    finally:
        sent.patience = None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that does not outlive a peer that takes no more bytes: closing waits for them."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UPLOAD_TIMEOUT_S * 1000))
    return made


async def addresses_of(name: str) -> list[str]:
    """The addresses of a host's name; none where it cannot be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def spelled(url: str) -> str:
    """The URL with escapes for what no URL may hold as it is."""
    return str(URL(url))


def _target(
    method: str, at: URL, status: int, location: str, data: Mapping[str, str] | Body | None
) -> URL | None:
    """Where an answer leads that is to be followed.

    What was posted (a password, say) is never posted again somewhere else; what has no body, or
    one that is still there, may be asked for at another place of the same origin.
    """
    if status not in REDIRECTS or not location:
        return None
    target = _joined(method, at, location)
    if method in {"GET", "HEAD"}:
        return target
    is_repeatable = status in _SAME_METHOD and (data is None or isinstance(data, bytes))
    return target if is_repeatable and _origin_of(target) == _origin_of(at) else None


def _parsed(method: str, url: str) -> URL:
    """yarl finds only when asked that a port cannot be one."""
    at = URL(url, encoded=True)
    try:
        at.port  # noqa: B018
    except ValueError as exc:
        port = url.partition("://")[2].partition("/")[0].rpartition(":")[2]
        raise Unreachable(method, url, f"dial tcp: address {port}: invalid port") from exc
    return at


def _joined(method: str, at: URL, location: str) -> URL:
    try:
        target = at.join(URL(location, encoded=True))
        target.port  # noqa: B018 a bad one is found only when asked for
        return target
    except ValueError as exc:
        reason = f'failed to parse Location header "{location}": {exc}'
        raise Unreachable(method, _shown(at), reason) from exc


def _origin_of(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: whoever shares all three is the same (RFC 6454 §4)."""
    return url.scheme, url.host, url.port


def _shown(url: URL) -> str:
    """The URL without the secrets that one may carry in its user part."""
    return str(url.with_user(None) if url.user else url)


# TLS


def _insecure_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _contexts_of(folder: str) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
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


# Failures


@contextmanager
def _in_words_of_go(method: str, url: str, sent: _Sent | None = None) -> Generator[None]:
    """aiohttp's failures as Unreachable; the one place where its exceptions are known."""
    try:
        yield
    except _FAILURES as exc:
        if sent is not None and sent.error is not None:
            raise sent.error from exc
        raise Unreachable(method, url, _reason(exc)) from exc


def _reason(exc: BaseException) -> str:
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return f"dial tcp: lookup {exc.host}: no such host"
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
        case aiohttp.ClientResponseError():
            return f"malformed HTTP response: {exc.message}"
        case aiohttp.InvalidURL():
            return f"invalid URL: {exc}"
        case OSError() if "[SSL: " in str(exc):  # aiohttp wraps what comes after the handshake
            return _tls_reason(str(exc))
        case OSError() if exc.errno == errno.ECONNRESET:
            return "read: connection reset by peer"
        case _:
            return str(exc) or "EOF"


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
