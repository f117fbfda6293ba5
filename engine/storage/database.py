"""Rows: one SQLite file, one writer, documents by noun and key.

    document(noun, key, name, body)    a noun is a table to its users: container, image, layer …

`name` is unique within a noun where it is given, so taking a name is one atomic insert. WAL with
`synchronous=NORMAL`: a killed process loses nothing, a power cut perhaps the last instants, never
consistency (https://www.sqlite.org/pragma.html#pragma_synchronous). What the bodies mean, and
their versions, is the affair of each noun.

A full disk must not keep anyone from freeing it, so that room is taken beforehand:

- the write-ahead log is grown once at the start and written over from its beginning ever after;
- one row, the ballast, holds pages that are given up when changing a row or deleting some finds no
  other, and is made again after a deletion, alone or in a transaction, that leaves room for it. New
  rows never get them, nor does a transaction that does more than delete;
- while the database is closed, and its log gone, a file beside it keeps the log's room.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import Conflict, EngineError, NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

_BALLAST = ("reserve", "ballast")
_BALLAST_BYTES = 512 << 10
# The log starts anew at its beginning after this many pages of 4 KiB, half of what it is grown to.
_CHECKPOINT_PAGES = 256
_LOG_BYTES = 2 << 20
_STEP_BYTES = 64 << 10
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)

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
        self._path = path
        self._reserve_path = f"{path}.reserve"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._reserve_path)
        # Created with its rights: SQLite would take them from the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._lock = threading.RLock()
        self._depth = 0
        self._has_ballast = True
        self._has_deleted = False  # in the transaction that is open
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
        self._connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if version < len(MIGRATIONS):
            with self.transaction():
                for migration in MIGRATIONS[version:]:
                    for statement in migration:
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        self._take_room()

    # Room taken beforehand

    def _take_room(self) -> None:
        """Grow the log, then the ballast; a disk that is full already is no error."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(f"{self._path}-wal").st_size >= _LOG_BYTES:
                    self._make_ballast()
                    return
            self._put_ballast(_LOG_BYTES)
            self._put_ballast(_BALLAST_BYTES)
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError as exc:
            if not _is_full(exc):
                raise
            self._has_ballast = False
            log.warning("%s: no room to keep in reserve: %s", self._path, exc)

    def _make_ballast(self) -> None:
        rows = self._connection.execute(
            "SELECT length(body) FROM document WHERE noun=? AND key=?", _BALLAST
        ).fetchall()
        if rows != [(_BALLAST_BYTES,)]:
            self._put_ballast(_BALLAST_BYTES)

    def _put_ballast(self, size: int) -> None:
        self._connection.execute(
            "INSERT INTO document (noun, key, body) VALUES (?, ?, zeroblob(?)) "
            "ON CONFLICT (noun, key) DO UPDATE SET body=excluded.body",
            (*_BALLAST, size),
        )

    def _use_reserve(self) -> None:
        log.warning("%s: the disk is full; using the reserve", self._path)
        self.execute("DELETE FROM document WHERE noun=? AND key=?", *_BALLAST)
        self._has_ballast = False

    def _restore_ballast(self) -> None:
        """Take the room again that was given up, if there is any by now."""
        if self._has_ballast:
            return
        with contextlib.suppress(sqlite3.OperationalError):
            self._put_ballast(_BALLAST_BYTES)
            self._has_ballast = True

    def _keep_log_room(self) -> None:
        """Closing removed the log; whoever fills the disk meanwhile must leave it its room."""
        try:
            fd = os.open(self._reserve_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Piece by piece: on a full disk, what the log has just given back.
                for start in range(0, _LOG_BYTES + _STEP_BYTES, _STEP_BYTES):
                    os.posix_fallocate(fd, start, _STEP_BYTES)
            finally:
                os.close(fd)
        except OSError as exc:
            log.warning("%s: no room to keep in reserve: %s", self._path, exc)

    def table(self, noun: str) -> Table:
        return Table(self, noun)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes true at once, or nothing of it.

        May be nested in one thread: the outermost decides. Other threads wait.
        """
        with self._lock:
            if self._depth == 0:
                self.execute("BEGIN IMMEDIATE")
                self._has_deleted = False
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._roll_back()
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()
                if self._has_deleted:
                    self._restore_ballast()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except BaseException as exc:
            # A full disk leaves the transaction open; the next one must find none.
            self._roll_back()
            if isinstance(exc, sqlite3.OperationalError) and _is_full(exc):
                raise NoSpace(self._path) from exc
            raise

    def _roll_back(self) -> None:
        # SQLite ends the transaction by itself on some errors, a full disk among them.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def execute(
        self, statement: str, *values: str | bytes | None, may_use_reserve: bool = False
    ) -> list[tuple[object, ...]]:
        """Run one statement and fetch all it gives. Raises NoSpace on a full disk."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.OperationalError as exc:
                if not _is_full(exc):
                    raise
                if not may_use_reserve or self._depth or not self._has_ballast:
                    raise NoSpace(self._path) from exc
            self._use_reserve()
            return self.execute(statement, *values)

    def delete(self, rows: Iterable[tuple[Table, str]]) -> None:
        """Remove all these rows (table and key), or none of them; not there is fine.

        On a full disk too. Raises NoSpace where not even the reserve is enough, or is not to be had
        because a transaction is open already.
        """
        doomed = tuple(rows)
        with self._lock:
            try:
                self._delete(doomed)
            except NoSpace:
                if self._depth or not self._has_ballast:
                    raise
                self._use_reserve()
                self._delete(doomed)

    def _delete(self, doomed: Iterable[tuple[Table, str]]) -> None:
        with self.transaction():
            for table, key in doomed:
                self.execute("DELETE FROM document WHERE noun=? AND key=?", table.noun, key)
            self._has_deleted = True

    def close(self) -> None:
        with self._lock:
            self._connection.close()
        self._keep_log_room()


def _is_full(exc: sqlite3.OperationalError) -> bool:
    return exc.sqlite_errorcode in _FULL


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

    def name_of(self, key: str) -> str | None:
        """The name of the row that has this key."""
        rows = self._database.execute(
            "SELECT name FROM document WHERE noun=? AND key=?", self.noun, key
        )
        return None if not rows or rows[0][0] is None else str(rows[0][0])

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
            may_use_reserve=True,
        )

    def insert(self, key: str, document: bytes, *, name: str | None = None) -> None:
        """Write a new row; raises NameTaken if the key or the name is there already."""
        self._write(
            "INSERT INTO document (noun, key, name, body) VALUES (?, ?, ?, ?)",
            key,
            document,
            name,
            may_use_reserve=False,
        )

    def _write(
        self, statement: str, key: str, document: bytes, name: str | None, *, may_use_reserve: bool
    ) -> None:
        try:
            self._database.execute(
                statement, self.noun, key, name, document, may_use_reserve=may_use_reserve
            )
        except sqlite3.IntegrityError as exc:
            holder = (self.key_of(name) if name is not None else None) or key
            raise NameTaken(self.noun, name or key, holder) from exc

    def delete(self, key: str) -> None:
        """Remove the row; none there is fine."""
        self._database.delete([(self, key)])

    def items(self) -> list[tuple[str, bytes]]:
        """All rows, by key."""
        rows = self._database.execute(
            "SELECT key, body FROM document WHERE noun=? ORDER BY key", self.noun
        )
        # Whatever else stands there is no document either, and whoever decodes it says so.
        return [(str(key), body if isinstance(body, bytes) else b"") for key, body in rows]
