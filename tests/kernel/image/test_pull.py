"""Pulls into real stores, from a registry in this process. Root: layers have owners."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from engine import errors
from engine.events import EventBus
from engine.image.pull import Pulled, Puller
from engine.image.sources import Sources
from engine.image.store import Images
from engine.oci import platform, reference
from engine.oci.digest import Digest
from engine.registry import mirror
from engine.registry.auth import RegistryAuth
from engine.registry.client import Client
from engine.registry.retry import Policy
from engine.registry.transport import Transport
from engine.storage import gc
from engine.storage.content import Content
from engine.storage.database import Database
from engine.storage.snapshots import Snapshots
from tests.support import images
from tests.support.images import Image, Index, Layer, file, tar
from tests.support.registry import Answer, Bearer, Corrupt, Drip, Fault, Registry, Truncate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from engine.image.model import Progress
    from engine.oci.digest import ImageId
    from engine.oci.reference import Reference

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: needs root")

QUICK = Policy(unit_s=0.0)


def noise(seed: int, size: int = 300_000) -> bytes:
    return random.Random(seed).randbytes(size)


def layered(*seeds: int, **more: str) -> Image:
    """An image with a layer of incompressible noise for each seed."""
    layers = tuple(Layer(tar({f"file{seed}": file(noise(seed))})) for seed in seeds)
    return Image(layers, {"Cmd": ["sh"]}, **more)  # type: ignore[arg-type]


class Local:
    """The images that are here, in memory."""

    def __init__(self) -> None:
        self.names: dict[str, ImageId] = {}
        self.images: dict[ImageId, Pulled] = {}
        self.on_put: Callable[[], None] = lambda: None

    def image_named(self, ref: Reference) -> ImageId | None:
        return self.names.get(str(ref))

    def has_image(self, image_id: ImageId) -> bool:
        return image_id in self.images

    def put_pulled(self, pulled: Pulled) -> None:
        self.on_put()
        self.images[pulled.image_id] = pulled
        self.names[str(pulled.ref)] = pulled.image_id


class Stores:
    """One engine's stores, and what is in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = Database(str(root / "db"))
        self.content = Content(str(root / "content"))
        self.snapshots = Snapshots(str(root), self.database)
        self.local = Local()
        self.events: list[str] = []

    def close(self) -> None:
        self.database.close()

    def files(self, ref: str) -> list[str]:
        """Names in the image's layers, lowest first."""
        pulled = self.local.images[self.local.names[str(reference.parse(ref))]]
        stack = reversed(self.snapshots.stack(pulled.top_layer))
        folders = [os.path.join(self.snapshots.root, layer.folder, "diff") for layer in stack]
        return [name for folder in folders for name in sorted(os.listdir(folder))]

    def leftovers(self) -> list[str]:
        """What is there although nobody names it, after a sweep such as a boot makes."""
        images_here = self.local.images.values()
        gc.sweep(
            self.content,
            self.snapshots,
            top_layers=[p.top_layer for p in images_here if p.top_layer],
            blobs=[d for p in images_here for d in p.documents],
        )
        wanted = {d.folder for d in self.snapshots.layers()}
        named = {d for p in images_here for d in p.documents}
        found = set(os.listdir(self.snapshots.root)) - wanted - {"init", "l", "stage", "trash"}
        found |= set(self.unfinished())
        found |= {digest for digest, _ in self.content.walk() if digest not in named}
        return sorted(found)

    def unfinished(self) -> list[str]:
        """What work under way has on disk."""
        root = self.snapshots.root
        folders = (f"{root}/stage", f"{root}/trash", self.content.ingest_root)
        return [name for folder in folders for name in os.listdir(folder)]

    @asynccontextmanager
    async def puller(
        self,
        *,
        mirrors: Sequence[str] = (),
        registries: Mapping[str, Sequence[str]] | None = None,
        most_downloads: int = 3,
        local: Local | Images | None = None,
    ) -> AsyncGenerator[Puller]:
        facts = mirror.service_config(mirrors, (), registries)
        client = Client(facts, Transport(certs_dir="/nonexistent"))
        puller = Puller(
            client,
            self.content,
            self.snapshots,
            local or self.local,
            Sources(self.database),
            most_downloads=most_downloads,
            policy=QUICK,
            on_pulled=lambda ref: self.events.append(ref.familiar),
        )
        try:
            yield puller
        finally:
            await puller.close()
            await client.close()

    def pull(
        self,
        name: str,
        *,
        wanted: str = "",
        auth: RegistryAuth | None = None,
        mirrors: Sequence[str] = (),
        registries: Mapping[str, Sequence[str]] | None = None,
        most_downloads: int = 3,
        on_line: Callable[[Progress], None] = lambda _: None,
    ) -> list[Progress]:
        async def run() -> list[Progress]:
            lines: list[Progress] = []
            async with self.puller(
                mirrors=mirrors, registries=registries, most_downloads=most_downloads
            ) as puller:
                parsed = platform.parse(wanted) if wanted else None
                found = puller.pull(reference.parse(name), auth=auth, platform=parsed)
                async for progress in found:
                    on_line(progress)
                    lines.append(progress)
            return lines

        return asyncio.run(run())


@pytest.fixture
def registry() -> Generator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def stores(tmp_path: Path) -> Generator[Stores]:
    found = Stores(tmp_path)
    yield found
    assert found.leftovers() == []
    found.close()


def texts(lines: Sequence[Progress]) -> list[str]:
    """What a terminal would show, counts left out and repetitions once."""
    found = [f"{p.id}: {p.status}" if p.id else p.status or f"error: {p.error}" for p in lines]
    return [text for n, text in enumerate(found) if n == 0 or found[n - 1] != text]


def short(layer: Layer) -> str:
    return layer.digest.removeprefix("sha256:")[:12]


# What a client reads


def test_one_layer_reads_as_with_dockerd(registry: Registry, stores: Stores) -> None:
    image = images.hello_world()
    digest = registry.add("a/b:1", image)
    name = short(image.layers[0])
    assert texts(stores.pull(f"{registry.host}/a/b:1")) == [
        "1: Pulling from a/b",
        f"{name}: Pulling fs layer",
        f"{name}: Downloading",
        f"{name}: Verifying Checksum",
        f"{name}: Download complete",
        f"{name}: Extracting",
        f"{name}: Pull complete",
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {registry.host}/a/b:1",
    ]
    assert stores.files(f"{registry.host}/a/b:1") == ["hello"]
    assert stores.events == [f"{registry.host}/a/b:1"]


def test_again_is_up_to_date(registry: Registry, stores: Stores) -> None:
    digest = registry.add("a/b:1", images.hello_world())
    stores.pull(f"{registry.host}/a/b:1")
    assert texts(stores.pull(f"{registry.host}/a/b:1")) == [
        "1: Pulling from a/b",
        f"Digest: {digest}",
        f"Status: Image is up to date for {registry.host}/a/b:1",
    ]
    assert registry.seen("GET", "/manifests/") == 1
    assert registry.seen("GET", "/blobs/") == 2


def test_again_mends_what_was_damaged(registry: Registry, stores: Stores) -> None:
    """One byte of the config has changed on the disk: it is fetched anew."""
    image = layered(1)
    registry.add("a/b:1", image)
    stores.pull(f"{registry.host}/a/b:1")
    path = stores.content.path(Digest(image.id))
    with open(path, "r+b") as file:
        file.write(b"[")
    lines = stores.pull(f"{registry.host}/a/b:1")
    assert lines[-1].status.startswith("Status: ")
    assert stores.content.read(Digest(image.id)) == image.config_bytes
    assert registry.seen("GET", f"/blobs/{image.layers[0].digest}") == 1


def test_a_digest(registry: Registry, stores: Stores) -> None:
    digest = registry.add("a/b:1", images.hello_world())
    name = f"{registry.host}/a/b@{digest}"
    lines = texts(stores.pull(name))
    assert lines[0] == f"{name}: Pulling from a/b"
    assert lines[-1] == f"Status: Downloaded newer image for {name}"
    assert list(stores.local.names) == [name]


def test_all_tags(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", layered(1))
    registry.add("a/b:2", layered(2))
    lines = texts(stores.pull(f"{registry.host}/a/b"))
    assert "1: Pulling from a/b" in lines
    assert "2: Pulling from a/b" in lines
    assert lines[-1] == f"Status: Downloaded newer image for {registry.host}/a/b"
    assert len(stores.local.names) == 2
    assert stores.events == [f"{registry.host}/a/b"]


def test_layers_in_order(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2, 3, 4, 5, 6)
    registry.add("a/b:1", image)
    lines = texts(stores.pull(f"{registry.host}/a/b:1"))
    assert lines[1:7] == [f"{short(layer)}: Pulling fs layer" for layer in image.layers]
    complete = [line.partition(":")[0] for line in lines if line.endswith("Pull complete")]
    assert complete == [short(layer) for layer in image.layers]
    assert stores.files(f"{registry.host}/a/b:1") == [f"file{n}" for n in range(1, 7)]


def test_only_so_many_download_at_a_time(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", layered(1, 2, 3))
    lines = texts(stores.pull(f"{registry.host}/a/b:1", most_downloads=1))
    assert sum(line.endswith(": Waiting") for line in lines) == 2


def test_what_is_here_is_not_fetched(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", layered(1, 2))
    registry.add("a/b:2", layered(1, 2, 3))
    stores.pull(f"{registry.host}/a/b:1")
    before = registry.seen("GET", "/blobs/")
    lines = texts(stores.pull(f"{registry.host}/a/b:2"))
    assert [line.partition(": ")[2] for line in lines[1:4]] == [
        "Already exists",
        "Already exists",
        "Pulling fs layer",
    ]
    assert registry.seen("GET", "/blobs/") == before + 2
    assert stores.files(f"{registry.host}/a/b:2") == ["file1", "file2", "file3"]


def test_a_layer_on_another_base_is_not_fetched(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", layered(1, 2))
    registry.add("a/b:2", layered(3, 2))
    stores.pull(f"{registry.host}/a/b:1")
    before = registry.seen("GET", "/blobs/")
    stores.pull(f"{registry.host}/a/b:2")
    assert registry.seen("GET", "/blobs/") == before + 2
    assert stores.files(f"{registry.host}/a/b:2") == ["file3", "file2"]


def test_a_layer_twice_in_one_image(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2, 1, 1)
    registry.add("a/b:1", image)
    lines = texts(stores.pull(f"{registry.host}/a/b:1"))
    assert sum(line.endswith("Pulling fs layer") for line in lines) == 2
    assert registry.seen("GET", image.layers[0].digest) == 1
    assert stores.files(f"{registry.host}/a/b:1") == ["file1", "file2", "file1", "file1"]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("family", ["docker", "oci"])
def test_compressions_and_families(
    registry: Registry, stores: Stores, compression: images.Compression, family: images.Family
) -> None:
    image = Image((Layer(tar({"a": file(noise(1))}), compression),), family=family)
    registry.add("a/b:1", image)
    stores.pull(f"{registry.host}/a/b:1")
    assert stores.files(f"{registry.host}/a/b:1") == ["a"]


def test_an_image_without_layers(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", Image(()))
    stores.pull(f"{registry.host}/a/b:1")
    assert [p.top_layer for p in stores.local.images.values()] == [None]


# Platforms


def test_the_hosts_manifest_is_chosen(registry: Registry, stores: Stores) -> None:
    other = layered(1, architecture="s390x")
    digest = registry.add("a/b:1", Index((other, layered(2))))
    lines = texts(stores.pull(f"{registry.host}/a/b:1"))
    assert stores.files(f"{registry.host}/a/b:1") == ["file2"]
    assert f"Digest: {digest}" in lines
    [pulled] = stores.local.images.values()
    assert list(pulled.documents) == [digest, pulled.manifest_digest, pulled.image_id]


def test_the_wanted_manifest_is_chosen(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", Index((layered(2), layered(1, architecture="s390x"))))
    lines = texts(stores.pull(f"{registry.host}/a/b:1", wanted="linux/s390x"))
    assert stores.files(f"{registry.host}/a/b:1") == ["file1"]
    assert lines[-1].startswith("Status: ")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [("", f"linux/{images.ARCHITECTURE}"), ("linux/riscv64", "linux/riscv64")],
)
def test_no_manifest_for_the_platform(
    registry: Registry, stores: Stores, wanted: str, named: str
) -> None:
    registry.add("a/b:1", Index((layered(1, architecture="s390x"),)))
    lines = stores.pull(f"{registry.host}/a/b:1", wanted=wanted)
    assert texts(lines) == [
        "1: Pulling from a/b",
        f"error: no matching manifest for {named} in the manifest list entries",
    ]


def test_a_single_image_of_another_platform_comes_with_a_warning(
    registry: Registry, stores: Stores
) -> None:
    registry.add("a/b:1", layered(1))
    name = f"{registry.host}/a/b:1"
    assert texts(stores.pull(name, wanted="linux/s390x"))[-1] == (
        f"WARNING: image with reference {name} was found but its platform "
        f"(linux/{images.ARCHITECTURE}) does not match the specified platform (linux/s390x)"
    )


# Refusals


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "a/b:nosuch",
            "manifest for {host}/a/b:nosuch not found: manifest unknown: manifest unknown",
        ),
        ("a/x:1", "manifest for {host}/a/x:1 not found: manifest unknown: manifest unknown"),
        (
            "a/x",
            "repository {host}/a/x not found: name unknown: repository name not known to registry",
        ),
    ],
)
def test_what_is_not_there(registry: Registry, stores: Stores, name: str, sentence: str) -> None:
    registry.add("a/b:1", layered(1))
    with pytest.raises(errors.NotFound) as caught:
        stores.pull(f"{registry.host}/{name}")
    assert str(caught.value) == sentence.format(host=registry.host)
    assert stores.events == []


def test_a_denied_repository(registry: Registry, stores: Stores) -> None:
    denied = Answer(403, code="DENIED", message="not for you")
    registry.fault("HEAD", "/manifests/", denied)
    registry.fault("GET", "/manifests/", denied)
    with pytest.raises(errors.NotFound) as caught:
        stores.pull(f"{registry.host}/a/b:1")
    assert str(caught.value) == (
        f"pull access denied for {registry.host}/a/b, repository does not exist or may require "
        "'docker login': denied: not for you"
    )


def test_the_reserved_name(stores: Stores) -> None:
    with pytest.raises(errors.Forbidden, match=r"^'scratch' is a reserved name$"):
        stores.pull("scratch:latest")


def test_with_a_token(stores: Stores) -> None:
    with Registry(auth=Bearer()) as registry:
        registry.add("a/b:1", layered(1, 2, 3))
        auth = RegistryAuth(username="user", password="pass")
        stores.pull(f"{registry.host}/a/b:1", auth=auth)
        assert registry.seen("GET", "/token") == 1


def test_a_mirror_that_breaks_gives_way_to_the_next(stores: Stores) -> None:
    image = layered(1)
    with Registry() as broken, Registry() as whole:
        for one in (broken, whole):
            one.add("library/busybox:1", image)
        broken.fault("GET", image.layers[0].digest, Corrupt())
        lines = texts(stores.pull("busybox:1", mirrors=(broken.url, whole.url)))
    assert lines.count("1: Pulling from library/busybox") == 2
    assert lines[-1] == "Status: Downloaded newer image for busybox:1"


def test_a_registrys_mirrors_are_asked_first_and_know_no_password(stores: Stores) -> None:
    image = layered(1)
    auth = RegistryAuth(username="user", password="pass")
    with Registry(auth=Bearer()) as home, Registry() as empty, Registry() as broken:
        home.add("a/b:1", image)
        broken.add("a/b:1", image)
        broken.fault("GET", image.layers[0].digest, Corrupt())
        registries = {home.host: (empty.url, broken.url)}
        lines = texts(stores.pull(f"{home.host}/a/b:1", auth=auth, registries=registries))
        assert lines[-1] == f"Status: Downloaded newer image for {home.host}/a/b:1"
        for mirrored in (empty, broken):
            assert mirrored.requests
            assert {seen.authorization for seen in mirrored.requests} == {""}


# What goes wrong on the way


def failing(stores: Stores, registry: Registry) -> str:
    """Pull, and give the error in the last line; nothing may be visible."""
    lines = stores.pull(f"{registry.host}/a/b:1")
    assert stores.local.names == {}
    assert stores.events == []
    assert lines[-1].error
    return lines[-1].error


def test_a_layer_with_wrong_bytes(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2, 3)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[1].digest, Corrupt())
    assert failing(stores, registry) == (
        f"filesystem layer verification failed for digest {image.layers[1].digest}"
    )


def test_a_layer_that_is_not_there(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[1].digest, Answer(404, code="BLOB_UNKNOWN"))
    assert failing(stores, registry) == "unknown blob"


def test_a_config_with_wrong_bytes(registry: Registry, stores: Stores) -> None:
    image = layered(1)
    registry.add("a/b:1", image)
    registry.fault("GET", image.id, Corrupt())
    assert failing(stores, registry) == (
        f"error pulling image configuration: image config verification failed for digest {image.id}"
    )


def test_a_config_that_is_not_there(registry: Registry, stores: Stores) -> None:
    image = layered(1)
    registry.add("a/b:1", image)
    registry.fault("GET", image.id, Answer(404, code="BLOB_UNKNOWN"))
    assert failing(stores, registry) == (
        "error pulling image configuration: download failed after attempts=1: unknown blob"
    )


def test_a_config_that_lies_about_its_layers(registry: Registry, stores: Stores) -> None:
    lying = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}
    registry.add("a/b:1", Image(layered(1).layers, extra=lying))
    assert failing(stores, registry) == "layers from manifest don't match image configuration"


def test_fewer_layers_than_the_config_has(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2)
    registry.add("a/b:1", image)
    document = json.loads(image.manifest)
    document["layers"].pop()
    registry.add_manifest("a/b:1", image.media_type, json.dumps(document).encode())
    assert failing(stores, registry) == "layers from manifest don't match image configuration"


def test_ten_thousand_layers(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", Image((Layer(tar({})),) * 10_000))
    assert failing(stores, registry) == "failed to register layer: max depth exceeded"
    assert registry.seen("GET", "/blobs/") == 1


@pytest.mark.parametrize("data", [b"no tar at all" * 100, b"\x1f\x8b\x08broken", b""])
def test_a_layer_that_is_no_tar(registry: Registry, stores: Stores, data: bytes) -> None:
    layer = Layer(data, "none")
    truth = {"rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    registry.add("a/b:1", Image((layer,), extra=truth))
    if data:
        assert failing(stores, registry).startswith("failed to register layer: ")
    else:
        stores.pull(f"{registry.host}/a/b:1")
        assert stores.files(f"{registry.host}/a/b:1") == []


def test_foreign_layers_are_never_fetched_from_elsewhere(
    registry: Registry, stores: Stores
) -> None:
    image = layered(1)
    registry.add("a/b:1", image)
    with Registry() as elsewhere:
        elsewhere.add("x/y:1", image)
        document = json.loads(image.manifest)
        url = f"{elsewhere.url}/v2/x/y/blobs/{image.layers[0].digest}"
        document["layers"][0]["urls"] = [url]
        registry.add_manifest("a/b:1", image.media_type, json.dumps(document).encode())
        registry.fault("GET", image.layers[0].digest, Answer(404))
        assert failing(stores, registry) == "unknown blob"
        assert elsewhere.requests == []


@pytest.mark.parametrize("fault", [Truncate(100_000), Answer(503)])
def test_a_broken_download_goes_on(registry: Registry, stores: Stores, fault: Fault) -> None:
    image = layered(1, 2)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[1].digest, fault, times=2)
    lines = texts(stores.pull(f"{registry.host}/a/b:1"))
    assert f"{short(image.layers[1])}: Retrying in 5 seconds" in lines
    assert lines[-1].startswith("Status: Downloaded newer image")


def test_a_failure_of_the_last_step(registry: Registry, stores: Stores) -> None:
    registry.add("a/b:1", layered(1))

    def full() -> None:
        raise errors.EngineError("database or disk is full")

    stores.local.on_put = full
    assert failing(stores, registry) == "database or disk is full"


# While it arrives


async def until(is_so: Callable[[], bool]) -> None:
    """Look until it is so; whoever makes it so is a thread that cannot tell."""
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing came of it")


def two_files(compression: images.Compression = "gzip", last: int = 300_000) -> Image:
    """A layer whose second file is long in coming."""
    members = {"a": file(noise(1, 3_000_000)), "b": file(noise(2, last))}
    return Image((Layer(tar(members), compression),))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_layer_is_unpacked_while_it_arrives(
    registry: Registry, stores: Stores, compression: images.Compression
) -> None:
    image = two_files(compression)
    registry.add("a/b:1", image)
    size = len(image.layers[0].blob)
    registry.fault("GET", image.layers[0].digest, Drip(every_s=0.2, first=size - 10))

    async def run() -> list[Progress]:
        async with stores.puller() as puller:
            lines = puller.pull(reference.parse(f"{registry.host}/a/b:1"))
            found = [await anext(lines)]
            while found[-1].status != "Downloading":
                found.append(await anext(lines))
            await until(lambda: bool(list(stores.root.glob("overlay2/stage/*/diff/a"))))
            return found + [progress async for progress in lines]

    shown = [line.partition(": ")[2] for line in texts(asyncio.run(run()))]
    assert shown[1:7] == [
        "Pulling fs layer",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
    ]


def test_a_download_that_begins_anew_is_unpacked_anew(registry: Registry, stores: Stores) -> None:
    """The first half of one blob and the second of another: only the whole in one piece tells."""
    image = two_files("none")
    layer = image.layers[0]
    registry.add("a/b:1", image)
    # The right headers and the wrong contents, cut off; the rest then fits in length.
    wrong = bytearray(layer.blob)
    wrong[600:2_000_000] = bytes(2_000_000 - 600)
    registry.blobs[layer.digest] = bytes(wrong)
    registry.fault("GET", layer.digest, Truncate(2_500_000), times=1)
    seen = 0

    def mend(progress: Progress) -> None:
        nonlocal seen
        seen += progress.status == "Verifying Checksum"
        if progress.status.startswith("Retrying"):
            registry.blobs[layer.digest] = layer.blob

    lines = texts(stores.pull(f"{registry.host}/a/b:1", on_line=mend))
    assert lines[-1].startswith("Status: Downloaded newer image")
    assert seen == 2
    assert registry.seen("GET", layer.digest) == 3
    folders = [os.path.join(stores.snapshots.root, d.folder) for d in stores.snapshots.layers()]
    [folder] = folders
    with open(os.path.join(folder, "diff", "a"), "rb") as unpacked:
        assert unpacked.read() == noise(1, 3_000_000)


def test_wrong_bytes_that_cannot_be_unpacked_are_wrong_bytes_first(
    registry: Registry, stores: Stores
) -> None:
    image = layered(1)
    digest = image.layers[0].digest
    registry.add("a/b:1", image)
    registry.blobs[digest] = b"\x1f\x8b\x08" + registry.blobs[digest][3:][::-1]
    assert failing(stores, registry) == f"filesystem layer verification failed for digest {digest}"


def test_downloads_that_stand_still_do_not_keep_others_from_unpacking(
    registry: Registry, stores: Stores
) -> None:
    slow, quick = layered(*range(10)), layered(11, 12, 13)
    registry.add("slow/a:1", slow)
    registry.add("quick/a:1", quick)
    registry.fault("GET", f"slow/a/blobs/(?!{slow.id})", Drip(60, first=1000))

    async def run() -> list[Progress]:
        async with stores.puller(most_downloads=20) as puller:
            waiting = asyncio.ensure_future(lines_of(puller, f"{registry.host}/slow/a:1"))
            await until(lambda: registry.seen("GET", "slow/a/blobs") == 11)
            lines = await lines_of(puller, f"{registry.host}/quick/a:1")
            waiting.cancel()
            await asyncio.wait((waiting,))
            return lines

    assert asyncio.run(run())[-1].status.startswith("Status: Downloaded newer image")


async def lines_of(puller: Puller, name: str) -> list[Progress]:
    async with aclosing(puller.pull(reference.parse(name))) as lines:
        return [progress async for progress in lines]


def test_what_cannot_be_unpacked_is_not_downloaded_to_its_end(
    registry: Registry, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is known before the last byte of a large layer has come."""
    image = two_files("none")
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[0].digest, Drip(every_s=60, first=2_000_000))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.storage.extract._write", full)
    assert failing(stores, registry) == "failed to register layer: no space left on device"
    assert stores.unfinished() == []


@pytest.mark.parametrize("first", [0, 1, 600, 400_000, 2_999_000])
def test_leaving_while_it_is_unpacked_leaves_nothing(
    registry: Registry, stores: Stores, first: int
) -> None:
    image = two_files("none")
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[0].digest, Drip(every_s=60, first=first))

    async def run() -> None:
        async with stores.puller() as puller:
            async with aclosing(puller.pull(reference.parse(f"{registry.host}/a/b:1"))) as lines:
                await anext(lines)
                await anext(lines)
                if first:
                    await until(lambda: bool(list(stores.root.glob("overlay2/stage/*/diff"))))
            assert stores.unfinished() == []

    asyncio.run(run())
    assert stores.local.names == {}


# Dying on the way

DYING = """
import os, sys
from pathlib import Path
from tests.kernel.image.test_pull import Stores

seen = 0

def line(progress):
    global seen
    seen += 1
    if seen == int(sys.argv[3]):
        os._exit(9)

Stores(Path(sys.argv[1])).pull(sys.argv[2], on_line=line)
"""


@pytest.mark.parametrize("number", [2, 5, 8, 11, 14, 17])
def test_what_a_killed_pull_leaves_is_swept(
    registry: Registry, tmp_path: Path, number: int
) -> None:
    registry.add("a/b:1", layered(1, 2, 3))
    name = f"{registry.host}/a/b:1"
    command = [sys.executable, "-c", DYING, str(tmp_path), name, str(number)]
    assert subprocess.run(command, check=False).returncode == 9
    stores = Stores(tmp_path)
    gc.take_away(stores.content, stores.snapshots)
    stores.snapshots.empty_trash()
    assert stores.leftovers() == []
    stores.pull(name)
    assert stores.files(name) == ["file1", "file2", "file3"]
    stores.close()


# Several clients


def test_two_pulls_fetch_each_layer_once(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2, 3)
    registry.add("a/b:1", image)
    registry.add("a/b:2", image)

    async def pull(puller: Puller, tag: str) -> list[Progress]:
        found = puller.pull(reference.parse(f"{registry.host}/a/b:{tag}"))
        return [progress async for progress in found]

    async def run() -> list[list[Progress]]:
        async with stores.puller() as puller:
            return list(await asyncio.gather(*[pull(puller, tag) for tag in ("1", "2", "1")]))

    for lines in asyncio.run(run()):
        assert lines[-1].status.startswith("Status: ")
    for layer in image.layers:
        assert registry.seen("GET", layer.digest) == 1
    assert len(stores.local.names) == 2


@pytest.mark.parametrize("fault", [Drip(every_s=60, first=1000), Drip(every_s=60)])
def test_a_client_that_leaves_ends_its_pull(
    registry: Registry, stores: Stores, fault: Fault
) -> None:
    image = layered(1, 2, 3)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[1].digest, fault)

    async def run() -> None:
        async with stores.puller() as puller:
            ref = reference.parse(f"{registry.host}/a/b:1")
            async with aclosing(puller.pull(ref)) as lines:
                async for progress in lines:
                    if progress.status == "Pull complete":
                        break

    asyncio.run(run())
    assert stores.local.names == {}
    assert stores.events == []


def test_a_client_that_leaves_does_not_end_the_others(registry: Registry, stores: Stores) -> None:
    image = layered(1, 2)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[1].digest, Drip(every_s=0.01, first=299_950), times=1)

    async def run() -> list[Progress]:
        async with stores.puller() as puller:
            ref = reference.parse(f"{registry.host}/a/b:1")
            leaving, staying = puller.pull(ref), puller.pull(ref)
            async with aclosing(leaving):
                async for progress in leaving:
                    if progress.status == "Downloading":
                        break
                first = await anext(staying)
                begun = [first]
                while begun[-1].status != "Downloading":
                    begun.append(await anext(staying))
            return begun + [progress async for progress in staying]

    assert asyncio.run(run())[-1].status.startswith("Status: Downloaded newer image")
    assert registry.seen("GET", image.layers[1].digest) == 1


@pytest.mark.parametrize("number", range(25))
def test_leaving_at_any_moment_leaves_nothing(
    registry: Registry, stores: Stores, number: int
) -> None:
    registry.add("a/b:1", layered(1, 2, 3))
    here = Images(stores.database, stores.content, stores.snapshots, EventBus())

    async def run() -> None:
        async with stores.puller(local=here) as puller:
            here.puller = puller
            ref = reference.parse(f"{registry.host}/a/b:1")
            async with aclosing(here.pull(ref)) as lines:
                for _ in range(number):
                    if await anext(lines, None) is None:
                        break
        await here.close()

    asyncio.run(run())
    assert len(stores.events) == len(here.all())
    assert stores.unfinished() == []
    assert not stores.snapshots.leases.names()
    if not here.all():
        assert stores.snapshots.layers() == []
        assert list(stores.content.walk()) == []


def test_a_closing_engine_ends_pulls(registry: Registry, stores: Stores) -> None:
    image = layered(1)
    registry.add("a/b:1", image)
    registry.fault("GET", image.layers[0].digest, Drip(every_s=60, first=1000))

    async def run() -> None:
        async with stores.puller() as puller:
            lines = puller.pull(reference.parse(f"{registry.host}/a/b:1"))
            while (await anext(lines)).status != "Downloading":
                pass
            await puller.close()
            last = [progress async for progress in lines][-1]
            assert last.error == "the engine is being shut down"

    asyncio.run(run())
    assert stores.local.names == {}
