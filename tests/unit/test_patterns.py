r"""Users' regular expressions: found where Go finds them, refused in its words, never slow."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import patterns
from engine.patterns import BadPattern, Pattern

# What Python and Go read alike, of letters that meet often.
_CHARACTERS = st.sampled_from(["a", "b", "B", "-", ".", "\n", " "])
_ATOMS = st.sampled_from(
    [
        *("a", "b", "B", "-", ".", "^", r"\.", r"\n", r"\x61", r"\A", r"\b", "(?:)"),
        *("[ab]", "[^a]", "[a-b-]", "[]a]", r"[\w.]", r"\w", r"\W", r"\d"),
    ]
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    quantified = st.builds(
        lambda group, times: f"(?:{group}){times}",
        inner,
        st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "+?", "??", "{2,3}?"]),
    )
    return st.one_of(
        quantified,
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("({})".format, inner),
        st.builds("(?i:{})".format, inner),
        st.builds("(?s:{})".format, inner),
        st.builds("(?m:{}$)".format, inner),
    )


@given(st.recursive(_ATOMS, _grown, max_leaves=8), st.text(_CHARACTERS, max_size=12))
def test_found_where_python_finds_it(pattern: str, text: str) -> None:
    assert Pattern(pattern).search(text) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "found", "missed"),
    [
        ("web", "my-web-1", "we-b"),
        ("we[b]", "my-web-1", "we-b"),
        ("^/web$", "/web", "/web-1"),
        ("a$", "a", "a\n"),  # Python's `$` also means before the last line's end
        (r"a\z", "ba", "ab"),
        ("(?P<name>a)(?<other>b)", "ab", "ba"),
        (r"a\B", "ab", "a-"),
        (r"\B", "", "a"),  # not so with Python before 3.14
        ("[[:alpha:]_]{3}", "a_b", "a_1"),
        ("[[:^digit:]]", "a", "1"),
        (r"\Qa.b\E+", "xa.bb", "aab"),
        (r"\Q(", "(", ")"),
        (r"\pL\p{Lu}\P{N}", "aAa", "aa1"),
        (r"\p{^L}", "1", "a"),
        (r"\d", "1", "٣"),
        (r"\s", "\t", "\v"),
        (r"\x{1F600}|\101|\0", "😀", "B"),
        ("(?i)straße", "STRAßE", "strasse"),
        ("(?i)a(?-i)b", "Ab", "AB"),
        ("(?i:a)b", "Ab", "AB"),
        ("a{,2}", "a{,2}", "aa"),
        ("a{2", "a{2", "aa"),
        ("x|", "", None),
        ("", "anything", None),
        ("(?)a", "a", "b"),
        ("(?U)a+", "a", "b"),
        ("^*a", "a", "b"),
        (r"[\]\-]", "-", "\\"),
    ],
)
def test_what_go_means(pattern: str, found: str, missed: str | None) -> None:
    assert Pattern(pattern).search(found)
    assert missed is None or not Pattern(pattern).search(missed)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("a(b", "missing closing ): `a(b`"),
        ("a)b", "unexpected ): `a)b`"),
        ("a[b", "missing closing ]: `[b`"),
        ("[]", "missing closing ]: `[]`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("(+)", "missing argument to repetition operator: `+`"),
        ("{2}", "missing argument to repetition operator: `{2}`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        (r"(a)\1", r"invalid escape sequence: `\1`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?<=a)", "invalid or unsupported Perl syntax: `(?<=`"),
        ("(?>a)", "invalid or unsupported Perl syntax: `(?>`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
        ("(?P<n!>a)", "invalid named capture: `(?P<n!>`"),
        ("(?i", "missing closing ): `(?i`"),
        ("(" * 5000 + ")" * 5000, "expression nests too deeply: `" + "(" * 5000 + ")" * 5000 + "`"),
        ("((a{100}){100}){100}", "expression too large: `((a{100}){100}){100}`"),
    ],
)
def test_what_is_no_pattern(pattern: str, sentence: str) -> None:
    with pytest.raises(BadPattern) as refused:
        Pattern(pattern)
    assert str(refused.value) == sentence


@given(st.text(st.sampled_from(list("ab()[]{}*+?|^$\\.,-:<>=!PQEdpx012ims")), max_size=20))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    with contextlib.suppress(BadPattern):
        Pattern(pattern).search("ab")


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "(a*)*b", "(a?){30}a{30}$", "(.*)(.*)(.*)(.*)(.*)[xy]$"]
)
def test_time_grows_with_the_text_alone(pattern: str) -> None:
    begin = time.perf_counter()
    for number in range(100):
        patterns.compile(pattern).search("a" * 60 + f"!{number}")
    assert time.perf_counter() - begin < 5
