"""Registries made to deceive, to exhaust and to lead astray; ids as in tests/ATTACKS.md."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.measures import resident_mb
from tests.e2e.conftest import eventually, own_wharf, wait_for_nothing
from tests.support import images
from tests.support.engine import Wharf
from tests.support.images import Image, Layer, file, tar
from tests.support.registry import Answer, Basic, Corrupt, Drip, Registry, Replace, Truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine
    from tests.support.registry import Fault

pytestmark = pytest.mark.stock

MB = 1 << 20


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as serving:
        yield serving


@pytest.fixture
def ref(engine: Engine, registry: Registry, name: str) -> Iterator[str]:
    """What the test pulls; afterwards nothing of a pull is under way, and the engine well."""
    yield f"{registry.host}/{name}:1"
    engine.docker("rmi", "-f", f"{registry.host}/{name}:1", check=False)
    assert engine.call("GET", "/_ping").status == 200
    if isinstance(engine, Wharf):
        assert wait_for_nothing(lambda: unfinished(engine)) == []


def unfinished(wharf: Wharf) -> list[str]:
    """What pulls that did not end well have left on the disk."""
    folders = ("overlay2/stage", "overlay2/trash", "content/ingest")
    return [str(path) for folder in folders for path in (wharf.data_root / folder).iterdir()]


def refused(engine: Engine, ref: str, *, timeout: float = 120) -> str:
    """Pull what must not come: the sentence. Nothing of it may be visible."""
    done = engine.docker("pull", ref, check=False, timeout=timeout)
    assert done.returncode == 1, done.stdout
    said = done.stderr.decode()
    assert said
    assert "internal error" not in said
    assert engine.docker("image", "inspect", ref, check=False).returncode == 1
    return said


def image_of(*layers: Layer, **extra: Any) -> Image:
    """An image of these layers alone, with what `extra` says in its config."""
    return Image(layers, {"Cmd": ["true"]}, extra=extra)


def offer(registry: Registry, ref: str, image: Image) -> None:
    registry.add(ref.partition("/")[2], image)


def own_layer(name: str, **members: images.Entry) -> Layer:
    """A layer that no other test has."""
    return Layer(tar({name: file(os.urandom(100_000)), **members}))


# I1


@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
def test_i1_bytes_that_are_not_the_digests(
    engine: Engine, ref: str, registry: Registry, name: str, which: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    path = {"layer": image.layers[0].digest, "config": image.id, "manifest": "/manifests/"}[which]
    registry.fault("GET", path, Corrupt())
    if which == "manifest":
        ref = f"{ref.rpartition(':')[0]}@{image.digest}"
    assert "verification failed for digest" in refused(engine, ref) or which == "manifest"


def test_i1_a_blob_cut_short_by_a_registry_that_says_it_is_whole(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    registry.fault("GET", image.layers[0].digest, Replace(body=image.layers[0].blob[:1000]))
    assert image.layers[0].digest in refused(engine, ref)


def test_i1_a_tar_that_is_not_the_configs(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    lie = {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}
    offer(registry, ref, image_of(own_layer(name), rootfs=lie))
    refused(engine, ref)


# I2


def bomb(size: int) -> Layer:
    """A file of zeros, a thousandth of it on the wire; its own tar is never in one piece here."""
    piece, header = bytes(MB), images.tar({"bomb": file(b"")})[:512]
    block = bytearray(header)
    block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    packed = bytearray()

    class Sink:
        def write(self, data: bytes) -> int:
            packed.extend(data)
            return len(data)

    with gzip.GzipFile(fileobj=Sink(), mode="wb", mtime=0) as zipped:  # type: ignore[call-overload]
        zipped.write(block)
        for _ in range(size // MB):
            zipped.write(piece)
        zipped.write(bytes(1024))
    return Layer(bytes(packed), "none")


@pytest.fixture
def small() -> Iterator[Wharf]:
    with own_wharf(disk="100m", has_base=False) as wharf:
        yield wharf
        assert wait_for_nothing(lambda: unfinished(wharf)) == []


def free_mb(wharf: Wharf) -> float:
    found = os.statvfs(wharf.data_root)
    return found.f_bavail * found.f_frsize / MB


@pytest.mark.beyond
@pytest.mark.parametrize("is_early", [True, False], ids=["while it arrives", "when it is whole"])
def test_i2_a_bomb_fills_no_more_than_there_is(
    small: Wharf, registry: Registry, is_early: bool
) -> None:
    """The bomb goes off whether its last byte has come or not; other images go on."""
    layer = bomb(1000 * MB)
    offer(registry, "x/a/bomb:1", image_of(layer))
    if is_early:
        registry.fault("GET", layer.digest, Drip(every_s=60, first=len(layer.blob) - 10))
    assert small.process is not None
    before, free = resident_mb({small.process.pid}), free_mb(small)
    said = refused(small, f"{registry.host}/a/bomb:1")
    assert "no space left on device" in said
    assert resident_mb({small.process.pid}) - before < 64
    assert eventually(lambda: free_mb(small), lambda now: now > free - 5) > free - 5
    offer(registry, "x/a/good:1", image_of(own_layer("good")))
    small.docker("pull", f"{registry.host}/a/good:1")


@pytest.mark.beyond
def test_i2_a_layer_larger_than_the_disk(small: Wharf, registry: Registry) -> None:
    """Its bytes do not compress: the download itself fills what there is."""
    layer = Layer(tar({"large": file(os.urandom(120 * MB))}), "none")
    offer(registry, "x/a/large:1", image_of(layer))
    free = free_mb(small)
    assert "no space left on device" in refused(small, f"{registry.host}/a/large:1")
    assert eventually(lambda: free_mb(small), lambda now: now > free - 5) > free - 5


def test_i2_a_zstd_window_of_gigabytes(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    """A frame that asks for a window of 2 GiB (zstd format, §3.1.1.1.2), and nothing behind it."""
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x01\x00\x00"
    offer(registry, ref, image_of(Layer(frame + name.encode(), "none")))
    refused(engine, ref)


def test_i2_ten_thousand_layers(engine: Engine, ref: str, registry: Registry) -> None:
    offer(registry, ref, image_of(*(Layer(tar({})),) * 10_000))
    before = time.monotonic()
    assert "max depth exceeded" in refused(engine, ref)
    assert time.monotonic() - before < 60
    assert registry.seen("GET", "/blobs/") <= 126 + 1


@pytest.mark.beyond
def test_i2_a_path_of_a_thousand_folders(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    offer(registry, ref, image_of(own_layer(name, **{"d/" * 3000 + "x": file(b"")})))
    assert "file name too long" in refused(engine, ref)


# I3


def test_i3_foreign_layers_are_not_fetched(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    """`urls` name a host that only the engine reaches; dockerd on Linux ignores them too."""
    image = image_of(own_layer(name))
    with Registry() as inside:
        blob = inside.add_blob("x/y", image.layers[0].blob)
        document = json.loads(image.manifest)
        document["layers"][0] |= {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "urls": [f"{inside.url}/v2/x/y/blobs/{blob}"],
        }
        offer(registry, ref, image)
        registry.offer(ref.partition("/")[2], json.dumps(document).encode(), image.media_type)
        registry.fault("GET", blob, Answer(404, code="BLOB_UNKNOWN"))
        refused(engine, ref)
        assert inside.requests == []


@pytest.mark.parametrize("where", ["file:///etc/passwd", "gopher://127.0.0.1/", "http:///nowhere"])
def test_i3_redirects_to_where_no_registry_is(
    engine: Engine, ref: str, registry: Registry, name: str, where: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    registry.fault("GET", image.id, Answer(307, {"Location": where}))
    assert "root:" not in refused(engine, ref)


def test_i3_credentials_do_not_follow_a_redirect(engine: Engine, name: str) -> None:
    """The blobs lie with a host of their own, which is told no password."""
    image = image_of(own_layer(name))
    with Registry(auth=Basic(username="user", password="secret")) as home, Registry() as store:
        home.add(f"{name}:1", image)
        for blob in (image.layers[0].blob, image.config_bytes):
            digest = store.add_blob(name, blob)
            target = f"{store.url}/v2/{name}/blobs/{digest}"
            home.fault("GET", f"/blobs/{digest}", Answer(307, {"Location": target}))
        engine.docker("login", home.host, "-u", "user", "--password-stdin", input="secret")
        try:
            engine.docker("pull", f"{home.host}/{name}:1")
        finally:
            engine.docker("logout", home.host)
            engine.docker("rmi", "-f", f"{home.host}/{name}:1", check=False)
        assert home.seen("GET", "/blobs/") == 2
        assert store.seen("GET", "/blobs/") == 2
        assert {seen.authorization for seen in store.requests} == {""}


# I4

NESTED = b"[" * 100_000 + b"]" * 100_000
MANIFEST = images.Image(()).media_type
INDEX = images.Index(()).media_type


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        NESTED,
        b'{"schemaVersion":2,"layers":' + NESTED + b"}",
        b'{"schemaVersion":2,"config":null,"layers":null}',
        b'{"schemaVersion":2,"config":[],"layers":{}}',
        b'{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}',
        b'{"schemaVersion":2,"config":{"digest":5,"size":"x"},"layers":[1,2]}',
        b'{"schemaVersion":2,"config":{"size":1e400},"layers":[]}',
        b'{"schemaVersion":"2"}',
        b'\xff\xfe{"schemaVersion":2}',
    ],
    ids=range(13),
)
def test_i4_a_manifest_that_is_none(
    engine: Engine, ref: str, registry: Registry, document: bytes
) -> None:
    registry.offer(ref.partition("/")[2], document, MANIFEST)
    refused(engine, ref)


@pytest.mark.parametrize(
    "document",
    [
        b'{"schemaVersion":2,"manifests":null}',
        b'{"schemaVersion":2,"manifests":[null,{}]}',
        b'{"schemaVersion":2,"manifests":{"a":1}}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:..","platform":7}]}',
        b'{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"%s"}}]}'
        % images.ARCHITECTURE.encode(),
    ],
    ids=range(5),
)
def test_i4_an_index_that_is_none(
    engine: Engine, ref: str, registry: Registry, document: bytes
) -> None:
    registry.offer(ref.partition("/")[2], document, INDEX)
    refused(engine, ref)


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        NESTED,
        b'{"rootfs":null}',
        b'{"rootfs":{"type":"layers","diff_ids":null}}',
        b'{"rootfs":{"type":"layers","diff_ids":[1]}}',
        b'{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}',
        b'{"config":{"Env":"no list"},"rootfs":{"type":"layers","diff_ids":["x"]}}',
        b'{"created":"the day before","rootfs":{"type":"layers","diff_ids":["x"]}}',
    ],
    ids=range(11),
)
def test_i4_a_config_that_is_none(
    engine: Engine, ref: str, registry: Registry, name: str, config: bytes
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    document = json.loads(image.manifest)
    document["config"]["digest"] = registry.add_blob(
        ref.partition("/")[2].rpartition(":")[0], config
    )
    document["config"]["size"] = len(config)
    registry.offer(ref.partition("/")[2], json.dumps(document).encode(), MANIFEST)
    refused(engine, ref)


@pytest.mark.parametrize("which", ["manifest", pytest.param("config", marks=pytest.mark.beyond)])
def test_i4_documents_of_a_hundred_megabytes(
    engine: Engine, ref: str, registry: Registry, which: str
) -> None:
    padding = {"x": "x" * (100 * MB)}
    image = image_of(Layer(tar({})), **padding)
    offer(registry, ref, image)
    if which == "manifest":
        large = json.dumps(json.loads(images.Image(()).manifest) | padding).encode()
        registry.offer(ref.partition("/")[2], large, MANIFEST)
    before = memory(engine)
    refused(engine, ref)
    assert memory(engine) - before < 64


def memory(engine: Engine) -> float:
    is_ours = isinstance(engine, Wharf) and engine.process is not None
    return resident_mb({engine.process.pid}) if is_ours else 0.0  # type: ignore[attr-defined,union-attr]


@pytest.mark.beyond
def test_i4_indexes_without_end(engine: Engine, ref: str, registry: Registry) -> None:
    """A digest cannot name itself, but a hundred indexes can name each the next."""
    where = ref.partition("/")[2]
    image = image_of(Layer(tar({})))
    offer(registry, ref, image)
    inner, media_type = image.manifest, image.media_type
    for _ in range(100):
        entry = {
            "mediaType": media_type,
            "digest": images.sha256(inner),
            "size": len(inner),
            "platform": image.platform,
        }
        inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
        media_type = INDEX
        registry.offer(where, inner, INDEX)
    refused(engine, ref)
    assert registry.seen("GET", "/manifests/") < 20


# I6


def pulled_tree(engine: Engine, registry: Registry, ref: str, *layers: Layer) -> set[str]:
    """What a container of busybox and these layers sees below /w and at the root's top."""
    base = images.busybox()
    offer(registry, ref, Image((*base.layers, *layers), base.config))
    engine.docker("pull", ref)
    return set(engine.out("run", "--rm", ref, "find", "/w").split("\n"))


@pytest.mark.parametrize("trick", [".wh..", ".wh...", ".wh."])
def test_i6_whiteouts_of_the_folder_itself_and_above(
    engine: Engine, ref: str, registry: Registry, name: str, trick: str
) -> None:
    base = images.busybox()
    layer = own_layer(name, **{f"w/{trick}": file(b"")})
    offer(registry, ref, Image((*base.layers, layer), base.config))
    done = engine.docker("pull", ref, check=False)
    if done.returncode == 0:
        assert engine.out("run", "--rm", ref, "sh", "-c", "ls / | grep -c bin") != "0"


def test_i6_a_whiteout_reaches_nothing_above(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    below = own_layer(name, **{"w/kept": file(b"k"), "w/d/x": file(b"x"), "v": file(b"v")})
    above = Layer(tar({"w/d/.wh.x": file(b""), "w/d/y": file(b"y")}))
    tree = pulled_tree(engine, registry, ref, below, above)
    assert tree == {"/w", "/w/kept", "/w/d", "/w/d/y"}


@pytest.mark.beyond
def test_i6_an_opaque_root_hides_what_is_below(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    """As the image specification says; to dockerd's overlayfs the mark means nothing there."""
    tree = images.busybox_tree()
    below = own_layer(name, **{"w/gone": file(b"k")})
    above = Layer(tar({**tree, ".wh..wh..opq": file(b""), "w/new": file(b"n")}))
    assert pulled_tree(engine, registry, ref, below, above) == {"/w", "/w/new"}


def test_i6_a_link_to_a_file_that_is_whited_out(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    """Of dockerd the link becomes a second whiteout, of Wharf a copy of what was there below."""
    below = own_layer(name, **{"w/a": file(b"below")})
    above = Layer(tar([("w/.wh.a", file(b"")), ("w/b", images.hardlink("w/a"))]))
    tree = pulled_tree(engine, registry, ref, below, above)
    assert tree - {"/w/b"} == {"/w"}


# I9


def pull_that_is_left(engine: Engine, *what: str, has_begun: Callable[[], bool]) -> float:
    """Begin a pull, leave when it has begun; seconds until the client is gone."""
    with engine.popen(
        "pull", *what, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as client:
        try:
            assert eventually(has_begun, bool)
        finally:
            before = time.monotonic()
            client.terminate()
        client.wait(20)
    return time.monotonic() - before


@pytest.mark.parametrize("where", ["manifest", "config", "layer"])
def test_i9_who_waits_for_a_trickle_can_leave(
    engine: Engine, ref: str, registry: Registry, name: str, where: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    path = {"manifest": "/manifests/", "config": image.id, "layer": image.layers[0].digest}[where]
    registry.fault("GET", path, Drip(every_s=1, first=100))
    assert pull_that_is_left(engine, ref, has_begun=lambda: registry.seen("GET", path) > 0) < 5
    assert engine.docker("image", "inspect", ref, check=False).returncode == 1
    registry.mend()
    engine.docker("pull", ref)


@pytest.mark.parametrize("where", ["/manifests/", "/blobs/"])
def test_i9_redirects_without_end(
    engine: Engine, ref: str, registry: Registry, name: str, where: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    path = f"/v2/{ref.partition('/')[2].rpartition(':')[0]}{where}{image.digest}"
    again = Answer(307, {"Location": path})
    for method in ("GET", "HEAD"):
        registry.fault(method, where, again)
    assert "stopped after 10 redirects" in refused(engine, ref)


def test_i9_a_list_of_tags_without_end(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    """Each page names itself as the next. dockerd asks for ever, as long as its client waits."""
    where = ref.partition("/")[2].rpartition(":")[0]
    page = json.dumps({"name": where, "tags": [f"t{n}" for n in range(1000)]}).encode()
    more = {"Link": f'</v2/{where}/tags/list?last=x>; rel="next"'}
    registry.fault("GET", "/tags/list", Answer(200, more, page))
    whole = ref.rpartition(":")[0]
    has_begun = lambda: registry.seen("GET", "/tags/list") > 3  # noqa: E731
    assert pull_that_is_left(engine, "-a", whole, has_begun=has_begun) < 5


@pytest.mark.parametrize(
    "fault",
    [Answer(503), Answer(429, {"Retry-After": "1"}, code="TOOMANYREQUESTS"), Truncate(50_000)],
    ids=["503", "429", "reset"],
)
def test_i9_a_storm_that_passes(
    engine: Engine, ref: str, registry: Registry, name: str, fault: Fault
) -> None:
    """The blob is asked for again after a pause, from where it broke off."""
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    registry.fault("GET", image.layers[0].digest, fault, times=1)
    engine.docker("pull", ref)
    asked = [seen for seen in registry.requests if image.layers[0].digest in seen.path]
    assert len(asked) == 2 or not engine.is_wharf
    if isinstance(fault, Truncate):
        assert asked[-1].headers["Range"].startswith("bytes=")


def test_i9_a_storm_that_does_not_pass_can_be_left(
    engine: Engine, ref: str, registry: Registry, name: str
) -> None:
    image = image_of(own_layer(name))
    offer(registry, ref, image)
    registry.fault("GET", image.layers[0].digest, Answer(503))
    path = image.layers[0].digest
    assert pull_that_is_left(engine, ref, has_begun=lambda: registry.seen("GET", path) > 0) < 5
    time.sleep(1)
    before = registry.seen("GET", path)
    time.sleep(6)  # the first pause between attempts takes five
    assert registry.seen("GET", path) == before
