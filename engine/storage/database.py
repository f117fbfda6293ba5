"""Rows: one SQLite file, one writer, documents by noun and key.

    document(noun, key, name, body)    a noun is a table to its users: container, image, layer …

`name` is unique within a noun where it is given, so taking a name is one atomic insert. WAL with
`synchronous=NORMAL`: a killed process loses nothing, a power cut perhaps the last instants, never
consistency (https://www.sqlite.org/pragma.html#pragma_synchronous). What the bodies mean, and
their versions, is the affair of each noun.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import Conflict, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each entry brings a database from the version before it to its own; only appended to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE document (
            noun TEXT NOT NULL,
            key TEXT NOT NULL,
            name TEXT,
            body BLOB NOT NULL,
            PRIMARY KEY (noun, key),
            UNIQUE (noun, name)
        ) WITHOUT ROWID
        """,
    ),
)


class NameTaken(Conflict):
    """Another row of the same noun has this name (or this key)."""

    def __init__(self, noun: str, name: str, holder: str) -> None:
        super().__init__(f"the {noun} name {name!r} is already in use by {holder}")
        self.noun = noun
        self.name = name
        self.holder = holder


class NewerDatabase(EngineError):
    """Written by a newer engine; refused, so that nothing in it is lost."""

    def __init__(self, path: str, found: int) -> None:
        super().__init__(
            f"{path} was written by a newer engine "
            f"(database version {found}, this engine knows {len(MIGRATIONS)})"
        )


class Database:
    """Thread-safe; every statement outside `transaction` is its own transaction."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path) or ".", mode=0o710, exist_ok=True)
        # Created with its rights: SQLite would take them from the umask (attacks.md A5).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, path: str) -> None:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise NewerDatabase(path, version)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        if version < len(MIGRATIONS):
            with self.transaction():
                for migration in MIGRATIONS[version:]:
                    for statement in migration:
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def table(self, noun: str) -> Table:
        return Table(self, noun)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes true at once, or nothing of it.

        May be nested in one thread: the outermost decides. Other threads wait.
        """
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk leaves the transaction open; the next one must find none.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def execute(self, statement: str, *values: str | bytes | None) -> list[tuple[object, ...]]:
        """Run one statement and fetch all it gives."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Table:
    """The rows of one noun."""

    def __init__(self, database: Database, noun: str) -> None:
        self._database = database
        self.noun = noun

    def get(self, key: str) -> bytes | None:
        return self._one("SELECT body FROM document WHERE noun=? AND key=?", key)

    def key_of(self, name: str) -> str | None:
        """The key of the row that has this name."""
        rows = self._database.execute(
            "SELECT key FROM document WHERE noun=? AND name=?", self.noun, name
        )
        return str(rows[0][0]) if rows else None

    def _one(self, statement: str, value: str) -> bytes | None:
        rows = self._database.execute(statement, self.noun, value)
        if not rows:
            return None
        body = rows[0][0]
        assert isinstance(body, bytes)
        return body

    def put(self, key: str, document: bytes, *, name: str | None = None) -> None:
        """Write the row, new or not; raises NameTaken if another row has the name."""
        self._write(
            "INSERT INTO document (noun, key, name, body) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (noun, key) DO UPDATE SET name=excluded.name, body=excluded.body",
            key,
            document,
            name,
        )

    def insert(self, key: str, document: bytes, *, name: str | None = None) -> None:
        """Write a new row; raises NameTaken if the key or the name is there already."""
        self._write(
            "INSERT INTO document (noun, key, name, body) VALUES (?, ?, ?, ?)", key, document, name
        )

    def _write(self, statement: str, key: str, document: bytes, name: str | None) -> None:
        try:
            self._database.execute(statement, self.noun, key, name, document)
        except sqlite3.IntegrityError as exc:
            holder = (self.key_of(name) if name is not None else None) or key
            raise NameTaken(self.noun, name or key, holder) from exc

    def delete(self, key: str) -> None:
        """Remove the row; none there is fine."""
        self._database.execute("DELETE FROM document WHERE noun=? AND key=?", self.noun, key)

    def items(self) -> list[tuple[str, bytes]]:
        """All rows, by key."""
        rows = self._database.execute(
            "SELECT key, body FROM document WHERE noun=? ORDER BY key", self.noun
        )
        return [(str(key), body) for key, body in rows if isinstance(body, bytes)]
