"""How long something took, in the words of `docker ps` (docker/go-units HumanDuration)."""

from __future__ import annotations

_SECOND_NS = 10**9


def ago(duration_ns: int) -> str:
    """ "Less than a second", "About a minute", "3 weeks" …"""
    seconds = duration_ns // _SECOND_NS
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    # Hours are rounded, everything else is cut off.
    hours = (2 * seconds + 3600) // 7200
    if hours == 1:
        return "About an hour"
    return _of_hours(hours)


def _of_hours(hours: int) -> str:
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"
