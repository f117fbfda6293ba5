"""The head of an HTTP/1 request, read as Go's server reads it.

What dockerd takes, what it refuses and in which words is decided in Go's net/http (readRequest,
readTransfer): lines may end in LF alone, a header may be folded, any token is a method. aiohttp's
parser is stricter here and laxer there, and quotes what it could not read. So it is given each head
anew, in the one spelling that it takes without a word (`Head.encode`).

Nothing here does I/O or knows where the bytes are from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 1024 * 1024  # Go's limit for line and headers together
MAX_FIELDS = 1024

# Any method is well-formed, most have no route: the parser gets one that it knows for all these.
_UNROUTED = b"TRACE"
_ROUTED = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROTOCOL = re.compile(rb"HTTP/([0-9])\.([0-9])")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_TO_ESCAPE = re.compile(rb"[#\x80-\xff]")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"[!$%&'()*+,.:;=@\[\]_~0-9A-Za-z-]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_END = re.compile(rb"\n\r?\n")

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

    def encode(self) -> bytes:
        """The head as aiohttp's parser wants it."""
        lines = [b"%b %b HTTP/1.%d" % (self.method, self.target, self.minor)]
        lines += [b"%b: %b" % field for field in self.fields]
        return b"\r\n".join((*lines, b"", b""))

    def has(self, name: bytes) -> bool:
        return any(known.lower() == name for known, _ in self.fields)


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
    _check_host(fields, is_needed=minor > 0 and method != b"CONNECT")
    if any(value.lower() != b"100-continue" for value in _values(fields, b"expect")):
        raise UnknownExpectation
    length, is_chunked = _framing(fields, minor)
    framing = {b"content-length", b"transfer-encoding"}
    kept = [(name, value) for name, value in fields if name.lower() not in framing]
    if is_chunked:
        kept.append((b"Transfer-Encoding", b"chunked"))
    elif length is not None:
        kept.append((b"Content-Length", b"%d" % length))
    return Head(
        method=method if method in _ROUTED else _UNROUTED,
        target=target,
        minor=minor,
        fields=tuple(kept),
        length=length or 0,
        is_chunked=is_chunked,
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
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


def _values(fields: list[Field], name: bytes) -> list[bytes]:
    return [value for known, value in fields if known.lower() == name]


def _check_host(fields: list[Field], *, is_needed: bool) -> None:
    hosts = _values(fields, b"host")
    if len(hosts) > 1:
        raise Malformed
    if is_needed and not hosts:
        raise Malformed("missing required Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Malformed("malformed Host header")


def _framing(fields: list[Field], minor: int) -> tuple[int | None, bool]:
    """(length of the body, whether it is chunked); chunks outdo a length (RFC 9112 §6.3)."""
    encodings = _values(fields, b"transfer-encoding")
    if encodings and minor > 0:
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise UnsupportedEncoding
        return None, True
    lengths = set(_values(fields, b"content-length"))
    if not lengths:
        return None, False
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise Malformed
    return int(length), False
