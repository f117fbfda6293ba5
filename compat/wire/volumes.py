"""Bodies about volumes."""

from __future__ import annotations

from compat.wire.base import UNSET, Omitted, Request, Response


class ClusterVolumeSpec(Request, frozen=True, kw_only=True):
    """Nothing of it is read."""


class VolumeCreateRequest(Request, frozen=True, kw_only=True):
    """`cluster_volume_spec` is only looked at for being there: swarm's volumes are not served."""

    cluster_volume_spec: ClusterVolumeSpec | Omitted = UNSET
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    name: str = ""


class VolumeUsage(Response, frozen=True, kw_only=True):
    ref_count: int
    size: int


class Volume(Response, frozen=True, kw_only=True):
    created_at: str | Omitted = UNSET
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str
    usage_data: VolumeUsage | Omitted = UNSET


class VolumeListResponse(Response, frozen=True, kw_only=True):
    volumes: tuple[Volume, ...]
    warnings: tuple[str, ...] | None


class VolumePruneResponse(Response, frozen=True, kw_only=True):
    volumes_deleted: tuple[str, ...]
    space_reclaimed: int
