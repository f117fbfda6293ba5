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

from engine.linux import oserror, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

PARTIAL_BYTES = 16 << 10
_MODE = 0o640
_PACK_BYTES = 256 << 10
_LAST_PACKERS_S = 2.0

# Bytes that stand for themselves in a JSON string as Go's encoder writes it, newline apart.
_PLAIN = bytes(b for b in range(0x20, 0x7F) if b not in b'"\\<>&') + b"\x7f\n"
_NAMED = {ord('"'): b'\\"', ord("\\"): b"\\\\", ord("\r"): b"\\r"}
_ESCAPES = {b: _NAMED.get(b, b"\\u%04x" % b) for b in range(0x80) if bytes([b]) not in _PLAIN}
# The backslash first: the others bring some.
_ORDER = sorted(_ESCAPES, key=lambda b: b != ord("\\"))


# Question marks change places with a byte that is escaped already, so that one in the encoder's
# output means a byte that began no valid sequence.
_ASIDE = bytes.maketrans(b"?", b"\x01")
_BACK = bytes.maketrans(b"\x01", b"?")


def _replace_invalid(data: bytes) -> bytes:
    """`\\ufffd` for each byte that begins no valid sequence, as Go writes it.

    Codecs that are all C: an error handler in Python takes a microsecond for each such byte, and
    binary output has hundreds of thousands a megabyte.
    """
    text = data.translate(_ASIDE).decode("utf-8", "surrogateescape")
    marked = text.encode("utf-8", "replace")
    return marked.replace(b"?", b"\\ufffd").translate(_BACK)


def escape(data: bytes) -> bytes:
    """The inside of a JSON string, newlines left as they are."""
    special = data.translate(None, _PLAIN)
    if not special:
        return data
    present = set(special)
    for byte in _ORDER:
        if byte in present:
            data = data.replace(bytes([byte]), _ESCAPES[byte])
    if max(present) < 0x80:
        return data
    data = _replace_invalid(data)
    return data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


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
        """As `feed`, a line at a time: one of them may be long."""
        out: list[bytes] = []
        start = 0
        while True:
            end = data.find(b"\n", start, start + PARTIAL_BYTES)
            if end >= 0:
                line = escape(data[start:end])
                out.append(b'{"log":"' + line + b'\\n"' + (self._partial_tail or tail))
                self._partial_tail = b""
                start = end + 1
            elif len(data) - start >= PARTIAL_BYTES:
                self._partial_tail = self._partial_tail or tail
                piece = escape(data[start : start + PARTIAL_BYTES])
                out.append(b'{"log":"' + piece + b'"' + self._partial_tail)
                start += PARTIAL_BYTES
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
