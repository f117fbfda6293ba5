"""What a registry says when it refuses, and what that means to whoever asked.

A distribution registry answers a failure with `{"errors": [{"code", "message", "detail"}]}`
(distribution-spec, spec.md §Error codes); older ones and proxies in between answer anything. The
sentences are those that dockerd makes of them, the kinds are by the status of each code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine import gojson
from engine.errors import (
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WharfError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.oci.reference import Reference
    from engine.registry.challenge import Challenge


class Refusal(WharfError):
    """A registry said no. `code` is the registry's word for it ("MANIFEST_UNKNOWN").

    `is_explained` tells whether it said more than the code's own message: dockerd builds its
    sentences only around such errors.
    """

    def __init__(self, sentence: str, *, code: str, is_explained: bool) -> None:
        super().__init__(sentence)
        self.code = code
        self.is_explained = is_explained
        self.status = 0  # of the answer, 0 where there was none
        self.retry_after_s = 0  # when the registry wants to be asked again, if it said so
        self.cause: Refusal | None = None  # of what `within` made


class Final(EngineError):
    """Asking again changes nothing."""


class Unprepared(EngineError):
    """What had to be done before a request failed: `cause`."""

    def __init__(self, sentence: str, cause: WharfError) -> None:
        super().__init__(sentence)
        self.cause = cause


class Unexplained(EngineError):
    """The answer is no error that a registry could mean."""


class UnexpectedStatus(EngineError):
    """A status of 500 or above, or one that makes no sense there."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"received unexpected HTTP status: {status} {reason}".rstrip())
        self.status = status
        self.retry_after_s = 0


# What is no answer at all, or not the one that was asked for


class Unreachable(EngineError):
    """No answer, or one that broke off; `reason` is what happened, and may pass or not."""

    def __init__(self, method: str, url: str, reason: str, *, is_passing: bool = True) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.reason = reason
        self.is_passing = is_passing


class BrokenOff(Unreachable):
    """An answer that began and did not end; Go says then no more than what happened."""

    def __init__(self, reason: str) -> None:
        EngineError.__init__(self, reason)
        self.reason = reason
        self.is_passing = True


class Stray(EngineError):
    """A registry sent us where it may not, or nowhere."""

    def __init__(self, method: str, url: str, reason: str) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')


class VerificationFailed(EngineError):
    """Bytes came that are not those the digest names."""

    def __init__(self, what: str, digest: str) -> None:
        super().__init__(f"{what} verification failed for digest {digest}")
        self.digest = digest


class UnknownBlob(EngineError):
    def __init__(self) -> None:
        super().__init__("unknown blob")


class Unsupported(InvalidParameter):
    """The registry has it, and it is nothing that a container could be made of."""


# Refusals by their kind


class RefusedUnknown(Refusal, EngineError):
    pass


class RefusedInvalid(Refusal, InvalidParameter):
    pass


class RefusedUnauthorized(Refusal, Unauthorized):
    pass


class RefusedForbidden(Refusal, Forbidden):
    pass


class RefusedNotFound(Refusal, NotFound):
    pass


class RefusedTooMany(Refusal, TooManyRequests):
    pass


class RefusedUnavailable(Refusal, Unavailable):
    pass


@dataclass(frozen=True, slots=True)
class _Code:
    message: str
    kind: type[Refusal]


# distribution-spec §Error codes and distribution's registry/api/{errcode,v2}.
_CODES = {
    "UNKNOWN": _Code("unknown error", RefusedUnknown),
    "UNSUPPORTED": _Code("The operation is unsupported.", RefusedUnknown),
    "UNAUTHORIZED": _Code("authentication required", RefusedUnauthorized),
    "DENIED": _Code("requested access to the resource is denied", RefusedForbidden),
    "UNAVAILABLE": _Code("service unavailable", RefusedUnavailable),
    "TOOMANYREQUESTS": _Code("too many requests", RefusedTooMany),
    "DIGEST_INVALID": _Code("provided digest did not match uploaded content", RefusedInvalid),
    "SIZE_INVALID": _Code("provided length did not match content length", RefusedInvalid),
    "NAME_INVALID": _Code("invalid repository name", RefusedInvalid),
    "TAG_INVALID": _Code("manifest tag did not match URI", RefusedInvalid),
    "NAME_UNKNOWN": _Code("repository name not known to registry", RefusedNotFound),
    "MANIFEST_UNKNOWN": _Code("manifest unknown", RefusedNotFound),
    "MANIFEST_INVALID": _Code("manifest invalid", RefusedInvalid),
    "MANIFEST_UNVERIFIED": _Code("manifest failed signature verification", RefusedInvalid),
    "MANIFEST_BLOB_UNKNOWN": _Code("blob unknown to registry", RefusedInvalid),
    "BLOB_UNKNOWN": _Code("blob unknown to registry", RefusedNotFound),
    "BLOB_UPLOAD_UNKNOWN": _Code("blob upload unknown to registry", RefusedNotFound),
    "BLOB_UPLOAD_INVALID": _Code("blob upload invalid", RefusedNotFound),
    "PAGINATION_NUMBER_INVALID": _Code("invalid number of results requested", RefusedInvalid),
}
_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
_BEARER_ERRORS = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}


def refusal(code: str, message: str = "", *, has_detail: bool = False) -> Refusal:
    """The failure of that code; an unknown code counts as UNKNOWN."""
    code = code if code in _CODES else "UNKNOWN"
    known = _CODES[code]
    is_explained = has_detail or message not in {"", known.message}
    words = code.replace("_", " ").lower()
    sentence = f"{words}: {message}" if is_explained else words
    return known.kind(sentence, code=code, is_explained=is_explained)


def within(failure: WharfError, method: str, url: str) -> WharfError:
    """The failure of what had to be done before `method url` could be asked, as Go words it."""
    sentence = f'{method.capitalize()} "{url}": {failure}'
    if isinstance(failure, Refusal):
        told = type(failure)(sentence, code=failure.code, is_explained=False)
        told.cause = failure
        told.status = failure.status
        told.retry_after_s = failure.retry_after_s
        return told
    return Unprepared(sentence, failure)


class _Error(msgspec.Struct):
    code: str = ""
    message: str | None = None
    detail: object = None


class _Body(msgspec.Struct):
    errors: list[_Error] | None = None
    details: str | None = None


# What distribution calls what it reads.
_GO_NAMES = {"_Body": "struct { Errors []errcode.Error }", "_Error": "errcode.Error"}
_ANONYMOUS = frozenset(_GO_NAMES.values())


def from_response(
    status: int, reason: str, content_type: str, body: bytes, challenges: Sequence[Challenge] = ()
) -> WharfError:
    """What an answer that is none of 2xx and 3xx means.

    `challenges` are those of its WWW-Authenticate headers: an OAuth2 error in one of them goes
    first (RFC 6750 §3.1).
    """
    if not 400 <= status < 500:
        return UnexpectedStatus(status, reason)
    for challenge in challenges:
        code = _BEARER_ERRORS.get(challenge.parameters.get("error", ""))
        if challenge.scheme == "bearer" and code:
            description = challenge.parameters.get("error_description", _CODES[code].message)
            return refusal(code, description, has_detail=True)
    return _from_body(status, content_type, body)


def _from_body(status: int, content_type: str, body: bytes) -> WharfError:
    text = body.decode(errors="replace")
    if content_type.partition(";")[0].strip() not in {
        "application/json",
        "application/vnd.api+json",
    }:
        return _plain(status, text)
    try:
        loose = gojson.loads(body)
        document = msgspec.convert({} if loose is None else loose, _Body)
    except msgspec.ValidationError as exc:
        said = gojson.type_error(body, _Body, _GO_NAMES, _ANONYMOUS)
        return _unparsed(status, said or str(exc), text)
    except msgspec.DecodeError as exc:
        return _unparsed(status, gojson.syntax_error(body, str(exc)), text)
    except UnicodeDecodeError:
        return _unparsed(status, "invalid UTF-8 in string", text)
    except RecursionError:
        return _unparsed(status, gojson.TOO_DEEP, text)
    if document.details:
        return _plain(status, document.details)
    if not document.errors:
        return _unparsed(status, "no error details found in HTTP response body", text)
    first = document.errors[0]
    return refusal(first.code, first.message or "", has_detail=first.detail is not None)


def _plain(status: int, text: str) -> WharfError:
    return refusal(_BY_STATUS.get(status, "UNKNOWN"), text, has_detail=True)


def _unparsed(status: int, reason: str, text: str) -> WharfError:
    if status == 401:
        return refusal("UNAUTHORIZED", "authentication required", has_detail=True)
    quoted = json.dumps(text, ensure_ascii=False)
    return Unexplained(f"error parsing HTTP {status} response body: {reason}: {quoted}")


# What a refusal means to a pull


class PullRefused(NotFound):
    """The registry does not have what was asked for, or does not show it."""


def of_pull(failure: WharfError, ref: Reference) -> WharfError:
    """The failure as a pull of `ref` reports it (moby distribution/errors.go)."""
    if not isinstance(failure, Refusal) or not failure.is_explained:
        return failure
    match failure.code:
        case "DENIED":
            return PullRefused(
                f"pull access denied for {ref.familiar_name}, repository does not exist or may "
                f"require 'docker login': {failure}"
            )
        case "MANIFEST_UNKNOWN":
            return PullRefused(f"manifest for {ref.familiar} not found: {failure}")
        case "NAME_UNKNOWN":
            return PullRefused(f"repository {ref.familiar_name} not found: {failure}")
        case _:
            return failure
