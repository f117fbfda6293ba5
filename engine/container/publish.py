"""Events of containers, with the attributes that clients filter by (moby daemon/events.go)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.container.model import Container
    from engine.events import EventBus


def publish(events: EventBus, container: Container, action: str, **extra: str) -> None:
    """`extra` stands beside all labels (which win, as in dockerd), the image and the name."""
    attributes = {**extra, **container.config.labels, "name": container.name}
    if container.config.image:
        attributes["image"] = container.config.image
    events.publish("container", action, container.id, attributes)
