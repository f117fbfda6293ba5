"""What a registry has, asked for without pulling it: /distribution/{name}/json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.images import Image, Index, Layer, file, tar
from tests.support.registry import Answer, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Reply

pytestmark = pytest.mark.stock

IMAGE = Image((Layer(tar({"a": file(b"a")})),))
OTHER = Image(IMAGE.layers, architecture="arm64", variant="v8")
AMD64 = {"architecture": images.ARCHITECTURE, "os": "linux"}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as serving:
        yield serving


def asked(engine: Engine, ref: str) -> Reply:
    return engine.call("GET", f"/distribution/{ref}/json")


def descriptor(of: Image | Index) -> dict[str, Any]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": len(of.manifest)}


@pytest.mark.parametrize("how", [":1", "@{digest}", ":other@{digest}"])
def test_a_manifest(engine: Engine, registry: Registry, how: str) -> None:
    registry.add("a/b:1", IMAGE)
    ref = f"{registry.host}/a/b" + how.format(digest=IMAGE.digest)
    assert asked(engine, ref).json() == {"Descriptor": descriptor(IMAGE), "Platforms": [AMD64]}


def test_an_index(engine: Engine, registry: Registry) -> None:
    index = Index((IMAGE, OTHER))
    registry.add("a/b:latest", index)
    found = asked(engine, f"{registry.host}/a/b").json()
    platforms = [AMD64, {"architecture": "arm64", "os": "linux", "variant": "v8"}]
    assert found == {"Descriptor": descriptor(index), "Platforms": platforms}


def test_a_manifest_whose_config_is_nowhere(engine: Engine, registry: Registry) -> None:
    document = json.loads(IMAGE.manifest)
    document["config"]["digest"] = "sha256:" + "1" * 64
    registry.offer("a/b:1", json.dumps(document).encode(), IMAGE.media_type)
    found = asked(engine, f"{registry.host}/a/b:1").json()
    assert found["Platforms"] is None


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        (Answer(403, code="DENIED", message="no entry"), 403, "denied: no entry"),
        (Answer(401, code="UNAUTHORIZED", message="who"), 401, "unauthorized: who"),
        (
            Answer(200, {"Content-Type": IMAGE.media_type}, b"{nope"),
            500,
            "invalid character 'n' looking for beginning of object key string",
        ),
        (
            Answer(200, {"Content-Type": "text/html"}, b"<html>"),
            500,
            "error unmarshalling content: invalid character '<' looking for beginning of value",
        ),
    ],
    ids=["denied", "unauthorized", "syntax", "html"],
)
def test_what_is_refused(
    engine: Engine, registry: Registry, answer: Answer, status: int, sentence: str
) -> None:
    registry.fault("GET", "/manifests/", answer)
    registry.fault("HEAD", "/manifests/", Answer(answer.status, answer.headers, b""))
    reply = asked(engine, f"{registry.host}/a/b:1")
    assert (reply.status, reply.message) == (status, sentence)


@pytest.mark.parametrize("ref", ["a" * 64, "sha256:" + "a" * 64])
def test_an_images_id_is_no_name(engine: Engine, ref: str) -> None:
    reply = asked(engine, ref)
    assert (reply.status, reply.message) == (500, "no manifest found for full image ID")


def test_the_clis_manifest_inspect(engine: Engine, registry: Registry) -> None:
    """The CLI asks the registry itself, and the engine for nothing but its version."""
    registry.add("a/b:1", Index((IMAGE, OTHER), "docker"))
    ref = f"{registry.host}/a/b:1"
    found = json.loads(engine.out("manifest", "inspect", "--insecure", ref))
    assert [m["digest"] for m in found["manifests"]] == [IMAGE.digest, OTHER.digest]
