"""Owners, devices and trusted attributes need root."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from engine.linux import tree
from tests.kernel.storage.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    found = Stores(tmp_path / "data")
    yield found
    found.close()
    tree.remove(str(tmp_path / "data"))  # pytest's own way recurses, and some of it is deep
