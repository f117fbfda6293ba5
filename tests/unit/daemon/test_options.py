"""compat.daemon.options: what the table says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compat.daemon.options import TABLE, Option, by_flag
from compat.daemon.usage import usage

ROOT = Path(__file__).parents[3]


HONOURED = [o for o in TABLE if o.attribute and not (o.no_effect or o.refused or o.refuse)]


@pytest.fixture(scope="module")
def source() -> str:
    """All code that could honour an option."""
    read = [path for package in ("engine", "compat") for path in (ROOT / package).rglob("*.py")]
    skipped = {"compat/daemon/options.py", "compat/daemon/configuration.py", "engine/config.py"}
    return "\n".join(p.read_text() for p in read if str(p.relative_to(ROOT)) not in skipped)


@pytest.mark.parametrize("option", HONOURED, ids=lambda o: o.flag)
def test_what_is_called_honoured_is_read(option: Option, source: str) -> None:
    assert re.search(rf"\.{option.attribute}\b", source)


def test_the_help_text_names_every_flag_within_the_width() -> None:
    text = usage(80)
    for option in by_flag().values():
        assert (f"--{option.flag}" in text) == (not option.hidden)
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_text_says_what_is_not_done() -> None:
    words = " ".join(usage(80).split())
    assert "User whose subordinate ids containers run with; refused here" in words
    assert "Address of containerd; has no effect here" in words


@pytest.mark.parametrize("width", [20, 60, 500])
def test_any_width_will_do(width: int) -> None:
    assert "--host" in usage(width)
