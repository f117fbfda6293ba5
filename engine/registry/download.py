"""Fetching what a user's URL names: one GET, its body as it arrives.

No registry is asked and no credentials are sent; TLS is as for a registry of that name, and
redirects are bounded as the transport bounds them. The sentences are dockerd's (moby
builder/remotecontext/remote.go).
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urlsplit

from engine.errors import EngineError, Forbidden, InvalidParameter, NotFound, Unauthorized
from engine.registry.mirror import Endpoint
from engine.registry.transport import BLOB, spelled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from engine.errors import WharfError
    from engine.registry.transport import Response, Transport

LARGEST_REFUSAL_BYTES = 64 << 10

_KINDS = {400: InvalidParameter, 401: Unauthorized, 403: Forbidden, 404: NotFound}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
_NOT_IN_HOST = re.compile(r"[ <>\"^`{|}\\]")


class Download:
    """A body on its way. `url` is what was asked for in full; `length` -1 where nobody says."""

    def __init__(self, url: str, response: Response) -> None:
        self._response = response
        self.url = url
        length = response.content_length
        self.length = -1 if length is None else length

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive; raises BrokenOff where they end too early."""
        while chunk := await self._response.read_some():
            yield chunk


@asynccontextmanager
async def download(transport: Transport, source: str) -> AsyncGenerator[Download]:
    """Ask for `source`, over http unless it says otherwise.

    Raises InvalidParameter for what is no URL, the kind that fits for a refusal, else EngineError.
    """
    url = in_full(source)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    origin = await transport.origin(Endpoint(url=f"{parts.scheme}://{host}"))
    asked = urldefrag(url).url
    async with transport.request(origin, "GET", asked, timeouts=BLOB) as response:
        if response.status >= 400:
            raise await _refusal(url, response)
        yield Download(url, response)


def in_full(source: str) -> str:
    """The URL that was written, with its scheme and its escapes.

    Raises InvalidParameter where Go cannot parse it, EngineError where it cannot ask there.
    """
    text = source if "://" in source else f"http://{source}"
    if (said := mistake(text)) is not None:
        raise InvalidParameter(f'parse "{text}": {said}')
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise EngineError(f'Get "{text}": unsupported protocol scheme "{parts.scheme}"')
    if not parts.hostname:
        raise EngineError(f'Get "{parts.scheme}:": http: no Host in request URL')
    port = parts.netloc.rpartition(":")[2]
    if port.isdecimal() and int(port[:6]) > 65535:
        raise EngineError(f'Get "{text}": dial tcp: address {port}: invalid port')
    try:
        return spelled(text)
    except ValueError as exc:
        raise InvalidParameter(f'parse "{text}": {exc}') from exc


def mistake(text: str) -> str | None:
    """What keeps Go from parsing a URL, in its words."""
    if _CONTROL.search(text):
        return "net/url: invalid control character in URL"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "missing ']' in host"
    if found := _NOT_IN_HOST.search(parts.netloc):
        return f'invalid character "{found[0]}" in host name'
    if found := _BAD_ESCAPE.search(parts.netloc + parts.path):
        return f'invalid URL escape "{found[0]}"'
    port = re.search(r":([^:\]@]*)$", parts.netloc)
    if port is not None and port[1] and not port[1].isdecimal():
        return f'invalid port ":{port[1]}" after host'
    return None


async def _refusal(url: str, response: Response) -> WharfError:
    said = f"failed to GET {url} with status {response.status} {response.reason}"
    body = (await response.read_beginning(LARGEST_REFUSAL_BYTES)).decode(errors="replace").strip()
    return _KINDS.get(response.status, EngineError)(f"{said}: {body}")
