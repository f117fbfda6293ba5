"""Fixtures of the runtime's kernel tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.runtime.harness import Box

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Scenario = "Callable[[Box], Awaitable[Any]]"


@pytest.fixture
def in_box(tmp_path: Path) -> Callable[[Callable[[Box], Awaitable[Any]]], Any]:
    """Run a scenario with a runtime of its own; nothing of it may be left afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root")

    async def play(scenario: Callable[[Box], Awaitable[Any]]) -> tuple[Any, str]:
        async with Box(tmp_path) as box:
            return await asyncio.wait_for(scenario(box), 90), box.parent

    def run(scenario: Callable[[Box], Awaitable[Any]]) -> Any:
        before = _descriptors()
        result, _parent = asyncio.run(play(scenario))
        assert str(tmp_path) not in _read("/proc/self/mountinfo")
        assert _descriptors() - before == set()
        return result

    return run


def _descriptors() -> set[tuple[str, str]]:
    """What is open, by number and by what it leads to."""
    found: set[tuple[str, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
