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
    found = head(text)
    assert (found.method, found.target, found.minor) == (b"GET", b"/_ping", 1)
    assert [(name.lower(), value) for name, value in found.fields] == [(b"host", b"d")]


@pytest.mark.parametrize(
    ("line", "target", "minor"),
    [
        (b"OPTIONS * HTTP/1.1", b"/*", 1),
        (b"FOO /_ping HTTP/1.1", b"/_ping", 1),
        (b"CONNECT a:80 HTTP/1.1", b"/", 1),
        (b"GET /a\xff#b?c=%zz HTTP/1.2", b"/a%FF%23b?c=%zz", 1),
        (b"GET http://d?a=b HTTP/1.0", b"/?a=b", 0),
    ],
)
def test_a_target_is_a_path_and_a_query_in_plain_characters(
    line: bytes, target: bytes, minor: int
) -> None:
    found = head(request(line))
    assert (found.method, found.target, found.minor) == (line.split()[0], target, minor)


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
    assert found.fields == ((b"Host", b"d"), (b"Transfer-Encoding", b"chunked"))


def test_a_length_may_be_said_twice() -> None:
    found = head(request(b"PUT / HTTP/1.1", b"Host: d", *[b"Content-Length: 03"] * 2))
    assert (found.length, found.fields[1:]) == (3, ((b"Content-Length", b"3"),))


def test_only_one_thing_may_be_expected() -> None:
    expecting = (b"Host: d", b"Expect: 100-Continue")
    assert head(request(b"PUT / HTTP/1.1", *expecting, b"Content-Length: 1")).expects_continue
    assert not head(request(b"PUT / HTTP/1.1", *expecting)).expects_continue
    assert not head(request(b"PUT / HTTP/1.0", *expecting, b"Content-Length: 1")).expects_continue
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
def test_whatever_is_accepted_is_in_plain_characters(data: bytes) -> None:
    text = b"GET /" + data.replace(b"\n", b"") + b" HTTP/1.1\r\nHost: d\r\n\r\n"
    try:
        found = http1.read_head(text)
    except http1.Refused:
        return
    assert found.target.startswith(b"/")
    assert found.target.isascii()
    assert b" " not in found.target


@pytest.mark.parametrize(
    ("line", "fields", "is_last"),
    [
        (b"GET / HTTP/1.1", (), False),
        (b"GET / HTTP/1.1", (b"Connection: Upgrade, Close",), True),
        (b"GET / HTTP/1.0", (), True),
        (b"GET / HTTP/1.0", (b"Connection: Keep-Alive",), False),
    ],
)
def test_a_head_says_whether_another_may_follow(
    line: bytes, fields: tuple[bytes, ...], is_last: bool
) -> None:
    assert head(request(line, b"Host: d", *fields)).is_last is is_last


def test_line_ends_are_counted_up_to_a_limit() -> None:
    assert [http1.line_ends(b"\r\n\n\rGET", limit) for limit in (0, 1, 4, 9)] == [0, 1, 4, 4]


# Bodies


def transfer(body: http1.Body, data: bytes, size: int) -> tuple[bytes, bytes]:
    """Content of the body and what is behind it, the bytes coming in pieces of that size."""
    content = behind = b""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        if body.is_complete:
            behind += piece
        elif not body.fault:
            some, rest = body.feed(piece)
            content += some
            behind += rest
    return content, behind


SIZES = (1, 2, 3, 7, 10_000)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_of_known_length_ends_there(size: int) -> None:
    body = http1.LengthBody(4)
    assert transfer(body, b"abcdefg", size) == (b"abcd", b"efg")
    assert (body.is_complete, body.fault) == (True, "")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trailer", [b"", b"A: b\r\nC: d\r\n"])
def test_chunks_are_put_together(size: int, trailer: bytes) -> None:
    body = http1.ChunkedBody()
    sent = b"2;x=y\r\nab\r\n00c \t\r\n0123456789\r\n\r\n0\r\n" + trailer + b"\r\n"
    assert transfer(body, sent + b"GET", size) == (b"ab0123456789\r\n", b"GET")
    assert (body.is_complete, body.fault) == (True, "")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("sent", "content", "fault"),
    [
        (b"zz\r\n", b"", "invalid byte in chunk length"),
        (b"-1\r\n", b"", "invalid byte in chunk length"),
        (b" 2\r\nab\r\n", b"", "invalid byte in chunk length"),
        (b"0x2\r\nab\r\n", b"", "invalid byte in chunk length"),
        (b"2 ;x\r\nab\r\n", b"", "invalid byte in chunk length"),
        (b"2\r\nab\r\nzz\r\n", b"ab", "invalid byte in chunk length"),
        (b"\r\n", b"", "empty hex number for chunk length"),
        (b"1" * 17 + b"\r\n", b"", "http chunk length too large"),
        (b"1" * 5000, b"", "header line too long"),
        (b"2\nab\n", b"", "chunked line ends with bare LF"),
        (b"2\r;\r\nab", b"", "chunked line contains stray CR"),
        (b"2\r\nabcd0\r\n\r\n", b"ab", "malformed chunked encoding"),
        (b"0\r\nno\tcolon\r\n\r\n", b"", 'malformed MIME header: missing colon: "no\\tcolon"'),
        (
            b"0\r\n" + b"A: b\r\n" * 1000,
            b"",
            "http: suspiciously long trailer after chunked body",
        ),
    ],
)
def test_what_is_no_chunk_is_a_fault_behind_what_was_one(
    size: int, sent: bytes, content: bytes, fault: str
) -> None:
    body = http1.ChunkedBody()
    assert transfer(body, sent, size) == (content, b"")
    assert (body.is_complete, body.fault) == (False, fault)


@pytest.mark.parametrize(
    ("body", "sent", "fault"),
    [
        (http1.LengthBody(3), b"ab", "unexpected EOF"),
        (http1.LengthBody(2), b"ab", ""),
        (http1.ChunkedBody(), b"", "unexpected EOF"),
        (http1.ChunkedBody(), b"2\r\nab", "unexpected EOF"),
        (http1.ChunkedBody(), b"0\r\n\r", "http: unexpected EOF reading trailer"),
        (
            http1.ChunkedBody(),
            b"0\r\nA: b\r\n",
            "http: suspiciously long trailer after chunked body",
        ),
        (http1.ChunkedBody(), b"0\r\n\r\n", ""),
        (http1.ChunkedBody(), b"zz\r\n", "invalid byte in chunk length"),
    ],
)
def test_a_body_that_ends_too_early_is_faulty(body: http1.Body, sent: bytes, fault: str) -> None:
    body.feed(sent)
    body.end()
    assert body.fault == fault


def test_a_folded_field_costs_no_more_than_its_length() -> None:
    fold = b"X: y\r\n" + b" z\r\n" * 100_000
    found = dict(http1.read_head(b"GET / HTTP/1.1\r\nHost: d\r\n" + fold + b"\r\n").fields)
    assert found[b"X"] == b"y" + b" z" * 100_000
