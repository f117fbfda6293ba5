"""The documents of an image: index, manifest, config (image-spec, Docker schema 2).

Docker's extensions of the config stand beside image-spec's own fields, under Docker's names.
"""

from __future__ import annotations

from typing import cast

import msgspec

from engine.oci import media_type
from engine.oci.descriptor import Descriptor
from engine.oci.digest import DiffId
from engine.oci.document import Document, InvalidDocument, decode
from engine.oci.platform import Platform


class Index(Document, frozen=True, kw_only=True, rename="camel"):
    """An image index or Docker manifest list: one manifest a platform."""

    schema_version: int = 0
    media_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None


class Manifest(Document, frozen=True, kw_only=True, rename="camel"):
    """The config and the layers of one image, lowest layer first."""

    schema_version: int = 0
    media_type: str = ""
    artifact_type: str | None = None
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Healthcheck(Document, frozen=True, kw_only=True, rename="pascal"):
    """Durations in nanoseconds, as Docker stores them."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Config(Document, frozen=True, kw_only=True, rename="pascal"):
    """How a container of this image runs. A None was absent or null; an empty tuple was said."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, object]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] | None = None


class RootFS(Document, frozen=True, kw_only=True):
    type: str = ""
    diff_ids: tuple[DiffId, ...] = ()


class History(Document, frozen=True, kw_only=True):
    """`created` is RFC 3339 as written by the builder, "" where it said nothing."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(
    Document,
    frozen=True,
    kw_only=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    """The config document; its digest is the image's id."""

    id: str = ""
    parent: str = ""
    comment: str = ""
    created: str = ""
    container: str = ""
    container_config: Config | None = None
    docker_version: str = ""
    author: str = ""
    config: Config | None = None
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] | None = None
    rootfs: RootFS | None = None
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )

    @property
    def diff_ids(self) -> tuple[DiffId, ...]:
        return self.rootfs.diff_ids if self.rootfs else ()


def decode_config(data: bytes) -> ImageConfig:
    """The config; raises InvalidDocument, also where layers and history cannot belong together."""
    config = decode(data, ImageConfig, adjust=listed)
    if config.rootfs is None:
        raise InvalidDocument("invalid image JSON, no RootFS key")
    if sum(not h.empty_layer for h in config.history) > len(config.diff_ids):
        raise InvalidDocument("too many non-empty layers in History section")
    return config


def listed(document: object) -> None:
    """A command may be one string, as old builders wrote it (moby strslice)."""
    if not isinstance(document, dict):
        return
    loose = cast("dict[str, object]", document)
    for key in ("config", "container_config"):
        config = loose.get(key)
        if not isinstance(config, dict):
            continue
        fields = cast("dict[str, object]", config)
        for name in ("Cmd", "Entrypoint", "Shell"):
            if isinstance(text := fields.get(name), str):
                fields[name] = [text]


class _Probe(msgspec.Struct):
    """Keys that tell a manifest from an index (CVE-2021-41190: never be both)."""

    schemaVersion: int = 0
    mediaType: str = ""
    config: object = msgspec.UNSET
    layers: object = msgspec.UNSET
    manifests: object = msgspec.UNSET
    fsLayers: object = msgspec.UNSET


def decode_manifest(data: bytes, content_type: str = "") -> Manifest | Index:
    """The manifest or index in `data`; raises InvalidDocument.

    `content_type` is what the sender said; a `mediaType` inside must agree with it, and a document
    with the keys of both kinds is refused.
    """
    probe = decode(data, _Probe)
    kind = probe.mediaType or content_type or _kind_by_keys(probe)
    if (
        probe.mediaType
        and media_type.is_index(content_type) != media_type.is_index(kind)
        and (media_type.is_index(content_type) or media_type.is_manifest(content_type))
    ):
        raise InvalidDocument(
            f"media type in the document ({kind}) does not match the response's ({content_type})"
        )
    if probe.fsLayers is not msgspec.UNSET or probe.schemaVersion == 1:
        raise InvalidDocument("manifest schema version 1 is not supported")
    has_manifest_keys = not (probe.config is msgspec.UNSET and probe.layers is msgspec.UNSET)
    has_index_keys = probe.manifests is not msgspec.UNSET
    if media_type.is_index(kind):
        if has_manifest_keys:
            raise InvalidDocument("index has the keys of a manifest (config or layers)")
        return decode(data, Index)
    if media_type.is_manifest(kind):
        if has_index_keys:
            raise InvalidDocument("manifest has the key of an index (manifests)")
        return decode(data, Manifest)
    raise InvalidDocument(f"unsupported manifest media type: {kind!r}")


def _kind_by_keys(probe: _Probe) -> str:
    if probe.manifests is not msgspec.UNSET:
        return media_type.OCI_INDEX
    return media_type.OCI_MANIFEST if probe.config is not msgspec.UNSET else ""
