"""Databases to try SQL read models in, each with the same few handles: an SQLite file, and a PostgreSQL database."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from perdure.backends.databases import open_database
from perdure.backends.sql import Mark, SqlDatabase, Transaction, Work
from postgres_server import Given

Rows = list[tuple[Any, ...]]


class Shop:
    """A database that people query."""

    kind: str
    url: str
    busy_s: float
    """Somebody else's lock is waited for so long at a time."""

    def connect(self) -> Any:
        """A connection of somebody's own, to be closed; each statement is done at once."""
        raise NotImplementedError

    def rows(self, sql: str) -> Rows:
        """What a statement gives."""
        with closing(self.connect()) as connection:
            cursor = connection.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def open(self, projection: str = "payments") -> SqlDatabase:
        """As the actor does."""
        database = open_database(self.url, projection)
        assert database is not None
        return database

    def says(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same handler, its `?` written as this database does."""
        return work

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody is in the middle of a transaction."""
        with closing(self.connect()) as other:
            other.execute(self._lock)
            yield
            other.execute("ROLLBACK")

    _lock: str

    def names(self) -> set[str]:
        """All tables and views."""
        raise NotImplementedError

    def copy(self) -> Callable[[], None]:
        """Copy it; what brings the copy back."""
        raise NotImplementedError


class SqliteShop(Shop):
    """A file."""

    kind = "sqlite"
    busy_s = 1.0
    _lock = "BEGIN IMMEDIATE"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:{path}"

    def connect(self) -> Any:
        return sqlite3.connect(self.path, isolation_level=None)

    def names(self) -> set[str]:
        return {name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'")}

    def copy(self) -> Callable[[], None]:
        copied = self.path.with_name("copy")
        shutil.copy(self.path, copied)

        def restore() -> None:
            shutil.copy(copied, self.path)

        return restore


class PostgresShop(Shop):
    """A schema in a database."""

    kind = "postgres"
    busy_s = 2.0
    _lock = "BEGIN; SELECT * FROM perdure_checkpoints FOR UPDATE"

    def __init__(self, server: Given, url: str, schema: str = "models") -> None:
        self._server = server
        self._raw = url
        self.schema = schema
        self.url = f"{url}&schema={schema}"

    def connect(self) -> Any:
        return psycopg.connect(self._raw, autocommit=True, options=f"-c search_path={self.schema}")

    def says(self, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: work(*args[:-1], _Said(args[-1]))

    def names(self) -> set[str]:
        return {str(name) for (name,) in self.rows(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{self.schema}'")}

    def copy(self) -> Callable[[], None]:
        name = urlsplit(self._raw).path[1:]
        self._server.run(f"CREATE DATABASE {name}_copy TEMPLATE {name}")

        def restore() -> None:
            self._server.run(f"DROP DATABASE {name} WITH (FORCE)")
            self._server.run(f"ALTER DATABASE {name}_copy RENAME TO {name}")

        return restore

    def drop_database(self) -> None:
        """And make an empty one in its place."""
        name = urlsplit(self._raw).path[1:]
        self._server.run(f"DROP DATABASE {name} WITH (FORCE)")
        self._server.run(f"CREATE DATABASE {name}")


class _Said:
    """A transaction whose placeholders are written `?`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._tx.execute(sql.replace("?", "%s"), parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._tx.executemany(sql.replace("?", "%s"), rows)


class Wrapped:
    """A database that does as another one; for those that fail on purpose."""

    def __init__(self, inner: SqlDatabase) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def move(self, before: Mark, after: Mark, work: Work, *, building: bool = False) -> bool:
        return self.inner.move(before, after, work, building=building)

    def swap(self, before: Mark, built: Mark) -> bool:
        return self.inner.swap(before, built)
