"""The images that other tests stand on are what they say they are."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard
from isal import igzip

from tests.support import images
from tests.support.images import Image, Index, Layer

if TYPE_CHECKING:
    from pathlib import Path


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read()


def test_the_same_tree_gives_the_same_bytes() -> None:
    tree = {"a": images.file(b"1"), "b": images.directory(mode=0o1777)}
    assert images.tar(tree) == images.tar(dict(tree))
    assert Layer(images.tar(tree)).digest == Layer(images.tar(dict(tree))).digest


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_layer_unpacks_to_its_tar(compression: images.Compression) -> None:
    layer = Layer(images.tar({"a": images.file(b"x" * 5000)}), compression)
    opened = {
        "none": bytes,
        "gzip": igzip.decompress,
        "zstd": lambda blob: zstandard.ZstdDecompressor().decompressobj().decompress(blob),
    }[compression](layer.blob)
    assert opened == layer.tar
    assert layer.digest == "sha256:" + hashlib.sha256(layer.blob).hexdigest()


def test_a_manifest_names_config_and_layers() -> None:
    image = images.busybox()
    manifest = json.loads(image.manifest)
    assert manifest["config"]["digest"] == image.id
    assert [d["digest"] for d in manifest["layers"]] == [layer.digest for layer in image.layers]
    assert manifest["layers"][0]["size"] == len(image.layers[0].blob)


def test_busybox_has_the_shape_of_the_official_one() -> None:
    with tarfile.open(fileobj=io.BytesIO(images.busybox().layers[0].tar)) as tar:
        assert tar.getmember("tmp").mode == 0o1777
        assert tar.getmember("bin/sh").islnk()
        assert {"etc/passwd", "etc/group", "root", "home"} <= set(tar.getnames())


def test_an_archive_of_two_tags_of_one_image_has_it_once() -> None:
    image = images.hello_world()
    archive = images.docker_archive({"a:1": image, "a:2": image})
    [entry] = json.loads(member(archive, "manifest.json"))
    assert entry["RepoTags"] == ["a:1", "a:2"]
    assert len([n for n in names(archive) if n.endswith("layer.tar")]) == 1


def test_an_oci_layout_of_an_index_has_every_platform() -> None:
    parts = tuple(
        Image((Layer(images.tar({a: images.file()})),), architecture=a) for a in ("amd64", "arm64")
    )
    archive = images.oci_layout({"multi:1": Index(parts)})
    [entry] = json.loads(member(archive, "index.json"))["manifests"]
    index = json.loads(member(archive, "blobs/" + entry["digest"].replace(":", "/")))
    assert [m["platform"]["architecture"] for m in index["manifests"]] == ["amd64", "arm64"]
    assert set(names(archive)) >= {f"blobs/sha256/{p.digest[7:]}" for p in parts}


@pytest.mark.skipif(images.ARCHITECTURE not in {"amd64", "arm64"}, reason="no assembler for it")
def test_the_program_runs(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(images.program(b"hi\n", status=7))
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"hi\n", 7)
