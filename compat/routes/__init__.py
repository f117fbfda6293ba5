"""Handlers, a flat route table a noun."""

from __future__ import annotations

from compat.routes import builds, containers, images, networks, swarm, system, volumes

ALL = (
    *system.ROUTES,
    *containers.ROUTES,
    *images.ROUTES,
    *builds.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *swarm.ROUTES,
)
