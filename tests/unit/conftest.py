"""A call that blocks on the event loop fails the test that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def loop_never_waits() -> Iterator[None]:
    with blockbuster_ctx(["engine", "compat"]):
        yield
