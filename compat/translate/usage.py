"""Disk usage, from the engine's facts to the shape of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from compat.translate import images, responses, volumes
from compat.wire import system as wire
from compat.wire.images import ImageUsage

if TYPE_CHECKING:
    from engine.image.model import Summary
    from engine.system import DiskUsage


def _image(listed: Summary) -> ImageUsage:
    """As in a list, but null where there are no names: dockerd mends that in lists only."""
    shown = images.summary(listed)
    return ImageUsage(
        **msgspec.structs.asdict(shown)
        | {"repo_tags": shown.repo_tags or None, "repo_digests": shown.repo_digests or None}
    )


def df(facts: DiskUsage, wanted: frozenset[str], now_ns: int) -> wire.DiskUsageResponse:
    """What was not asked for is null, what was asked for and is not there is empty."""
    return wire.DiskUsageResponse(
        layers_size=facts.layers_bytes,
        images=tuple(_image(i) for i in facts.images) if "image" in wanted else None,
        containers=tuple(responses.summary(c, now_ns) for c in facts.containers)
        if "container" in wanted
        else None,
        volumes=tuple(
            volumes.volume(v, usage=facts.volume_usage.get(v.name)) for v in facts.volumes
        )
        if "volume" in wanted
        else None,
        build_cache=() if "build-cache" in wanted else None,
    )
