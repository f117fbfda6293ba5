"""Pushes out of real stores, to a registry in this process. Root: layers have owners."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from engine.errors import NotFound
from engine.events import EventBus
from engine.image.pull import Puller
from engine.image.push import Pusher
from engine.image.store import Images
from engine.oci import platform, reference
from engine.registry import mirror
from engine.registry.auth import RegistryAuth
from engine.registry.client import Client
from engine.registry.retry import Policy
from engine.registry.transport import Transport
from engine.storage.content import Content
from engine.storage.database import Database
from engine.storage.snapshots import Snapshots
from tests.kernel.image.test_pull import noise, texts
from tests.support import images
from tests.support.images import Image, Layer, file, tar
from tests.support.registry import Answer, Basic, Bearer, HangUp, Registry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator
    from pathlib import Path

    from engine.image.model import Progress

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: needs root")

QUICK = Policy(unit_s=0.0)
LARGE = 3_000_000


def layered(*seeds: int, size: int = 300_000, compression: str = "gzip", **more: str) -> Image:
    layers = tuple(
        Layer(tar({f"file{seed}": file(noise(seed, size))}), compression)  # type: ignore[arg-type]
        for seed in seeds
    )
    return Image(layers, {"Cmd": ["sh"]}, **more)  # type: ignore[arg-type]


class Stores:
    """One engine's stores with all that pulls and pushes need."""

    def __init__(self, root: Path) -> None:
        self.database = Database(str(root / "db"))
        self.content = Content(str(root / "content"))
        self.snapshots = Snapshots(str(root), self.database)
        self.events = EventBus()
        self.images = Images(self.database, self.content, self.snapshots, self.events)

    @asynccontextmanager
    async def open(self, *, most_uploads: int = 5) -> AsyncGenerator[Images]:
        client = Client(mirror.service_config((), ()), Transport(certs_dir="/nonexistent"))
        stores = (client, self.content, self.snapshots, self.images, self.images.sources)
        puller = Puller(*stores, policy=QUICK, on_pulled=self.images.publish_pull)
        pusher = Pusher(
            *stores, most_uploads=most_uploads, policy=QUICK, on_pushed=self.images.publish_push
        )
        self.images.puller, self.images.pusher = puller, pusher
        try:
            yield self.images
        finally:
            await pusher.close()
            await puller.close()
            await client.close()

    def pull(self, name: str) -> list[Progress]:
        async def run() -> list[Progress]:
            async with self.open() as found:
                return [step async for step in found.pull(reference.parse(name))]

        return asyncio.run(run())

    def push(self, name: str, auth: RegistryAuth | None = None, wanted: str = "") -> list[Progress]:
        async def run() -> list[Progress]:
            parsed = platform.parse(wanted) if wanted else None
            async with self.open() as found:
                steps = found.push(reference.parse(name), auth=auth, platform=parsed)
                return [step async for step in steps]

        return asyncio.run(run())

    def load(self, image: Image, name: str) -> None:
        async def archive() -> AsyncIterator[bytes]:
            yield images.docker_archive({name: image})

        async def run() -> None:
            async for step in self.images.load(archive()):
                assert not step.error

        asyncio.run(run())

    def tag(self, name: str, other: str) -> None:
        ref = reference.parse(other)
        asyncio.run(self.images.tag(name, ref.name, ref.tag or ""))

    def unfinished(self) -> list[str]:
        root = self.snapshots.root
        folders = (f"{root}/stage", f"{root}/trash", self.content.ingest_root)
        return [name for folder in folders for name in os.listdir(folder)]

    def repo_digests(self, name: str) -> tuple[str, ...]:
        found = self.images.find(name)
        assert found is not None
        return found.repo_digests


@pytest.fixture
def registry() -> Generator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def stores(tmp_path: Path) -> Generator[Stores]:
    found = Stores(tmp_path)
    yield found
    assert found.unfinished() == []
    assert found.snapshots.leases.names() == set()
    found.database.close()


def shown(layer: Layer) -> str:
    return layer.diff_id.removeprefix("sha256:")[:12]


def layers_of(registry: Registry, repository: str, tag: str) -> list[str]:
    return [one["digest"] for one in json.loads(registry.manifest(repository, tag))["layers"]]


# What a client reads


def test_a_first_push_reads_as_with_dockerd(registry: Registry, stores: Stores) -> None:
    image = layered(1)
    name = f"{registry.host}/a/b:1"
    stores.load(image, name)
    lines = stores.push(name)
    digest = registry.tags("a/b")["1"]
    size = len(registry.manifest("a/b", "1"))
    layer = shown(image.layers[0])
    assert texts(lines) == [
        f"The push refers to repository [{registry.host}/a/b]",
        f"{layer}: Preparing",
        f"{layer}: Pushing",
        f"{layer}: Pushed",
        f"1: digest: {digest} size: {size}",
        "error: ",
    ]
    assert lines[-1].aux == {"Tag": "1", "Digest": digest, "Size": size}
    assert stores.repo_digests(name) == (f"{registry.host}/a/b@{digest}",)
    pushing = [line for line in lines if line.status == "Pushing"]
    assert {line.total for line in pushing} == {300_000}
    assert pushing[-1].current == len(image.layers[0].tar)


def test_what_is_there_is_not_sent_again(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1, 2), name)
    stores.push(name)
    registry.requests.clear()
    again = texts(stores.push(name))
    assert [line.rpartition(": ")[2] for line in again[3:5]] == ["Layer already exists"] * 2
    assert registry.seen("POST", "") == 0


def test_the_same_layer_twice_is_sent_once(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1, 2, 1), name)
    lines = stores.push(name)
    assert sum(line.status == "Preparing" for line in lines) == 3
    assert sum(line.status == "Pushed" for line in lines) == 2
    first, _, last = layers_of(registry, "a/b", "1")
    assert first == last


def test_all_tags_or_one(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b"
    stores.load(layered(1), f"{name}:1")
    stores.tag(f"{name}:1", f"{name}:2")
    stores.push(f"{name}:2")
    assert set(registry.tags("a/b")) == {"2"}
    lines = stores.push(name)
    assert set(registry.tags("a/b")) == {"1", "2"}
    assert [line.aux["Tag"] for line in lines if line.aux] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a/none:1", "An image does not exist locally with the tag: {host}/a/none"),
        ("a/b:9", "tag does not exist: {host}/a/b:9"),
        ("a/b@sha256:" + "a" * 64, "cannot push a digest reference"),
    ],
)
def test_what_cannot_be_pushed(
    registry: Registry, stores: Stores, name: str, sentence: str
) -> None:
    stores.load(layered(1), f"{registry.host}/a/b:1")
    lines = stores.push(f"{registry.host}/{name}")
    assert lines[-1].error == sentence.format(host=registry.host)


def test_another_platform_is_refused_before_anything(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    with pytest.raises(NotFound, match="does not match the specified platform"):
        stores.push(name, wanted="linux/s390x")
    assert registry.requests == []


def test_the_event_names_what_was_asked_for(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    seen: list[tuple[str, str, str]] = []
    publish = stores.events.publish

    def listen(type_: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        seen.append((action, actor, attributes["name"]))
        publish(type_, action, actor, attributes)

    stores.events.publish = listen  # type: ignore[method-assign,assignment]
    stores.push(name)
    assert ("push", name, f"{registry.host}/a/b") in seen


# Digests


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("family", ["docker", "oci"])
def test_a_pulled_image_keeps_its_digest(
    registry: Registry, stores: Stores, family: str, compression: str
) -> None:
    image = layered(1, 2, compression=compression, family=family)
    digest = registry.add("a/b:1", image)
    source, target = f"{registry.host}/a/b:1", f"{registry.host}/c/d:1"
    stores.pull(source)
    stores.tag(source, target)
    lines = texts(stores.push(target))
    assert f"{shown(image.layers[0])}: Mounted from a/b" in lines
    assert registry.manifest("c/d", "1") == image.manifest
    assert registry.tags("c/d")["1"] == digest
    assert stores.repo_digests(source) == (
        f"{registry.host}/a/b@{digest}",
        f"{registry.host}/c/d@{digest}",
    )
    assert registry.seen("PATCH", "") == 0


def test_a_layer_that_can_only_be_sent_makes_a_new_manifest(
    registry: Registry, stores: Stores
) -> None:
    image = layered(1, 2, family="oci", compression="zstd")
    registry.add("a/b:1", image)
    stores.pull(f"{registry.host}/a/b:1")
    with Registry() as other:
        target = f"{other.host}/c/d:1"
        stores.tag(f"{registry.host}/a/b:1", target)
        stores.push(target)
        manifest = json.loads(other.manifest("c/d", "1"))
        assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert manifest["config"]["digest"] == image.id
        for blob in manifest["layers"]:
            assert blob["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
            assert len(other.blobs[blob["digest"]]) == blob["size"]


def test_a_blob_that_only_a_manifest_names_is_not_believed(
    registry: Registry, stores: Stores
) -> None:
    """The image is here, so nothing of it is fetched: whatever this manifest says of its layers."""
    image, evil = layered(1), layered(66)
    stores.load(image, "own:1")
    document = json.loads(image.manifest)
    document["layers"][0]["digest"] = evil.layers[0].digest
    registry.add_blob("a/b", evil.layers[0].blob)
    registry.add_manifest("a/b:1", image.media_type, json.dumps(document).encode())
    stores.pull(f"{registry.host}/a/b:1")
    stores.push(f"{registry.host}/a/b:1")
    assert evil.layers[0].digest not in layers_of(registry, "a/b", "1")


# What goes wrong


def test_a_blob_that_is_gone_is_sent_again(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    stores.push(name)
    (digest,) = layers_of(registry, "a/b", "1")
    blob = registry.blobs.pop(digest)
    stores.push(name)
    assert registry.blobs[digest] == blob


@pytest.mark.parametrize("fault", [Answer(500), HangUp()])
def test_a_registry_that_fails_twice(registry: Registry, stores: Stores, fault: Answer) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    registry.fault("PATCH", "", fault, times=2)
    lines = stores.push(name)
    assert "Retrying in 5 seconds" in [line.status for line in lines]
    assert "1" in registry.tags("a/b")
    assert registry.seen("DELETE", "/blobs/uploads/") == 2


def test_who_may_not_push_is_told_so(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    registry.auth = Basic(username="user", password="pass")
    right = RegistryAuth(username="user", password="pass")
    wrong = RegistryAuth(username="user", password="word")
    assert stores.push(name)[-1].error.endswith("no basic auth credentials")
    assert stores.push(name, wrong)[-1].error.startswith("unauthorized")
    assert stores.push(name, right)[-1].aux
    registry.auth = Bearer()
    stores.tag(name, f"{registry.host}/c/d:1")
    lines = texts(stores.push(f"{registry.host}/c/d:1", right))
    assert any(line.endswith("Mounted from a/b") for line in lines)


def test_a_damaged_layer_is_not_sent_for_a_whole_one(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1), name)
    (layer,) = stores.snapshots.layers()
    path = os.path.join(stores.snapshots.root, layer.folder, "diff", "file1")
    with open(path, "r+b") as found:
        found.write(b"damage")
    lines = stores.push(name)
    assert "is not what it was when it was unpacked" in lines[-1].error
    assert registry.tags("a/b") == {}
    assert registry.seen("POST", "/blobs/uploads/") == 1
    assert registry.seen("DELETE", "/blobs/uploads/") == 1


# Side by side


def test_two_pushes_share_what_they_send(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b"
    stores.load(layered(1, size=LARGE), f"{name}:1")
    stores.tag(f"{name}:1", f"{name}:2")

    async def push(found: Images, tag: str) -> list[Progress]:
        return [step async for step in found.push(reference.parse(f"{name}:{tag}"))]

    async def run() -> list[list[Progress]]:
        async with stores.open() as found:
            return list(await asyncio.gather(*[push(found, tag) for tag in ("1", "2", "1")]))

    for lines in asyncio.run(run()):
        assert lines[-1].aux
    assert registry.seen("PATCH", "") == 1
    assert set(registry.tags("a/b")) == {"1", "2"}


def test_only_so_many_at_a_time(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    image = layered(1, 2, 3, size=LARGE)
    stores.load(image, name)

    async def run() -> list[Progress]:
        async with stores.open(most_uploads=1) as found:
            return [step async for step in found.push(reference.parse(name))]

    lines = texts(asyncio.run(run()))
    # Which of them comes first is a matter of the threads that look for the layers.
    waiting = {line for line in lines if line.endswith("Waiting")}
    assert len(waiting) == 2
    assert waiting < {f"{shown(layer)}: Waiting" for layer in image.layers}


def test_a_client_that_leaves_ends_the_push(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    stores.load(layered(1, 2, size=LARGE), name)

    async def run() -> None:
        async with stores.open() as found:
            async with aclosing(found.push(reference.parse(name))) as steps:
                async for step in steps:
                    if step.status == "Pushing":
                        break
            assert stores.snapshots.leases.names() == set()

    asyncio.run(run())
    assert registry.tags("a/b") == {}
    assert registry.seen("DELETE", "/blobs/uploads/") >= 1
    # Of a session that was being opened just then nobody has heard the name.
    assert not any(registry._uploads.values())
    assert stores.push(name)[-1].aux


def test_an_image_removed_meanwhile_stays_removed(registry: Registry, stores: Stores) -> None:
    name = f"{registry.host}/a/b:1"
    image = layered(1, size=LARGE)
    stores.load(image, name)

    async def run() -> Progress:
        async with stores.open() as found:
            is_removed = False
            async for step in found.push(reference.parse(name)):
                if step.status == "Pushing" and not is_removed:
                    is_removed = True
                    await found.remove(name, force=True)
            return step

    assert asyncio.run(run()).aux
    assert stores.images.all() == []
    assert len(layers_of(registry, "a/b", "1")) == 1
    assert stores.snapshots.layers() == []
    assert list(stores.content.walk()) == []
    assert stores.database.table("source").items() == []
