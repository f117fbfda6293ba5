"""An HTTP/1 request, head and body, read as Go's server reads it.

What dockerd takes, what it refuses and in which words is decided in Go's net/http (readRequest,
readTransfer, internal/chunked): lines may end in LF alone, a header may be folded, any token is a
method. aiohttp's parser is stricter here and laxer there, and quotes what it could not read, so it
gets nothing to read.

Nothing here does I/O or knows where the bytes are from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

MAX_HEAD_BYTES = 1024 * 1024  # Go's limit for line and headers together
MAX_FIELDS = 1024

# What most lines are; all others are looked at piece by piece.
_PLAIN_LINE = re.compile(rb"([A-Z]+) (/[!$&-;=?-Z\[\]_a-z~]*) HTTP/1\.([01])")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROTOCOL = re.compile(rb"HTTP/([0-9])\.([0-9])")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_TO_ESCAPE = re.compile(rb"[#\x80-\xff]")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"[!$%&'()*+,.:;=@\[\]_~0-9A-Za-z-]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_END = re.compile(rb"\n\r?\n")
_LINE_ENDS = re.compile(rb"[\r\n]*")

MAX_CHUNK_LINE_BYTES = 4096
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]*")
_MAX_CHUNK_DIGITS = 16
UNEXPECTED_EOF = "unexpected EOF"
_LONG_TRAILER = "http: suspiciously long trailer after chunked body"

_PLAIN = b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"


class Refused(Exception):
    """What the client sent is no request; `answer` is all that it gets, as Go's server words it."""

    def __init__(self, status: HTTPStatus, why: str = "") -> None:
        said = f"{status.value} {status.phrase}" + (f": {why}" if why else "")
        super().__init__(said)
        self.answer = b"HTTP/1.1 %b\r\n%b%b" % (said.encode(), _PLAIN, said.encode())


class UnsupportedEncoding(Refused):
    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_IMPLEMENTED)
        self.answer = b"HTTP/1.1 501 Not Implemented\r\n%bUnsupported transfer encoding" % _PLAIN


class UnknownExpectation(Refused):
    def __init__(self) -> None:
        super().__init__(HTTPStatus.EXPECTATION_FAILED)
        self.answer = (
            b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )


class TooLarge(Refused):
    def __init__(self) -> None:
        super().__init__(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


class Malformed(Refused):
    """`why` is said to the client; most of what is wrong has no words."""

    def __init__(self, why: str = "") -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, why)


Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A request's line and headers. `length` is that of its body unless `is_chunked`."""

    method: bytes
    target: bytes
    minor: int  # of HTTP/1
    fields: tuple[Field, ...]
    length: int = 0
    is_chunked: bool = False
    is_upgrade: bool = False
    is_last: bool = False  # the client wants no other answer on this connection
    expects_continue: bool = False

    def body(self) -> Body:
        return ChunkedBody() if self.is_chunked else LengthBody(self.length)


def line_ends(data: bytes, limit: int) -> int:
    """How many CR and LF, `limit` at most, `data` begins with."""
    found = _LINE_ENDS.match(data)
    return min(found.end(), limit) if found else 0


def end_of_head(data: bytes | bytearray, searched: int) -> int:
    """Where the head that `data` begins with ends; -1 if it goes on.

    `searched` bytes of it are known to hold no end.
    """
    found = _END.search(data, max(searched - 2, 0))
    return found.end() if found else -1


def read_head(data: bytes) -> Head:
    """The head that `data` is. Raises Refused."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    method, target, minor = _request_line(lines[0])
    fields = _fields(lines[1:])
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name.lower(), []).append(value)
    _check_host(values.get(b"host", []), is_needed=minor > 0 and method != b"CONNECT")
    expected = values.get(b"expect", [])
    if any(value.lower() != b"100-continue" for value in expected):
        raise UnknownExpectation
    length, is_chunked = _framing(values, minor)
    if is_chunked or length is not None:
        framing = (b"Content-Length", b"%d" % (length or 0))
        fields = [f for f in fields if f[0].lower() not in _FRAMING]
        fields.append((b"Transfer-Encoding", b"chunked") if is_chunked else framing)
    options = b",".join(values.get(b"connection", ())).lower()
    return Head(
        method=method,
        target=target,
        minor=minor,
        fields=tuple(fields),
        length=length or 0,
        is_chunked=is_chunked,
        is_upgrade=b"upgrade" in values,
        is_last=b"close" in options if minor > 0 else b"keep-alive" not in options,
        expects_continue=minor > 0 and bool(expected) and (is_chunked or bool(length)),
    )


def check_request_line(line: bytes) -> None:
    """Raises Malformed for a first line that is none, whatever may follow it."""
    try:
        _request_line(line.removesuffix(b"\r"))
    except Malformed:
        raise
    except Refused:
        return  # Go says so of the whole head only


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    if plain := _PLAIN_LINE.fullmatch(line):
        return plain[1], plain[2] if plain[1] != b"CONNECT" else b"/", int(plain[3])
    method, _, rest = line.partition(b" ")
    target, _, protocol = rest.partition(b" ")
    version = _PROTOCOL.fullmatch(protocol)
    if version is None or not _TOKEN.fullmatch(method):
        raise Malformed
    # An absolute address names the host a second time; the header's is the one that is looked at.
    target = _target(target) if method != b"CONNECT" else b"/"
    if version[1] != b"1":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "unsupported protocol version")
    return method, target, min(int(version[2]), 1)


def _target(text: bytes) -> bytes:
    """Path and query of what was asked for, with all bytes escaped that a URL cannot hold."""
    if text == b"*":
        return b"/*"
    if absolute := _ABSOLUTE.match(text):
        text = text[absolute.end() :]
        text = text if text.startswith(b"/") else b"/" + text
    path = text.partition(b"?")[0]
    if not text.startswith(b"/") or _CONTROL.search(text) or _BAD_ESCAPE.search(path):
        raise Malformed
    return _TO_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], text)


def _fields(lines: list[bytes]) -> list[Field]:
    parts: list[tuple[bytes, list[bytes]]] = []
    for line in lines:
        if not line:
            continue  # the end
        if line[0] in b" \t":  # goes on with the field before
            if not parts or _BAD_VALUE.search(line):
                raise Malformed
            parts[-1][1].append(line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name or _BAD_VALUE.search(value):
            raise Malformed
        parts.append((name, [value.strip(b" \t")]))
        if len(parts) > MAX_FIELDS:
            raise TooLarge
    fields: list[Field] = [(name, b" ".join(values).strip(b" \t")) for name, values in parts]
    for name, _ in fields:
        if not _TOKEN.fullmatch(name):
            raise Malformed("invalid header name")
    return fields


def _check_host(hosts: list[bytes], *, is_needed: bool) -> None:
    if len(hosts) > 1:
        raise Malformed
    if is_needed and not hosts:
        raise Malformed("missing required Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Malformed("malformed Host header")


def _framing(values: dict[bytes, list[bytes]], minor: int) -> tuple[int | None, bool]:
    """(length of the body, whether it is chunked); chunks outdo a length (RFC 9112 §6.3)."""
    encodings = values.get(b"transfer-encoding")
    if encodings and minor > 0:
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise UnsupportedEncoding
        return None, True
    lengths = set(values.get(b"content-length", ()))
    if not lengths:
        return None, False
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise Malformed
    return int(length), False


# Bodies


class Body(Protocol):
    """Where a body ends, and what is in it.

    Once there is a `fault`, in Go's words, nothing more belongs to the body, nor to any request.
    """

    is_complete: bool
    fault: str

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(content, what lies behind the body)."""
        ...

    def end(self) -> None:
        """The client says no more; if that is too early, it is the body's fault."""
        ...


class LengthBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_complete = length == 0
        self.fault = ""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        content = data if len(data) <= self._left else data[: self._left]
        self._left -= len(content)
        self.is_complete = self._left == 0
        return content, data[len(content) :]

    def end(self) -> None:
        if not self.is_complete:
            self.fault = UNEXPECTED_EOF


class ChunkedBody:
    """A body in chunks (RFC 9112 §7.1), with a trailer that nobody reads."""

    def __init__(self) -> None:
        self._left = 0  # of the current chunk
        self._is_in_chunk = False
        self._is_trailer = False
        self._kept = b""  # of what has to be seen as a whole
        self.is_complete = False
        self.fault = ""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data = self._kept + data
        self._kept = b""
        contents: list[bytes] = []
        at = 0
        while not (self.is_complete or self.fault or self._kept) and at < len(data):
            if self._left:
                contents.append(data[at : at + self._left])
                self._left -= len(contents[-1])
                at += len(contents[-1])
            elif self._is_trailer:
                at = self._read_trailer(data, at)
            elif self._is_in_chunk:
                at = self._end_chunk(data, at)
            else:
                at = self._begin_chunk(data, at)
        return b"".join(contents), data[at:] if self.is_complete else b""

    def end(self) -> None:
        if self.is_complete or self.fault:
            return
        if not self._is_trailer:
            self.fault = UNEXPECTED_EOF
        elif len(self._kept) < 2:
            self.fault = "http: unexpected EOF reading trailer"
        else:
            self.fault = _LONG_TRAILER

    def _keep(self, data: bytes, at: int) -> int:
        self._kept = data[at:]
        return len(data)

    def _begin_chunk(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at, at + MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(data) - at >= MAX_CHUNK_LINE_BYTES:
                self.fault = "header line too long"
            return self._keep(data, at)
        line = data[at : end + 1]
        digits = line.rstrip(b" \t\r\n").partition(b";")[0]
        size = _CHUNK_SIZE.match(digits)
        valid = size.end() if size else 0
        if b"\r" not in line:
            self.fault = "chunked line ends with bare LF"
        elif line.index(b"\r") != len(line) - 2:
            self.fault = "chunked line contains stray CR"
        elif not digits:
            self.fault = "empty hex number for chunk length"
        elif valid < len(digits) and valid <= _MAX_CHUNK_DIGITS:
            self.fault = "invalid byte in chunk length"
        elif len(digits) > _MAX_CHUNK_DIGITS:
            self.fault = "http chunk length too large"
        else:
            self._left = int(digits, 16)
            self._is_in_chunk = self._left > 0
            self._is_trailer = self._left == 0
        return end + 1

    def _end_chunk(self, data: bytes, at: int) -> int:
        end = data[at : at + 2]
        if len(end) < 2:
            return self._keep(data, at)
        self._is_in_chunk = False
        if end != b"\r\n":
            self.fault = "malformed chunked encoding"
        return at + 2

    def _read_trailer(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.is_complete = True
            return at + 2
        end = data.find(b"\r\n\r\n", at, at + MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(data) - at >= MAX_CHUNK_LINE_BYTES:
                self.fault = _LONG_TRAILER
            return self._keep(data, at)
        for line in data[at:end].split(b"\r\n"):
            if b":" not in line:
                said = line.decode("latin-1").encode("unicode_escape").decode()
                self.fault = f'malformed MIME header: missing colon: "{said}"'
                return at
        self.is_complete = True
        return end + 4
