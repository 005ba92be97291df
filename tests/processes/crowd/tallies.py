"""The tallies of the crowd as tables in SQL: each row says how many events it has seen, and in which order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import psycopg

from crowd.domain import Done, Tally, stepped, who
from perdure.runtime import Event, SqlProjection, Transaction, of

NAME = "tallies"


def tallies(database: str, version: int) -> SqlProjection[Done]:
    """Kept in that database."""
    handle = _tally if database.startswith("sqlite:") else _tally_in_postgres
    return SqlProjection(NAME, version=version, database=database, tables=_tables, handle=handle, events=of(Done))


def _tables(tx: Transaction) -> None:
    tx.execute("CREATE TABLE done (position BIGINT PRIMARY KEY, done_by TEXT NOT NULL, number INTEGER NOT NULL)")
    tx.execute("CREATE TABLE tallies (key TEXT PRIMARY KEY, events BIGINT NOT NULL, digest BIGINT NOT NULL)")


def _tally(event: Event[Done], tx: Transaction, mark: str = "?") -> None:
    done = event.data
    tx.execute(f"INSERT INTO done VALUES ({mark}, {mark}, {mark})", (event.position, done.by, done.number))
    for key in ("-", who(done.by)):
        rows = tx.execute(f"SELECT events, digest FROM tallies WHERE key = {mark}", (key,))
        state = stepped(Tally(*rows[0]) if rows else Tally(), event.position, done.number)
        put = f"INSERT INTO tallies VALUES ({mark}, {mark}, {mark}) ON CONFLICT (key) DO UPDATE SET events = excluded.events, digest = excluded.digest"
        tx.execute(put, (key, state.events, state.digest))


def _tally_in_postgres(event: Event[Done], tx: Transaction) -> None:
    _tally(event, tx, "%s")


# -- as anybody reads them -----------------------------------------------------------------------


@attrs.frozen
class Tables:
    """In that database."""

    url: str

    @property
    def position(self) -> int:
        """How far the tables are."""
        rows = self._read("SELECT position FROM perdure_checkpoints WHERE version = (SELECT min(version) FROM perdure_checkpoints)")
        return int(rows[0][0]) if rows else 0

    @property
    def version(self) -> int:
        """The version of the tables that are read."""
        return int(self._read("SELECT min(version) FROM perdure_checkpoints")[0][0])

    @property
    def building(self) -> bool:
        """Whether others are built beside."""
        if self._file is not None:
            return self._file.with_name(f"{self._file.name}.{NAME}.building").exists()
        return bool(self._read("SELECT 1 FROM perdure_checkpoints WHERE building"))

    def tallies(self) -> dict[str, Tally]:
        """Key and tally."""
        return {key: Tally(events, digest) for key, events, digest in self._read("SELECT key, events, digest FROM tallies")}

    def done(self) -> list[tuple[int, str, int]]:
        """Position, by whom, and number."""
        return self._read("SELECT position, done_by, number FROM done ORDER BY position")

    def is_locked(self) -> bool:
        """Whether somebody is in the middle of a transaction now."""
        if self._file is None:
            return False  # not for long: the server ends it
        with closing(sqlite3.connect(self._file, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

    def delete(self) -> None:
        """Away with all of it."""
        if self._file is not None:
            self._file.unlink()
        else:
            with closing(psycopg.connect(self.url, autocommit=True)) as connection:
                connection.execute("DROP SCHEMA models CASCADE")

    @property
    def _file(self) -> Path | None:
        scheme, _, path = self.url.partition(":")
        return Path(path) if scheme == "sqlite" else None

    def _read(self, sql: str) -> list[Any]:
        if self._file is None:
            with closing(psycopg.connect(self.url, options="-c search_path=models", autocommit=True)) as connection:
                try:
                    return connection.execute(sql.encode()).fetchall()
                except psycopg.errors.UndefinedTable:
                    return []  # nothing was made yet
        if not self._file.exists():
            return []
        with closing(sqlite3.connect(self._file)) as reader:
            try:
                return reader.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise
