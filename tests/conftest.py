"""Settings for all suites."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast examples come says something of the machine, which may be busy, and nothing of the code.
settings.register_profile("wharf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wharf")
