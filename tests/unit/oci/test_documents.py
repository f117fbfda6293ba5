"""Digests and documents of images: read as Go reads them, refused when they lie."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.oci import digest, media_type
from engine.oci.digest import DiffId, InvalidDigest
from engine.oci.document import InvalidDocument
from engine.oci.image import (
    Config,
    ImageConfig,
    Index,
    Manifest,
    decode_config,
    decode_manifest,
)

SHA = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "invalid checksum digest format"),
        ("sha256", "invalid checksum digest format"),
        ("sha256:zz", "invalid checksum digest length"),
        ("sha256:" + "A" * 64, "invalid checksum digest format"),
        ("sha256:" + "g" * 64, "invalid checksum digest format"),
        ("md5:" + "a" * 32, "unsupported digest algorithm"),
        (SHA + "\n", "invalid checksum digest format"),
        ("sha256:../../etc/passwd", "invalid checksum digest format"),
    ],
)
def test_what_is_no_digest(text: str, sentence: str) -> None:
    with pytest.raises(InvalidDigest) as caught:
        digest.parse(text)
    assert str(caught.value) == sentence


@given(st.lists(st.binary(max_size=8), max_size=6))
def test_a_chain_grows_a_layer_at_a_time(contents: list[bytes]) -> None:
    diff_ids = [DiffId(digest.of(c)) for c in contents]
    chain = digest.chain_ids(diff_ids)
    assert len(chain) == len(diff_ids)
    if diff_ids:
        assert chain[0] == diff_ids[0]
        assert chain[-1] == digest.chain_id(diff_ids)
    for below, diff_id, upon in zip(chain, diff_ids[1:], chain[1:], strict=False):
        assert upon == digest.of(f"{below} {diff_id}".encode())


def config_with(**fields: object) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": []}, **fields}).encode()


def test_nulls_are_absent_and_empty_is_said() -> None:
    config = decode_config(
        config_with(
            author=None,
            history=None,
            config={
                "Env": None,
                "Cmd": [],
                "Volumes": {"/v": None},
                "ExposedPorts": None,
                "Labels": {"a": None},
            },
        )
    )
    assert config.author == ""
    assert config.config == Config(cmd=(), volumes={"/v": {}}, labels={"a": ""})
    assert config.config.env is None


def test_unknown_fields_are_left_alone() -> None:
    assert decode_config(config_with(future=[{"x": 1}])) == ImageConfig(
        rootfs=decode_config(config_with()).rootfs
    )


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"{}", "invalid image JSON, no RootFS key"),
        (b"null", "invalid image JSON, no RootFS key"),
        (b"[" * 100_000, "exceeded max depth"),
        (b'{"rootfs":' * 500 + b"1" + b"}" * 500, "exceeded max depth"),
        (config_with(history=[{}]), "too many non-empty layers in History section"),
        (
            config_with(config={"Env": "A=1"}),
            "unmarshal string into Go struct field Image.config.Env",
        ),
        (
            config_with(created=5),
            "unmarshal number into Go struct field Image.created of type string",
        ),
        (b'{"a":"\xff"}', "invalid image JSON, no RootFS key"),
        (b" " * (5 << 20), "exceeds"),
    ],
)
def test_configs_that_are_none(document: bytes, sentence: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        decode_config(document)
    assert sentence.lower() in str(caught.value).lower()


DESCRIPTOR = {"mediaType": media_type.OCI_LAYER, "digest": SHA, "size": 3}


def test_manifest_and_index() -> None:
    manifest = decode_manifest(
        json.dumps({"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}).encode()
    )
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].digest == SHA
    index = decode_manifest(
        json.dumps(
            {
                "mediaType": media_type.DOCKER_MANIFEST_LIST,
                "manifests": [
                    DESCRIPTOR
                    | {"platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
                ],
            }
        ).encode(),
        media_type.DOCKER_MANIFEST_LIST,
    )
    assert isinstance(index, Index)
    assert str(index.manifests[0].platform) == "linux/arm/v7"


HUGE = "a number that Python cannot write"


@pytest.mark.parametrize(
    ("document", "content_type", "sentence"),
    [
        ({"manifests": [], "config": DESCRIPTOR}, media_type.OCI_INDEX, "keys of a manifest"),
        ({"manifests": [], "config": DESCRIPTOR}, media_type.OCI_MANIFEST, "key of an index"),
        (
            {"mediaType": media_type.OCI_INDEX, "manifests": []},
            media_type.OCI_MANIFEST,
            "does not match",
        ),
        ({"schemaVersion": 1, "fsLayers": []}, "", "version 1 is not supported"),
        ({"mediaType": "text/html"}, "", "unsupported manifest media type"),
        ({}, "", "unsupported manifest media type"),
        ([], media_type.OCI_MANIFEST, "cannot unmarshal array into Go value of type"),
        (
            {"config": DESCRIPTOR | {"size": "3"}},
            media_type.OCI_MANIFEST,
            "field Manifest.config.size of type",
        ),
        (
            {"config": DESCRIPTOR | {"size": HUGE}},
            media_type.OCI_MANIFEST,
            "cannot unmarshal number 1e400 into Go struct field Manifest.config.size of type",
        ),
    ],
)
def test_manifests_that_are_none(document: object, content_type: str, sentence: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        decode_manifest(
            json.dumps(document).replace(json.dumps(HUGE), "1e400").encode(), content_type
        )
    assert sentence in str(caught.value)
