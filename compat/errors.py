"""From the kinds of failure to HTTP statuses, and back to nothing else: the only place.

moby: api/server/httpstatus. A failure that no kind names is a fault of ours: status 500, its text
in the log and only a short sentence for the client.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec

from compat.wire.system import ErrorResponse
from engine import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS: Mapping[type[Exception], int] = {
    errors.InvalidParameter: 400,
    errors.Unclassified: 500,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.TooManyRequests: 429,
    errors.NotImplementedHere: 501,
    errors.Unavailable: 503,
    errors.EngineError: 500,
}


# What the host lacks is nobody's bug, and the user can do something about it.
_REASONS: Mapping[int, str] = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files in system",
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
    if isinstance(failure, OSError) and failure.errno is not None and failure.errno in _REASONS:
        where = f"{failure.filename}: " if isinstance(failure.filename, str) else ""
        return f"{where}{_REASONS[failure.errno]}"
    return f"internal error: {type(failure).__name__}"


def is_bug(failure: BaseException) -> bool:
    """Nobody meant it: worth a traceback in the log."""
    if isinstance(failure, OSError) and failure.errno in _REASONS:
        return False
    return status(failure) == 500 and not isinstance(failure, errors.WharfError)


_encoder = msgspec.json.Encoder()


def document(failure: BaseException) -> bytes:
    return _encoder.encode(ErrorResponse(message=clean(sentence(failure)))) + b"\n"


def clean(text: str) -> str:
    """The text without lone surrogates, as names of files may bring them in."""
    return text.encode(errors="replace").decode() if not text.isascii() else text
