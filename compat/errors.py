"""From the kinds of failure to HTTP statuses, and back to nothing else: the only place.

moby: api/server/httpstatus. A failure that no kind names is a fault of ours: status 500, its text
in the log and only a short sentence for the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from compat.wire.system import ErrorResponse
from engine import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS: Mapping[type[Exception], int] = {
    errors.InvalidParameter: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.NotImplementedHere: 501,
    errors.Unavailable: 503,
    errors.EngineError: 500,
}


class PageNotFound(errors.NotFound):
    def __init__(self) -> None:
        super().__init__("page not found")


def status(failure: BaseException) -> int:
    for cls in type(failure).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return 500


def sentence(failure: BaseException) -> str:
    """What the client reads. Only failures reported on purpose are quoted."""
    if isinstance(failure, errors.WharfError):
        return str(failure)
    return f"internal error: {type(failure).__name__}"


_encoder = msgspec.json.Encoder()


def document(failure: BaseException) -> bytes:
    return _encoder.encode(ErrorResponse(message=clean(sentence(failure)))) + b"\n"


def clean(text: str) -> str:
    """The text without lone surrogates, as names of files may bring them in."""
    return text.encode(errors="replace").decode() if not text.isascii() else text
