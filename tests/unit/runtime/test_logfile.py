"""The json-file log, against a plain statement of what Docker writes."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.linux import process
from engine.runtime.monitor import logfile
from engine.runtime.monitor.logfile import PARTIAL_BYTES, Encoder, LogFile, escape, timestamp

if TYPE_CHECKING:
    from pathlib import Path

AT = 1_700_000_000_123_000_000


def go_escape(data: bytes) -> bytes:
    """A byte at a time, as moby's jsonlog writes strings."""
    out, at = bytearray(), 0
    while at < len(data):
        byte = data[at]
        if byte < 0x80:
            at += 1
            named = {0x22: b'\\"', 0x5C: b"\\\\", 0x0D: b"\\r", 0x0A: b"\n"}
            if byte in named:
                out += named[byte]
            elif byte < 0x20 or byte in b"<>&":
                out += b"\\u00%02x" % byte
            else:
                out.append(byte)
            continue
        for size in (2, 3, 4):
            try:
                char = data[at : at + size].decode()
            except UnicodeDecodeError:
                continue
            if len(char) == 1:
                break
        else:
            out += b"\\ufffd"
            at += 1
            continue
        out += {"\u2028": b"\\u2028", "\u2029": b"\\u2029"}.get(char, char.encode())
        at += size
    return bytes(out)


# What UTF-8 is near to: cut off, overlong, surrogates, beyond U+10FFFF, separators.
near_utf8 = st.sampled_from(
    [
        *(b"\xe2", b"\xe2\x80", b"\xf0\x9f\x98", b"\x80", b"\xbf", b"\xff", b"\xfe"),
        *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf"),
        *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80"),
        *(b"\xf0\x8f\xbf\xbf", b"\xf8\x88\x80\x80\x80"),
        *("\u2028".encode(), "\u2029".encode(), "\u2026".encode(), "\ufffd".encode()),
        *("é".encode(), "語".encode(), "😀".encode(), b"\xed\x9f\xbf", b"\xee\x80\x80"),
        *(b"\\", b"\\u0008", b"\\b", b'"', b"\b", b"\t", b"\f", b"\r", b"<>&", b"\n", b"\0", b"?"),
    ]
)
parts = st.lists(
    st.binary(max_size=40)
    | st.text(max_size=20).map(lambda t: t.encode("utf-8", "surrogatepass"))
    | near_utf8
    | st.tuples(near_utf8, st.integers(1, 50)).map(lambda run: run[0] * run[1]),
    max_size=12,
).map(b"".join)


@given(parts)
@example(b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xe2\x80")
@example('\u2028<&>"\\\r\t\x7f\x00'.encode())
@example(bytes(range(256)))
def test_escaping_is_gos(data: bytes) -> None:
    assert escape(data) == go_escape(data)


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("filling", [b"x", b'"', b"\0", b"\xff", b"\x80", "😀".encode()])
@given(parts)
@settings(max_examples=20)
def test_escaping_is_gos_where_reads_are_cut(before: int, filling: bytes, data: bytes) -> None:
    """Dense output is escaped in pieces of 8 KiB."""
    long = (filling * 8192)[: 8192 - before] + data
    assert escape(long) == go_escape(long)


def test_escaping_every_three_bytes_that_are_not_ascii_is_gos() -> None:
    """All that a first byte may be followed by, among bytes that end it."""
    data = b"".join(
        bytes(chain)
        for chain in itertools.product(range(0xBF, 0x100), range(0x7F, 0xC1, 4), (0x41, 0x80, 0xC2))
    )
    assert escape(data) == go_escape(data)


def test_escaping_random_bytes_is_gos() -> None:
    data = random.Random(0).randbytes(100_000)
    assert escape(data) == go_escape(data)


def records(data: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in data.split(b"\n") if line]


def pieces(data: bytes) -> list[str]:
    """How lines are cut: 16 KiB at most, a newline on the last piece of a line that has one."""
    cut: list[str] = []
    *lines, rest = data.decode().split("\n")
    for line in lines:
        while len(line) >= PARTIAL_BYTES:
            cut.append(line[:PARTIAL_BYTES])
            line = line[PARTIAL_BYTES:]
        cut.append(line + "\n")
    cut += [rest[at : at + PARTIAL_BYTES] for at in range(0, len(rest), PARTIAL_BYTES)]
    return cut


lines = st.lists(
    st.integers(0, 3).map(lambda n: b"x" * n)
    | st.sampled_from([PARTIAL_BYTES - 1, PARTIAL_BYTES, PARTIAL_BYTES + 1, 40_000]).map(
        lambda n: b"y" * n
    ),
    max_size=6,
).map(b"\n".join)


chunks = st.lists(st.integers(1, 3) | st.integers(4, 3 * PARTIAL_BYTES), max_size=12)


@given(lines, chunks)
def test_lines_are_cut_alike_under_any_chunking(data: bytes, sizes: list[int]) -> None:
    encoder, out, rest = Encoder("stdout", None), b"", data
    for size in (*sizes, len(data)):
        if rest:
            out += encoder.feed(rest[:size], AT)
            rest = rest[size:]
    out += encoder.finish(AT)
    assert [record["log"] for record in records(out)] == pieces(data)


def test_a_record_is_dockers() -> None:
    encoder = Encoder("stderr", {"b": "2", "a": "<1>"})
    assert encoder.feed(b"a\n\n", AT) == (
        b'{"log":"a\\n","stream":"stderr","attrs":{"a":"<1>","b":"2"},'
        b'"time":"2023-11-14T22:13:20.123Z"}\n'
        b'{"log":"\\n","stream":"stderr","attrs":{"a":"<1>","b":"2"},'
        b'"time":"2023-11-14T22:13:20.123Z"}\n'
    )


def test_the_pieces_of_a_line_share_the_time_of_the_first() -> None:
    encoder = Encoder("stdout", None)
    out = encoder.feed(b"x" * (PARTIAL_BYTES + 5), AT)
    out += encoder.feed(b"y\nz\n", AT + 10**9)
    assert [record["time"][17:19] for record in records(out)] == ["20", "20", "21"]


@pytest.mark.parametrize(
    ("at_ns", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (1, b"1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000, b"1970-01-01T00:00:01.5Z"),
    ],
)
def test_times_have_no_trailing_zeros(at_ns: int, text: bytes) -> None:
    assert timestamp(at_ns) == text


def test_rotation_numbers_files_as_dockerd(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 1000, "max_file": 3})
    for number in range(60):
        log.write(1, b"line %03d\n" % number)
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log"))
    texts = [record["log"] for record in records(kept)]
    assert texts == [f"line {n:03d}\n" for n in range(60 - len(texts), 60)]
    for name in ("log.1", "log.2"):
        size = (tmp_path / name).stat().st_size
        last = (tmp_path / name).read_bytes().rstrip(b"\n").rfind(b"\n") + 1
        assert last < 1000 <= size


def test_rotated_files_are_packed_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 1000, "max_file": 4, "compress": True})
    (tmp_path / "log.3").write_bytes(b"of a packer that was killed")
    for number in range(80):
        log.write(1, b"line %03d\n" % number)
        while log.is_waiting:
            os.waitpid(-1, 0)
            log.on_packed()
    log.close()
    os.waitpid(-1, 0)
    log.end_packer()
    names = ["log.3.gz", "log.2.gz", "log.1.gz", "log"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names[::-1]
    packed = b"".join(gzip.decompress((tmp_path / name).read_bytes()) for name in names[:3])
    texts = [record["log"] for record in records(packed + path.read_bytes())]
    assert texts == [f"line {n:03d}\n" for n in range(80 - len(texts), 80)]


def test_the_next_rotation_waits_for_the_packer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is kept; a log that is closed does not wait for long."""
    monkeypatch.setattr(logfile, "_LAST_PACKERS_S", 0.1)
    sleeper = subprocess.Popen(["sleep", "1000"])
    monkeypatch.setattr(
        LogFile, "_start_packer", lambda self: setattr(self, "packer", os.pidfd_open(sleeper.pid))
    )
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 500, "max_file": 3, "compress": True})
    log.write(1, b"".join(b"line %03d\n" % n for n in range(20)))
    assert log.is_waiting
    log.write(2, b"more\n")
    log.close()
    kept = b"".join((tmp_path / name).read_bytes() for name in ("log.1", "log"))
    assert [r["log"] for r in records(kept)] == [*(f"line {n:03d}\n" for n in range(20)), "more\n"]
    log.end_packer()
    assert sleeper.wait() == -9
    assert log.packer == -1


@pytest.mark.parametrize("count", [60, 3000])
def test_a_burst_at_the_end_keeps_to_the_limits(tmp_path: Path, count: int) -> None:
    limits = {"max_size": 1000, "max_file": 3, "compress": True}
    log = LogFile({"path": str(tmp_path / "log"), **limits})
    log.write(1, b"".join(b"line %04d\n" % number for number in range(count)))
    log.close()
    assert process.wait(log.packer, 10)
    log.end_packer()
    files = [(tmp_path / name).read_bytes() for name in ("log.2.gz", "log.1.gz", "log")]
    texts = [gzip.decompress(data) for data in files[:2]] + [files[2]]
    assert all(len(text) < 1200 for text in texts)
    lines = [record["log"] for record in records(b"".join(texts))]
    assert lines == [f"line {number:04d}\n" for number in range(count - len(lines), count)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO])
def test_a_disk_that_fails_costs_records_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log = LogFile({"path": str(tmp_path / "log")})
    log.write(1, b"before\n")

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        patch.setattr(os, "ftruncate", fail)
        log.write(1, b"a\nb\n")
    assert log.lost_records == 2
    log.write(1, b"after\n")
    log.close()
    _, notice, after = records((tmp_path / "log").read_bytes())
    text = f"wharf: 2 log records were lost here: {os.strerror(number).lower()}\n"
    assert (notice["log"], after["log"]) == (text, "after\n")


def test_one_read_may_fill_several_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 500, "max_file": 100})
    log.write(1, b"".join(b"line %03d\n" % n for n in range(100)))
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda p: int(p.suffix[1:] or 0), reverse=True)
    texts = [record["log"] for file in files for record in records(file.read_bytes())]
    assert texts == [f"line {n:03d}\n" for n in range(100)]


def test_a_single_file_begins_anew(tmp_path: Path) -> None:
    log = LogFile({"path": str(tmp_path / "log"), "max_size": 300, "max_file": 1})
    with open(tmp_path / "log", "rb") as reader:
        for number in range(9):
            log.write(1, b"line %d\n" % number)
        assert len(records(reader.read())) < 9
    log.close()
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_a_later_run_appends(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = LogFile({"path": str(tmp_path / "log")})
        log.write(1, text)
        log.close()
    assert len(records((tmp_path / "log").read_bytes())) == 2
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


@given(room=st.integers(0, 2000))
def test_a_full_disk_costs_whole_records_and_is_told(
    tmp_path_factory: pytest.TempPathFactory, room: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = LogFile({"path": str(path)})
    real_write, left = os.write, room

    def write(fd: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real_write(fd, data[:left])
        left -= written
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfile.os, "write", write)
        for number in range(20):
            log.write(1, b"line %d\nand\n" % number)
        lost = log.lost_records
    assert path.read_bytes()[-1:] in (b"", b"\n")
    log.write(2, b"after\n")
    log.close()
    texts = [record["log"] for record in records(path.read_bytes())]
    assert texts[-1] == "after\n"
    if lost:
        assert texts[-2] == (f"wharf: {lost} log records were lost here: no space left on device\n")
        assert len(texts) == 40 - lost + 2
    assert log.lost_records == 0


def test_a_rotation_that_fails_drops_no_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 100, "max_file": 3})
    for _ in range(5):
        log.write(1, b"x" * 60 + b"\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"log", "log.1", "log.2"}

    def refuse(*_: object) -> int:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logfile, "_open", refuse)
        for _ in range(50):
            log.write(1, b"y" * 60 + b"\n")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert log.lost_records == 50
    log.write(1, b"z\n")
    # Longer than the limit, so that it has a file to itself.
    assert b"50 log records were lost here" in (tmp_path / "log.1").read_bytes()
    log.close()


def test_a_log_that_somebody_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile({"path": str(path), "max_size": 100, "max_file": 1})
    log.write(1, b"x" * 60 + b"\n")
    path.unlink()
    for _ in range(3):
        log.write(1, b"y" * 60 + b"\n")
    assert path.exists()
    assert log.lost_records == 0
    log.close()
