"""SQL read models in SQLite: WAL, every commit flushed (synchronous=FULL), one file for the tables that people read.

    perdure_checkpoints   a row for each projection: see `Mark`
    perdure_tables        projection, name: the tables and views that it made

What is built beside stands in a file of its own, `PATH.PROJECTION.building`, under the same names; the swap copies it over in one
transaction, so whoever has the database open sees the old tables, then the new ones.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs

from perdure.backends.errors import Corrupt, Full, Misuse, PerdureError, Unavailable
from perdure.backends.sql import Mark, Work

BUSY_S: Final = 1.0
"""So long another process's transaction is waited for, before it is tried again later."""

_UNAVAILABLE = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT),
    )
)
_OURS = frozenset((sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA))
"""What a handler may not do: the transaction is not its own."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS perdure_checkpoints (
        projection TEXT PRIMARY KEY, version INTEGER NOT NULL, fingerprint TEXT NOT NULL, step TEXT NOT NULL, store TEXT NOT NULL,
        position INTEGER NOT NULL, fence INTEGER NOT NULL, fault TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS perdure_tables (projection TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (projection, name)) WITHOUT ROWID",
)
_COLUMNS = tuple(field.name for field in attrs.fields(Mark))
_READ = f"SELECT {', '.join(_COLUMNS)} FROM {{}}.perdure_checkpoints WHERE projection = ?"
_WRITE = f"INSERT OR REPLACE INTO main.perdure_checkpoints ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_COMMIT = "COMMIT -- perdure"  # no handler writes it so: it would find the prepared statement, and not ask whether it may
_ROLLBACK = "ROLLBACK -- perdure"


def open_sqlite(path: str, projection: str, *, create: bool) -> SqliteDatabase | None:
    """See `open_database`."""
    file = Path(path)
    if not file.exists():
        if not create:
            return None
        if not file.parent.is_dir():
            raise Misuse(f"sqlite:{path}: there is no folder {file.parent}: make it first")
    return SqliteDatabase(file, projection)


class SqliteDatabase:
    """See `SqlDatabase`."""

    def __init__(self, path: Path, projection: str) -> None:
        self.name = f"sqlite:{path}"
        self._path = path
        self._beside = path.with_name(f"{path.name}.{quote(projection, safe='')}.building")
        self._projection = projection
        self._building: _Connection | None = None
        self._live = _Connection(path)

    def mark(self, *, building: bool = False) -> Mark | None:
        if building and not self._beside.exists():
            return None
        return self._connection(building).mark(self._projection)

    def make(self, mark: Mark, tables: Work, *, building: bool = False) -> bool:
        connection = self._connection(building)
        with connection.whole():
            if connection.mark(self._projection) is not None:
                return False
            before = connection.names()
            connection.let(tables)
            for name in sorted(connection.names() - before):
                connection.execute("INSERT OR IGNORE INTO perdure_tables VALUES (?, ?)", (self._projection, name))
            connection.execute(_WRITE, attrs.astuple(mark))
        return True

    def move(self, before: Mark, after: Mark, work: Work, *, building: bool = False) -> bool:
        connection = self._connection(building)
        with connection.whole():
            if connection.mark(self._projection) != before:
                return False
            connection.let(work)
            connection.execute(_WRITE, attrs.astuple(after))
        return True

    def swap(self, before: Mark, built: Mark) -> bool:
        if self.gone() or not self._beside.exists():
            return False
        self._close_building()
        live = self._live
        with live.attached(self._beside):
            with live.whole():
                if live.mark(self._projection) != before or live.mark(self._projection, "perdure_building") != built:
                    return False
                self._drop_old()
                self._copy()
                live.execute(_WRITE, attrs.astuple(built))
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.drop_building()
        return True

    def drop_building(self) -> None:
        self._close_building()
        for path in _files(self._beside):
            path.unlink(missing_ok=True)

    def gone(self) -> bool:
        return self._live.gone() or (self._building is not None and self._building.gone())

    def close(self) -> None:
        self._close_building()
        self._live.close()

    def _connection(self, building: bool) -> _Connection:
        if not building:
            return self._live
        if self._building is None:
            self._building = _Connection(self._beside)
        return self._building

    def _close_building(self) -> None:
        if self._building is not None:
            self._building.close()
            self._building = None

    # -- the swap ----------------------------------------------------------------------------

    def _drop_old(self) -> None:
        live = self._live
        made = {name for (name,) in live.execute("SELECT name FROM main.perdure_tables WHERE projection = ?", (self._projection,))}
        for kind in ("view", "table"):
            for name, _ in live.objects("main", kind):
                if name in made:
                    live.execute(f"DROP {kind} IF EXISTS main.{_quoted(name)}")
        live.execute("DELETE FROM main.perdure_tables WHERE projection = ?", (self._projection,))

    def _copy(self) -> None:
        """Make all that stands beside in the database that is read, with its rows."""
        live = self._live
        for name, sql in live.objects("perdure_building", "table"):
            live.execute(sql)
            columns = ", ".join(
                _quoted(column) for (column,) in live.execute("SELECT name FROM pragma_table_xinfo(?, 'perdure_building') WHERE hidden = 0", (name,))
            )
            live.execute(f"INSERT INTO main.{_quoted(name)} ({columns}) SELECT {columns} FROM perdure_building.{_quoted(name)}")
        for kind in ("index", "view", "trigger"):
            for _, sql in live.objects("perdure_building", kind):
                live.execute(sql)
        if live.execute("SELECT 1 FROM perdure_building.sqlite_master WHERE name = 'sqlite_sequence'"):
            live.execute("DELETE FROM main.sqlite_sequence WHERE name IN (SELECT name FROM perdure_building.sqlite_sequence)")
            live.execute("INSERT INTO main.sqlite_sequence SELECT name, seq FROM perdure_building.sqlite_sequence")
        for kind in ("table", "view"):
            for name, _ in live.objects("perdure_building", kind):
                live.execute("INSERT INTO main.perdure_tables VALUES (?, ?)", (self._projection, name))


class _Connection:
    """A connection whose errors are ours, and what may be done in a transaction of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._where = f"sqlite:{path}"
        self._handling = False
        with self._translated():
            self._raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)  # one thread at a time
            try:
                for sql in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *_TABLES):
                    self._raw.execute(sql).fetchall()
                self._raw.set_authorizer(self._authorize)
                self._inode = _inode(path)
            except BaseException:
                self._raw.close()
                raise

    def close(self) -> None:
        self._raw.close()

    def gone(self) -> bool:
        """Whether the file it has open is at its path no more."""
        return _inode(self._path) != self._inode

    @contextmanager
    def whole(self) -> Iterator[None]:
        """One transaction, which nobody else writes beside; nothing is done if the body raises, or ends without having written."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute(_COMMIT)
        except BaseException:
            with suppress(sqlite3.Error):
                if self._raw.in_transaction:
                    self._raw.execute(_ROLLBACK)
            raise

    @contextmanager
    def attached(self, path: Path) -> Iterator[None]:
        """The database at *path* as `perdure_building`."""
        self.execute("ATTACH ? AS perdure_building", (str(path),))
        try:
            yield
        finally:
            self.execute("DETACH perdure_building")

    def let(self, work: Work) -> None:
        """Let a handler work in the transaction. Trouble with the database is raised as such, whatever the handler made of it."""
        transaction = _Transaction(self._raw, self._where)
        self._handling = True
        try:
            work(transaction)
        except Exception:
            if transaction.trouble is None:
                raise
        finally:
            self._handling = transaction.open = False
        if transaction.trouble is not None:
            raise transaction.trouble

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of ours."""
        with self._translated():
            return self._raw.execute(sql, parameters).fetchall()

    def mark(self, projection: str, schema: str = "main") -> Mark | None:
        """The projection's row."""
        rows = self.execute(_READ.format(schema), (projection,))
        return Mark(**dict(zip(_COLUMNS, rows[0], strict=True))) if rows else None

    def names(self) -> set[str]:
        """All tables and views."""
        return {name for kind in ("table", "view") for name, _ in self.objects("main", kind)}

    def objects(self, schema: str, kind: str) -> list[tuple[str, str]]:
        """Name and definition of what programs made, in the order in which they did."""
        found = self.execute(f"SELECT name, sql FROM {schema}.sqlite_master WHERE type = ? AND sql IS NOT NULL ORDER BY rowid", (kind,))
        virtual = tuple(f"{name}_" for name, sql in found if sql.upper().startswith("CREATE VIRTUAL TABLE"))  # which keep their rows in tables named so
        return [(name, sql) for name, sql in found if not name.startswith(("perdure_", "sqlite_", *virtual))]

    def _authorize(self, action: int, subject: str | None, *_: str | None) -> int:
        """What handlers may do: all but what would end the transaction, or move the row that says how far it is."""
        if not self._handling:
            return sqlite3.SQLITE_OK
        theirs = action not in _OURS and (action == sqlite3.SQLITE_READ or not (subject or "").startswith("perdure_"))
        return sqlite3.SQLITE_OK if theirs else sqlite3.SQLITE_DENY

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if (trouble := trouble_of(error, self._where)) is None:
                raise
            raise trouble from error


class _Transaction:
    """What a handler gets; over when it has returned."""

    def __init__(self, raw: sqlite3.Connection, where: str) -> None:
        self._raw = raw
        self._where = where
        self.open = True
        self.trouble: PerdureError | None = None
        """With the database, and no fault of the handler."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `Transaction`."""
        self._check()
        try:
            cursor = self._raw.execute(sql, parameters)
            return cursor.fetchall() if cursor.description is not None else []
        except sqlite3.Error as error:
            self._note(error)
            raise

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See `Transaction`."""
        self._check()
        try:
            self._raw.executemany(sql, rows)
        except sqlite3.Error as error:
            self._note(error)
            raise

    def _check(self) -> None:
        if not self.open:
            raise Misuse("this transaction is over: use it only in the handler that got it")
        if self.trouble is not None:
            raise self.trouble

    def _note(self, error: sqlite3.Error) -> None:
        self.trouble = self.trouble or trouble_of(error, self._where)
        if self.trouble is None and not self._raw.in_transaction:
            self.trouble = Misuse(f"a statement of the handler has rolled the whole transaction back ({error}): leave that to perdure, and raise")


def trouble_of(error: sqlite3.Error, where: str) -> PerdureError | None:
    """What an error of SQLite is to us; None if a wrong statement is to blame."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _UNAVAILABLE:
        return Unavailable(f"{where}: {error}")
    if code == sqlite3.SQLITE_FULL:
        return Full(where, size := _size_bytes(where), size)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(where, str(error))
    return None


def _size_bytes(where: str) -> int:
    path = Path(where.partition(":")[2])
    return sum(file.stat().st_size for file in _files(path) if file.exists())


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
