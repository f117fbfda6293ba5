"""What happens around every handler: headers, and failures into answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from compat import errors, versions
from engine.version import SERVER_VERSION

if TYPE_CHECKING:
    from engine.config import EngineConfig

log = logging.getLogger(__name__)


def headers(config: EngineConfig) -> dict[str, str]:
    """The headers on every answer."""
    return {
        "Api-Version": str(versions.NEWEST),
        "Docker-Experimental": "true" if config.experimental else "false",
        "Ostype": "linux",
        "Server": f"Docker/{SERVER_VERSION} (linux)",
    }


def note(request: web.Request, exc: Exception) -> None:
    """What is our fault is logged, once, here."""
    status = errors.status(exc)
    if status >= 500:
        cause = exc if errors.is_bug(exc) else None
        log.error("%s %s: %s", request.method, request.path, exc, exc_info=cause)
    else:
        log.debug("%s %s: %d %s", request.method, request.path, status, exc)


def failure(request: web.Request, exc: Exception) -> web.Response:
    """The answer to a failed request."""
    note(request, exc)
    status = errors.status(exc)
    if isinstance(exc, versions.TooOld):
        return web.Response(
            status=status,
            text=f"{exc}\n",
            headers={"X-Content-Type-Options": "nosniff"},
        )
    if status == 304:
        return web.Response(status=status)
    return web.Response(status=status, body=errors.document(exc), content_type="application/json")
