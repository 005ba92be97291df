"""Stores to hold the laws against in a PostgreSQL database, also with COMMITs that fail or wait when they are told to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import cached_property

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from perdure.backends.environment import Environment, Threads
from perdure.backends.errors import Misuse
from perdure.backends.limits import Limits
from perdure.backends.postgres import Options, open_postgres, session
from perdure.backends.postgres.faulty import CommitFaults
from perdure.backends.postgres.wire import Wire
from perdure.backends.protocol import Backend


class DatabaseStores:
    """`postgresql://...`, each named store in a schema of its own of that database."""

    def __init__(self, url: str, limits: Limits, threads: Threads) -> None:
        self._url = url
        self._conninfo = session.read_url(url)[0].decode()
        self._environment = Environment(threads=threads)
        self._limits = limits
        self._schemas: dict[str, str] = {}
        self._open_now: list[str] = []

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return self._open(name, Wire)

    @asynccontextmanager
    async def _open(self, name: str, wires: type[Wire]) -> AsyncIterator[Backend]:
        options = Options(schema=self.schema_of(name))
        backend = await open_postgres(self._url, options, environment=self._environment, limits=self._limits, wires=wires)
        self._open_now.append(options.schema)
        try:
            yield backend
        finally:
            self._open_now.remove(options.schema)
            with trio.CancelScope(shield=True):
                await backend.aclose()

    def advance(self, seconds: float) -> None:
        """Make what is to be forgotten one day in the stores that are open so much older: nobody moves the server's clock."""
        with self._connected() as connection:
            for schema in dict.fromkeys(self._open_now):
                for column in ("kv SET deleted = deleted", "commits SET at = at"):
                    connection.execute(f"UPDATE {schema}.{column} - {seconds} * interval '1 s'".encode())

    @contextmanager
    def hold_turn(self, name: str) -> Iterator[None]:
        """Keep the right to write to that store, as a frozen process would that the server does not part from it."""
        with self._connected() as connection, connection.transaction():
            connection.execute(f"SELECT FROM {self.schema_of(name)}.head FOR UPDATE".encode())
            yield

    @contextmanager
    def hold_open(self, name: str) -> Iterator[None]:
        """Keep transactions of this database open: some idle, some with a snapshot, some that have an id, some that have read the store's tables."""
        numbered, reads = "SELECT pg_current_xact_id()", f"SELECT count(*) FROM {self.schema_of(name)}.events"
        begun = [("READ COMMITTED", "SELECT 1"), ("READ COMMITTED", "CREATE TEMP TABLE theirs ON COMMIT DROP AS SELECT 1")]
        begun += [(level, statement) for level in ("REPEATABLE READ", "SERIALIZABLE") for statement in (numbered, reads)]
        with ExitStack() as stack:
            for level, statement in begun:
                _begin(stack.enter_context(self._connected()), level, statement)
            yield

    @contextmanager
    def hold_elsewhere(self) -> Iterator[None]:
        """The same in another database of the cluster."""
        with ExitStack() as stack:
            for level in ("READ COMMITTED", "REPEATABLE READ"):
                for statement in ("SELECT 1", "SELECT pg_current_xact_id()"):
                    _begin(stack.enter_context(self._connected(self._elsewhere)), level, statement)
            yield

    @cached_property
    def _elsewhere(self) -> str:
        """The name of another database."""
        others = "datallowconn AND datname <> current_database() AND has_database_privilege(datname, 'CONNECT')"
        with self._connected() as connection:
            found = connection.execute(f"SELECT datname FROM pg_database WHERE {others} ORDER BY datname".encode()).fetchone()
        if found is None:
            raise Misuse("the laws need another database of that server, which this role may connect to: CREATE DATABASE other")
        return str(found[0])

    def schema_of(self, name: str) -> str:
        """Where the tables of that store are."""
        return self._schemas.setdefault(name, f"perdure_law_{os.getpid()}_{os.urandom(4).hex()}")

    def drop(self) -> None:
        """Drop them all."""
        with self._connected() as connection, suppress(psycopg.Error):
            connection.execute("SET client_min_messages = error")
            for schema in self._schemas.values():
                connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())

    @contextmanager
    def _connected(self, database: str | None = None) -> Iterator[psycopg.Connection]:
        try:
            connection = psycopg.connect(make_conninfo(self._conninfo, dbname=database), autocommit=True)
        except psycopg.Error as error:
            raise Misuse(f"the laws cannot connect to that server ({str(error).strip()})") from error
        with closing(connection):
            yield connection


def _begin(connection: psycopg.Connection, level: str, statement: str) -> None:
    connection.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
    connection.execute(statement.encode())


class FaultyDatabaseStores(DatabaseStores):
    """The same, whose COMMITs fail when they are told to."""

    def __init__(self, url: str, limits: Limits, threads: Threads) -> None:
        super().__init__(url, limits, threads)
        self._faults: dict[Backend, CommitFaults] = {}

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Backend]:
        faults = CommitFaults()
        async with super()._open(name, faults.wires()) as backend:
            self._faults[backend] = faults
            yield backend

    def fail_flush(self, backend: Backend, *, stored: bool) -> None:
        """Let the next COMMIT of *backend* break its connection."""
        self._faults[backend].next.append(stored)

    def hold_flush(self, backend: Backend) -> AbstractContextManager[trio.Event]:
        """Let the next group of *backend* be written and not committed until the block ends."""
        return self._faults[backend].hold()


@contextmanager
def scratch_databases(url: str, limits: Limits, threads: Threads, *, faults: bool) -> Iterator[DatabaseStores]:
    """Stores on the server of *url*, dropped at the end."""
    stores = (FaultyDatabaseStores if faults else DatabaseStores)(url, limits, threads)
    try:
        yield stores
    finally:
        stores.drop()
