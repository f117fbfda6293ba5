"""Importing what a URL names."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.support import images
from tests.support.registry import Answer, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


@pytest.fixture
def server() -> Iterator[Registry]:
    """Any server will do that gives the answers it is told to."""
    with Registry() as serving:
        yield serving


@pytest.fixture
def tag(engine: Engine, name: str) -> Iterator[str]:
    yield f"{name}:1"
    engine.docker("rmi", "-f", f"{name}:1", check=False)


def import_lines(engine: Engine, **query: str) -> list[dict[str, Any]]:
    reply = engine.call("POST", f"/images/create?{urlencode(query)}")
    assert reply.status == 200, reply.body
    return [json.loads(line) for line in reply.body.splitlines()]


def archive() -> bytes:
    return images.tar({"hello": images.file(b"imported"), "noise": images.file(os.urandom(10**6))})


def test_import_with_the_cli(engine: Engine, tag: str, server: Registry) -> None:
    server.fault("GET", "/a.tar", Answer(200, body=images.compress(archive(), "gzip")))
    engine.docker("import", "-c", "CMD x", f"{server.url}/a.tar", tag)
    found = engine.inspect(tag)
    assert found["Config"]["Cmd"] == ["/bin/sh", "-c", "x"]
    assert found["Comment"] == f"Imported from {server.url}/a.tar"


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_import_says_how_far_it_is(engine: Engine, tag: str, server: Registry, scheme: str) -> None:
    data = archive()
    server.fault("GET", "/a.tar", Answer(200, body=data))
    source = f"{scheme}{server.host}/a.tar"
    repo, _, version = tag.partition(":")
    lines = import_lines(engine, fromSrc=source, repo=repo, tag=version, message="said")
    assert lines[0] == {"status": f"Downloading from {server.url}/a.tar"}
    counts = [line["progressDetail"] for line in lines if line.get("status") == "Importing"]
    assert counts[-1] == {"current": len(data), "total": len(data)}
    assert lines[-1] == {"status": engine.inspect(tag)["Id"]}
    assert engine.inspect(tag)["Comment"] == "said"


@pytest.mark.parametrize(
    ("answered", "status"), [(400, 400), (401, 401), (403, 403), (404, 404), (500, 500), (503, 500)]
)
def test_what_the_server_refuses(
    engine: Engine, server: Registry, answered: int, status: int
) -> None:
    server.fault("GET", "/a.tar", Answer(answered, body=b" sorry\n "))
    reply = engine.call("POST", f"/images/create?fromSrc={server.url}/a.tar")
    assert reply.status == status
    said = f"failed to GET {server.url}/a.tar with status {answered} "
    assert reply.message.startswith(said)
    assert reply.message.endswith(": sorry")


@pytest.mark.parametrize(
    ("source", "status", "sentence"),
    [
        ("", 500, 'Get "http:": http: no Host in request URL'),
        ("ftp://x/y", 500, 'Get "ftp://x/y": unsupported protocol scheme "ftp"'),
        (
            "127.0.0.1:1/x",
            500,
            'Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused',
        ),
        ("http://a b/", 400, 'parse "http://a b/": invalid character " " in host name'),
    ],
)
def test_where_nothing_is(engine: Engine, source: str, status: int, sentence: str) -> None:
    reply = engine.call("POST", f"/images/create?{urlencode({'fromSrc': source})}")
    assert (reply.status, reply.message) == (status, sentence)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"changes": "BAD"}, "BAD is not a valid change command"),
        ({"platform": "windows/amd64"}, "operating system is not supported"),
    ],
)
def test_what_is_refused_when_it_arrives(
    engine: Engine, server: Registry, query: dict[str, str], sentence: str
) -> None:
    server.fault("GET", "/a.tar", Answer(200, body=archive()))
    lines = import_lines(engine, fromSrc=f"{server.url}/a.tar", **query)
    assert {"errorDetail": {"message": sentence}, "error": sentence} in lines
    assert not any(line.get("status", "").startswith("sha256:") for line in lines)


def test_what_is_no_tar(engine: Engine, server: Registry) -> None:
    server.fault("GET", "/a.tar", Answer(200, body=b"this is no tar at all" * 100))
    lines = import_lines(engine, fromSrc=f"{server.url}/a.tar")
    assert lines[-1]["error"] == "archive/tar: invalid tar header"


def test_redirects_without_end(engine: Engine, server: Registry) -> None:
    server.fault("GET", "/a.tar", Answer(302, {"Location": "/a.tar"}))
    reply = engine.call("POST", f"/images/create?fromSrc={server.url}/a.tar")
    assert (reply.status, reply.message) == (500, 'Get "/a.tar": stopped after 10 redirects')
