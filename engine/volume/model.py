"""What a volume is."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

VERSION = 1
"""Version of the stored document; raised with a migration."""

LOCAL = "local"
ANONYMOUS = "com.docker.volume.anonymous"
"""The label of a volume that nobody named."""


class Volume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stored document of one volume; `options` are what its driver was told."""

    version: int = VERSION
    name: str
    driver: str = LOCAL
    mountpoint: str
    created_ns: int
    labels: dict[str, str] | None = None  # None where nobody gave any
    options: dict[str, str] | None = None
    scope: str = "local"

    @property
    def is_anonymous(self) -> bool:
        return ANONYMOUS in (self.labels or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    names: tuple[str, ...]
    reclaimed_bytes: int
