"""The daemon's own log: one line an event on standard error, as dockerd writes it.

    time="2026-01-31T12:00:00.123456Z" level=info msg="Starting up"

or, with `--log-format json`, one object a line with the same fields. A line that was written for
a request has its number in a fourth, `request`.
"""

from __future__ import annotations

import json
import logging
import re

from compat import requestid
from engine.timestamp import format_ns

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
# Words that need no quotes in a key=value line (logrus has the same set).
_PLAIN = re.compile(r"[A-Za-z0-9\-._/@^+]+", re.ASCII)


class LineFormatter(logging.Formatter):
    """Records as key=value lines or as JSON; a traceback becomes the field `error`."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": format_ns(round(record.created * 1_000_000) * 1_000),
            "level": _NAMES.get(record.levelno, "info"),
            "msg": record.getMessage(),
        }
        if request := requestid.current():
            fields["request"] = request
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(fields)
        quoted = {"time", "msg"}
        return " ".join(f"{k}={_word(v, quoted=k in quoted)}" for k, v in fields.items())


def _word(text: str, *, quoted: bool) -> str:
    """The value, quoted unless it is one plain word; what would break the line is escaped."""
    return text if not quoted and _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def configure(*, level: str, debug: bool, log_format: str) -> None:
    """Send all records of that level and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else _LEVELS[level.lower()])
    # asyncio tells of every selector and slow callback at debug; that is not the engine's story.
    logging.getLogger("asyncio").setLevel(logging.INFO)
