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
    """The stored document of one volume; `options` are what its driver was told.

    `made_for` is the container that an anonymous volume came into being with, until that is removed
    without it: a volume made for a container that there is not was left by a crash.
    """

    version: int = VERSION
    name: str
    driver: str = LOCAL
    mountpoint: str
    created_ns: int
    labels: dict[str, str] | None = None  # None where nobody gave any
    options: dict[str, str] | None = None
    scope: str = "local"
    made_for: str = ""

    @property
    def is_anonymous(self) -> bool:
        return ANONYMOUS in (self.labels or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    names: tuple[str, ...]
    reclaimed_bytes: int
