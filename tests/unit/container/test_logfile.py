"""Reading what the monitor wrote, also where a crash has torn it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import logfile
from engine.container.logs import fixed, render
from engine.container.model import LogsQuery

if TYPE_CHECKING:
    from pathlib import Path

TIME = "2026-01-02T03:04:05.6Z"
BOTH = LogsQuery(stdout=True, stderr=True)


def line(text: str, stream: str = "stdout", time: str = TIME, **more: object) -> bytes:
    return json.dumps({"log": text, "stream": stream, "time": time, **more}).encode() + b"\n"


def texts(data: bytes) -> list[str]:
    return [record.log for record in logfile.parse(data)]


def test_records() -> None:
    assert texts(line("a\n") + line("b")) == ["a\n", "b"]


@pytest.mark.parametrize(
    "damage",
    [b"garbage\n", b'{"log":"cut', b"\0" * 100 + b"\n", b'{"log": 5}\n', b"\xff\xfe\n", b"\n"],
)
def test_a_damaged_record_costs_only_itself(damage: bytes) -> None:
    assert texts(line("a") + damage + line("b")) == ["a", "b"]


def test_files_are_ordered_oldest_first(tmp_path: Path) -> None:
    there = ("x.log", "x.log.1", "x.log.1.gz", "x.log.2.gz", "x.log.10", "x.log.1.gz.tmp", "y.log")
    for name in there:
        (tmp_path / name).touch()
    names = [path.rpartition("/")[2] for path in logfile.names(str(tmp_path / "x.log"))]
    assert names == ["x.log.10", "x.log.2.gz", "x.log.1", "x.log"]


def test_no_folder_no_files(tmp_path: Path) -> None:
    assert logfile.open_all(str(tmp_path / "gone" / "x.log")) == []


def tail(path: Path, lines: int) -> list[str]:
    parts = logfile.open_all(str(path))
    try:
        return [text for piece in logfile.tail(parts, lines) for text in texts(piece)]
    finally:
        for part in parts:
            part.close()


def everything(path: Path) -> list[str]:
    parts = logfile.open_all(str(path))
    try:
        return [text for part in parts for piece in logfile.chunks(part) for text in texts(piece)]
    finally:
        for part in parts:
            part.close()


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=3), wanted=st.integers(0, 30))
def test_the_tail_is_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], wanted: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    for number, count in enumerate(counts):
        lines = b"".join(line(f"{number}.{i}") for i in range(count))
        place = folder / f"x.log.{number}" if number else folder / "x.log"
        place.write_bytes(lines)
        if number == 2:
            (folder / "x.log.2.gz").write_bytes(gzip.compress(lines))
            place.unlink()
    whole = everything(folder / "x.log")
    assert len(whole) == sum(counts)
    assert tail(folder / "x.log", wanted) == (whole[-wanted:] if wanted else [])


def test_the_tail_reaches_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 64)
    path = tmp_path / "x.log"
    path.write_bytes(b"".join(line(str(i)) for i in range(100)))
    assert tail(path, 3) == ["97", "98", "99"]
    assert tail(path, 10**18) == everything(path)


def test_an_unfinished_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(line("whole") + b'{"log":"half')
    assert everything(path) == ["whole"]
    assert tail(path, 5) == ["whole"]


def test_what_is_written_after_opening_is_not_of_this_moment(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(line("first"))
    (part,) = logfile.open_all(str(path))
    with path.open("ab") as file:
        file.write(line("later"))
    assert [t for piece in logfile.chunks(part) for t in texts(piece)] == ["first"]
    part.close()


def test_a_rotation_while_opening_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks a file was renamed and another has its name."""
    path = tmp_path / "x.log"
    path.write_bytes(line("old"))
    real, looks = logfile._read_chain, []

    def rotate_once(name: str) -> logfile.Chain:
        found = real(name)
        looks.append(found)
        if len(looks) == 2:
            path.rename(tmp_path / "x.log.1")
            path.write_bytes(line("new"))
        return found

    monkeypatch.setattr(logfile, "_read_chain", rotate_once)
    assert everything(path) == ["old", "new"]
    assert len(looks) > 2


def test_packed_files_are_read_like_others(tmp_path: Path) -> None:
    (tmp_path / "x.log.1.gz").write_bytes(gzip.compress(line("old") + line("older")))
    assert everything(tmp_path / "x.log") == ["old", "older"]
    assert tail(tmp_path / "x.log", 1) == ["older"]


def test_streams_are_chosen() -> None:
    records = logfile.parse(line("out\n") + line("err\n", "stderr"))
    assert render(records, BOTH) == [(1, b"out\n"), (2, b"err\n")]
    assert render(records, LogsQuery(stderr=True)) == [(2, b"err\n")]


def test_times_have_nine_digits_so_that_they_sort() -> None:
    assert fixed("2026-01-02T03:04:05Z") == "2026-01-02T03:04:05.000000000Z"
    assert fixed(TIME) == "2026-01-02T03:04:05.600000000Z"


def test_since_and_until_are_inclusive() -> None:
    second = 10**9
    stamps = [f"1970-01-01T00:00:0{n}Z" for n in (1, 2, 3)]
    records = logfile.parse(b"".join(line(s, time=s) for s in stamps))
    query = LogsQuery(stdout=True, since_ns=2 * second, until_ns=2 * second)
    assert render(records, query) == [(1, stamps[1].encode())]


def test_prefixes() -> None:
    records = logfile.parse(line("x\n", attrs={"b": "2 3", "a": "1"}))
    query = LogsQuery(stdout=True, timestamps=True, details=True)
    assert render(records, query) == [(1, b"2026-01-02T03:04:05.600000000Z a=1,b=2%203 x\n")]
