"""Moments: an int of nanoseconds since the epoch inside, RFC 3339 where others read or wrote it."""

from __future__ import annotations

import calendar
import re
import time

SECOND = 1_000_000_000

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?)?"
    r"(Z|z|[+-]\d\d:\d\d)?"
)
_UNIX = re.compile(r"(-?\d+)(?:\.(\d+))?")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
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
    """A duration as Go writes it ("1h30m", "-1.5s", "0"). Raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    parts = _DURATION.findall(body)
    if not parts or "".join(n + u for n, u in parts) != body:
        raise ValueError(f"invalid duration {text!r}")
    return sign * sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)


def parse_user_ns(text: str, now_ns: int) -> int:
    """What users type as a time: a duration before now, RFC 3339 or a part of it, or Unix seconds.

    Without an offset it is local time (moby api/types/time). Raises ValueError.
    """
    if text != "0":
        try:
            return now_ns - parse_duration_ns(text)
        except ValueError:
            pass
    if match := _RFC3339.fullmatch(text):
        return _moment(match, default_offset_s=time.localtime(now_ns // SECOND).tm_gmtoff)
    if match := _UNIX.fullmatch(text):
        seconds = int(match[1])
        return seconds * SECOND + int((match[2] or "")[:9].ljust(9, "0"))
    raise ValueError(f'failed to parse value as time or duration: "{text}"')


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
