"""Where the flights demo keeps its store and its table: a folder, or two schemas of a PostgreSQL database."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import attrs

TABLE = "flights.sqlite"
TABLE_FILES = frozenset(f"{TABLE}{suffix}" for suffix in ("", "-wal", "-shm"))
LOCKS = frozenset(f"{name}.lock" for name in ("users", "opening", "next", "gate", "writer"))
STORE_FILES = TABLE_FILES | LOCKS | {"data.mdb", "data.mdb-lock", "data.mdb.new", "data.mdb.new-lock", "data.mdb.compact", "clean", "news", "turn"}
SCHEMA = "flights_demo"


class NoPlace(Exception):
    """The demo cannot be run there; the message says why, and what to do."""


class Place(Protocol):
    """Made by `place_of`."""

    @property
    def url(self) -> str:
        """Of the store."""
        ...

    @property
    def table(self) -> str:
        """Of the database with the table."""
        ...

    def prepare(self, *, keep: bool) -> bool:
        """Make it ready, and empty unless *keep*; whether a store is left in it."""
        ...

    def below(self, folder: Path) -> str:
        """The store's URL, seen from *folder*."""
        ...


def place_of(store: str, folder: Path) -> Place:
    """What *store* names; without it the *folder*."""
    if store.startswith(("postgresql://", "postgres://")):
        return Server(store)
    if store and not store.startswith("lmdb:"):
        raise NoPlace(f"{store!r}: the demo runs in lmdb:DIR or postgresql://USER@HOST/DATABASE")
    return Folder(Path(store.removeprefix("lmdb:").removeprefix("//")) if store else folder)


def query(table: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask the database at the URL *table*, as anybody may."""
    if table.startswith("sqlite:"):
        with closing(sqlite3.connect(table.removeprefix("sqlite:"))) as database:
            return database.execute(sql).fetchall()
    base, schema = _split(table)
    return _ask(base, sql, f"-c search_path={schema}")


@attrs.frozen
class Folder:
    """Only a store's own files are removed from it, and only when no process has them open."""

    path: Path

    @property
    def url(self) -> str:
        """See `Place`."""
        return f"lmdb:{self.path}"

    @property
    def table(self) -> str:
        """See `Place`."""
        return f"sqlite:{self.path / TABLE}"

    def below(self, folder: Path) -> str:
        """See `Place`."""
        return f"lmdb:{os.path.relpath(self.path, folder)}"

    def prepare(self, *, keep: bool) -> bool:
        """See `Place`."""
        folder = self.path
        if folder.exists() and not folder.is_dir():
            raise NoPlace(f"{folder} is a file: name a folder with --dir")
        folder.mkdir(parents=True, exist_ok=True)
        if keep:
            return (folder / "data.mdb").exists()
        present = {path.name for path in folder.iterdir()}
        if foreign := sorted(present - STORE_FILES):
            raise NoPlace(f"{folder} is emptied before the demo, but holds {foreign[0]}, which is no file of a store: name another folder with --dir")
        if "users.lock" in present:
            with (folder / "users.lock").open("rb+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise NoPlace(f"the store in {folder} is in use by another process: wait for it, or name another folder with --dir") from error
        for name in present:
            (folder / name).unlink()
        return False


class Server:
    """The schemas `flights_demo` and `flights_demo_sql`, which are dropped before it begins. A `schema=` of the URL is never dropped: it must be empty."""

    def __init__(self, url: str) -> None:
        self._base, schema = _split(url)
        self._own = not schema
        self._schema = schema or SCHEMA
        self.url = _with(self._base, self._schema)
        self.table = _with(self._base, f"{self._schema}_sql")

    def below(self, folder: Path) -> str:
        """See `Place`."""
        return self.url

    def prepare(self, *, keep: bool) -> bool:
        """See `Place`."""
        there = bool(_ask(self._base, f"SELECT 1 WHERE to_regclass('{self._schema}.head') IS NOT NULL"))
        if keep:
            return there
        if there and not self._own:
            raise NoPlace(f"there is a store in the schema {self._schema} already: go on with it (--keep), name another one, or leave schema= out")
        if self._own:
            for schema in (self._schema, f"{self._schema}_sql"):
                _ask(self._base, f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        return False


def _split(url: str) -> tuple[str, str]:
    """The URL without the schema, and the schema."""
    parts = urlsplit(url)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in parameters if name != "schema"])
    base = urlunsplit(("postgresql", parts.netloc, parts.path, rest, ""))
    return (base if parts.netloc else base.replace("postgresql:", "postgresql://", 1)), dict(parameters).get("schema", "")


def _with(base: str, schema: str) -> str:
    return f"{base}{'&' if '?' in base else '?'}schema={schema}"


def _ask(base: str, sql: str, options: str = "") -> list[tuple[Any, ...]]:
    try:
        import psycopg
    except ImportError as error:
        raise NoPlace("a store on a server needs an extra: pip install 'perdure[postgres]'") from error
    try:
        with psycopg.connect(base, autocommit=True, options=f"-c client_min_messages=warning {options}") as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise NoPlace(f"the server does not let the demo run there: {str(error).strip()}") from error
