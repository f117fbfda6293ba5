"""Moments: an int of nanoseconds since the epoch inside, RFC 3339 where others read or wrote it.

What users type may also be a duration before now, Unix seconds, or a date in words; the last is
python-dateutil's to read, whose one door this is.
"""

from __future__ import annotations

import calendar
import re
import time
from datetime import datetime

SECOND = 1_000_000_000

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?)?"
    r"(Z|z|[+-]\d\d:\d\d)?"
)
_UNIX = re.compile(r"(-?\d+)(?:\.(\d+))?")
_DURATION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
# As Go prints a time: the offset is what counts, the zone's name behind it says the same.
_NAMED_OFFSET = re.compile(r"( [+-]\d{4}) [A-Z]{3,5}$")
_YEAR_FIRST = re.compile(r"\d{4}-\d\d-\d\d\b")
_LONGEST_WORDS = 64
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}


def format_ns(moment_ns: int) -> str:
    """RFC 3339 in UTC, with as many digits of the second as it has (Go's RFC3339Nano)."""
    seconds, nanoseconds = divmod(moment_ns, SECOND)
    t = time.gmtime(seconds)
    text = f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    fraction = f".{nanoseconds:09}".rstrip("0") if nanoseconds else ""
    return f"{text}{fraction}Z"


def parse_ns(text: str) -> int:
    """The moment an RFC 3339 text names; without an offset, UTC. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot parse {text!r} as a time")
    return _moment(match, default_offset_s=0)


def parse_duration_ns(text: str) -> int:
    """A duration as Go writes it ("1h30m", "-1.5s", "0"). Raises ValueError with Go's sentence."""
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    parts = _DURATION.findall(body)
    if not parts or "".join(n + u for n, u in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    for _, unit in parts:
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS_NS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
    return sign * sum(_scaled(number, _UNITS_NS[unit]) for number, unit in parts)


def _scaled(number: str, size: int) -> int:
    whole, _, part = number.partition(".")
    scale: int = 10 ** len(part)
    return int(whole or 0) * size + int(part or 0) * size // scale


def format_duration(duration_ns: int) -> str:
    """A duration as Go writes it (time.Duration.String): "1m30s", "1.5s", "20ms", "0s"."""
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if 0 < rest < 1000 * size:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(rest, SECOND)}s"


def _decimal(number: int, size: int) -> str:
    whole, part = divmod(number, size)
    digits = f"{part:0{len(str(size)) - 1}d}".rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_user_ns(text: str, now_ns: int) -> int:
    """What users type as a time: a duration before now, RFC 3339 or a part of it, Unix seconds.

    Beyond what dockerd takes also a date in words, `31 Jan 2026 12:00`, or as `docker ps` and
    date(1) print it. Without an offset it is local time (moby api/types/time). Raises ValueError.
    """
    if text != "0":
        try:
            return now_ns - parse_duration_ns(text)
        except ValueError:
            pass
    here_s = time.localtime(now_ns // SECOND).tm_gmtoff
    if match := _RFC3339.fullmatch(text):
        return _moment(match, default_offset_s=here_s)
    if match := _UNIX.fullmatch(text):
        seconds = int(match[1])
        return seconds * SECOND + int((match[2] or "")[:9].ljust(9, "0"))
    try:
        return _in_words(text, default_offset_s=here_s)
    except (ValueError, OverflowError):
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None


def _in_words(text: str, *, default_offset_s: int) -> int:
    """A date that can be read in one way only: things are removed by it, so nothing is guessed.

    Day, month and year must be there, the year with its four digits; which is which must not
    depend on custom; and a zone must be a number or UTC.
    """
    # 50 ms, which nobody pays who types no such date.
    from dateutil import parser  # type: ignore[import-untyped]

    if not text.isascii() or len(text) > _LONGEST_WORDS:
        raise ValueError(text)
    spelled = _NAMED_OFFSET.sub(r"\1", text)
    customs = (False,) if _YEAR_FIRST.match(text) else (False, True)
    readings: set[datetime] = {
        parser.parse(spelled, default=missing, dayfirst=custom, tzinfos=_zone)
        for missing in (datetime(2000, 1, 1), datetime(2004, 2, 2))
        for custom in customs
    }
    if len(readings) != 1:
        raise ValueError(text)
    found = readings.pop()
    if f"{found.year:04}" not in text:
        raise ValueError(text)
    offset = found.utcoffset()
    offset_s = default_offset_s if offset is None else int(offset.total_seconds())
    return (calendar.timegm(found.timetuple()) - offset_s) * SECOND + found.microsecond * 1_000


def _zone(name: str | None, offset_s: int | None) -> int | None:
    if name is not None and offset_s is None:
        raise ValueError(f"{name} may be several zones")
    return offset_s


def _moment(match: re.Match[str], *, default_offset_s: int) -> int:
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    hour, minute, second = (int(match[i] or 0) for i in (4, 5, 6))
    if not (1 <= month <= 12 and 1 <= day <= calendar.monthrange(max(year, 1), month)[1]):
        raise ValueError(f"{match[0]!r}: day out of range")
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"{match[0]!r}: time out of range")
    offset_s = _offset_s(match[8]) if match[8] else default_offset_s
    whole = calendar.timegm((year, month, day, hour, minute, second)) - offset_s
    return whole * SECOND + int((match[7] or "")[:9].ljust(9, "0"))


def _offset_s(zone: str) -> int:
    if zone in "Zz":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
