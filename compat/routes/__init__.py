"""Handlers, a flat route table a noun."""

from __future__ import annotations

from compat.routes import (
    builds,
    commits,
    containers,
    execs,
    images,
    networks,
    swarm,
    system,
    volumes,
)

ALL = (
    *system.ROUTES,
    *containers.ROUTES,
    *execs.ROUTES,
    *commits.ROUTES,
    *images.ROUTES,
    *builds.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *swarm.ROUTES,
)
