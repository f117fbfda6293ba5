"""Descriptors: a blob's media type, digest and size (image-spec, descriptor.md)."""

from __future__ import annotations

from engine.oci.digest import Digest
from engine.oci.document import Document
from engine.oci.platform import Platform


class Descriptor(Document, frozen=True, kw_only=True, rename="camel"):
    media_type: str = ""
    digest: Digest
    size: int
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str | None = None
