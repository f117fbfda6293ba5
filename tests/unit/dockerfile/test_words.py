"""The shell's words, as BuildKit reads them."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dockerfile import words
from engine.dockerfile.words import InvalidWord

ENV = {"A": "val", "E": "", "TWO": "x y", "TAR": "a.b.tar.gz"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a", "a"),
        ("a b", "a b"),
        ("'a $A' \"b $A\"", "a $A b val"),
        (r"\$A \\ \'", r"$A \ '"),
        (r'"\n \" \$A"', r'\n " $A'),
        ("$A$N${A}x$", "valvalx$"),
        ("${E:-d}${E-d}${N:-d}${N-d}", "ddd"),
        ("${A:+s}${E:+s}${E+s}${N+s}", "ss"),
        ("${N:-${A}}", "val"),
        ("${TAR%.*} ${TAR%%.*} ${TAR#*.} ${TAR##*.}", "a.b.tar a b.tar.gz gz"),
        ("${TAR/./_} ${TAR//./_} ${TAR/x/_}", "a_b.tar.gz a_b_tar_gz a.b.tar.gz"),
        ("${TAR#a?b} ${TAR#[a]}", ".tar.gz a.b.tar.gz"),
        ("a\\", "a"),
        ("${A///X} ${A//$E/X} ${A/$N/X}", "XvXaXlX XvXaXlX Xval"),
        ("${E///X}${E/*/Y}${E//a*/Z}", "XY"),
    ],
)
def test_one_word(text: str, word: str) -> None:
    assert words.expand(text, ENV) == word


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a  b", ["a", "b"]),
        ("$TWO", ["x", "y"]),
        ('"$TWO" z', ["x y", "z"]),
        (r"a\ b", ["a b"]),
        ("$N '' a", ["a"]),
    ],
)
def test_several_words(text: str, found: list[str]) -> None:
    assert words.split(text, ENV) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"a', "unexpected end of statement while looking for matching double-quote"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${A", "unsupported modifier (\N{REPLACEMENT CHARACTER}) in substitution"),
        ("${A!x}", "unsupported modifier (!) in substitution"),
        ("${A:!x}", "unsupported modifier (:!) in substitution"),
        ("${N?}", "N: is not allowed to be unset"),
        ("${E:?}", "E: is not allowed to be empty"),
        ("${N:?say $A}", "N: say val"),
        ("${A/x", "syntax error: missing '/' in ${}"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(InvalidWord) as caught:
        words.expand(text, ENV)
    quoted = text.replace('"', '\\"')
    assert str(caught.value) == f'failed to process "{quoted}": {reason}'


@given(st.text("ab$\\'\"{}:-+?#%/* ANE", max_size=30))
def test_any_text_is_a_word_or_refused(text: str) -> None:
    try:
        word = words.expand(text, ENV)
    except InvalidWord:
        return
    assert "".join(words.split(text, ENV)).replace(" ", "") == word.replace(" ", "")


@given(st.text(st.characters(exclude_characters="$\\'\""), max_size=30))
def test_plain_text_stays(text: str) -> None:
    assert words.expand(text, ENV) == text
    assert words.expand(f"'{text}'\"{text}\"", ENV) == text + text


@pytest.mark.parametrize("modifier", ["#", "##", "%", "%%"])
@pytest.mark.parametrize(
    "pattern", ["b*" + "*" * 20 + "b", "b*" + "a*" * 12 + "b", "*?" * 12 + "c"]
)
def test_a_pattern_made_to_be_slow_is_not(modifier: str, pattern: str) -> None:
    value = "b" + "a" * 20_000
    assert words.expand(f"${{V{modifier}{pattern}}}", {"V": value}) == value


@pytest.mark.parametrize("modifier", ["/", "//"])
@pytest.mark.parametrize("pattern", ["a*c", "a*?*c", "a*a*a*c", "a*" * 12 + "c", "?*c"])
def test_nor_is_one_to_be_replaced(modifier: str, pattern: str) -> None:
    value = "a" * 200_000
    assert words.expand(f"${{V{modifier}{pattern}/x}}", {"V": value}) == value
    assert words.expand(f"${{V{modifier}{pattern}/x}}", {"V": f"{value}c"}) == "x"


@pytest.mark.parametrize("text", ["$V$V", '"$V$V"', "${N:-$V$V}", "${V//x/$V}", "${V#$V$V}"])
def test_what_grows_and_grows_is_refused(text: str) -> None:
    with pytest.raises(InvalidWord, match="longer than 1048576 characters"):
        words.expand(text, {"V": "x" * (1 << 20)})


def test_a_pattern_that_was_let_grow_is_refused() -> None:
    with pytest.raises(InvalidWord, match="pattern is longer than 1024 characters"):
        words.expand("${V#$V}", {"V": "?" * 2000})


@given(st.text("ab*?", min_size=1, max_size=6), st.text("ab", min_size=1, max_size=8))
def test_what_is_replaced_is_the_first_and_the_longest(pattern: str, value: str) -> None:
    matches = [
        (begin, end)
        for begin in range(len(value))
        for end in range(len(value), begin, -1)
        if fnmatch.fnmatchcase(value[begin:end], pattern)
    ]
    begin, end = matches[0] if matches else (0, 0)
    wanted = f"{value[:begin]}X{value[end:]}" if matches else value
    assert words.expand(f"${{V/{pattern}/X}}", {"V": value}) == wanted


@given(st.text("ab*?", max_size=6), st.text("ab", max_size=8), st.booleans())
def test_trimming_finds_the_longest_or_the_shortest(
    pattern: str, value: str, is_longest: bool
) -> None:
    ends = [n for n in range(len(value) + 1) if fnmatch.fnmatchcase(value[:n], pattern)]
    begins = [n for n in range(len(value) + 1) if fnmatch.fnmatchcase(value[n:], pattern)]
    head, tail = ("##", "%%") if is_longest else ("#", "%")
    end = (max(ends) if is_longest else min(ends)) if ends else 0
    begin = (min(begins) if is_longest else max(begins)) if begins else len(value)
    assert words.expand(f"${{V{head}{pattern}}}", {"V": value}) == value[end:]
    assert words.expand(f"${{V{tail}{pattern}}}", {"V": value}) == value[:begin]
