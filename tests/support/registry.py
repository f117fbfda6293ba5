"""A distribution registry inside the test process, with every fault a real one has.

    with Registry() as registry:
        registry.add("library/busybox:latest", images.busybox())
        registry.fault("GET", "/blobs/", Truncate(at=1000), times=1)
        engine.pull(f"{registry.host}/library/busybox")
        assert registry.seen("GET", "/blobs/") == 2

It listens on a free port of 127.0.0.1, in a thread of its own, and takes pushes of stock clients
too. What it was asked stands in `requests`, in order.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.support.images import Image, Index, sha256

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# aiohttp would log a traceback for each connection that is hung up on purpose.
_SILENT = logging.Logger("registry", level=logging.CRITICAL)

# What may go wrong


@dataclass(frozen=True, slots=True)
class Truncate:
    """All headers, `at` bytes of the body, then the connection is gone."""

    at: int


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The right number of bytes, the last of them wrong."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """The connection ends before any answer."""


@dataclass(frozen=True, slots=True)
class Drip:
    """One byte every `every_s` seconds; with `first` so many at once before that."""

    every_s: float
    first: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A status of its own, with a registry error as the body unless one is given."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    code: str = "UNKNOWN"
    message: str = "a fault was asked for"


@dataclass(frozen=True, slots=True)
class Replace:
    """The usual answer with other bytes or another content type."""

    body: bytes | None = None
    content_type: str | None = None
    digest: str | None = None


Fault = Truncate | Corrupt | HangUp | Drip | Answer | Replace


@dataclass(slots=True)
class _Armed:
    method: str
    path: re.Pattern[str]
    fault: Fault
    times: int


# Who may come in


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    username: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Tokens from `/token`, for this user or, with `anonymous_pull`, for anyone who only reads.

    `realm` sends clients elsewhere. `identity_token` is what the OAuth2 form gives and takes.
    """

    username: str = "user"
    password: str = "pass"
    anonymous_pull: bool = False
    realm: str = ""
    identity_token: str = "refresh-me"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request: what it asked and the credentials it came with."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


# What is kept


@dataclass(slots=True)
class _Repository:
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    blobs: set[str] = field(default_factory=set[str])


def _failure(status: int, code: str, message: str, detail: Any = None) -> web.Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return web.json_response({"errors": [error]}, status=status)


class Registry:
    """Use as a context manager; `host` is "127.0.0.1:port" and `url` has the scheme too."""

    def __init__(
        self, *, auth: Basic | Bearer | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.auth = auth
        self.requests: list[Seen] = []
        self.blobs: dict[str, bytes] = {}
        self.accepts_ranges = True
        self.chunked_blobs = False  # no Content-Length for blobs
        self.found: list[dict[str, Any]] = []  # what /v1/search answers
        self._tls = tls
        self._faults: list[_Armed] = []
        self._repositories: dict[str, _Repository] = {}
        self._uploads: dict[str, bytearray] = {}
        self._tokens: dict[str, frozenset[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="registry", daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self.port = 0

    # Its life

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everyone and end; nothing of it is left."""
        if self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        runner = web.AppRunner(app, shutdown_timeout=0.2, handler_cancellation=True, logger=_SILENT)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    # What tests put in and ask

    def add(self, name: str, image: Image | Index) -> str:
        """Store the image as `repository:tag`; its manifest's digest."""
        repository, _, tag = name.rpartition(":")
        repo = self._repository(repository)
        for part in image.images if isinstance(image, Index) else (image,):
            self.blobs |= part.blobs()
            repo.blobs |= set(part.blobs())
            repo.manifests[part.digest] = (part.media_type, part.manifest)
        repo.manifests[image.digest] = (image.media_type, image.manifest)
        repo.tags[tag] = image.digest
        return image.digest

    def add_manifest(self, name: str, media_type: str, manifest: bytes) -> str:
        """Store any bytes as the manifest of `repository:tag`; their digest."""
        repository, _, tag = name.rpartition(":")
        repo = self._repository(repository)
        repo.manifests[sha256(manifest)] = (media_type, manifest)
        repo.tags[tag] = sha256(manifest)
        return sha256(manifest)

    def add_blob(self, repository: str, blob: bytes) -> str:
        self.blobs[sha256(blob)] = blob
        self._repository(repository).blobs.add(sha256(blob))
        return sha256(blob)

    def tags(self, repository: str) -> Mapping[str, str]:
        return dict(self._repository(repository).tags)

    def manifest(self, repository: str, ref: str) -> bytes:
        repo = self._repository(repository)
        return repo.manifests[repo.tags.get(ref, ref)][1]

    def offer(self, reference: str, manifest: bytes, media_type: str) -> None:
        """Keep a manifest as it is, however wrong, and call it `media_type` in its answers."""
        name, _, tag = reference.rpartition(":")
        repo = self._repository(name)
        repo.manifests[sha256(manifest)] = (media_type, manifest)
        repo.tags[tag] = sha256(manifest)

    def fault(self, method: str, path: str, fault: Fault, *, times: int = 1 << 30) -> None:
        """From now on answer `times` requests whose path contains the pattern `path` like this."""
        self._faults.append(_Armed(method, re.compile(path), fault, times))

    def mend(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def seen(self, method: str, path: str) -> int:
        """How many requests there were whose path contains the pattern."""
        return sum(s.method == method and bool(re.search(path, s.path)) for s in self.requests)

    def _repository(self, name: str) -> _Repository:
        return self._repositories.setdefault(name, _Repository())

    # Answering

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(
            Seen(
                method=request.method,
                path=request.path,
                headers={name.title(): value for name, value in request.headers.items()},
                query=dict(request.query),
            )
        )
        fault = self._take_fault(request)
        match fault:
            case HangUp():
                return await self._hang_up(request)
            case Answer():
                return self._answer(fault)
            case _:
                response = await self._route(request)
        if fault is None or request.method == "HEAD" or not isinstance(response, web.Response):
            return response
        return await self._spoil(request, response, fault)

    def _take_fault(self, request: web.Request) -> Fault | None:
        for armed in self._faults:
            wanted = armed.method == request.method and armed.path.search(request.path)
            if wanted and armed.times > 0:
                armed.times -= 1
                return armed.fault
        return None

    async def _hang_up(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("a fault was asked for")

    def _answer(self, fault: Answer) -> web.Response:
        if fault.body is not None:
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        response = _failure(fault.status, fault.code, fault.message)
        response.headers.update(fault.headers)
        return response

    async def _spoil(
        self, request: web.Request, response: web.Response, fault: Fault
    ) -> web.StreamResponse:
        body = bytes(response.body) if isinstance(response.body, bytes | bytearray) else b""
        match fault:
            case Corrupt():
                response.body = body[:-1] + bytes([body[-1] ^ 1])
                return response
            case Replace():
                return self._replace(response, fault)
            case Truncate(at):
                return await self._stream(request, response, body[:at], len(body), 0)
            case Drip(every_s, first):
                return await self._drip(request, response, body, every_s, first)
            case _:
                return response

    def _replace(self, response: web.Response, fault: Replace) -> web.Response:
        if fault.body is not None:
            response.body = fault.body
        if fault.content_type is not None:
            response.content_type = fault.content_type
        if fault.digest is not None:
            response.headers["Docker-Content-Digest"] = fault.digest
        return response

    async def _stream(
        self, request: web.Request, like: web.Response, data: bytes, length: int, pause_s: float
    ) -> web.StreamResponse:
        """Send `data` where `length` bytes were promised, wait, hang up."""
        out = web.StreamResponse(status=like.status, headers=like.headers)
        out.content_length = length
        await out.prepare(request)
        await out.write(data)
        await asyncio.sleep(pause_s or 0.02)
        return await self._hang_up(request)

    async def _drip(
        self, request: web.Request, like: web.Response, body: bytes, every_s: float, first: int
    ) -> web.StreamResponse:
        out = web.StreamResponse(status=like.status, headers=like.headers)
        out.content_length = len(body)
        await out.prepare(request)
        await out.write(body[:first])
        for position in range(first, len(body)):
            await asyncio.sleep(every_s)
            await out.write(body[position : position + 1])
        return out

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/token":
            return await self._token(request)
        if path == "/v1/_ping":
            return web.json_response({})
        if path == "/v1/search":
            return web.json_response({"num_results": len(self.found), "results": self.found})
        if (refusal := self._check(request)) is not None:
            return refusal
        if path in {"/v2/", "/v2"}:
            return web.json_response(
                {}, headers={"Docker-Distribution-Api-Version": "registry/2.0"}
            )
        for pattern, handler in self._routes():
            if found := re.fullmatch(pattern, path):
                return await handler(request, *found.groups())
        return web.Response(status=404, text="404 page not found\n")

    def _routes(self) -> list[tuple[str, Callable[..., Awaitable[web.StreamResponse]]]]:
        return [
            (r"/v2/(.+)/tags/list", self._tags_list),
            (r"/v2/(.+)/manifests/([^/]+)", self._manifests),
            (r"/v2/(.+)/blobs/uploads/?", self._upload_start),
            (r"/v2/(.+)/blobs/uploads/([^/]+)", self._upload),
            (r"/v2/(.+)/blobs/([^/]+)", self._blobs),
        ]

    # Authorization

    def _check(self, request: web.Request) -> web.Response | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        match self.auth:
            case None:
                return None
            case Basic(username=username, password=password):
                if scheme == "Basic" and value == _basic(username, password):
                    return None
                return self._challenge('Basic realm="registry"')
            case Bearer():
                return self._check_bearer(request, scheme, value)

    def _check_bearer(self, request: web.Request, scheme: str, value: str) -> web.Response | None:
        assert isinstance(self.auth, Bearer)
        scope = _scope(request)
        if scheme == "Bearer" and scope <= self._tokens.get(value, frozenset({"none"})):
            return None
        realm = self.auth.realm or f"{self.url}/token"
        wanted = f',scope="{",".join(sorted(scope))}"' if scope else ""
        return self._challenge(f'Bearer realm="{realm}",service="registry"{wanted}')

    def _challenge(self, challenge: str) -> web.Response:
        response = _failure(401, "UNAUTHORIZED", "authentication required")
        response.headers["WWW-Authenticate"] = challenge
        return response

    async def _token(self, request: web.Request) -> web.Response:
        assert isinstance(self.auth, Bearer)
        form = dict(await request.post()) if request.method == "POST" else dict(request.query)
        known = self._knows(request, form)
        scopes = [str(value) for value in request.query.getall("scope", [])] or [
            str(value) for value in (form.get("scope"),) if value
        ]
        granted = {one for scope in scopes for one in _grants(scope)}
        if not known:
            if not self.auth.anonymous_pull or "Authorization" in request.headers:
                return _failure(401, "UNAUTHORIZED", "incorrect username or password")
            granted = {g for g in granted if g.endswith(":pull")}
        token = secrets.token_hex(16)
        self._tokens[token] = frozenset(granted)
        answer = {"token": token, "access_token": token, "expires_in": 300}
        if known and (request.method == "POST" or form.get("offline_token") == "true"):
            answer["refresh_token"] = self.auth.identity_token
        return web.json_response(answer)

    def _knows(self, request: web.Request, form: Mapping[str, Any]) -> bool:
        assert isinstance(self.auth, Bearer)
        _, _, value = request.headers.get("Authorization", "").partition(" ")
        return (
            value == _basic(self.auth.username, self.auth.password)
            or form.get("refresh_token") == self.auth.identity_token
            or (form.get("username"), form.get("password"))
            == (self.auth.username, self.auth.password)
        )

    # Reading

    async def _tags_list(self, request: web.Request, name: str) -> web.StreamResponse:
        repo = self._repositories.get(name)
        if repo is None:
            return _failure(
                404, "NAME_UNKNOWN", "repository name not known to registry", {"name": name}
            )
        last = request.query.get("last", "")
        left = [tag for tag in sorted(repo.tags) if tag > last]
        size = int(request.query.get("n", "1000"))
        headers: dict[str, str] = {}
        if len(left) > size:
            more = f"/v2/{name}/tags/list?last={left[size - 1]}&n={size}"
            headers["Link"] = f'<{more}>; rel="next"'
        return web.json_response({"name": name, "tags": left[:size]}, headers=headers)

    async def _manifests(self, request: web.Request, name: str, ref: str) -> web.StreamResponse:
        if request.method == "PUT":
            return await self._put_manifest(request, name, ref)
        repo = self._repositories.get(name, _Repository())
        found = repo.manifests.get(repo.tags.get(ref, ref))
        if found is None:
            return _failure(404, "MANIFEST_UNKNOWN", "manifest unknown", {"Tag": ref})
        media_type, data = found
        headers = {"Content-Type": media_type, "Docker-Content-Digest": sha256(data)}
        return web.Response(body=data, headers=headers)

    async def _blobs(self, request: web.Request, name: str, digest: str) -> web.StreamResponse:
        repo = self._repositories.get(name, _Repository())
        if digest not in repo.blobs or digest not in self.blobs:
            return _failure(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest})
        data = self.blobs[digest]
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
        }
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if ranged and self.accepts_ranges:
            return _part(data, int(ranged[1]), headers)
        if self.chunked_blobs and request.method == "GET":
            return await self._chunked(request, data, headers)
        return web.Response(body=data, headers=headers)

    async def _chunked(
        self, request: web.Request, data: bytes, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        out = web.StreamResponse(headers=headers)
        out.enable_chunked_encoding()
        await out.prepare(request)
        await out.write(data)
        await out.write_eof()
        return out

    # Writing

    async def _put_manifest(self, request: web.Request, name: str, ref: str) -> web.Response:
        data = await request.read()
        repo = self._repository(name)
        missing = [d for d in _named_blobs(data) if d not in repo.blobs]
        if missing:
            return _failure(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", missing[0])
        digest = sha256(data)
        repo.manifests[digest] = (request.headers.get("Content-Type", ""), data)
        if not ref.startswith("sha256:"):
            repo.tags[ref] = digest
        location = f"/v2/{name}/manifests/{digest}"
        return web.Response(
            status=201, headers={"Docker-Content-Digest": digest, "Location": location}
        )

    async def _upload_start(self, request: web.Request, name: str) -> web.StreamResponse:
        repo = self._repository(name)
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        if mount in self._repositories.get(source, _Repository()).blobs:
            repo.blobs.add(mount)
            return _created(name, mount)
        if digest := request.query.get("digest"):
            return self._store(repo, name, digest, await request.read())
        upload = secrets.token_hex(16)
        self._uploads[upload] = bytearray()
        return self._accepted(name, upload)

    async def _upload(self, request: web.Request, name: str, upload: str) -> web.StreamResponse:
        if upload not in self._uploads:
            return _failure(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        match request.method:
            case "PATCH":
                async for chunk in request.content.iter_any():
                    self._uploads[upload] += chunk
                return self._accepted(name, upload)
            case "PUT":
                data = bytes(self._uploads.pop(upload)) + await request.read()
                digest = request.query.get("digest", "")
                return self._store(self._repository(name), name, digest, data)
            case "DELETE":
                del self._uploads[upload]
                return web.Response(status=204)
            case _:
                return self._accepted(name, upload, status=204)

    def _store(self, repo: _Repository, name: str, digest: str, data: bytes) -> web.Response:
        if digest != sha256(data):
            return _failure(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs[digest] = data
        repo.blobs.add(digest)
        return _created(name, digest)

    def _accepted(self, name: str, upload: str, *, status: int = 202) -> web.Response:
        received = max(len(self._uploads[upload]) - 1, 0)
        headers = {
            "Location": f"{self.url}/v2/{name}/blobs/uploads/{upload}",
            "Docker-Upload-Uuid": upload,
            "Range": f"0-{received}",
        }
        return web.Response(status=status, headers=headers)


def _created(name: str, digest: str) -> web.Response:
    location = f"/v2/{name}/blobs/{digest}"
    return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _part(data: bytes, start: int, headers: Mapping[str, str]) -> web.Response:
    if start >= len(data):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    content_range = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:], headers={**headers, **content_range})


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def _scope(request: web.Request) -> frozenset[str]:
    """What a token must grant for this request: repository:name:pull, and push to change it."""
    found = re.fullmatch(r"/v2/(.+)/(?:tags|manifests|blobs)/.+", request.path)
    if found is None:
        return frozenset()
    name = found[1].removesuffix("/blobs")
    actions = ["pull"] if request.method in {"GET", "HEAD"} else ["pull", "push"]
    return frozenset(f"repository:{name}:{action}" for action in actions)


def _grants(scope: str) -> list[str]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return [f"{kind}:{name}:{action}" for action in actions.split(",")]


def _named_blobs(manifest: bytes) -> list[str]:
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        document: dict[str, Any] = json.loads(manifest)
        parts = [document["config"], *document["layers"]]
        return [part["digest"] for part in parts]
    return []


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
