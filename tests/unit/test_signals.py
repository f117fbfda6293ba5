from __future__ import annotations

import pytest

from engine import signals


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("64", 64),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
    ],
)
def test_numbers_and_names(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "65", "FOO", "SIG", "9" * 5000, "1.5", "²"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(signals.InvalidSignal, match=r"^invalid signal: "):
        signals.parse(text)


@pytest.mark.parametrize("text", ["65", "-1", "+65", "9" * 5000])
def test_a_number_that_is_no_signal_is_told_apart_by_kill(text: str) -> None:
    said = f"^the linux daemon does not support signal {text.removeprefix('+')}$"
    with pytest.raises(signals.UnsupportedSignal, match=said):
        signals.parse_to_kill(text)
    assert signals.parse_to_kill("INT") == 2
    with pytest.raises(signals.InvalidSignal):
        signals.parse_to_kill("0")


def test_a_stop_signal_that_cannot_be_read_is_sigterm() -> None:
    assert [signals.stop_signal(text) for text in (None, "", "FOO", "INT")] == [15, 15, 15, 2]
