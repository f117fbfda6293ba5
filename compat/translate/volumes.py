"""Volumes, from the engine's model to the API's shapes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat.wire import volumes as wire
from compat.wire.base import UNSET
from engine import timestamp

if TYPE_CHECKING:
    from engine.volume import model


def volume(kept: model.Volume, *, usage: tuple[int, int] | None = None) -> wire.Volume:
    """`usage` is how many containers use it and its bytes, shown by df alone."""
    seconds = kept.created_ns // timestamp.SECOND * timestamp.SECOND
    return wire.Volume(
        created_at=timestamp.format_ns(seconds),
        driver=kept.driver,
        labels=kept.labels,
        mountpoint=kept.mountpoint,
        name=kept.name,
        options=kept.options,
        scope="local",
        usage_data=UNSET if usage is None else wire.VolumeUsage(ref_count=usage[0], size=usage[1]),
    )
