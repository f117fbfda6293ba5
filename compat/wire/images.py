"""Bodies about images."""

from __future__ import annotations

from msgspec import Raw, field

from compat.wire.base import UNSET, Omitted, Response
from compat.wire.containers import Config, GraphDriver


class Platform(Response, frozen=True, kw_only=True, rename={"os_version": "os.version"}):
    """An OCI platform, shown or sent: the one shape whose keys are lower case."""

    architecture: str = ""
    os: str = ""
    os_version: str | Omitted = UNSET
    os_features: tuple[str, ...] | Omitted = field(default=UNSET, name="os.features")
    variant: str | Omitted = UNSET


class Descriptor(Response, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] | Omitted = UNSET
    annotations: dict[str, str] | Omitted = UNSET
    platform: Platform | Omitted = UNSET


class RootFS(Response, frozen=True, kw_only=True):
    type: str | Omitted = UNSET
    layers: tuple[str, ...] | Omitted = UNSET


class ImageMetadata(Response, frozen=True, kw_only=True):
    last_tag_time: str


class SearchResult(Response, frozen=True, kw_only=True, rename=None):
    """A repository that an index found; the keys are the index's own."""

    star_count: int
    is_official: bool
    name: str
    is_automated: bool
    description: str


class ImageInspectResponse(Response, frozen=True, kw_only=True):
    """`config` is the image's own document with the fields that each version always shows."""

    id: str
    repo_tags: tuple[str, ...] | None
    repo_digests: tuple[str, ...] | None
    parent: str
    comment: str
    created: str | Omitted = UNSET
    container: str | Omitted = UNSET
    container_config: Config | Omitted = UNSET
    docker_version: str
    author: str
    architecture: str
    variant: str | Omitted = UNSET
    os: str
    os_version: str | Omitted = UNSET
    size: int
    virtual_size: int | Omitted = UNSET
    graph_driver: GraphDriver
    root_fs: RootFS = field(name="RootFS")
    metadata: ImageMetadata
    descriptor: Descriptor | Omitted = UNSET
    config: Raw | None


class ImageSummary(Response, frozen=True, kw_only=True):
    containers: int
    created: int
    id: str
    labels: dict[str, str] | None
    parent_id: str
    descriptor: Descriptor | Omitted = UNSET
    repo_digests: tuple[str, ...] | None
    repo_tags: tuple[str, ...] | None
    shared_size: int
    size: int
    virtual_size: int | Omitted = UNSET


class ImageUsage(ImageSummary, frozen=True, kw_only=True):
    """An image in the answer about disk usage."""


class HistoryItem(Response, frozen=True, kw_only=True):
    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: tuple[str, ...] | None


class ImageDeleteItem(Response, frozen=True, kw_only=True):
    deleted: str | Omitted = UNSET
    untagged: str | Omitted = UNSET


class ImagePruneResponse(Response, frozen=True, kw_only=True):
    images_deleted: tuple[ImageDeleteItem, ...] | None
    space_reclaimed: int


class ProgressDetail(Response, frozen=True, kw_only=True, rename=None):
    current: int | Omitted = UNSET
    total: int | Omitted = UNSET


class ErrorDetail(Response, frozen=True, kw_only=True, rename=None):
    message: str


class ProgressLine(Response, frozen=True, kw_only=True, rename="camel"):
    """One line of the stream that pull, push, load and import answer with."""

    stream: str | Omitted = UNSET
    status: str | Omitted = UNSET
    progress_detail: ProgressDetail | Omitted = UNSET
    progress: str | Omitted = UNSET
    id: str | Omitted = UNSET
    error_detail: ErrorDetail | Omitted = UNSET
    error: str | Omitted = UNSET
    aux: dict[str, str | int] | Omitted = UNSET


class DistributionInspectResponse(Response, frozen=True, kw_only=True):
    descriptor: Descriptor
    platforms: tuple[Platform, ...] | None


class BuildPruneResponse(Response, frozen=True, kw_only=True):
    caches_deleted: tuple[str, ...] | None
    space_reclaimed: int
