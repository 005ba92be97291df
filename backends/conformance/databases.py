"""Stores to hold the laws against in databases of a PostgreSQL server, also with COMMITs that fail when they are told to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import psycopg
import trio

from perdure.backends.conformance.stores import Later
from perdure.backends.environment import Environment, Threads
from perdure.backends.errors import MissingExtra, Misuse
from perdure.backends.limits import Limits
from perdure.backends.postgres import open_postgres
from perdure.backends.postgres.faulty import CommitFaults
from perdure.backends.postgres.wire import Wire
from perdure.backends.protocol import Backend

__all__ = ["DatabaseStores", "FaultyDatabaseStores", "MissingExtra", "scratch_databases"]


class DatabaseStores:
    """`postgresql://...`, each named store in a database of its own on that server."""

    def __init__(self, url: str, clock: Later, limits: Limits, threads: Threads) -> None:
        self._url = url
        self._environment = Environment(clock=clock, threads=threads)
        self._limits = limits
        self._made: dict[str, str] = {}
        self._open_now: list[str] = []

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return self._open(name, Wire)

    @asynccontextmanager
    async def _open(self, name: str, wires: type[Wire]) -> AsyncIterator[Backend]:
        backend = await open_postgres(self.url_of(name), environment=self._environment, limits=self._limits, wires=wires)
        self._open_now.append(name)
        try:
            yield backend
        finally:
            self._open_now.remove(name)
            with trio.CancelScope(shield=True):
                await backend.aclose()

    def advance(self, seconds: float) -> None:
        """Make what is to be forgotten one day in the stores that are open so much older: nobody moves the server's clock."""
        for name in dict.fromkeys(self._open_now):
            with closing(psycopg.connect(self.url_of(name), autocommit=True)) as connection:
                for column in ("kv SET deleted = deleted", "commits SET at = at"):
                    connection.execute(f"UPDATE perdure.{column} - {seconds} * interval '1 s'".encode())

    @contextmanager
    def hold_turn(self, name: str) -> Iterator[None]:
        """Keep the right to write to that store, as a frozen process would that the server does not part from it."""
        with closing(psycopg.connect(self.url_of(name), application_name=f"perdure {os.getpid()}")) as connection:
            connection.execute("SELECT FROM perdure.head FOR UPDATE")
            yield

    # -- databases ---------------------------------------------------------------------------

    def url_of(self, name: str) -> str:
        """The URL of the database of a store, made if there is none."""
        if name not in self._made:
            self._made[name] = f"perdure_law_{os.getpid()}_{os.urandom(4).hex()}"
            self._run(f"CREATE DATABASE {self._made[name]} ENCODING 'UTF8' TEMPLATE template0")
        parts = urlsplit(self._url)
        return urlunsplit((parts.scheme, parts.netloc, f"/{self._made[name]}", parts.query, "")).replace(":/", "://", 1 if not parts.netloc else 0)

    def drop(self) -> None:
        """Drop them all."""
        for database in self._made.values():
            with suppress(Misuse):
                self._run(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        try:
            with closing(psycopg.connect(self._url, autocommit=True)) as connection:
                connection.execute(statement.encode())
        except psycopg.Error as error:
            raise Misuse(f"the laws need databases of their own on that server ({str(error).strip()}): name a role with CREATEDB") from error


class FaultyDatabaseStores(DatabaseStores):
    """The same, whose COMMITs fail when they are told to."""

    def __init__(self, url: str, clock: Later, limits: Limits, threads: Threads) -> None:
        super().__init__(url, clock, limits, threads)
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


@contextmanager
def scratch_databases(url: str, clock: Later, limits: Limits, threads: Threads, *, faults: bool) -> Iterator[DatabaseStores]:
    """Stores on the server of *url*, dropped at the end."""
    with ExitStack() as stack:
        stores = (FaultyDatabaseStores if faults else DatabaseStores)(url, clock, limits, threads)
        stack.callback(stores.drop)
        yield stores
