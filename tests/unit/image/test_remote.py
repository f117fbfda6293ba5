"""Which of what a registry has is an image, and for whom."""

from __future__ import annotations

import pytest

from engine import errors
from engine.image import remote
from engine.oci import media_type, platform, reference
from engine.oci.descriptor import Descriptor
from engine.oci.digest import DiffId, Digest
from engine.oci.image import ImageConfig, Index, Manifest, RootFS
from engine.oci.platform import Platform
from engine.registry.client import resolved
from tests.support import images

DIGEST = Digest("sha256:" + "0" * 64)


def entry(specifier: str | None, *, kind: str = media_type.OCI_MANIFEST) -> Descriptor:
    found = None if specifier is None else platform.parse(specifier)
    return Descriptor(media_type=kind, digest=DIGEST, size=1, platform=found)


def chosen(wanted: str, *specifiers: str | None) -> list[str | None]:
    index = Index(manifests=tuple(entry(one) for one in specifiers))
    found = remote.choose(index, platform.parse(wanted))
    return [None if d.platform is None else str(d.platform) for d in found]


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        ("linux/amd64", ("linux/arm64", "linux/amd64"), ["linux/amd64"]),
        ("linux/amd64", ("linux/arm64", "linux/s390x"), []),
        ("linux/amd64", ("linux/386", "linux/amd64"), ["linux/amd64", "linux/386"]),
        (
            "linux/amd64/v3",
            ("linux/amd64", "linux/amd64/v2", "linux/amd64/v4", "linux/amd64/v3"),
            ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"],
        ),
        ("linux/arm/v7", ("linux/arm/v5", "linux/arm/v7"), ["linux/arm/v7", "linux/arm/v5"]),
        ("linux/amd64", (None, "linux/amd64", None), ["linux/amd64", None, None]),
        ("linux/amd64", ("windows/amd64",), []),
    ],
)
def test_choosing(wanted: str, offered: tuple[str | None, ...], expected: list[str | None]) -> None:
    normal = [None if e is None else str(platform.normalize(platform.parse(e))) for e in expected]
    found = chosen(wanted, *offered)
    assert [None if f is None else str(platform.normalize(platform.parse(f))) for f in found] == (
        normal
    )


def test_attestations_and_other_documents_are_not_chosen() -> None:
    unknown = Platform(os="unknown", architecture="unknown")
    attestation = Descriptor(
        media_type=media_type.OCI_MANIFEST, digest=DIGEST, size=1, platform=unknown
    )
    strange = entry("linux/amd64", kind="application/x-strange")
    index = Index(manifests=(attestation, strange))
    assert remote.choose(index, platform.parse("linux/amd64")) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", ""),
        ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3", "v2"),
        (
            "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
            "v3",
        ),
        ("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", ""),
    ],
)
def test_levels_of_x86_64(flags: str, expected: str) -> None:
    assert remote.level(set(flags.split())) == expected


def manifest(config: str, layer: str = media_type.DOCKER_LAYER_GZIP) -> Manifest:
    return Manifest(
        config=Descriptor(media_type=config, digest=DIGEST, size=1),
        layers=(Descriptor(media_type=layer, digest=DIGEST, size=1),),
    )


@pytest.mark.parametrize(
    "config", [media_type.DOCKER_CONFIG, media_type.OCI_CONFIG, "application/octet-stream", ""]
)
def test_configs_of_images(config: str) -> None:
    remote.check_media_types(manifest(config))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("application/vnd.cncf.helm.config.v1+json", "unsupported media type application/vnd.cncf"),
        ("application/vnd.oci.images_are_fun", "unsupported media type application/vnd.oci.images"),
        ("application/vnd.docker.ai.model.config.v0.1+json", "AI models are not yet supported"),
    ],
)
def test_configs_of_other_things(config: str, sentence: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        remote.check_media_types(manifest(config))
    assert str(caught.value).startswith(sentence)


def test_layers_of_other_things() -> None:
    strange = manifest(media_type.DOCKER_CONFIG, "application/x-foo")
    with pytest.raises(
        errors.InvalidParameter, match=r"^unsupported media type application/x-foo$"
    ):
        remote.check_media_types(strange)


@pytest.mark.parametrize(
    ("config", "kind"),
    [(media_type.DOCKER_PLUGIN_CONFIG, "plugin"), ("application/vnd.cncf.helm", "unknown")],
)
def test_a_docker_manifest_of_something_else(config: str, kind: str) -> None:
    data = images.busybox().manifest.replace(media_type.DOCKER_CONFIG.encode(), config.encode())
    found = resolved(reference.parse("a"), DIGEST, data, media_type.DOCKER_MANIFEST)
    with pytest.raises(errors.InvalidParameter) as caught:
        remote.check_is_image(found)
    assert str(caught.value) == f'Encountered remote "{config}"({kind}) when fetching'


def test_a_config_with_other_layers() -> None:
    config = ImageConfig(rootfs=RootFS(diff_ids=(DiffId(DIGEST), DiffId(DIGEST))))
    with pytest.raises(errors.EngineError) as caught:
        remote.check_config(config, manifest(media_type.DOCKER_CONFIG))
    assert str(caught.value) == "layers from manifest don't match image configuration"


def test_a_config_for_another_system() -> None:
    config = ImageConfig(os="windows", rootfs=RootFS(diff_ids=(DiffId(DIGEST),)))
    with pytest.raises(errors.InvalidParameter) as caught:
        remote.check_config(config, manifest(media_type.DOCKER_CONFIG))
    assert str(caught.value) == (
        'image operating system "windows" cannot be used on this platform: '
        "operating system is not supported"
    )
