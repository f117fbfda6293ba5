"""Asking registries: which endpoint answers, what a name means there, what its documents say.

    client.attempt(domain, work)   tries `work` on each endpoint in turn, as dockerd does
    repository.resolve(ref)        tag or digest → manifest or index, verified
    client.search(term)            repositories that an index finds
    repository.blob(descriptor)    a small blob (a config), verified

Everything that is given out was checked against its digest; what has no digest to be checked
against (a tag) is believed as far as TLS goes.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from engine import offload
from engine.errors import EngineError, InvalidParameter, Unauthorized, Unavailable, WharfError
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci.descriptor import Descriptor
from engine.oci.document import InvalidDocument, decode
from engine.oci.image import Index, Manifest, decode_config, decode_manifest
from engine.registry import download as downloading
from engine.registry import failure, mirror, retry
from engine.registry import search as searching
from engine.registry.addresses import addresses_of
from engine.registry.auth import ANONYMOUS, Authorizer, RegistryAuth, repository_scope
from engine.registry.proxies import Proxies
from engine.registry.transport import (
    BLOB,
    MANIFEST,
    SHORT,
    Body,
    Origin,
    Response,
    Timeouts,
    Transport,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from engine.config import EngineConfig
    from engine.filters import Filters
    from engine.oci.digest import Digest
    from engine.oci.platform import Platform
    from engine.oci.reference import Reference
    from engine.registry.challenge import Challenge
    from engine.registry.download import Download
    from engine.registry.mirror import Endpoint
    from engine.registry.search import SearchResult

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_MANIFEST_BYTES = 4 << 20
LARGEST_CONFIG_BYTES = 4 << 20
MOST_TAGS = 100_000
PING_DELAYS_S = (0.5,)
MOST_TAG_PAGES = 10_000

ACCEPT = ", ".join(
    (
        media_type.DOCKER_MANIFEST,
        media_type.OCI_MANIFEST,
        media_type.DOCKER_MANIFEST_LIST,
        media_type.OCI_INDEX,
        "*/*;q=0.1",
    )
)
_SCHEMA_1 = frozenset(
    {
        media_type.DOCKER_MANIFEST_V1,
        media_type.DOCKER_MANIFEST_V1_SIGNED,
    }
)
_KNOWN = media_type.INDEXES | media_type.MANIFESTS


class Schema1Removed(InvalidParameter):
    def __init__(self, ref: Reference) -> None:
        super().__init__(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been "
            f"removed. Suggest the author of {ref} to upgrade the image to the OCI Format or "
            "Docker Image manifest v2, schema 2. "
            "More information at https://docs.docker.com/go/deprecated-image-specs/"
        )


class MalformedManifest(EngineError):
    """What the registry calls a manifest is none: its fault, not the client's."""

    def __init__(self, cause: InvalidDocument, content_type: str) -> None:
        said = str(cause)
        is_syntax = said.startswith(("invalid character", "unexpected end"))
        if is_syntax and content_type not in _KNOWN:
            said = f"error unmarshalling content: {said}"
        super().__init__(said)


class NoContentType(EngineError):
    """Nothing says what kind of manifest it is (moby's distribution: descriptorFromResponse)."""

    def __init__(self) -> None:
        super().__init__("missing or empty Content-Type header")


class LoginFailed(EngineError):
    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"login attempt to {url} failed with status: {status} {reason}")


class PingFailed(WharfError):
    """The endpoint does not answer; `cause` says why. Never leaves this module."""

    def __init__(self, cause: WharfError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a reference means: the document, its exact bytes and what names them."""

    descriptor: Descriptor
    data: bytes
    document: Manifest | Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `docker manifest`-like clients want to know without pulling."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


class Repository:
    """One repository at one endpoint, with the authorization to read it."""

    def __init__(
        self, transport: Transport, origin: Origin, name: str, authorizer: Authorizer
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._authorizer = authorizer
        self.name = name

    @property
    def endpoint(self) -> Endpoint:
        return self._origin.endpoint

    def url(self, path: str) -> str:
        return f"{self._origin.url}/v2/{self.name}/{path}"

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        timeouts: Timeouts = SHORT,
        scopes: Sequence[str] = (),
    ) -> AsyncGenerator[Response]:
        """An authorized request; the answer may be a failure.

        `path` is one below the repository's, or a URL that the registry gave: one of another
        origin gets no credentials.
        """
        url = path if "://" in path else self.url(path)
        sent = dict(headers or {})
        if self._origin.has(url):
            sent |= await self._authorizer.headers(method, url, scopes=scopes)
        request = self._transport.request(
            self._origin, method, url, headers=sent, body=body, timeouts=timeouts
        )
        async with request as response:
            yield response

    # Manifests

    async def resolve(
        self, ref: Reference, *, known: Callable[[Digest], Awaitable[bytes | None]] | None = None
    ) -> Resolved:
        """The manifest or index that `ref` names here; a registry that is busy is asked again.

        `known` gives the bytes of a document that is here already, so that a pull of what did not
        change costs one HEAD.
        """
        return await self._persist(lambda: self._resolve(ref, known))

    async def _resolve(
        self, ref: Reference, known: Callable[[Digest], Awaitable[bytes | None]] | None
    ) -> Resolved:
        if ref.digest is not None:
            digest: Digest | None = ref.digest
        else:
            digest = await self._head(ref.tag or "latest")
        if digest is None:
            return await self._get_manifest(ref, ref.tag or "latest", None)
        data = await known(digest) if known else None
        if data is not None and ref.digest is None:
            return resolved(ref, digest, data)
        return await self._get_manifest(ref, digest, digest)

    async def manifest(self, ref: Reference, descriptor: Descriptor) -> Resolved:
        """The manifest that an index names."""
        digest = digests.parse(descriptor.digest)
        return await self._persist(lambda: self._get_manifest(ref, digest, digest))

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """A mirror is asked once: the endpoint behind it is there to be asked next."""
        return await ask() if self.endpoint.is_mirror else await retry.briefly(ask)

    async def _head(self, tag: str) -> Digest | None:
        """The digest behind the tag, None where only a GET will tell."""
        headers = {"Accept": ACCEPT}
        request = self.request("HEAD", f"manifests/{tag}", headers=headers, timeouts=MANIFEST)
        async with request as response:
            if response.is_success and not response.content_type:
                raise NoContentType
            digest = response.header("Docker-Content-Digest")
            is_told = response.is_success and digests.is_digest(digest)
            return digests.parse(digest) if is_told else None

    async def _get_manifest(self, ref: Reference, named: str, digest: Digest | None) -> Resolved:
        headers = {"Accept": ACCEPT}
        request = self.request("GET", f"manifests/{named}", headers=headers, timeouts=MANIFEST)
        async with request as response:
            if not response.is_success:
                raise await response.failure()
            content_type = response.content_type
            if not content_type:
                raise NoContentType
            data = await response.read(LARGEST_MANIFEST_BYTES)
        if digest is not None:
            verify("manifest", digest, data)
        try:
            # In a thread: what is made to be hard to read keeps one busy for a second.
            return await offload.disk(resolved, ref, digest or digests.of(data), data, content_type)
        except InvalidDocument as exc:
            raise MalformedManifest(exc, content_type) from exc

    async def put_manifest(self, named: str, kind: str, data: bytes) -> None:
        """Store the bytes as the manifest with that tag or digest; `kind` is their media type."""
        request = self.request(
            "PUT",
            f"manifests/{named}",
            headers={"Content-Type": kind},
            body=data,
            timeouts=MANIFEST,
        )
        async with request as response:
            if not 200 <= response.status < 300:
                raise await response.failure()

    # Blobs

    async def blob(self, descriptor: Descriptor, what: str) -> bytes:
        """A small blob, whole; `what` names it in the sentence of a failure."""
        digest = digests.parse(descriptor.digest)
        async with self.request("GET", f"blobs/{digest}", timeouts=MANIFEST) as response:
            if response.status == 404:
                raise failure.UnknownBlob
            if not response.is_success:
                raise await response.failure()
            data = await response.read(LARGEST_CONFIG_BYTES)
        verify(what, digest, data)
        return data

    def open_blob(self, digest: Digest, offset: int) -> AbstractAsyncContextManager[Response]:
        """The answer with the blob from `offset` on; to be read as it arrives."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self.request("GET", f"blobs/{digest}", headers=headers, timeouts=BLOB)

    # Tags

    async def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        tags: dict[str, None] = {}
        path = "tags/list"
        for _ in range(MOST_TAG_PAGES):
            page, more = await self._persist(functools.partial(self._tags_page, path))
            tags |= dict.fromkeys(page)
            if len(tags) > MOST_TAGS:
                raise EngineError(f"repository {self.name} has more than {MOST_TAGS} tags")
            if more is None:
                return list(tags)
            path = more
        raise EngineError(f"list of tags of {self.name} has no end")

    async def _tags_page(self, path: str) -> tuple[list[str], str | None]:
        async with self.request("GET", path, timeouts=MANIFEST) as response:
            if not response.is_success:
                raise await response.failure()
            body = await response.read(LARGEST_MANIFEST_BYTES)
            link = response.header("Link")
        try:
            page = msgspec.json.decode(body, type=_Tags)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise EngineError(f"cannot read list of tags of {self.name}: {exc}") from exc
        return page.tags or [], _next_page(link)


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def _next_page(link: str) -> str | None:
    """The query of the page that a Link header names (RFC 8288); only the query is believed."""
    found = re.match(r'\s*<([^>]*)>\s*;.*\brel="?next"?', link)
    if found is None:
        return None
    try:
        query = urlsplit(found[1]).query
    except ValueError:
        return None
    return f"tags/list?{query}" if query else None


def verify(what: str, digest: Digest, data: bytes) -> None:
    """Raises VerificationFailed unless `data` are the bytes the digest names."""
    hasher = digests.hasher(digest)
    hasher.update(data)
    if hasher.hexdigest() != digests.encoded(digest):
        raise failure.VerificationFailed(what, digest)


def resolved(ref: Reference, digest: Digest, data: bytes, content_type: str = "") -> Resolved:
    """The document in `data`; raises InvalidDocument or Schema1Removed."""
    if content_type in _SCHEMA_1:
        # Verified before it is refused: what nobody signed was never a manifest of that kind.
        if not _is_signed(data):
            raise InvalidDocument("missing signature key")
        raise Schema1Removed(ref)
    document = decode_manifest(data, content_type if content_type in _KNOWN else "")
    default = media_type.OCI_INDEX if isinstance(document, Index) else media_type.OCI_MANIFEST
    named = document.media_type or (content_type if content_type in _KNOWN else default)
    descriptor = Descriptor(media_type=named, digest=digest, size=len(data))
    return Resolved(descriptor=descriptor, data=data, document=document)


class _Signed(msgspec.Struct):
    signatures: tuple[object, ...] = ()


def _is_signed(data: bytes) -> bool:
    return bool(decode(data, _Signed).signatures)


class Client:
    """The registries as this engine's configuration sees them."""

    def __init__(
        self,
        config: mirror.ServiceConfig,
        transport: Transport,
        *,
        addresses_of: Callable[[str], Awaitable[Sequence[str]]] = addresses_of,
    ) -> None:
        self.config = config
        self.transport = transport
        self._addresses_of = addresses_of

    @classmethod
    def of(cls, config: EngineConfig) -> Client:
        """A client with the engine's mirrors, insecure registries and proxies."""
        proxies = Proxies.of(config.http_proxy, config.https_proxy, config.no_proxy, os.environ)
        facts = mirror.service_config(
            config.registry_mirrors, config.insecure_registries, config.registries
        )
        return cls(facts, Transport(proxies=proxies))

    async def close(self) -> None:
        await self.transport.close()

    async def attempt(
        self,
        ref: Reference,
        auth: RegistryAuth | None,
        work: Callable[[Repository], Awaitable[T]],
        *,
        actions: Sequence[str] = ("pull",),
    ) -> T:
        """What `work` makes of the first endpoint that serves it (moby distribution/pull.go).

        Once a host has shown to speak TLS, it is never asked in plain text. Raises the failure of
        the last endpoint tried.
        """
        if not ref.domain:
            raise EngineError('Get "https:/v2/": http: no Host in request URL')
        confirmed_tls: set[str] = set()
        last: WharfError = EngineError(f"no endpoints found for {ref.familiar}")
        for endpoint in await self._endpoints(ref.domain, is_push="push" in actions):
            if not endpoint.is_https and endpoint.host in confirmed_tls:
                continue
            try:
                repository = await self.open(endpoint, ref.path, auth, actions=actions)
                return await work(repository)
            except PingFailed as exc:
                last = exc.cause
            except WharfError as exc:
                confirmed_tls |= {endpoint.host} if endpoint.is_https else set()
                if not _try_next(exc, endpoint):
                    raise
                last = exc
            log.info("%s does not serve %s: %s", endpoint.url, ref.familiar, last)
        raise last

    async def open(
        self,
        endpoint: Endpoint,
        name: str,
        auth: RegistryAuth | None,
        *,
        actions: Sequence[str] = ("pull",),
    ) -> Repository:
        """The repository at one endpoint; raises PingFailed where nothing answers.

        Credentials are for the registry that was named: a mirror of it gets none.
        """
        origin = await self.transport.origin(endpoint)
        challenges = await self._ping(origin, is_patient=not endpoint.is_mirror)
        authorizer = Authorizer(
            self.transport,
            origin,
            ANONYMOUS if auth is None or endpoint.is_mirror else auth,
            challenges=challenges,
            scopes=(repository_scope(name, actions),),
        )
        return Repository(self.transport, origin, name, authorizer)

    async def inspect(self, ref: Reference, auth: RegistryAuth | None) -> Inspection:
        """Descriptor and platforms of what `ref` names, without pulling it."""
        return await self.attempt(
            ref.with_default_tag(), auth, lambda repository: _inspect(repository, ref)
        )

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: RegistryAuth | None
    ) -> list[SearchResult]:
        """What an index has for the term (see search.py)."""
        index = searching.Index(self.transport, self.config, self._addresses_of)
        return await searching.search(index, term, limit=limit, filters=filters, auth=auth)

    def download(self, source: str) -> AbstractAsyncContextManager[Download]:
        """What a user's URL names (see download.py)."""
        return downloading.download(self.transport, source)

    async def login(self, auth: RegistryAuth) -> str:
        """The identity token the registry gives for these credentials, "" where it gives none.

        Raises Unauthorized where it refuses them, else the failure of the last endpoint.
        """
        last: WharfError = EngineError(f"no endpoints found for {auth.server_address}")
        for endpoint in await self._endpoints(login_host(auth.server_address), is_push=True):
            try:
                return await self._login(endpoint, auth)
            except Unauthorized:
                raise
            except PingFailed as exc:
                last = exc.cause
            except WharfError as exc:
                last = exc
        raise last

    async def _login(self, endpoint: Endpoint, auth: RegistryAuth) -> str:
        origin = await self.transport.origin(endpoint)
        challenges = await self._ping(origin, is_patient=False)
        authorizer = Authorizer(self.transport, origin, auth, challenges=challenges, is_login=True)
        url = f"{origin.url}/v2/"
        headers = await authorizer.headers("GET", url)
        async with self.transport.request(origin, "GET", url, headers=headers) as response:
            if response.status != 200:
                raise LoginFailed(url, response.status, response.reason)
        return authorizer.identity_token

    async def _endpoints(self, domain: str, *, is_push: bool) -> tuple[Endpoint, ...]:
        return await mirror.endpoints(
            self.config, domain, self._addresses_of, with_mirrors=not is_push
        )

    async def _ping(self, origin: Origin, *, is_patient: bool) -> tuple[Challenge, ...]:
        """The ways to authenticate here; any answer at all will do, if in the end only.

        A registry that is busy does not say how, and what follows would be refused for that.
        """

        async def ask() -> tuple[Challenge, ...]:
            async with self.transport.request(origin, "GET", f"{origin.url}/v2/") as response:
                if response.status in retry.BUSY:
                    raise response.busy()
                return response.challenges

        try:
            return await (retry.briefly(ask, PING_DELAYS_S) if is_patient else ask())
        except failure.UnexpectedStatus as exc:
            log.info("%s does not say how to authenticate: %s", origin.url, exc)
            return ()
        except WharfError as exc:
            raise PingFailed(exc) from exc


def login_host(server_address: str) -> str:
    """The host that a login names; Docker Hub's where it names none.

    Raises InvalidParameter for what is no URL, EngineError for one without a host.
    """
    if not server_address:
        return mirror.INDEX_HOST
    has_scheme = server_address.startswith(("http://", "https://"))
    url = server_address if has_scheme else f"https://{server_address}"
    if (said := downloading.mistake(url)) is not None:
        raise InvalidParameter(f'unable to parse server address: parse "{url}": {said}')
    parts = urlsplit(url)
    if not parts.hostname:
        raise EngineError(f'Get "{parts.scheme}:/v2/": http: no Host in request URL')
    return parts.netloc.removesuffix(":")


def _try_next(exc: WharfError, endpoint: Endpoint) -> bool:
    """Whether another endpoint may do better (moby distribution/errors.go continueOnError)."""
    match exc:
        case failure.Refusal() if exc.is_explained:
            return endpoint.is_mirror
        case Unavailable() if not isinstance(exc, failure.Refusal):
            return False  # this engine, not that registry
        case failure.Unsupported():
            return False
        case _:
            return True


async def _inspect(repository: Repository, ref: Reference) -> Inspection:
    found = await repository.resolve(ref.with_default_tag())
    match found.document:
        case Index(manifests=manifests):
            platforms = tuple(m.platform for m in manifests if m.platform is not None)
        case Manifest(config=config):
            platforms = await _platform_of(repository, config)
    return Inspection(descriptor=found.descriptor, platforms=platforms)


async def _platform_of(repository: Repository, config: Descriptor) -> tuple[Platform, ...]:
    """The platform in the config; none where there is no config to tell."""
    try:
        data = await repository.blob(config, "image config")
        platform = decode_config(data).platform
    except WharfError as exc:
        log.debug("no platform in config %s: %s", config.digest, exc)
        return ()
    return (platform,) if platform.os or platform.architecture else ()
