"""What a browser may not do: reach the engine through a page that it shows.

A TCP listener without client certificates believes whoever connects, and a browser on this host
connects for every page it shows. Two headers tell: `Origin`, which scripts cannot leave out of a
request to another site, and `Host`, which names the page's own site after a rebinding of its name.
Stock clients send neither an Origin nor a foreign Host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from compat.daemon.listeners import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusal(*, origin: str, host: str, local_ip: str) -> str:
    """Why a request to an open TCP listener is refused, "" if it is not.

    `origin` and `host` are the headers ("" if absent), `local_ip` the address it arrived at.
    """
    if origin and _site(origin) != host.lower():
        return f"refusing a request of a web page: Origin {origin}"
    if host and is_loopback(local_ip) and not _is_local_name(host):
        return f"refusing a request to a name that is not this host's own: Host {host}"
    return ""


def _site(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_local_name(host: str) -> bool:
    """Whether `host` or `host:port` means loopback; *.localhost always does (RFC 6761)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    name = name.removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


@web.middleware
async def refuse_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 403 to what only a browser sends, on TCP without client certificates."""
    transport = request.transport
    address: object = transport.get_extra_info("sockname") if transport else None
    if not isinstance(address, tuple):
        return await handler(request)
    if transport is not None and transport.get_extra_info("peercert"):
        return await handler(request)
    sentence = refusal(
        origin=request.headers.get("Origin", ""),
        host=request.headers.get("Host", ""),
        local_ip=str(address[0]),  # pyright: ignore[reportUnknownArgumentType]
    )
    if sentence:
        refused = web.json_response({"message": sentence}, status=403)
        refused.force_close()
        return refused
    return await handler(request)
