"""The words of a query as Go reads them."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat import params, versions
from compat.params import Query, Words
from engine.errors import InvalidParameter
from engine.oci import platform as platforms
from engine.registry.auth import RegistryAuth


def query(route: str = "x", version: str = "1.51", **words: str) -> Query:
    spelled = {name.replace("_", "-"): [value] for name, value in words.items()}
    return Query(Words(spelled), route, versions.parse(version))


@pytest.mark.parametrize("word", ["", "0", "no", "false", "none", "FALSE", " No "])
def test_these_words_are_false(word: str) -> None:
    assert query(all=word).flag("all", default=True) is False


@pytest.mark.parametrize("word", ["1", "true", "yes", "f", "anything"])
def test_every_other_word_is_true(word: str) -> None:
    assert query(all=word).flag("all") is True


def test_an_absent_flag_is_what_it_is_by_default() -> None:
    assert query().flag("all") is False
    assert query().flag("all", default=True) is True


def test_integers() -> None:
    assert query(t="-5").integer("t") == -5
    assert query(t="").integer("t") is None
    for wrong in ("abc", "1.5", "1_0", "0x1", "\u0661", " 1"):
        with pytest.raises(InvalidParameter) as caught:
            query(t=wrong).integer("t")
        assert str(caught.value) == f'strconv.Atoi: parsing "{wrong}": invalid syntax'
    with pytest.raises(InvalidParameter, match="value out of range"):
        query(t="9" * 19).integer("t")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("a", "invalid syntax"),
        ("", "invalid syntax"),
        ("-1", "value out of range"),
        ("4294967296", "value out of range"),
        ("9" * 5000, "value out of range"),
    ],
)
def test_sizes_are_unsigned(word: str, why: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        query(h=word).uint32("h", "resize height")
    assert str(caught.value) == f'invalid resize height "{word}": {why}'


def test_a_version_knows_only_its_own_words() -> None:
    assert query("containers.stop", "1.42", signal="INT").text("signal") == "INT"
    assert query("containers.stop", "1.41", signal="INT").text("signal") == ""
    assert query("images.list", "1.40", filter="a").text("filter") == "a"
    assert query("images.list", "1.41", filter="a").text("filter") == ""


def test_filters_come_as_maps_or_lists() -> None:
    assert params.parse_filters('{"status":{"a":true,"b":false}}') == {"status": ("a", "b")}
    assert params.parse_filters('{"status":["a","a"]}') == {"status": ("a",)}
    assert params.parse_filters('{"a":{"b":null},"c":null}') == {"a": ("b",), "c": ()}
    assert params.parse_filters('{"a":["b",null],"c":null}') == {"a": ("b", ""), "c": ()}
    assert params.parse_filters("") == params.parse_filters("null") == {}


@pytest.mark.parametrize(
    "text",
    [
        "abc",
        "[]",
        '{"a":1}',
        '{"a":[1]}',
        '{"a":{"b":1}}',
        '{"a":["b"],"c":{"d":true}}',
        "[" * 100_000,
        '"x"',
        "{",
    ],
)
def test_other_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid filter$"):
        params.parse_filters(text)


@given(st.text(max_size=20))
def test_any_filter_is_read_or_refused(text: str) -> None:
    with suppress(InvalidParameter):
        assert isinstance(params.parse_filters(text), dict)


def test_moments_are_seconds_with_a_fraction() -> None:
    assert query(since="12.000000034").time_ns("since") == 12_000_000_034
    assert query(since="12.5").time_ns("since") == 12_500_000_000
    assert query(since="-1").time_ns("since") == -1_000_000_000
    assert query(since="").time_ns("since") is None
    with pytest.raises(InvalidParameter, match=r'strconv\.ParseInt: parsing "abc": invalid syntax'):
        query(since="abc").time_ns("since")


def test_platforms_are_told_in_the_query() -> None:
    linux = '{"os":"linux","architecture":"amd64"}'
    asked = params.Query(Words({"platform": [linux, linux]}), "images.save", versions.NEWEST)
    assert asked.platform("platform") == platforms.Platform(os="linux", architecture="amd64")
    assert asked.platform("other") is None
    assert query(platform="").platform("platform") is None
    with pytest.raises(InvalidParameter, match=r"^multiple platform parameters not supported$"):
        asked.platform("platform", is_single=True)


def test_nul_is_refused_wherever_it_stands() -> None:
    with pytest.raises(InvalidParameter, match="NUL"):
        query(name="a\0b").text("name")


def auth(header: str) -> RegistryAuth:
    request = SimpleNamespace(headers={"X-Registry-Auth": header})
    return params.registry_auth(request)  # type: ignore[arg-type]


def test_credentials_come_in_both_alphabets_with_and_without_padding() -> None:
    document = json.dumps({"username": "ü?>", "password": "p~", "identityToken": "t"}).encode()
    for encoded in (
        base64.urlsafe_b64encode(document),
        base64.b64encode(document),
        base64.urlsafe_b64encode(document).rstrip(b"="),
    ):
        found = auth(encoded.decode())
        assert (found.username, found.password, found.identity_token) == ("ü?>", "p~", "t")


@pytest.mark.parametrize("header", ["", "null", "%%%", "bnVsbA==", "e30="])
def test_an_unreadable_header_counts_as_none(header: str) -> None:
    assert auth(header) == RegistryAuth()


def test_a_query_that_is_spelled_wrongly_hurts_who_asks_for_a_word() -> None:
    for text, said in [
        ("all=1;limit=1", "invalid semicolon separator in query"),
        ("all=%zz", 'invalid URL escape "%zz"'),
        ("all=%4", 'invalid URL escape "%4"'),
    ]:
        found = Query(params.parse_query("", text), "x", versions.NEWEST)
        with pytest.raises(InvalidParameter, match=re.escape(said)):
            found.flag("all")


def test_words_keep_their_order_and_a_form_comes_first() -> None:
    words = params.parse_query("a=1&&b", "a=2&a+%2B=c%20d")
    assert (words.values, words.fault) == ({"a": ["1", "2"], "b": [""], "a +": ["c d"]}, "")


def test_a_number_of_any_length_is_one_that_is_too_large() -> None:
    for text in ("99999999999999999999", "-" + "9" * 5000, str(2**63)):
        with pytest.raises(InvalidParameter, match="value out of range"):
            params.parse_int(text)
    assert params.parse_int("0" * 30 + "7") == 7
