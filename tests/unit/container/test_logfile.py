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
    for name in ("x.log", "x.log.1", "x.log.2.gz", "x.log.10", "x.log.tmp", "y.log"):
        (tmp_path / name).touch()
    names = [path.rpartition("/")[2] for path in logfile.files(str(tmp_path / "x.log"))]
    assert names == ["x.log.10", "x.log.2.gz", "x.log.1", "x.log"]


def test_no_folder_no_files(tmp_path: Path) -> None:
    assert logfile.files(str(tmp_path / "gone" / "x.log")) == []


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=3), wanted=st.integers(0, 30))
def test_the_tail_is_the_end_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], wanted: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    paths, everything = [], []
    for number, count in enumerate(counts):
        lines = [line(f"{number}.{i}") for i in range(count)]
        path = folder / f"{number}.log"
        path.write_bytes(b"".join(lines))
        paths.append(str(path))
        everything += lines
    found = b"".join(logfile.tail(paths, wanted))
    assert found == b"".join(everything[max(0, len(everything) - wanted) :] if wanted else [])


def test_the_tail_reaches_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "CHUNK_BYTES", 64)
    path = tmp_path / "x.log"
    path.write_bytes(b"".join(line(str(i)) for i in range(100)))
    assert texts(b"".join(logfile.tail([str(path)], 3))) == ["97", "98", "99"]


def test_an_unfinished_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(line("whole") + b'{"log":"half')
    assert texts(b"".join(logfile.chunks(str(path)))) == ["whole"]
    assert texts(b"".join(logfile.tail([str(path)], 5))) == ["whole"]


def test_packed_files_are_read_like_others(tmp_path: Path) -> None:
    path = tmp_path / "x.log.1.gz"
    path.write_bytes(gzip.compress(line("old")))
    assert texts(b"".join(logfile.chunks(str(path)))) == ["old"]
    assert texts(b"".join(logfile.tail([str(path)], 1))) == ["old"]


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
