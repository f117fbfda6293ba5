"""Booleans and sizes as Go programs read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import literals


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_is_true(text: str) -> None:
    assert literals.boolean(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_is_false(text: str) -> None:
    assert literals.boolean(text) is False


@pytest.mark.parametrize("text", ["", "tRUE", "yes", "no", " 1", "2"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r'^strconv\.ParseBool: parsing ".*": invalid syntax$'):
        literals.boolean(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 64 * 2**20),
        ("1.5g", 3 * 2**29),
        ("64 MiB", 64 * 2**20),
        ("100", 100),
        ("7b", 7),
        (".5k", 512),
        ("+1e3", 1000),
        ("1kb", 1024),
    ],
)
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert literals.size_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "size"), [("64M", 64 * 10**6), ("1KiB", 1000), ("1.5k", 1500), ("7", 7)]
)
def test_sizes_have_decimal_units_where_go_reads_them_so(text: str, size: int) -> None:
    assert literals.decimal_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "1bb", "1kbb", "1e99", "9999999p", " 1q"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid (size|suffix)|ParseFloat"):
        literals.size_bytes(text)


@pytest.mark.parametrize("number", [" 5", "1 ", "0x1", "1.2.3", "٣ 1", "1_0"])
def test_what_is_no_number_is_no_size(number: str) -> None:
    with pytest.raises(ValueError, match="ParseFloat") as refused:
        literals.size_bytes(f"{number} k")
    assert str(refused.value) == f'strconv.ParseFloat: parsing "{number}": invalid syntax'


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("+2", 2), ("-3", -3), ("007", 7)])
def test_whole_numbers(text: str, number: int) -> None:
    assert literals.integer(text) == number


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "invalid syntax"),
        ("+-1", "invalid syntax"),
        ("1.5", "invalid syntax"),
        ("٣", "invalid syntax"),
        ("1_0", "invalid syntax"),
        ("9" * 19, "value out of range"),
        ("9" * 5000, "value out of range"),
    ],
)
def test_what_is_no_whole_number_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="Atoi") as refused:
        literals.integer(text)
    assert str(refused.value) == f'strconv.Atoi: parsing "{text}": {why}'


@given(st.integers(0, 2**62))
def test_plain_numbers_are_bytes(number: int) -> None:
    # Like Go's, the size goes through a float: exact up to 2**53, close above.
    assert abs(literals.size_bytes(str(number)) - number) <= number // 2**52
