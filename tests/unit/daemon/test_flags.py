"""compat.daemon.flags: pflag's grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.daemon.flags import Flag, Occurrence, UsageError, parse

FLAGS = [
    Flag(name="debug", short="D", bare="true"),
    Flag(name="host", short="H"),
    Flag(name="log-level", short="l"),
    Flag(name="init", bare="true"),
]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--host=a", "--host", "b", "-H", "c", "-Hd", "-H=e"], [("host", x) for x in "abcde"]),
        (["--debug", "-D=false"], [("debug", "true"), ("debug", "false")]),
        (["-Dl", "warn"], [("debug", "true"), ("log-level", "warn")]),
        (["-DlD"], [("debug", "true"), ("log-level", "D")]),
        (["--host="], [("host", "")]),
        (["--host", "--debug"], [("host", "--debug")]),
        (["--host=a=b"], [("host", "a=b")]),
    ],
)
def test_values_stand_behind_or_after(words: list[str], expected: list[tuple[str, str]]) -> None:
    assert parse(FLAGS, words).occurrences == tuple(Occurrence(*pair) for pair in expected)


def test_an_optional_value_is_never_the_next_word() -> None:
    parsed = parse(FLAGS, ["--init", "false"])
    assert parsed.occurrences == (Occurrence("init", "true"),)
    assert parsed.arguments == ("false",)


def test_two_dashes_end_the_flags() -> None:
    parsed = parse(FLAGS, ["-D", "--", "--host", "-"])
    assert parsed.occurrences == (Occurrence("debug", "true"),)
    assert parsed.arguments == ("--host", "-")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--hos", "x"], "unknown flag: --hos"),
        (["--nope=1"], "unknown flag: --nope"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-DZ=3"], "unknown shorthand flag: 'Z' in -Z=3"),
        (["---x"], "bad flag syntax: ---x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["--host"], "flag needs an argument: --host"),
        (["-DH"], "flag needs an argument: 'H' in -H"),
    ],
)
def test_what_cannot_be_read_is_named(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(FLAGS, words)
    assert str(caught.value) == sentence


@given(st.lists(st.sampled_from(["-", "--", "-D", "--host", "x", "-H=", "=", "-Dl", "", "---"])))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        parsed = parse(FLAGS, words)
    except UsageError:
        return
    assert len(parsed.occurrences) + len(parsed.arguments) <= 2 * len(words)
