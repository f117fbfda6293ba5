"""Calls are refused wherever a packet ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat import http2


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def refused(stream: int, sentence: bytes = b"no builds%22 here") -> bytes:
    fields = b"\x88\0\x0ccontent-type\x10application/grpc\0\x0bgrpc-status\x019\0\x0cgrpc-message"
    return frame(1, 5, stream, fields + bytes((len(sentence),)) + sentence)


TALK = (
    http2.PREFACE
    + frame(4, 0, 0, b"\0\3\0\0\0\1")
    + frame(8, 0, 0, b"\0\0\0\1")
    + frame(1, 4, 1, b"whatever")
    + frame(0, 1, 1, b"data")
    + frame(6, 0, 0, b"12345678")
    + frame(1, 0, 3, b"in two")
    + frame(9, 4, 3, b" frames")
    + frame(4, 1, 0)
)
ANSWERS = frame(4, 0, 0) + frame(4, 1, 0) + refused(1) + frame(6, 1, 0, b"12345678") + refused(3)


@given(st.integers(1, len(TALK)))
def test_every_call_gets_the_sentence(size: int) -> None:
    refusal = http2.Refusal('no builds" here')
    heard = b"".join(refusal.feed(TALK[at : at + size]) for at in range(0, len(TALK), size))
    assert heard == ANSWERS


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1", http2.PREFACE + frame(0, 0, 1, b"x" * 20000)],
)
def test_anything_else_ends_the_connection(data: bytes) -> None:
    with pytest.raises(http2.NotHttp2):
        http2.Refusal("no").feed(data)


def test_a_long_sentence_has_its_length_in_several_bytes() -> None:
    answer = http2.Refusal("a" * 400).feed(http2.PREFACE + frame(1, 4, 1))
    assert answer.endswith(b"grpc-message\x7f\x91\x02" + b"a" * 400)
