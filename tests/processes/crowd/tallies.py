"""The tallies of the crowd as tables in SQL: each row says how many events it has seen, and in which order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from crowd.domain import Done, Tally, stepped, who
from perdure.runtime import Event, SqlProjection, Transaction, of

NAME = "tallies"


def tallies(database: str, version: int) -> SqlProjection[Done]:
    """Kept in that database."""
    return SqlProjection(NAME, version=version, database=f"sqlite:{database}", tables=_tables, handle=_tally, events=of(Done))


def _tables(tx: Transaction) -> None:
    tx.execute("CREATE TABLE done (position INTEGER PRIMARY KEY, done_by TEXT NOT NULL, number INTEGER NOT NULL)")
    tx.execute("CREATE TABLE tallies (key TEXT PRIMARY KEY, events INTEGER NOT NULL, digest INTEGER NOT NULL)")


def _tally(event: Event[Done], tx: Transaction) -> None:
    done = event.data
    tx.execute("INSERT INTO done VALUES (?, ?, ?)", (event.position, done.by, done.number))
    for key in ("-", who(done.by)):
        rows = tx.execute("SELECT events, digest FROM tallies WHERE key = ?", (key,))
        state = stepped(Tally(*rows[0]) if rows else Tally(), event.position, done.number)
        tx.execute("INSERT OR REPLACE INTO tallies VALUES (?, ?, ?)", (key, state.events, state.digest))


# -- as anybody reads them -----------------------------------------------------------------------


def read_position(database: Path) -> int:
    """How far the tables are."""
    if not database.exists():
        return 0
    rows = _read(database, "SELECT position FROM perdure_checkpoints")
    return int(rows[0][0]) if rows else 0


def read_version(database: Path) -> int:
    """The version of the tables that are read."""
    return int(_read(database, "SELECT version FROM perdure_checkpoints")[0][0])


def read_tallies(database: Path) -> dict[str, Tally]:
    """Key and tally."""
    return {key: Tally(events, digest) for key, events, digest in _read(database, "SELECT key, events, digest FROM tallies")}


def read_done(database: Path) -> list[tuple[int, str, int]]:
    """Position, by whom, and number."""
    return _read(database, "SELECT position, done_by, number FROM done ORDER BY position")


def is_locked(database: Path) -> bool:
    """Whether somebody is in the middle of a transaction now."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def _read(database: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []  # nothing was made yet
            raise
