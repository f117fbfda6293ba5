"""Settings for all suites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Generator

    from xdist.remote import Producer

# How fast examples come says something of the machine, which may be busy, and nothing of the code.
settings.register_profile("wharf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wharf")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All suites run as two, side by side; what was named runs in this process."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Suites(config, log)


class Suites(LoadScopeScheduling):
    """One engine serves all end-to-end tests, in their order. The others do not meet it: what they
    touch of the kernel is theirs alone.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else "rest"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """One process tells the other in UTF-8, where what tests try to break has no place."""
    report = yield
    report.sections = [(title, _encodable(text)) for title, text in report.sections]
    if report.failed and (text := str(report.longrepr)) != _encodable(text):
        report.longrepr = _encodable(text)
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
