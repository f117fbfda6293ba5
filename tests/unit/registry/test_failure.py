"""The sentences are those that dockerd 28 makes of the same answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.oci import reference
from engine.registry import failure
from engine.registry.challenge import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"


def body(*found: Mapping[str, object]) -> bytes:
    return json.dumps({"errors": list(found)}).encode()


UNKNOWN_TAG = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": "x"}}


@pytest.mark.parametrize(
    ("status", "content_type", "data", "kind", "sentence"),
    [
        (404, JSON, body(UNKNOWN_TAG), errors.NotFound, "manifest unknown: manifest unknown"),
        (
            401,
            JSON,
            body({"code": "UNAUTHORIZED", "message": "authentication required"}),
            errors.Unauthorized,
            "unauthorized",
        ),
        (403, JSON, body({"code": "DENIED", "message": "no"}), errors.Forbidden, "denied: no"),
        (
            429,
            JSON,
            body({"code": "TOOMANYREQUESTS", "message": "slow down"}),
            errors.TooManyRequests,
            "toomanyrequests: slow down",
        ),
        (418, JSON, body({"code": "TEAPOT", "message": "hm"}), errors.EngineError, "unknown: hm"),
        (418, "text/html", b"<html>", errors.EngineError, "unknown: <html>"),
        (401, "text/html", b"<html>", errors.Unauthorized, "unauthorized: <html>"),
        (
            418,
            JSON,
            b"{}",
            errors.EngineError,
            "error parsing HTTP 418 response body: "
            'no error details found in HTTP response body: "{}"',
        ),
        (
            503,
            JSON,
            b"{}",
            errors.EngineError,
            "received unexpected HTTP status: 503 Service Unavailable",
        ),
    ],
)
def test_sentences(
    status: int, content_type: str, data: bytes, kind: type[Exception], sentence: str
) -> None:
    reason = "Service Unavailable" if status == 503 else ""
    found = failure.from_response(status, reason, content_type, data)
    assert isinstance(found, kind)
    assert str(found) == sentence


def test_an_oauth_error_in_the_challenge_goes_first() -> None:
    challenges = parse(['Bearer realm="https://a/t",error="insufficient_scope"'])
    found = failure.from_response(
        401, "Unauthorized", JSON, body({"code": "UNAUTHORIZED"}), challenges
    )
    assert str(found) == "denied: requested access to the resource is denied"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("MANIFEST_UNKNOWN", "manifest for busybox:nosuch not found: manifest unknown: m"),
        ("NAME_UNKNOWN", "repository busybox not found: name unknown: m"),
        (
            "DENIED",
            "pull access denied for busybox, repository does not exist or may require "
            "'docker login': denied: m",
        ),
    ],
)
def test_a_pull_says_what_is_missing(code: str, sentence: str) -> None:
    found = failure.of_pull(failure.refusal(code, "m"), reference.parse("busybox:nosuch"))
    assert isinstance(found, errors.NotFound)
    assert str(found) == sentence


def test_a_pull_leaves_other_failures_alone() -> None:
    plain = failure.refusal("UNAUTHORIZED")
    assert failure.of_pull(plain, reference.parse("busybox")) is plain


def test_a_failed_preparation_names_the_request_and_keeps_the_kind() -> None:
    inner = failure.refusal("UNAUTHORIZED", "incorrect username or password")
    found = failure.within(inner, "HEAD", "http://h/v2/a/manifests/1")
    assert isinstance(found, errors.Unauthorized)
    assert str(found) == (
        'Head "http://h/v2/a/manifests/1": unauthorized: incorrect username or password'
    )


@given(st.integers(400, 599), st.sampled_from([JSON, "", "text/plain"]), st.binary(max_size=100))
def test_any_answer_is_some_failure(status: int, content_type: str, data: bytes) -> None:
    assert str(failure.from_response(status, "Reason", content_type, data))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_json_is_no_traceback(depth: int) -> None:
    data = b'{"errors":' + b"[" * depth + b"]" * depth + b"}"
    found = failure.from_response(404, "Not Found", JSON, data)
    assert isinstance(found, errors.EngineError)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "unexpected end of JSON input"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"null", "no error details found in HTTP response body"),
        (b"{}", "no error details found in HTTP response body"),
        (
            b"[]",
            "json: cannot unmarshal array into Go value of type struct { Errors []errcode.Error }",
        ),
    ],
)
def test_a_body_that_explains_nothing(body: bytes, reason: str) -> None:
    found = failure.from_response(404, "Not Found", "application/json", body)
    said = json.dumps(body.decode())
    assert str(found) == f"error parsing HTTP 404 response body: {reason}: {said}"
