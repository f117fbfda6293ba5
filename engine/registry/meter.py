"""How far a blob is, told now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[str, int, int], None]
    """Status, current and total bytes; both 0 where the status has no counts."""

REPORT_EVERY_S = 0.1


class Meter:
    """Reports at most ten times a second, the first and the last always."""

    def __init__(self, report: Report, status: str, total: int) -> None:
        self._report = report
        self._status = status
        self._total = total
        self._next = 0.0
        self._reported = -1

    def at(self, current: int) -> None:
        now = time.monotonic()
        is_last = current >= self._total > 0
        if current == self._reported or (not is_last and now < self._next):
            return
        self._next = now + REPORT_EVERY_S
        self._reported = current
        self._report(self._status, current, self._total)

    def end(self, current: int) -> None:
        """There is no more, which a total that nobody knew did not tell."""
        if current != self._reported:
            self._report(self._status, current, self._total)
