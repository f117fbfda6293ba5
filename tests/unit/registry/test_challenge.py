from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.challenge import Challenge, parse

TOKEN = st.text(alphabet="abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=8)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ()),
        ("Basic", (Challenge(scheme="basic"),)),
        ('Basic realm="x"', (Challenge(scheme="basic", parameters={"realm": "x"}),)),
        (
            'Bearer realm="https://a/token",service="r",scope="repository:a:pull,push"',
            (
                Challenge(
                    scheme="bearer",
                    parameters={
                        "realm": "https://a/token",
                        "service": "r",
                        "scope": "repository:a:pull,push",
                    },
                ),
            ),
        ),
        (
            'Bearer realm="a", error=invalid_token , Basic realm="b"',
            (
                Challenge(scheme="bearer", parameters={"realm": "a", "error": "invalid_token"}),
                Challenge(scheme="basic", parameters={"realm": "b"}),
            ),
        ),
        ('Bearer realm="never closed', (Challenge(scheme="bearer"),)),
        ("=;,", ()),
    ],
)
def test_reads(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse([header]) == expected


def test_reads_several_headers() -> None:
    assert [c.scheme for c in parse(["Negotiate", 'Basic realm="x"'])] == ["negotiate", "basic"]


@given(
    st.lists(
        st.tuples(TOKEN, st.dictionaries(TOKEN, st.text(max_size=20), min_size=1, max_size=4)),
        max_size=3,
    )
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]]) -> None:
    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert [(c.scheme, c.parameters) for c in parse([header])] == challenges


@given(st.text(max_size=200))
def test_nothing_hurts(header: str) -> None:
    for challenge in parse([header]):
        assert challenge.scheme
