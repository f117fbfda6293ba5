"""One blob into one repository.

    HEAD   blobs/<digest>                        200: it is there
    POST   blobs/uploads/?mount=<digest>&from=…  201: another repository had it, and now this one
                                                 202: a session, whether to mount was asked or not
    PATCH  <location>                            the bytes, as they come
    PUT    <location>?digest=<digest>            the end, or the whole of what is small
    DELETE <location>                            never mind

(distribution-spec §Push.) Each answer says where the session goes on; the place may be relative,
may carry a query that means something to the registry alone, and may be another host, which then
gets the bytes and no credentials.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from engine import offload
from engine.errors import EngineError, WharfError
from engine.oci import digest as digests
from engine.registry.auth import repository_scope
from engine.registry.transport import MANIFEST, UPLOAD

if TYPE_CHECKING:
    from engine.oci.digest import Digest
    from engine.registry.client import Repository
    from engine.registry.transport import Body, Response

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0


class UnknownUpload(EngineError):
    """The registry has forgotten the session."""

    def __init__(self) -> None:
        super().__init__("blob upload unknown")


class BrokenSession(EngineError):
    """An answer that does not say how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A blob that another repository of the same registry has."""

    digest: Digest
    repository: str


async def size_of(repository: Repository, digest: Digest) -> int | None:
    """The size of a blob that the repository has, None where it has it not.

    -1 where the registry does not say how large it is.
    """
    async with repository.request("HEAD", f"blobs/{digest}", timeouts=MANIFEST) as response:
        if response.status == 404:
            return None
        if not 200 <= response.status < 300:
            raise await response.failure()
        length = response.content_length
        return -1 if length is None else length


async def begin(repository: Repository, mount: Mount | None = None) -> Session | None:
    """A session to send a blob in; None if the blob to mount is in the repository now."""
    path = "blobs/uploads/"
    scopes: tuple[str, ...] = ()
    if mount is not None:
        path += "?" + urlencode({"from": mount.repository, "mount": mount.digest})
        scopes = (repository_scope(mount.repository, ("pull",)),)
    request = repository.request("POST", path, timeouts=MANIFEST, scopes=scopes)
    async with request as response:
        if response.status == 201 and mount is not None:
            return None
        if response.status not in (200, 201, 202):
            raise await response.failure()
        return Session(repository, _next(response, ""))


class Session:
    """An upload that has begun. `commit` ends it, or else `cancel` should."""

    def __init__(self, repository: Repository, location: str) -> None:
        self._repository = repository
        self._location = location

    async def send(self, chunks: Body) -> None:
        """All bytes of the blob, as they come."""
        request = self._repository.request(
            "PATCH",
            self._location,
            headers={"Content-Type": "application/octet-stream"},
            body=chunks,
            timeouts=UPLOAD,
        )
        async with request as response:
            await _check(response)
            self._location = _next(response, self._location)

    async def commit(self, digest: Digest, data: bytes = b"") -> None:
        """What was sent, and `data` behind it, is the blob of this name."""
        headers = {"Content-Type": "application/octet-stream"} if data else {}
        request = self._repository.request(
            "PUT", _with_digest(self._location, digest), headers=headers, body=data, timeouts=UPLOAD
        )
        async with request as response:
            await _check(response)

    async def cancel(self) -> None:
        """Let the registry forget it at once; one that does not answer will do so in time."""
        await offload.to_the_end(self._cancel())

    async def _cancel(self) -> None:
        try:
            async with (
                asyncio.timeout(CANCEL_TIMEOUT_S),
                self._repository.request("DELETE", self._location) as response,
            ):
                log.debug("cancelled upload: %d", response.status)
        except (WharfError, TimeoutError) as exc:
            log.debug("cannot cancel upload: %s", exc)


async def _check(response: Response) -> None:
    if response.status == 404:
        raise UnknownUpload
    if not 200 <= response.status < 300:
        raise await response.failure()


def _next(response: Response, former: str) -> str:
    """Where the session goes on: where the answer says, else where it was."""
    location = response.location or former
    if not location:
        raise BrokenSession("cannot retrieve location of blob upload")
    return location


def _with_digest(location: str, digest: Digest) -> str:
    """The registry's own query stays as it is, to the byte."""
    parts = urlsplit(location)
    query = f"digest={quote(digest, safe='')}"
    return parts._replace(query=f"{parts.query}&{query}" if parts.query else query).geturl()


async def put(repository: Repository, data: bytes) -> Digest:
    """Store a small blob, unless it is there already."""
    digest = digests.of(data)
    if await size_of(repository, digest) is not None:
        return digest
    session = await begin(repository)
    assert session is not None
    try:
        await session.commit(digest, data)
    except BaseException:
        await session.cancel()
        raise
    return digest
