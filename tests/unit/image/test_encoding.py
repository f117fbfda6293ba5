"""Configs as dockerd writes them: recorded from 28.5.2."""

from __future__ import annotations

import pytest

from engine.image import encoding
from engine.oci import digest as digests
from engine.oci import media_type
from engine.oci.descriptor import Descriptor
from engine.oci.digest import Digest
from engine.oci.image import Config, Healthcheck, History, decode_config

IMPORTED = (
    b'{"architecture":"amd64","comment":"Imported from -","config":{"Hostname":"","Domainname":"",'
    b'"User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,'
    b'"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["sh"],"Image":"","Volumes":null,'
    b'"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},"container_config":{'
    b'"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,'
    b'"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,'
    b'"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null},'
    b'"created":"2026-11-23T21:58:28.306884361Z","docker_version":"28.5.2+dfsg4","history":[{'
    b'"created":"2026-11-23T21:58:28.306884361Z","comment":"Imported from -"}],"os":"linux",'
    b'"rootfs":{"type":"layers","diff_ids":['
    b'"sha256:26dd47af5d10ffc081aec3ad7ecd16e0c7b46a01d98647a38ee62792dc088668"]}}'
)


def test_an_imported_image() -> None:
    created = "2026-11-23T21:58:28.306884361Z"
    document = encoding.image(
        config_=Config(cmd=("sh",)),
        container_config=Config(),
        created=created,
        diff_ids=("sha256:26dd47af5d10ffc081aec3ad7ecd16e0c7b46a01d98647a38ee62792dc088668",),
        history_=(History(created=created, comment="Imported from -"),),
        architecture="amd64",
        os="linux",
        comment="Imported from -",
        docker_version="28.5.2+dfsg4",
    )
    assert document == IMPORTED
    assert decode_config(document).config == Config(cmd=("sh",))


def test_what_is_left_out_and_what_is_not() -> None:
    written = encoding.config(
        Config(
            env=(),
            volumes={"/b": {}, "/a": {}},
            exposed_ports={"80/tcp": {}},
            healthcheck=Healthcheck(),
            stop_timeout=0,
            shell=("sh",),
            labels={"<": "&"},
        )
    )
    assert encoding.to_json(written).endswith(
        b'"Env":[],"Cmd":null,"Healthcheck":{},"Image":"","Volumes":{"/a":{},"/b":{}},'
        b'"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{"\\u003c":"\\u0026"},'
        b'"StopTimeout":0,"Shell":["sh"]}'
    )


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("2024-01-01T00:00:00.100Z", "2024-01-01T00:00:00.1Z"),
        ("2024-01-01T00:00:00+02:00", "2024-01-01T00:00:00+02:00"),
        ("2024-01-01T00:00:00.50+02:00", "2024-01-01T00:00:00.5+02:00"),
        ("2024-01-01T00:00:00+00:00", "2024-01-01T00:00:00Z"),
        ("", ""),
    ],
)
def test_moments(said: str, written: str) -> None:
    assert encoding.time(said) == written


def test_a_manifest_is_dockerds_to_the_byte() -> None:
    """What dockerd 28 pushed of an image of one layer."""
    config = Descriptor(
        media_type=media_type.DOCKER_CONFIG,
        digest=Digest("sha256:e4d816505324bc481e346e864d4fce750671a7475c4188618ba498eb258244c9"),
        size=361,
    )
    layer = Descriptor(
        media_type=media_type.DOCKER_LAYER_GZIP,
        digest=Digest("sha256:3c37c3f6b4009493f3b67522d4dc9503bb42c23e1bc61143ef93b957e094a778"),
        size=1084180,
    )
    written = encoding.manifest(config, [layer])
    assert len(written) == 527
    expected = "sha256:335d73ade8c1fad0fa5b1cf0a19d1c0a4aa2fb5c452aea45cb58fc265f91c01e"
    assert digests.of(written) == expected
