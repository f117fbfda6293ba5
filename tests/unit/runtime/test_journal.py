"""The journal where there is no room for it, and what a reader makes of that."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from engine.runtime.client import read_journal
from engine.runtime.monitor import journal
from engine.runtime.monitor.journal import Journal
from engine.runtime.protocol import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def written(path: Path) -> Iterator[Journal]:
    journal = Journal.begin(str(path))
    yield journal
    journal.close()


def events(path: Path) -> list[str]:
    return [entry.event for entry in read_journal(str(path))]


def short_write(fd: int, data: bytes) -> int:
    return REAL_WRITE(fd, data[:20])


REAL_WRITE = os.write


def test_of_a_line_without_room_nothing_stays(
    path: Path, written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written.append(Entry.CREATED, 1, {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short_write)
        assert not written.append(Entry.STARTED, 2, {})
    assert written.append(Entry.EXITED, 3, {"code": 7})
    assert path.read_bytes().count(b"\n") == 2
    assert events(path) == [Entry.CREATED, Entry.EXITED]


def test_a_torn_line_hides_no_other(path: Path) -> None:
    line = b'{"at_ns":%d,"event":"exited","facts":{"at_ns":1,"code":3}}\n'
    path.write_bytes(line % 1 + line[:40] + line % 2 + b"\xff{\n[1]\n{}\n" + line % 3 + line[:9])
    assert [entry.at_ns for entry in read_journal(str(path))] == [1, 2, 3]


def test_what_the_daemon_knows_is_left_out(
    path: Path, written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT_BYTES", 300)
    written.append(Entry.STARTED, 1, {})
    REAL_WRITE(written.fileno(), b"torn\n")
    for number in range(9):
        written.append(Entry.EXEC_STARTED, number, {"exec_id": f"e{number}"})
        written.acknowledge(f"e{number}")
    kept = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert kept[0]["event"] == Entry.STARTED
    assert len(kept) < 9
    assert kept[-1]["facts"] == {"exec_id": "e8"}


def test_without_room_for_another_the_journal_stays(
    path: Path, written: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT_BYTES", 100)
    written.append(Entry.STARTED, 1, {})
    written.append(Entry.EXEC_STARTED, 2, {"exec_id": "a"})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short_write)
        written.append(Entry.EXEC_STARTED, 3, {"exec_id": "b"})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["journal"]
    assert written.append(Entry.EXITED, 4, {})
    assert events(path)[-1] == Entry.EXITED


def test_of_many_runs_the_last_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_COMPACT_BYTES", 1000)
    kept = Journal.begin(str(path))
    kept.append(Entry.CREATED, 1, {"pid": 1})
    kept.append(Entry.EXEC_STARTED, 2, {"exec_id": "open", "pid": 5})
    for run in range(200):
        kept.append(Entry.STARTED, 10 * run, {"pid": run, "count": run})
        kept.append(Entry.EXITED, 10 * run + 5, {"code": 1, "again_ns": 9})
    kept.close()
    assert path.stat().st_size < 2000
    entries = read_journal(str(path))
    assert [each.event for each in entries[:2]] == [Entry.CREATED, Entry.EXEC_STARTED]
    assert (entries[-2].facts["pid"], entries[-1].at_ns) == (199, 1995)
    assert [each.event for each in entries[-2:]] == [Entry.STARTED, Entry.EXITED]
