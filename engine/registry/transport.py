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
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from engine import offload
from engine.errors import InvalidParameter
from engine.registry import certificates, failure, gohttp
from engine.registry.addresses import is_inside, look_up
from engine.registry.challenge import Challenge
from engine.registry.challenge import parse as parse_challenges
from engine.registry.mirror import Endpoint, host_of
from engine.registry.proxies import Proxies
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
        except gohttp.FAILURES as exc:
            raise failure.BrokenOff(gohttp.reason(exc)) from exc

    async def read(self, most_bytes: int) -> bytes:
        """The whole body; raises InvalidParameter where it is longer than allowed."""
        body = await self.read_beginning(most_bytes + 1)
        if len(body) > most_bytes:
            raise InvalidParameter(
                f'{self.method.capitalize()} "{self.url}": '
                f"response exceeds the limit of {most_bytes} bytes"
            )
        return body

    async def read_beginning(self, most_bytes: int) -> bytes:
        """So much of the body as is allowed."""
        parts: list[bytes] = []
        size = 0
        while size < most_bytes and (chunk := await self.read_some()):
            parts.append(chunk)
            size += len(chunk)
        return b"".join(parts)[:most_bytes]

    def busy(self) -> failure.UnexpectedStatus:
        """That it is one of retry.BUSY, without a look at the body."""
        found = failure.UnexpectedStatus(self.status, self.reason)
        found.retry_after_s = self._retry_after_s
        return found

    @property
    def _retry_after_s(self) -> int:
        after = self.header("Retry-After")
        return min(int(after[:9]), 3600) if after.isdecimal() else 0

    async def failure(self) -> WharfError:
        """What this answer of 400 and above means, and when it may be worth asking again."""
        body = await self.read_beginning(1 << 20)
        content_type = self.header("Content-Type")
        found = failure.from_response(self.status, self.reason, content_type, body, self.challenges)
        if isinstance(found, failure.Refusal | failure.UnexpectedStatus):
            found.status = self.status
            found.retry_after_s = self._retry_after_s
        return found


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


class _Resolver(AbstractResolver):
    """Says what went wrong as Go does."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> list[ResolveResult]:
        try:
            found = await look_up(host, port, family)
        except OSError as exc:
            reason = await offload.disk(gohttp.look_up_reason, host, exc.errno)
            raise OSError(exc.errno, reason) from exc
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": its_family,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for its_family, address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


class _OutsideResolver(_Resolver):
    """Names resolve to addresses out there, or not at all."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        outside = [one for one in found if not is_inside(one["host"])]
        if not outside:
            raise OSError(None, f"lookup {host}: an address of this host or link")
        return outside


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
            context = await self._shared("insecure", certificates.insecure_context)
            return Origin(endpoint=endpoint, home=context, elsewhere=context)
        default = await self._shared("default", ssl.create_default_context)
        folder = os.path.join(self._certs_dir, endpoint.host)
        own = await offload.disk(certificates.contexts_of, folder)
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
        raise failure.Stray(method, location, f"stopped after {MOST_REDIRECTS} redirects")

    def _check(self, origin: Origin, method: str, url: URL) -> None:
        if url.scheme not in {"http", "https"} or not url.host:
            reason = f'unsupported protocol scheme "{url.scheme}"'
            raise failure.Stray(method, _shown(url), reason)
        if origin.is_home(url):
            return
        if origin.endpoint.is_https and origin.endpoint.is_secure and url.scheme != "https":
            reason = "a registry with https may not lead to plain http"
            raise failure.Stray(method, _shown(url), reason)
        if is_inside(url.host) and not origin.may_go_inside:
            reason = "a registry may not lead to an address of this host"
            raise failure.Stray(method, _shown(url), reason)

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
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            scheme = proxy.partition(":")[0]
            raise failure.Stray(method, _shown(url), f"proxy scheme {scheme} is not supported")
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
            resolver = _OutsideResolver() if name == "outside" else _Resolver()
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
        raise failure.Stray(method, url, f"dial tcp: address {port}: invalid port") from exc
    return at


def _joined(method: str, at: URL, location: str) -> URL:
    try:
        target = at.join(URL(location, encoded=True))
        target.port  # noqa: B018 a bad one is found only when asked for
        return target
    except ValueError as exc:
        reason = f'failed to parse Location header "{location}": {exc}'
        raise failure.Stray(method, _shown(at), reason) from exc


def _origin_of(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: whoever shares all three is the same (RFC 6454 §4)."""
    return url.scheme, url.host, url.port


def _shown(url: URL) -> str:
    """The URL without the secrets that one may carry in its user part."""
    return str(url.with_user(None) if url.user else url)


# Failures


@contextmanager
def _in_words_of_go(method: str, url: str, sent: _Sent | None = None) -> Generator[None]:
    """aiohttp's failures as Unreachable; of what is sent its own."""
    try:
        yield
    except gohttp.FAILURES as exc:
        if sent is not None and sent.error is not None:
            raise sent.error from exc
        reason, is_passing = gohttp.reason(exc), gohttp.is_passing(exc)
        raise failure.Unreachable(method, url, reason, is_passing=is_passing) from exc
