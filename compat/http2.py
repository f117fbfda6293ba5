"""Just enough HTTP/2 and gRPC to refuse every call with one sentence.

buildx asks the daemon for a connection to its BuildKit (`POST /grpc`, upgraded to h2c). Where that
is not to be had it boots a builder of its own, without a word, from an image that it pulls; so a
daemon that does not build had better take the connection and say so.

Nothing of what the client says has to be understood but where a call begins, so its headers are
not even decoded. RFC 9113 (frames), RFC 7541 (headers), gRPC over HTTP2 (the "trailers-only"
answer).
"""

from __future__ import annotations

import enum
import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FAILED_PRECONDITION = 9  # a status of gRPC that no client tries again

_HEAD = struct.Struct(">BHBBL")  # length in 24 bits, type, flags, stream
_MAX_FRAME_BYTES = 16384  # as nothing else was agreed upon
_END_STREAM = 0x1
_ACK = 0x1
_END_HEADERS = 0x4
_STATUS_200 = b"\x88"  # of the static table


class _Type(enum.IntEnum):
    HEADERS = 1
    SETTINGS = 4
    PING = 6
    CONTINUATION = 9


class NotHttp2(Exception):
    """The client speaks something else; there is nothing to answer."""


class Refusal:
    """One connection on which every call gets `sentence`."""

    def __init__(self, sentence: str) -> None:
        self._answer = _STATUS_200 + b"".join(
            _literal(name, value)
            for name, value in (
                ("content-type", "application/grpc"),
                ("grpc-status", str(FAILED_PRECONDITION)),
                ("grpc-message", quote(sentence, safe=" /:,'()")),
            )
        )
        self._data = bytearray()
        self._is_greeted = False

    def feed(self, data: bytes) -> bytes:
        """What to answer to that. Raises NotHttp2."""
        self._data += data
        answers = bytearray()
        if not self._is_greeted:
            begin = bytes(self._data[: len(PREFACE)])
            if not PREFACE.startswith(begin):
                raise NotHttp2
            if len(begin) < len(PREFACE):
                return b""
            self._is_greeted = True
            del self._data[: len(PREFACE)]
            answers += _frame(_Type.SETTINGS, 0, 0)
        while len(self._data) >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(self._data)
            length = high << 16 | low
            if length > _MAX_FRAME_BYTES:
                raise NotHttp2
            if len(self._data) < _HEAD.size + length:
                break
            payload = bytes(self._data[_HEAD.size : _HEAD.size + length])
            del self._data[: _HEAD.size + length]
            answers += self._answer_to(kind, flags, stream & 0x7FFFFFFF, payload)
        return bytes(answers)

    def _answer_to(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _Type.SETTINGS and not flags & _ACK:
            return _frame(_Type.SETTINGS, _ACK, 0)
        if kind == _Type.PING and not flags & _ACK:
            return _frame(_Type.PING, _ACK, 0, payload)
        if kind in (_Type.HEADERS, _Type.CONTINUATION) and flags & _END_HEADERS:
            return _frame(_Type.HEADERS, _END_HEADERS | _END_STREAM, stream, self._answer)
        return b""


def _frame(kind: _Type, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header that no table is to remember (RFC 7541 §6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    """Its length as an integer with a prefix of 7 bits (§5.1), then the text as it is."""
    data = text.encode()
    if len(data) < 0x7F:
        return bytes((len(data),)) + data
    left = len(data) - 0x7F
    length = bytearray((0x7F,))
    while left >= 0x80:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + data
