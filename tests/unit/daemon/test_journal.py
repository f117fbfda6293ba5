"""compat.daemon.journal: one event, one line."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys

from compat import requestid
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


def test_what_is_written_for_a_request_has_its_number() -> None:
    formatter = LineFormatter(as_json=False)

    def served() -> list[str]:
        requestid.begin()
        in_thread = contextvars.copy_context()
        return [formatter.format(record("x")), in_thread.run(formatter.format, record("x"))]

    lines = [contextvars.copy_context().run(served) for _ in range(2)]
    assert all(len(set(pair)) == 1 for pair in lines)
    assert len({pair[0] for pair in lines}) == 2
    assert re.fullmatch(r"time=\S+ level=info msg=\S+ request=[0-9a-f]+", lines[0][0])
    assert "request=" not in formatter.format(record("x"))
