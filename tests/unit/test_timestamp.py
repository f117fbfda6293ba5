"""Moments: one form out, many forms in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import timestamp

NOW = 1_700_000_000_000_000_000


@given(st.integers(min_value=-62_000_000_000 * 10**9, max_value=250_000_000_000 * 10**9))
def test_there_and_back(moment: int) -> None:
    assert timestamp.parse_ns(timestamp.format_ns(moment)) == moment


def test_form() -> None:
    assert timestamp.format_ns(0) == "1970-01-01T00:00:00Z"
    assert timestamp.format_ns(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert timestamp.format_ns(1) == "1970-01-01T00:00:00.000000001Z"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14T22:13:20.000000001999Z", NOW + 1),
        ("1700000000", NOW),
        ("1700000000.5", NOW + 500_000_000),
        ("0", 0),
        ("10m", NOW - 600 * 10**9),
        ("1h30m", NOW - 5400 * 10**9),
        ("1.5s", NOW - 1_500_000_000),
        ("2023-11-14T22:13Z", NOW - 20 * 10**9),
        ("2023-11-14Z", NOW - (22 * 3600 + 13 * 60 + 20) * 10**9),
    ],
)
def test_what_users_type(text: str, moment: int) -> None:
    assert timestamp.parse_user_ns(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "x", "10", "2023-13-01", "2023-02-30T00:00:00Z", "2023-01-01T25:00:00Z", "1y"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        timestamp.parse_ns(text)
    if text != "10":
        with pytest.raises(ValueError, match=r"."):
            timestamp.parse_user_ns(text, NOW)
