"""Searching an index, by the CLI and as the API says it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.support.registry import Answer, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as serving:
        yield serving


FOUND = [
    {"name": "busybox", "description": "small", "star_count": 300, "is_official": True},
    {"name": "a/b", "star_count": 5, "is_automated": True, "unheard_of": 1},
    {"name": "c", "description": None},
]


def searched(engine: Engine, **query: Any) -> Any:
    return engine.call("GET", f"/images/search?{urlencode(query)}")


def test_search_with_the_cli(engine: Engine, registry: Registry) -> None:
    registry.found = FOUND
    shown = engine.out("search", "--format", "{{.Name}} {{.StarCount}}", f"{registry.host}/bu/sy")
    assert shown.split("\n") == ["busybox 300", "a/b 5", "c 0"]
    [asked] = [seen for seen in registry.requests if seen.path == "/v1/search"]
    assert asked.query == {"q": "bu/sy", "n": "25"}
    assert asked.headers["X-Docker-Token"] == "true"
    assert asked.authorization == ""


def test_search_says_all_of_a_result(engine: Engine, registry: Registry) -> None:
    registry.found = FOUND
    assert searched(engine, term=f"{registry.host}/x").json() == [
        {"is_automated": False, "is_official": False, "star_count": 0, "description": ""} | more
        for more in (FOUND[0], {"name": "a/b", "star_count": 5}, {"name": "c"})
    ]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"stars": ["5"]}, ["busybox", "a/b"]),
        ({"stars": ["5", "6"]}, ["busybox"]),
        ({"is-official": ["true"]}, ["busybox"]),
        ({"is-official": ["false"]}, ["a/b", "c"]),
        ({"is-automated": ["false"]}, ["busybox", "a/b", "c"]),
        ({"is-automated": ["true"]}, []),
    ],
)
def test_search_filters(
    engine: Engine, registry: Registry, filters: dict[str, list[str]], names: list[str]
) -> None:
    registry.found = FOUND
    reply = searched(engine, term=f"{registry.host}/x", filters=json.dumps(filters))
    assert [found["name"] for found in reply.json()] == names


def test_search_sends_the_clients_password(engine: Engine, registry: Registry) -> None:
    auth = base64.b64encode(b'{"username":"u","password":"p"}').decode()
    headers = {"X-Registry-Auth": auth}
    engine.call("GET", f"/images/search?term={registry.host}/x&limit=7", headers=headers)
    [asked] = [seen for seen in registry.requests if seen.path == "/v1/search"]
    assert asked.query["n"] == "7"
    assert asked.authorization == "Basic " + base64.b64encode(b"u:p").decode()


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ({"limit": "x"}, 400, 'invalid limit specified: strconv.Atoi: parsing "x": invalid syntax'),
        ({"limit": "101"}, 400, "limit 101 is outside the range of [1, 100]"),
        ({"filters": '{"nope":["1"]}'}, 400, "invalid filter 'nope'"),
        ({"filters": '{"is-official":["x"]}'}, 400, "invalid filter 'is-official=[x]'"),
        (
            {"filters": '{"stars":["x"]}'},
            400,
            "invalid filter 'stars=x': strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            {"term": "http://x/y"},
            400,
            "invalid repository name: repository name (http://x/y) should not have a scheme",
        ),
        (
            {"term": "127.0.0.1:1/x"},
            400,
            'invalid registry endpoint "http://127.0.0.1:1/v1/". '
            'HTTPS attempt: Get "https://127.0.0.1:1/v1/_ping": '
            "dial tcp 127.0.0.1:1: connect: connection refused. "
            'HTTP attempt: Get "http://127.0.0.1:1/v1/_ping": '
            "dial tcp 127.0.0.1:1: connect: connection refused",
        ),
    ],
)
def test_search_that_is_refused(
    engine: Engine, registry: Registry, query: dict[str, str], status: int, sentence: str
) -> None:
    reply = searched(engine, **{"term": f"{registry.host}/x"} | query)
    assert (reply.status, reply.message) == (status, sentence)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(500), "Unexpected status code 500"),
        (
            Answer(200, body=b"{nope"),
            "error decoding registry search results: "
            "invalid character 'n' looking for beginning of object key string",
        ),
        (
            Answer(200, body=b'{"results":[{"name":1}]}'),
            "error decoding registry search results: json: cannot unmarshal number "
            "into Go struct field SearchResults.results.0.name of type string",
        ),
    ],
    ids=["status", "syntax", "type"],
)
def test_search_with_an_index_that_fails(
    engine: Engine, registry: Registry, answer: Answer, sentence: str
) -> None:
    registry.fault("GET", "/v1/search", answer)
    reply = searched(engine, term=f"{registry.host}/x")
    assert (reply.status, reply.message) == (500, sentence)
