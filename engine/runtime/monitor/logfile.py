"""The json-file log: Docker's records, 16 KiB partial lines, rotation, and a disk that fails.

A record is `{"log":"…\\n","stream":"stdout","time":"…"}`; a line longer than 16 KiB is several, of
which only the last ends in a newline and all of which carry the time of the first. Lines that came
in one read share a time. Work is done on whole reads: a line costs no Python bytecode of its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from _codecs import charmap_decode, raw_unicode_escape_encode
from _json import encode_basestring

from engine.linux import oserror, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

PARTIAL_BYTES = 16 << 10
_MODE = 0o640
_PACK_BYTES = 256 << 10
_LAST_PACKERS_S = 2.0

# Bytes that stand for themselves in a JSON string as Go's encoder writes it, newline included; in
# what is UTF-8, all that are not ASCII do.
_TEXT = bytes(b for b in range(0x20, 0x80) if b not in b'"\\<>&') + b"\n"
_PLAIN = _TEXT + bytes(range(0x80, 0xFF))
_NAMED = {ord('"'): b'\\"', ord("\\"): b"\\\\", ord("\r"): b"\\r"}
# UTF-8 has no byte 0xff, so it can stand for each byte that is none of UTF-8 (RFC 3629).
_INVALID = 0xFF
_ESCAPES = {b: _NAMED.get(b, b"\\u%04x" % b) for b in range(0x80) if b not in _PLAIN}
_ESCAPES[_INVALID] = b"\\ufffd"
# The backslash first: the others bring some.
_ORDER = sorted(_ESCAPES, key=lambda b: b != ord("\\"))

# Where much is to be escaped, json's C encoder does it in one pass over the bytes as Latin-1. What
# it does otherwise than Go goes through it as a byte that UTF-8 does not have either; invalid bytes
# go as a character that the codec behind it has to write as an escape.
_OTHERWISE = dict(zip(b"\b\t\n\f<>&", b"\xc0\xc1\xf5\xf6\xf7\xf8\xf9", strict=True))
_DENSE = "".join("\ufffd" if b == _INVALID else chr(_OTHERWISE.get(b, b)) for b in range(0x100))
_AFTERWARDS = [(bytes([a]), _ESCAPES.get(b, b"\n")) for b, a in _OTHERWISE.items()]
# Replacing costs a pass for each byte that occurs, and 25 ns each time it does.
_MANY_KINDS = 16
_DENSE_SHARE = 3
_SAMPLE_BYTES = 1 << 10
_PIECE_BYTES = 8 << 10
_CONTINUATIONS = bytes(range(0x80, 0xC0))


def _rows() -> bytes:
    """What a byte is to well-formed sequences (Unicode 16, table 3-7), as bits of a byte.

    Bits 0 to 2, of a first byte: the thirds 80..8f, 90..9f and a0..bf that its second may be of.
    Bits 3 to 5: the third that this byte is of. Bit 6: it is of any. Bit 7: it is not ASCII.
    """
    table = bytearray(0x80) + b"\x80" * 0x80
    for number, third in enumerate((range(0x80, 0x90), range(0x90, 0xA0), range(0xA0, 0xC0))):
        for byte in third:
            table[byte] |= 0x40 | 0x08 << number
    for first in range(0xC2, 0xF5):
        table[first] |= {0xE0: 0b100, 0xED: 0b011, 0xF0: 0b110, 0xF4: 0b001}.get(first, 0b111)
    return bytes(table)


_ROWS = _rows()
# The lowest bit of each byte of a piece.
_ONES = int.from_bytes(b"\1" * _PIECE_BYTES, "little")


def _mark_invalid(data: bytes) -> bytes:
    """`data` with `_INVALID` for each byte that begins no valid sequence, nor continues one.

    Binary output has hundreds of thousands of these a megabyte, and a decoder stops at each. So
    all bytes are looked at together, as one little-endian integer: shifted right by 8, it has in
    the place of each byte the one that follows. What is in them makes no difference to the time.
    `data` has `_PIECE_BYTES` at most.
    """
    size = len(data)
    bits = int.from_bytes(data, "little")
    rows = int.from_bytes(data.translate(_ROWS), "little")
    pairs = rows & rows >> 8 + 3
    two = (pairs | pairs >> 1 | pairs >> 2) & _ONES
    # First bytes from e0 on have bit 5, and from f0 on bit 4 as well.
    longer = two & bits >> 5
    three = longer & rows >> 16 + 6
    longest = three & bits >> 4
    four = longest & rows >> 24 + 6
    # Now without those that end too early: what is there of them is invalid.
    three ^= longest ^ four
    two ^= longer ^ three
    invalid = (rows >> 7 & _ONES) ^ (two | two << 8 | three << 16 | four << 24)
    return (bits | (invalid << 8) - invalid).to_bytes(size, "little")


def escape(data: bytes) -> bytes:
    """The inside of a JSON string, newlines left as they are."""
    if not data[:_SAMPLE_BYTES].translate(None, _TEXT) and not data.translate(None, _TEXT):
        return data
    if data.isascii():
        return _escape_bytes(data)
    if _is_utf8(data):
        return _escape_utf8(data)
    return b"".join(
        [
            _escape_utf8(piece) if _is_utf8(piece) else _escape_utf8(_mark_invalid(piece))
            for piece in _pieces(data)
        ]
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pieces(data: bytes) -> list[bytes]:
    """What is made of a piece stays in the processor's cache, and below what malloc(3) gives back.

    No sequence is cut that is valid: a piece ends before a byte that continues none, or where the
    three bytes before continue one too.
    """
    pieces, at = [], 0
    while len(data) - at > _PIECE_BYTES:
        end = at + _PIECE_BYTES
        begun = len(data[end - 3 : end + 1].rstrip(_CONTINUATIONS))
        end -= 4 - begun if begun else 0
        pieces.append(data[at:end])
        at = end
    return [*pieces, data[at:]]


def _escape_utf8(data: bytes) -> bytes:
    """`data` is UTF-8, apart from `_INVALID` bytes."""
    may_have_separators = b"\xe2\x80" in data  # and then perhaps neither a8 nor a9
    data = _escape_bytes(data)
    if may_have_separators:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def _escape_bytes(data: bytes) -> bytes:
    """All but the line and paragraph separators."""
    sample = data[:_SAMPLE_BYTES]
    # Not all is counted where there is much to count: that takes its time too.
    if len(sample.translate(None, _PLAIN)) * _DENSE_SHARE <= len(sample):
        special = data.translate(None, _PLAIN)
        if not special:
            return data
        if len(special) * _DENSE_SHARE <= len(data):
            present = set(special)
            if len(present) <= _MANY_KINDS:
                for byte in _ORDER:
                    if byte in present:
                        data = data.replace(bytes([byte]), _ESCAPES[byte])
                return data
    return b"".join([_escape_dense(piece) for piece in _pieces(data)])


def _escape_dense(data: bytes) -> bytes:
    """As `_escape_bytes`, in a time that depends little on what the bytes are."""
    text = encode_basestring(charmap_decode(data, "strict", _DENSE)[0])
    data = raw_unicode_escape_encode(text)[0][1:-1]
    for aside, escaped in _AFTERWARDS:
        data = data.replace(aside, escaped)
    return data


def timestamp(at_ns: int) -> bytes:
    """RFC 3339 in UTC with as many digits as it takes."""
    seconds, fraction = divmod(at_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{text}{digits}Z".encode("ascii")


class Encoder:
    """The lines of one stream as records; bytes in, bytes out."""

    __slots__ = ("_attrs", "_carry", "_name", "_partial_tail")

    def __init__(self, name: str, attrs: dict[str, str] | None) -> None:
        self._name = name.encode("ascii")
        self._attrs = b""
        if attrs:
            text = json.dumps(attrs, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
            self._attrs = b'"attrs":' + text.encode() + b","
        self._carry = b""
        self._partial_tail = b""

    def feed(self, data: bytes, at_ns: int) -> bytes:
        """The records that `data` completes."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        tail = self._tail(at_ns)
        if self._partial_tail or _may_have_long_line(data):
            return self._feed_slowly(data, tail)
        end = data.rfind(b"\n") + 1
        self._carry = data[end:]
        return _records(data[:end], tail) if end else b""

    def finish(self, at_ns: int) -> bytes:
        """The stream ended: what is left, without a newline."""
        rest, self._carry = self._carry, b""
        tail = self._partial_tail or self._tail(at_ns)
        self._partial_tail = b""
        return b'{"log":"' + escape(rest) + b'"' + tail if rest else b""

    def _tail(self, at_ns: int) -> bytes:
        fields = (b',"stream":"', self._name, b'",', self._attrs, b'"time":"', timestamp(at_ns))
        return b"".join(fields) + b'"}\n'

    def _feed_slowly(self, data: bytes, tail: bytes) -> bytes:
        """As `feed`, where a line may be long: what is between such lines goes together."""
        out: list[bytes] = []
        start = 0
        while True:
            limit = start + PARTIAL_BYTES
            if self._partial_tail:
                end = data.find(b"\n", start, limit) + 1
                if end:
                    out.append(_records(data[start:end], self._partial_tail))
                    self._partial_tail = b""
            else:
                end = data.rfind(b"\n", start, limit) + 1
                if end:
                    out.append(_records(data[start:end], tail))
            if end:
                start = end
            elif len(data) >= limit:
                self._partial_tail = self._partial_tail or tail
                piece = escape(data[start:limit])
                out.append(b'{"log":"' + piece + b'"' + self._partial_tail)
                start = limit
            else:
                break
        self._carry = data[start:]
        return b"".join(out)


def _may_have_long_line(data: bytes) -> bool:
    """A line of 16 KiB covers a whole aligned half of that without a newline."""
    step = PARTIAL_BYTES // 2
    return any(
        data.find(b"\n", start, start + step) < 0 for start in range(0, len(data) - step, step)
    )


def _records(lines: bytes, tail: bytes) -> bytes:
    """Whole lines as records: one pass over all."""
    between = b'\\n"' + tail + b'{"log":"'
    return b'{"log":"' + escape(lines[:-1]).replace(b"\n", between) + b'\\n"' + tail


class LogFile:
    """Writes records of both streams to one file, rotating it as dockerd does.

    `max_size` bytes, -1 for no limit. A disk that is full or broken costs whole records only: what
    cannot be written is counted, and said in a record of its own once there is room. With
    `compress` a file that was rotated is packed by a process of its own, and the next rotation
    waits for that: what should come behind it is kept meanwhile, and nothing more should be given
    (`is_waiting`) before the pidfd `packer` is readable and `on_packed` was called.
    """

    __slots__ = (
        "_compress",
        "_encoders",
        "_fd",
        "_kept",
        "_max_file",
        "_max_size",
        "_path",
        "_reason",
        "_size",
        "lost_bytes",
        "lost_records",
        "packer",
    )

    def __init__(self, config: dict[str, Any], fd: int | None = None) -> None:
        """`fd` is the file as `open_log` opened it. Raises OSError."""
        self._path: str = config["path"]
        self._max_size = int(config.get("max_size") or -1)
        self._max_file = int(config.get("max_file") or 1)
        self._compress = bool(config.get("compress"))
        self.packer = -1
        self._kept = b""
        self._reason = ""
        attrs = config.get("attrs") or None
        self._encoders = {1: Encoder("stdout", attrs), 2: Encoder("stderr", attrs)}
        self._fd = self._open(os.O_APPEND) if fd is None else fd
        self._size = os.fstat(self._fd).st_size
        self.lost_records = 0
        self.lost_bytes = 0

    def write(self, stream: int, data: bytes) -> None:
        """`stream` is 1 for stdout, 2 for stderr."""
        self._append(self._encoders[stream].feed(data, time.time_ns()))

    def finish(self, stream: int) -> None:
        self._append(self._encoders[stream].finish(time.time_ns()))

    @property
    def is_waiting(self) -> bool:
        """The limit of the file is reached, and the one before it is still being packed."""
        return bool(self._kept)

    def on_packed(self) -> None:
        """The packer has ended: go on with what was kept."""
        self._close_packer()
        records, self._kept = self._kept, b""
        self._append(records)

    def close(self) -> None:
        """A packer goes on; the log is somebody else's to write to once it has ended."""
        for stream in self._encoders:
            self.finish(stream)
        self._write_kept()
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # what a server on the net says of earlier writes
                os.close(self._fd)
            self._fd = -1

    def _write_kept(self) -> None:
        """The last of it, in as many files as it may have, if the packers are not too slow."""
        if not self._kept:
            return
        self._kept = self._newest(self._kept)
        deadline = time.monotonic() + _LAST_PACKERS_S
        while self._kept and process.wait(self.packer, max(0.0, deadline - time.monotonic())):
            self.on_packed()
        if self._kept:
            # The last file grows beyond its limit by what was in the pipes.
            self._write(self._kept)
            self._kept = b""

    def _newest(self, records: bytes) -> bytes:
        """What is left of them when all were written: the rest would be dropped with its file."""
        begins = [0]
        while end := self._end_of_file(records, begins[-1]):
            begins.append(end)
        return records[begins[-self._max_file :][0] :]

    def _end_of_file(self, records: bytes, begin: int) -> int:
        """Where the records end that fill a new file; 0 if they do not."""
        return records.find(b"\n", begin + self._max_size - 1) + 1

    def end_packer(self) -> None:
        """Do without, if it has not ended: the file stays as it is, and is read all the same."""
        if self.packer >= 0:
            process.send_signal(self.packer, signal.SIGKILL)
            self._close_packer()

    def _open(self, flags: int) -> int:
        return _open(self._path, flags)

    def _append(self, records: bytes) -> None:
        if not records:
            return
        if self._kept:
            self._kept += records
            return
        if self.lost_records and not self._tell_loss():
            self._lose(records)
            return
        while records:
            if self._max_size > 0 and self._size >= self._max_size:
                if self.packer >= 0:
                    self._kept = records
                    return
                if not self._rotate():
                    self._lose(records)
                    return
            room = len(records)
            if self._max_size > 0:
                # The record that reaches the limit is the file's last, as with dockerd.
                border = records.find(b"\n", max(0, self._max_size - self._size - 1))
                room = border + 1 if border >= 0 else room
            part, records = records[:room], records[room:]
            if not self._write(part):
                self._lose(records)
                return

    def _write(self, records: bytes) -> bool:
        """False when not all could be written; the file then ends with a whole record, if the disk
        still does that much: who reads finds the next record behind a torn one.
        """
        written = 0
        try:
            while written < len(records):
                written += os.write(self._fd, records[written:] if written else records)
        except OSError as exc:
            kept = records.rfind(b"\n", 0, written) + 1
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size + kept)
            self._size += kept
            self._reason = oserror.reason(exc)
            self._lose(records[kept:])
            return False
        self._size += written
        return True

    def _lose(self, records: bytes) -> None:
        self.lost_records += records.count(b"\n")
        self.lost_bytes += len(records)

    def _tell_loss(self) -> bool:
        """Say what is missing; False while there is still no room."""
        if 0 < self._max_size <= self._size and (self.packer >= 0 or not self._rotate()):
            return False
        text = f"wharf: {self.lost_records} log records were lost here: {self._reason}\n"
        notice = Encoder("stderr", None).feed(text.encode(), time.time_ns())
        lost = self.lost_records, self.lost_bytes
        self.lost_records = self.lost_bytes = 0
        if self._write(notice):
            return True
        self.lost_records, self.lost_bytes = lost
        return False

    def _rotate(self) -> bool:
        """path → path.1 → … → path.(max_file - 1), the oldest dropped; False if that failed."""
        new = f"{self._path}.new"
        fresh = -1
        try:
            # Opened first: if that fails, no old file has been moved, let alone dropped.
            fresh = _open(new, os.O_TRUNC | os.O_APPEND)
            if self._max_file > 1:
                self._renumber()
            # Whoever reads the old file goes on doing so: it is not cut off under them.
            os.rename(new, self._path)
        except OSError as exc:
            if fresh >= 0:
                os.close(fresh)
                _unlink(new)
            self._reason = oserror.reason(exc)
            return False
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd, self._size = fresh, 0
        if self._compress and self._max_file > 1:
            self._start_packer()
        return True

    def _renumber(self) -> None:
        suffixes = ("", ".gz") if self._compress else ("",)
        for suffix in suffixes:
            # Renaming drops only a file that is packed, or not, as its successor is.
            if self._compress:
                _unlink(f"{self._path}.{self._max_file - 1}{suffix}")
            for number in range(self._max_file - 1, 1, -1):
                _rename(f"{self._path}.{number - 1}{suffix}", f"{self._path}.{number}{suffix}")
        _rename(self._path, f"{self._path}.1")

    def _start_packer(self) -> None:
        try:
            pid = os.fork()
        except OSError:
            return  # it stays as it is, and is read all the same
        if pid == 0:
            _pack(f"{self._path}.1")
        # It is not reaped before the loop runs again, so the pid is still its own.
        try:
            self.packer = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # nobody could wait for it

    def _close_packer(self) -> None:
        os.close(self.packer)
        self.packer = -1


def open_log(config: dict[str, Any]) -> int:
    """The file that a LogFile of this configuration appends to; -1 if there is none."""
    driver = config.get("driver") or "json-file"
    if driver == "none":
        return -1
    if driver != "json-file":
        raise OSError(errno.EOPNOTSUPP, f"log driver {driver} is not supported")
    return _open(config["path"], os.O_APPEND)


def _open(path: str, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, _MODE)


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        return  # not that many yet


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _pack(path: str) -> NoReturn:
    """Put `path`.gz in the place of a file; a fresh child of the monitor, which ends with it.

    While both are there, whoever reads takes the one that is not packed.
    """
    code = 1
    try:
        process.keep_only([])
        # Here, so that no monitor carries it.
        import zlib

        packer = zlib.compressobj(wbits=31)  # with gzip's header and check
        with open(path, "rb") as source, open(path + ".gz.tmp", "wb") as target:
            os.fchmod(target.fileno(), _MODE)
            while data := source.read(_PACK_BYTES):
                target.write(packer.compress(data))
            target.write(packer.flush())
        os.rename(path + ".gz.tmp", path + ".gz")
        os.unlink(path)
        code = 0
    finally:
        os._exit(code)
