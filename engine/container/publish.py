"""Events of containers, with the attributes that clients filter by (moby daemon/events.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.container.model import Container, MountPoint
    from engine.events import EventBus


def publish(events: EventBus, container: Container, action: str, **extra: str) -> None:
    """`extra` stands beside all labels (which win, as in dockerd), the image and the name."""
    attributes = {**extra, **container.config.labels, "name": container.name}
    if container.config.image:
        attributes["image"] = container.config.image
    events.publish("container", action, container.id, attributes)


def publish_mount(events: EventBus, container: Container, point: MountPoint) -> None:
    """A volume is about to be used (moby daemon/volumes_unix.go)."""
    attributes = {
        "container": container.id,
        "destination": point.destination,
        "driver": point.driver,
        "propagation": point.propagation,
        "read/write": "true" if point.is_writable else "false",
    }
    events.publish("volume", "mount", point.name, attributes)


def publish_unmounts(events: EventBus, container: Container) -> None:
    for point in container.mount_points:
        if point.name and point.driver:
            attributes = {"container": container.id, "driver": point.driver}
            events.publish("volume", "unmount", point.name, attributes)
