"""What the container room was handed: the engine's settings and the rooms below it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.container.folders import Folders

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.container.limits import Host
    from engine.container.store import Store
    from engine.events import EventBus
    from engine.image.store import Images
    from engine.network.manager import Networks
    from engine.runtime.client import Runtime
    from engine.storage.snapshots import Snapshots
    from engine.volume.manager import Volumes
    from engine.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Set once by the assembly. `cgroup_parent` is a path below the hierarchies' roots."""

    config: EngineConfig
    events: EventBus
    work: Work
    store: Store
    snapshots: Snapshots
    images: Images
    networks: Networks
    volumes: Volumes
    runtime: Runtime
    host: Host
    capabilities: frozenset[str]
    cgroup_version: int
    cgroup_parent: str
    masked_paths: tuple[str, ...] = field(default=())
    folders: Folders = field(default_factory=Folders)

    def folder(self, container_id: str) -> str:
        """Where the container's files are under the data-root."""
        return os.path.join(self.config.data_root, "containers", container_id)

    def root(self, container_id: str) -> str:
        """The empty directory its root is mounted on, in its own mount namespace."""
        return os.path.join(self.config.exec_root, "containers", container_id, "rootfs")

    @property
    def runtimes(self) -> frozenset[str]:
        """Names a container may give; all of them mean the built-in one."""
        return frozenset({"wharf", "runc", "io.containerd.runc.v2"})
