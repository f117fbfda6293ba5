"""Handlers, a flat route table a noun."""

from __future__ import annotations

from compat.routes import containers, networks, swarm, system

ALL = (*system.ROUTES, *containers.ROUTES, *networks.ROUTES, *swarm.ROUTES)
