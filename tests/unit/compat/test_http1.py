"""Heads of requests, as Go's server reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat import http1


def head(text: bytes) -> http1.Head:
    assert http1.end_of_head(text, 0) == len(text)
    return http1.read_head(text)


def request(line: bytes = b"GET /_ping HTTP/1.1", *fields: bytes) -> bytes:
    return b"\r\n".join((line, *(fields or (b"Host: d",)), b"", b""))


@pytest.mark.parametrize(
    "text",
    [
        b"GET /_ping HTTP/1.1\nHost: d\n\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\n\r\n",
        b"GET /_ping HTTP/1.1\nhost:d\r\n\n",
        b"GET http://other/_ping HTTP/1.1\r\nHost:\td \r\n\r\n",
    ],
)
def test_lines_may_end_as_they_like(text: bytes) -> None:
    found = head(text).encode()
    assert found.lower() == b"get /_ping http/1.1\r\nhost: d\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "encoded"),
    [
        (b"OPTIONS * HTTP/1.1", b"OPTIONS /* HTTP/1.1"),
        (b"FOO /_ping HTTP/1.1", b"TRACE /_ping HTTP/1.1"),
        (b"CONNECT a:80 HTTP/1.1", b"TRACE / HTTP/1.1"),
        (b"GET /a\xff#b?c=%zz HTTP/1.2", b"GET /a%FF%23b?c=%zz HTTP/1.1"),
        (b"GET http://d?a=b HTTP/1.0", b"GET /?a=b HTTP/1.0"),
    ],
)
def test_what_the_parser_would_stumble_over_is_spelled_anew(line: bytes, encoded: bytes) -> None:
    assert head(request(line)).encode().startswith(encoded + b"\r\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"GARBAGE\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (request(b"GET  /_ping HTTP/1.1"), "400 Bad Request"),
        (request(b"GET /a b HTTP/1.1"), "400 Bad Request"),
        (request(b"GET _ping HTTP/1.1"), "400 Bad Request"),
        (request(b"G(T /_ping HTTP/1.1"), "400 Bad Request"),
        (request(b"GET /containers/%zz/json HTTP/1.1"), "400 Bad Request"),
        (request(b"GET /a\x01 HTTP/1.1"), "400 Bad Request"),
        (
            request(b"GET / HTTP/3.0"),
            "505 HTTP Version Not Supported: unsupported protocol version",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\n Host: d\r\n\r\n", "400 Bad Request"),
        *(
            (request(b"GET / HTTP/1.1", b"Host: d", *fields), f"400 Bad Request{why}")
            for fields, why in [
                ((b"Host: e",), ""),
                ((b" folded",), ": malformed Host header"),
                ((b"A B: c",), ": invalid header name"),
                ((b"A : c",), ": invalid header name"),
                ((b": c",), ""),
                ((b"no colon",), ""),
                ((b"A: b\rc",), ""),
                ((b"A: b\x00c",), ""),
                ((b"Content-Length: x",), ""),
                ((b"Content-Length: -1",), ""),
                ((b"Content-Length: ",), ""),
                ((b"Content-Length: 1", b"Content-Length: 2"), ""),
            ]
        ),
        (
            request(b"GET / HTTP/1.1", b"Host: d", *[b"A: b"] * 2000),
            "431 Request Header Fields Too Large",
        ),
    ],
)
def test_what_is_no_request_is_refused_without_quoting_it(text: bytes, said: str) -> None:
    with pytest.raises(http1.Refused) as caught:
        head(text)
    assert (
        caught.value.answer
        == (
            f"HTTP/1.1 {said}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Connection: close\r\n\r\n{said}"
        ).encode()
    )


@pytest.mark.parametrize("encoding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b""])
def test_chunks_are_the_only_encoding(encoding: bytes) -> None:
    with pytest.raises(http1.UnsupportedEncoding) as caught:
        head(request(b"GET / HTTP/1.1", b"Host: d", b"Transfer-Encoding: " + encoding))
    assert caught.value.answer.startswith(b"HTTP/1.1 501 Not Implemented\r\n")
    assert caught.value.answer.endswith(b"\r\n\r\nUnsupported transfer encoding")


def test_chunks_outdo_a_length() -> None:
    found = head(
        request(b"PUT / HTTP/1.1", b"Host: d", b"transfer-encoding: Chunked", b"Content-Length: 3")
    )
    assert (found.is_chunked, found.length) == (True, 0)
    assert b"Content-Length" not in found.encode()
    assert found.encode().count(b"Transfer-Encoding: chunked\r\n") == 1


def test_a_length_may_be_said_twice() -> None:
    found = head(request(b"PUT / HTTP/1.1", b"Host: d", *[b"Content-Length: 03"] * 2))
    assert (found.length, found.encode().count(b"Content-Length: 3\r\n")) == (3, 1)


def test_only_one_thing_may_be_expected() -> None:
    fine = head(request(b"PUT / HTTP/1.1", b"Host: d", b"Expect: 100-Continue"))
    assert b"Expect: 100-Continue\r\n" in fine.encode()
    with pytest.raises(http1.UnknownExpectation):
        head(request(b"PUT / HTTP/1.1", b"Host: d", b"Expect: miracles"))


@given(
    st.lists(st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"\r", b"\n", b"Host: d", b":"])),
    st.integers(1, 5),
)
def test_a_head_ends_at_the_same_place_in_any_pieces(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    seen = bytearray()
    found = -1
    for at in range(0, len(data), size):
        searched = len(seen)
        seen += data[at : at + size]
        found = http1.end_of_head(seen, searched)
        if found >= 0:
            break
    assert found == http1.end_of_head(data, 0)


@given(st.binary(max_size=200))
def test_whatever_is_accepted_is_in_one_spelling(data: bytes) -> None:
    text = b"GET /" + data.replace(b"\n", b"") + b" HTTP/1.1\r\nHost: d\r\n\r\n"
    try:
        found = http1.read_head(text)
    except http1.Refused:
        return
    assert http1.read_head(found.encode()) == found


def test_a_folded_field_costs_no_more_than_its_length() -> None:
    fold = b"X: y\r\n" + b" z\r\n" * 100_000
    found = dict(http1.read_head(b"GET / HTTP/1.1\r\nHost: d\r\n" + fold + b"\r\n").fields)
    assert found[b"X"] == b"y" + b" z" * 100_000
