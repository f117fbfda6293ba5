"""Rows: whole or not at all, names unique, newer databases untouched."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from engine.errors import NoSpace
from engine.storage import rows
from engine.storage.database import Database, NameTaken, NewerDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.storage.database import Table


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "d" / "wharf.db"))
    yield opened
    opened.close()


def test_a_row_that_is_no_document_cannot_be_read_and_harms_no_other(database: Database) -> None:
    """Its body may be of any type that SQLite has, after whatever happened to the file."""
    table = database.table("image")
    table.put("good", b"1", name="n")
    statement = "INSERT INTO document (noun, key, name, body) VALUES (?, ?, ?, {})"
    for key, value in (("text", "'a'"), ("number", "7")):
        database.execute(statement.format(value), "image", key, f"{key}-name")
    found, unreadable = rows.read(table, msgspec.json.Decoder(int).decode)
    assert found == {"good": 1}
    assert unreadable == {"text", "number"}
    assert table.name_of("text") == "text-name"


def test_rows_of_nouns_do_not_mix(database: Database) -> None:
    images, layers = database.table("image"), database.table("layer")
    images.put("k", b"1", name="n")
    layers.put("k", b"2", name="n")
    images.put("k", b"3", name="other")
    assert images.get("k") == b"3"
    assert layers.items() == [("k", b"2")]
    assert images.key_of("other") == "k"
    assert images.key_of("n") is None
    images.delete("k")
    images.delete("k")
    assert images.get("k") is None
    assert layers.get("k") == b"2"


def test_a_name_is_taken_once(database: Database) -> None:
    table = database.table("container")
    table.insert("a", b"1", name="web")
    with pytest.raises(NameTaken) as caught:
        table.insert("b", b"2", name="web")
    assert caught.value.holder == "a"
    with pytest.raises(NameTaken):
        table.insert("a", b"3")
    with pytest.raises(NameTaken):
        table.put("b", b"2", name="web")
    assert table.items() == [("a", b"1")]


def test_one_of_many_gets_the_name(database: Database) -> None:
    table = database.table("container")
    won: list[int] = []

    def attempt(number: int) -> None:
        try:
            table.insert(str(number), b"", name="web")
        except NameTaken:
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [key for key, _ in table.items()] == [str(won[0])]


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    table = database.table("x")

    def fail_half_way() -> None:
        with database.transaction():
            table.put("a", b"1")
            with database.transaction():
                table.put("b", b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert table.items() == []
    with database.transaction():
        table.put("a", b"1")
        table.put("b", b"2")
    assert len(table.items()) == 2


def test_other_threads_wait_for_a_transaction(database: Database) -> None:
    table = database.table("x")
    begun, seen = threading.Event(), list[bytes | None]()

    def look() -> None:
        begun.set()
        seen.append(table.get("a"))

    thread = threading.Thread(target=look)
    with database.transaction():
        table.put("a", b"1")
        thread.start()
        begun.wait()
        table.put("a", b"2")
    thread.join()
    assert seen == [b"2"]


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "wharf.db")
    first = Database(path)
    first.table("x").put("a", b"1", name="n")
    first.close()
    second = Database(path)
    assert second.table("x").key_of("n") == "a"
    second.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    Database(str(tmp_path / "wharf.db")).close()
    assert stat.S_IMODE((tmp_path / "wharf.db").stat().st_mode) == 0o600


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "wharf.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerDatabase, match="written by a newer engine"):
        Database(str(path))
    assert path.read_bytes() == before


def insert_until_full(table: Table) -> None:
    for number in range(10_000):
        table.insert(f"new{number}", b"2" * 20_000)


def delete_all(table: Table) -> None:
    for row in table.items():
        table.delete(row[0])


def test_a_full_disk_still_takes_changes_and_removals(database: Database) -> None:
    table = database.table("container")
    table.insert("a", b"1" * 1000, name="web")
    pages = database.execute("PRAGMA page_count")[0][0]
    database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(NoSpace, match="no space left on device"):
        insert_until_full(table)
    table.put("a", b"3" * 100_000, name="web")
    assert table.get("a") == b"3" * 100_000
    delete_all(table)
    assert table.items() == []
    table.insert("b", b"4" * 100_000)


def test_the_reserve_is_taken_again_once_there_is_room(database: Database) -> None:
    table = database.table("container")
    table.insert("a", b"1")
    pages = database.execute("PRAGMA page_count")[0][0]
    database.execute(f"PRAGMA max_page_count={pages}")
    for _ in range(3):
        with pytest.raises(NoSpace):
            insert_until_full(table)
        table.put("a", b"3" * 100_000)
        delete_all(table)


def test_what_is_removed_together_may_use_the_reserve(database: Database) -> None:
    """Rows of several nouns go at once; where the disk has no page left for that, the reserve has.

    A table whose removals are written down takes pages by them.
    """
    containers, execs = database.table("container"), database.table("exec")
    for number in range(40):
        containers.insert(f"c{number}", b"1")
        execs.insert(f"e{number}", b"2")
    database.execute("CREATE TABLE removed (key TEXT, filler BLOB)")
    database.execute(
        "CREATE TRIGGER write_down AFTER DELETE ON document WHEN OLD.noun IN ('container', 'exec') "
        "BEGIN INSERT INTO removed VALUES (OLD.key, zeroblob(4000)); END"
    )
    pages = database.execute("PRAGMA page_count")[0][0]
    database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(NoSpace):
        insert_until_full(database.table("image"))
    rows = [(containers, key) for key, _ in containers.items()]
    with pytest.raises(NoSpace), database.transaction():
        database.delete(rows)
    assert len(containers.items()) == 40
    database.delete([*rows, *((execs, key) for key, _ in execs.items())])
    assert (containers.items(), execs.items()) == ([], [])


@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_a_removal_gives_the_reserve_its_room_again(
    database: Database, is_in_transaction: bool
) -> None:
    table = database.table("container")
    table.insert("a", b"1")
    pages = database.execute("PRAGMA page_count")[0][0]
    database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(NoSpace):
        insert_until_full(table)
    table.put("a", b"3" * 100_000)
    with database.transaction() if is_in_transaction else contextlib.nullcontext():
        database.delete((table, key) for key, _ in table.items())
    assert database.table("reserve").get("ballast") == bytes(512 << 10)


def test_the_log_keeps_the_room_it_has(tmp_path: Path) -> None:
    path = tmp_path / "wharf.db"
    wal, reserve = tmp_path / "wharf.db-wal", tmp_path / "wharf.db.reserve"
    database = Database(str(path))
    taken = wal.stat().st_size
    for number in range(2000):
        database.table("container").put("a", b"%d" % number * 3000)
    assert wal.stat().st_size == taken
    database.close()
    assert not wal.exists()
    assert reserve.stat().st_blocks * 512 >= 2 << 20
    Database(str(path)).close()
    assert reserve.stat().st_blocks * 512 >= 2 << 20
