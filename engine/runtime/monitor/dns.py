"""DNS messages as far as a resolver in front of others needs them (RFC 1035, 3596, 6891). Pure.

Of a query only the one question is read, and how large an answer may be: it is what a local answer
is made of, and what the answer of a server must repeat. Everything else is passed on as bytes.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

A = 1
PTR = 12
MX = 15
AAAA = 28
_OPT = 41
IN = 1

NOERROR = 0
FORMERR = 1
SERVFAIL = 2
NXDOMAIN = 3
NOTIMP = 4
REFUSED = 5

SMALLEST_LIMIT = 512
LARGEST = 65535
TTL_S = 600

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_RESPONSE = 0x8000
_OPCODE = 0x7800
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_POINTER = 0xC0
_LONGEST_NAME = 255


class Malformed(Exception):
    """Not a query with one question."""


class Query:
    """`name` is in lower case, without the last dot; `question` are the bytes that ask.

    A dot or a backslash within a label is escaped, so that nothing else is called so.
    """

    __slots__ = ("data", "id", "kind", "limit", "name", "question")

    def __init__(self, data: bytes) -> None:
        """Raises Malformed."""
        if not 12 <= len(data) <= LARGEST:
            raise Malformed
        self.id, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
        if flags & (_RESPONSE | _OPCODE) or questions != 1:
            raise Malformed
        labels, end = _labels(data, 12)
        if end + 4 > len(data):
            raise Malformed
        self.kind, kind_of_names = struct.unpack_from("!HH", data, end)
        if kind_of_names != IN:
            self.kind = 0  # nothing that is known here
        self.name = ".".join(labels)
        self.question = data[12 : end + 4]
        self.data = data
        self.limit = _limit(data, end + 4, answers + authorities, additional)


def _labels(data: bytes, at: int) -> tuple[list[str], int]:
    """Those of the question, which is the first name and so can point to no other."""
    labels: list[str] = []
    begin = at
    while True:
        if at >= len(data) or at - begin > _LONGEST_NAME:
            raise Malformed
        length = data[at]
        at += 1
        if length == 0:
            return labels, at
        if length >= 64 or at + length > len(data):
            raise Malformed
        text = data[at : at + length].lower().decode("utf-8", "surrogateescape")
        labels.append(text.replace("\\", "\\\\").replace(".", "\\."))
        at += length


def _limit(data: bytes, at: int, before: int, additional: int) -> int:
    """How many bytes an answer by UDP may have: what an OPT record says, else 512."""
    for number in range(before + additional):
        at = _skip_name(data, at)
        if at + 10 > len(data):
            raise Malformed
        kind, size, _, length = _RECORD.unpack_from(data, at)
        at += 10 + length
        if kind == _OPT and number >= before:
            return max(SMALLEST_LIMIT, int(size))
    return SMALLEST_LIMIT


def _skip_name(data: bytes, at: int) -> int:
    while at < len(data):
        length = data[at]
        if length >= _POINTER:
            return at + 2
        at += 1 + length
        if length == 0:
            return at
    raise Malformed


def failed_to_parse(data: bytes) -> bytes:
    """What answers bytes that are no query; b"" for those that are an answer or nothing at all."""
    if len(data) < 12 or data[2] & 0x80:
        return b""
    opcode = int.from_bytes(data[2:4]) & _OPCODE
    code = NOTIMP if opcode else FORMERR
    return _HEADER.pack(int.from_bytes(data[:2]), _RESPONSE | opcode | code, 0, 0, 0, 0)


def failure(query: Query, code: int) -> bytes:
    """No answer, and why."""
    flags = _RESPONSE | _desired(query) | code
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question


def addresses(query: Query, found: Sequence[str]) -> bytes:
    """The addresses of the query's kind; none is an answer too."""
    family = socket.AF_INET if query.kind == A else socket.AF_INET6
    return _answer(query, [socket.inet_pton(family, address) for address in found])


def names(query: Query, found: Sequence[str]) -> bytes:
    """The names that an address has."""
    return _answer(query, [_encoded(name) for name in found])


def _answer(query: Query, records: Sequence[bytes]) -> bytes:
    flags = _RESPONSE | _desired(query) | _RECURSION_AVAILABLE
    # The name of each is the question's, right behind the header.
    body = b"".join(
        b"\xc0\x0c" + _RECORD.pack(query.kind, IN, TTL_S, len(record)) + record
        for record in records
    )
    return _HEADER.pack(query.id, flags, 1, len(records), 0, 0) + query.question + body


def _desired(query: Query) -> int:
    return int.from_bytes(query.data[2:4]) & _RECURSION_DESIRED


def _encoded(name: str) -> bytes:
    """The name as labels; what is too long for one is cut."""
    labels = (label.encode("utf-8", "surrogateescape")[:63] for label in name.split("."))
    return b"".join(bytes((len(label),)) + label for label in labels if label) + b"\0"


def fitted(answer: bytes, query: Query) -> bytes:
    """The answer, or so much of it as says that it is too large for UDP."""
    if len(answer) <= query.limit:
        return answer
    flags = int.from_bytes(answer[2:4]) | _TRUNCATED
    return _HEADER.pack(query.id, flags, 1, 0, 0, 0) + query.question


def renumbered(message: bytes, number: int) -> bytes:
    """The message under another id."""
    return number.to_bytes(2) + message[2:]


def is_answer(message: bytes, query: Query, number: int) -> bool:
    """Whether a server's message answers this question, asked under this id."""
    return (
        len(message) >= 12 + len(query.question)
        and int.from_bytes(message[:2]) == number
        and bool(message[2] & 0x80)
        and message[4:6] == b"\0\1"
        and message[12 : 12 + len(query.question)].lower() == query.question.lower()
    )


def code_of(message: bytes) -> int:
    return message[3] & 0x0F


def address_of(name: str) -> str | None:
    """The address that a name of in-addr.arpa or ip6.arpa stands for."""
    labels = name.split(".")
    match labels[-2:]:
        case ["in-addr", "arpa"] if len(labels) == 6:
            packed = labels[3::-1]
            text = ".".join(packed)
            family = socket.AF_INET
        case ["ip6", "arpa"] if len(labels) == 34 and all(len(one) == 1 for one in labels[:32]):
            digits = "".join(labels[31::-1])
            text = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
            family = socket.AF_INET6
        case _:
            return None
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):  # ValueError: not even text, or with a NUL in it
        return None
