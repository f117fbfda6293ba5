"""Images to a registry: what a client reads, and what the registry then has."""

from __future__ import annotations

import base64
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually, running
from tests.support import images
from tests.support.registry import Answer, Basic, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Wharf

pytestmark = pytest.mark.stock

NOBODY = {"X-Registry-Auth": "e30="}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as found:
        yield found


@pytest.fixture
def repository(engine: Engine, registry: Registry, name: str) -> Iterator[str]:
    """A repository with an image of two layers under the tag 1; all tags go afterwards."""
    repository = f"{registry.host}/{name}"
    image = images.on_busybox({"own": images.file(name.encode() * 1000)})
    engine.docker("load", input=images.docker_archive({f"{repository}:1": image}))
    yield repository
    named = engine.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for ref in named:
        if ref.startswith(f"{registry.host}/"):
            engine.docker("rmi", "-f", ref, check=False)


def push(engine: Engine, ref: str, query: str = "", **headers: str) -> list[dict[str, Any]]:
    """The lines of the answer, counts left out."""
    sent = {**NOBODY, **headers}
    reply = engine.call("POST", f"/v1.51/images/{ref}/push{query}", headers=sent)
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    lines = [json.loads(line) for line in reply.body.split(b"\r\n") if line]
    return [line for line in lines if line.get("status") not in ("Pushing", "Waiting")]


def statuses(lines: list[dict[str, Any]]) -> list[str]:
    """Of one layer in their order, of several in no order that anyone promised."""
    return sorted(line["status"] for line in lines if "id" in line)


def test_push_and_pull_again(engine: Engine, registry: Registry, repository: str) -> None:
    out = engine.out("push", f"{repository}:1")
    digest = registry.tags(repository.partition("/")[2])["1"]
    assert f"1: digest: {digest} size: " in out
    identifier = engine.inspect(f"{repository}:1")["Id"]
    assert engine.inspect(f"{repository}:1")["RepoDigests"] == [f"{repository}@{digest}"]
    engine.docker("rmi", f"{repository}:1")
    assert f"Digest: {digest}" in engine.out("pull", f"{repository}:1")
    assert engine.inspect(f"{repository}:1")["Id"] == identifier


def test_what_a_first_push_says(engine: Engine, registry: Registry, repository: str) -> None:
    lines = push(engine, repository, "?tag=1")
    name = repository.partition("/")[2]
    digest, size = registry.tags(name)["1"], len(registry.manifest(name, "1"))
    assert lines[0] == {"status": f"The push refers to repository [{repository}]"}
    assert statuses(lines) == ["Preparing"] * 2 + ["Pushed"] * 2
    assert lines[-2:] == [
        {"status": f"1: digest: {digest} size: {size}"},
        {"progressDetail": {}, "aux": {"Tag": "1", "Digest": digest, "Size": size}},
    ]
    manifest = registry.manifest(name, "1")
    assert manifest.startswith(
        b'{\n   "schemaVersion": 2,\n   "mediaType": "application/vnd.docker.'
    )


def test_what_a_second_push_says(engine: Engine, registry: Registry, repository: str) -> None:
    first = push(engine, repository, "?tag=1")
    again = push(engine, repository, "?tag=1")
    assert statuses(again) == ["Layer already exists"] * 2 + ["Preparing"] * 2
    assert again[-2:] == first[-2:]


def test_push_all_tags(engine: Engine, registry: Registry, repository: str) -> None:
    engine.docker("tag", f"{repository}:1", f"{repository}:2")
    lines = push(engine, repository)
    assert [line["aux"]["Tag"] for line in lines if "aux" in line] == ["1", "2"]
    assert statuses(lines) == ["Layer already exists"] * 2 + ["Preparing"] * 4 + ["Pushed"] * 2


def test_layers_are_mounted_from_a_neighbour(
    engine: Engine, registry: Registry, repository: str
) -> None:
    other = f"{repository}-copy"
    push(engine, repository, "?tag=1")
    engine.docker("tag", f"{repository}:1", f"{other}:1")
    lines = push(engine, other, "?tag=1")
    name = repository.partition("/")[2]
    assert statuses(lines) == [f"Mounted from {name}"] * 2 + ["Preparing"] * 2
    assert registry.tags(name) == registry.tags(f"{name}-copy")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("{0}-no/push?tag=1", "An image does not exist locally with the tag: {0}-no"),
        ("{0}/push?tag=9", "tag does not exist: {0}:9"),
        ("{0}@sha256:" + "a" * 64 + "/push", "cannot push a digest reference"),
    ],
)
def test_what_cannot_be_pushed_is_told_in_the_stream(
    engine: Engine, repository: str, path: str, sentence: str
) -> None:
    reply = engine.call("POST", f"/images/{path.format(repository)}", headers=NOBODY)
    assert reply.status == 200
    said = sentence.format(repository)
    last = json.loads(reply.body.splitlines()[-1])
    assert last == {"errorDetail": {"message": said}, "error": said}


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("{0}/push?tag=no!tag", 400, "invalid tag format"),
        (
            "127.0.0.1:1/Up/push?tag=1",
            400,
            "invalid reference format: repository name (Up) must be lowercase",
        ),
        (
            '{0}/push?tag=1&platform={{"os":"linux","architecture":"s390x"}}',
            404,
            "image with reference {0}:1 was found but its platform (linux/amd64) does not match "
            "the specified platform (linux/s390x)",
        ),
        (
            '{0}-no/push?tag=1&platform={{"os":"linux","architecture":"s390x"}}',
            404,
            "No such image: {0}-no:1",
        ),
    ],
)
def test_what_is_refused_at_once(
    engine: Engine, repository: str, path: str, status: int, sentence: str
) -> None:
    reply = engine.call("POST", f"/v1.51/images/{path.format(repository)}", headers=NOBODY)
    assert (reply.status, reply.message) == (status, sentence.format(repository))


def test_a_platform_means_nothing_to_old_clients(engine: Engine, repository: str) -> None:
    path = f"/v1.45/images/{repository}/push?tag=1&platform=nonsense"
    assert b'"aux"' in engine.call("POST", path, headers=NOBODY).body


@pytest.mark.parametrize("sent", [None, "", "!!", "e30="])
def test_credentials_that_cannot_be_read_are_none(
    engine: Engine, repository: str, sent: str | None
) -> None:
    headers = {} if sent is None else {"X-Registry-Auth": sent}
    reply = engine.call("POST", f"/images/{repository}/push?tag=1", headers=headers)
    assert (reply.status, b'"aux"' in reply.body) == (200, True)


def test_credentials(engine: Engine, registry: Registry, repository: str) -> None:
    registry.auth = Basic(username="user", password="pass")

    def last(username: str, password: str) -> dict[str, Any]:
        document = json.dumps({"username": username, "password": password}).encode()
        said = base64.urlsafe_b64encode(document).decode()
        return push(engine, repository, "?tag=1", **{"X-Registry-Auth": said})[-1]

    assert push(engine, repository, "?tag=1")[-1]["error"].endswith("no basic auth credentials")
    assert "aux" in last("user", "pass")


def test_who_is_denied_is_told_what_the_registry_says(
    engine: Engine, registry: Registry, repository: str
) -> None:
    refusal = Answer(403, code="DENIED", message="not yours")
    registry.fault("POST", "/blobs/uploads/", refusal)
    assert push(engine, repository, "?tag=1")[-1] == {
        "errorDetail": {"message": "denied: not yours"},
        "error": "denied: not yours",
    }


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (400, "MANIFEST_INVALID", "manifest invalid: no"),
        (409, "TAG_IMMUTABLE", "unknown: no"),
        (413, "SIZE_INVALID", "no"),
    ],
)
def test_a_manifest_that_is_refused_is_not_sent_again(
    engine: Engine, registry: Registry, repository: str, status: int, code: str, sentence: str
) -> None:
    registry.fault("PUT", "/manifests/", Answer(status, code=code, message="no"))
    assert push(engine, repository, "?tag=1")[-1]["error"].endswith(sentence)
    assert registry.seen("PUT", "/manifests/") == 1


def test_the_event(engine: Engine, registry: Registry, repository: str) -> None:
    since = str(int(time.time()))
    push(engine, repository, "?tag=1")
    until = str(int(time.time()) + 1)
    out = engine.out(
        "events", "--since", since, "--until", until, "--filter", "event=push", "--format", "json"
    )
    (event,) = [
        event for line in out.splitlines() if (event := json.loads(line))["id"] == f"{repository}:1"
    ]
    assert event["Actor"] == {"ID": f"{repository}:1", "Attributes": {"name": repository}}


@pytest.mark.beyond
def test_a_client_that_leaves_leaves_nothing(
    engine: Engine, registry: Registry, repository: str
) -> None:
    """dockerd leaves what it had sent so far with the registry."""
    registry.fault("PUT", "/blobs/uploads/", Answer(500))
    with running(engine.popen("push", f"{repository}:1")) as client:
        assert eventually(lambda: registry.seen("PUT", "/blobs/uploads/"), bool)
        client.send_signal(signal.SIGINT)
        client.wait(10)
    assert eventually(lambda: registry.seen("DELETE", "/blobs/uploads/"), lambda n: n >= 1)
    before = registry.seen("POST", "")
    registry.mend()
    assert push(engine, repository, "?tag=1")[-1]["aux"]
    assert registry.seen("POST", "") > before


@pytest.mark.beyond
def test_a_daemon_killed_in_a_push_leaves_nothing(
    wharf: Wharf, registry: Registry, repository: str
) -> None:
    registry.fault("PUT", "/blobs/uploads/", Answer(500))
    before = wharf.out("images", "--digests", "--no-trunc")
    with running(wharf.popen("push", f"{repository}:1")):
        assert eventually(lambda: registry.seen("PUT", "/blobs/uploads/"), bool)
        wharf.kill()
    wharf.start()
    data = wharf.data_root
    for folder in ("content/ingest", "overlay2/stage", "tmp"):
        assert not (data / folder).exists() or not list((data / folder).iterdir())
    assert wharf.out("images", "--digests", "--no-trunc") == before
    registry.mend()
    assert push(wharf, repository, "?tag=1")[-1]["aux"]
