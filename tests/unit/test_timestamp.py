"""Moments: one form out, many forms in."""

from __future__ import annotations

import contextlib
import time

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
        ("2023-11-14 23:13:20 +0100 CET", NOW),
        ("2023-11-14 22:13:20.5 +0000 UTC", NOW + 500_000_000),
        ("Tue Nov 14 22:13:20 UTC 2023", NOW),
        ("Tue, 14 Nov 2023 22:13:20 GMT", NOW),
        ("14 November 2023 22:13:20Z", NOW),
        ("20231114T221320Z", NOW),
    ],
)
def test_what_users_type(text: str, moment: int) -> None:
    assert timestamp.parse_user_ns(text, NOW) == moment


def test_without_an_offset_words_are_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    try:
        for text in ("2023-11-15T00:13:20", "15 Nov 2023 00:13:20"):
            assert timestamp.parse_user_ns(text, NOW) == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "01/02/2023",
        "1 2 2023",
        "14 Nov",
        "14 Nov 23",
        "Nov 2023",
        "22:13",
        "today",
        "2 weeks",
        "10d",
        "Tue Nov 14 22:13:20 CET 2023",
        "2023-02-30 00:00:00 +0000 UTC",
        "2023-11-14 22:13 -25:00",
        "١٤ Nov 2023",
        "14 Nov 2023" + " " * 100,
        "9" * 30 + " Nov 2023",
    ],
)
def test_no_date_is_guessed(text: str) -> None:
    with pytest.raises(ValueError, match=r"^failed to parse value as time or duration: "):
        timestamp.parse_user_ns(text, NOW)


@given(st.text(max_size=70))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        timestamp.parse_user_ns(text, NOW)


@pytest.mark.parametrize(
    "text", ["", "x", "10", "2023-13-01", "2023-02-30T00:00:00Z", "2023-01-01T25:00:00Z", "1y"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        timestamp.parse_ns(text)
    if text != "10":
        with pytest.raises(ValueError, match=r"."):
            timestamp.parse_user_ns(text, NOW)


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (5_430_000_000_001, "1h30m30.000000001s"),
        (-90_000_000_000, "-1m30s"),
    ],
)
def test_durations_are_written_as_go_does(duration_ns: int, text: str) -> None:
    assert timestamp.format_duration(duration_ns) == text


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_written_duration_is_read_as_what_it_was(duration_ns: int) -> None:
    assert timestamp.parse_duration_ns(timestamp.format_duration(duration_ns)) == duration_ns
