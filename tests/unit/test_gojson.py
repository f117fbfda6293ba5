"""Sentences of Go's decoder, as dockerd 28.5.2 gave them for the same bytes."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import gojson


def said_of(data: bytes) -> str:
    with pytest.raises(msgspec.DecodeError) as caught:
        gojson.loads(data)
    return gojson.syntax_error(data, str(caught.value))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "unexpected end of JSON input"),
        (b"", "unexpected end of JSON input"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("{é}".encode(), "invalid character 'é' looking for beginning of object key string"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'{"a":nux}', "invalid character 'x' in literal null (expecting 'l')"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a":-x}', "invalid character 'x' in numeric literal"),
        (b'{"a":1.}', "invalid character '}' in numeric literal"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":"\x01"}', "invalid character '\\x01' in string"),
        (b'{"a":"\n"}', "invalid character '\\n' in string"),
        (b'{"a":"\\q"}', "invalid escape sequence `\\q` in string"),
        (b'{"a":"\\u12zz"}', "invalid escape sequence `\\u12zz` in string"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b'"\x80\x80\x80\x00', "invalid character '\\x00' in string"),
        (b'["\x80\x80", x]', "invalid character 'x' looking for beginning of value"),
        (b"'a'", "invalid character '\\'' looking for beginning of value"),
        (b"\xff", "invalid character '\\xff' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character '\\ufeff' looking for beginning of value"),
        (b'{"a":\x00}', "invalid character '\\x00' looking for beginning of value"),
    ],
)
def test_bytes_that_are_no_document(data: bytes, sentence: str) -> None:
    assert said_of(data) == sentence


@given(st.binary(max_size=30) | st.text('{}[]",:0123tfnu\\. ', max_size=20).map(str.encode))
def test_there_is_a_sentence_for_any_bytes(data: bytes) -> None:
    said = ""
    with suppress(UnicodeDecodeError):
        try:
            gojson.loads(data)
        except msgspec.DecodeError as exc:
            said = gojson.syntax_error(data, str(exc))
    assert "malformed" not in said
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        gojson.loads(data[: gojson.end_of_first(data)])


def test_the_first_document_ends_where_it_does_however_it_is_spelled() -> None:
    assert gojson.end_of_first(b'{"a":"\x80\x80"} {}') == len(b'{"a":"\x80\x80"} ')
