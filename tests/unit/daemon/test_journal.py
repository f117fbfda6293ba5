"""compat.daemon.journal: one event, one line."""

from __future__ import annotations

import json
import logging
import sys

from compat.daemon.journal import LineFormatter


def record(message: str, level: int = logging.INFO, *, failed: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("wharf", level, __file__, 1, message, (), None)
    made.created = 1769860800.25
    if failed:
        try:
            raise RuntimeError("no\nway")
        except RuntimeError:
            made.exc_info = sys.exc_info()
    return made


def test_a_line_reads_as_dockerds() -> None:
    line = LineFormatter(as_json=False).format(record("Starting up"))
    assert line == 'time="2026-01-31T12:00:00.25Z" level=info msg="Starting up"'


def test_nothing_breaks_a_line() -> None:
    text = LineFormatter(as_json=False).format(
        record('a "b"\nlevel=fatal\x1b[0m', logging.WARNING, failed=True)
    )
    assert "\n" not in text
    assert "\x1b" not in text
    assert 'level=warning msg="a \\"b\\"\\nlevel=fatal' in text
    assert "RuntimeError: no" in text


def test_json_holds_the_same() -> None:
    line = LineFormatter(as_json=True).format(record("a\nb", logging.ERROR))
    assert json.loads(line) == {
        "time": "2026-01-31T12:00:00.25Z",
        "level": "error",
        "msg": "a\nb",
    }
