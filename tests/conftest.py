"""Settings for all suites."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast examples come says something of the machine, which may be busy, and nothing of the code.
settings.register_profile("wharf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wharf")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All suites run as two, side by side; what was named runs in this process."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One engine serves all end-to-end tests. The others do not meet it: what they touch of the
    kernel is theirs alone. Within a group the order stays.
    """
    for item in items:
        group = "e2e" if "tests/e2e" in str(item.path) else "rest"
        item.add_marker(pytest.mark.xdist_group(group))
