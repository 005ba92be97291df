"""eventsourcing 9.5 and eventsource-py 0.8 on PostgreSQL, on the same server as ours, each by its own documented adapter.

eventsourcing: `eventsourcing.postgres`, with its pool made as large as the threads that use it. eventsource-py: `PostgreSQLEventStore` with
asyncpg, its pool likewise. Both leave `synchronous_commit` as the server has it, on.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from time import monotonic_ns, perf_counter
from typing import Any, ClassVar
from uuid import uuid4

from eventsource import InMemoryEventBus
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.adapters.sql.checkpoints import SQLCheckpointRepository
from eventsource.application.subscriptions import SubscriptionConfig, SubscriptionManager
from eventsource.migrations import get_schema
from eventsource.ports import ExpectedVersion
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.utils import Environment
from psycopg.sql import SQL
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from benchmarks.figures import p50_ms
from benchmarks.harness import FEWER, Case, Work
from benchmarks.ours_postgres import processes
from benchmarks.payload import Payment, payments, total_of
from benchmarks.peers import eventsource, eventsourcing
from benchmarks.peers.eventsource import AccountsProjection, event_of, new_stream
from benchmarks.peers.eventsourcing import JsonLedger
from benchmarks.server import database_of, name_of, server
from benchmarks.sizes import Sizes

POOL = 64


# -- eventsourcing ---------------------------------------------------------------------------------


class PostgresLedger(eventsourcing.Ledger):
    """As on SQLite, in PostgreSQL."""

    env: ClassVar[dict[str, str]] = {"PERSISTENCE_MODULE": "eventsourcing.postgres"}


def env_of(url: str, host: str, pool: int = POOL) -> dict[str, str]:
    """What the library is told."""
    return {
        "POSTGRES_DBNAME": name_of(url),
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "none",
        "POSTGRES_POOL_SIZE": str(pool),
        "POSTGRES_MAX_OVERFLOW": "10",
        "POSTGRES_MAX_WAITING": "0",
        "POSTGRES_CONN_MAX_AGE": "",
        "POSTGRES_PRE_PING": "n",
        "POSTGRES_LOCK_TIMEOUT": "0",
    }


@contextmanager
def open_ledger(folder: Path) -> Iterator[JsonLedger]:
    """A ledger in a database of its own."""
    with PostgresLedger(env=env_of(database_of(folder), str(server().folder))) as app:
        yield app


class TotalView(PostgresTrackingRecorder):
    """One number in one row."""

    def __init__(self, datastore: Any, **how: Any) -> None:
        super().__init__(datastore, **how)
        self.sql_create_statements.append(SQL("CREATE TABLE IF NOT EXISTS total (id int PRIMARY KEY, cents bigint)"))
        self.sql_create_statements.append(SQL("CREATE TABLE IF NOT EXISTS accounts (account text PRIMARY KEY, cents bigint)"))

    def add(self, event: Any, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute("INSERT INTO total VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET cents = total.cents + excluded.cents", (event.cents,))
            self._insert_tracking(cursor, tracking)

    def add_account(self, event: Any, tracking: Tracking) -> None:
        upsert = "INSERT INTO accounts VALUES (%s, %s) ON CONFLICT (account) DO UPDATE SET cents = accounts.cents + excluded.cents"
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(upsert, (event.account, event.cents))
            self._insert_tracking(cursor, tracking)

    def cents(self, query: str, *values: object) -> int:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(query, values)
            return int(next(iter(cursor.fetchone().values())))


@contextmanager
def open_view(folder: Path) -> Iterator[Any]:
    factory: Any = InfrastructureFactory.construct(Environment("View", {**PostgresLedger.env, **env_of(database_of(folder), str(server().folder))}))
    with factory:
        yield factory.tracking_recorder(TotalView)


@contextmanager
def ledger_catch_up(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A view of one row; state and tracking in one transaction for each event."""
    count = sizes.catch_up_slow

    with open_ledger(folder) as app, open_view(folder) as view:
        eventsourcing.fill(app, count, sizes.bulk_commit)

        def work() -> float:
            begun = perf_counter()
            for event, number in eventsourcing._log(app):
                view.add(event, Tracking(app.name, number))
            rate = count / (perf_counter() - begun)
            assert view.cents("SELECT cents FROM total") == total_of(count)
            return rate

        yield work


@contextmanager
def ledger_visible(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from `save` until a read of the view gives the new state, the writer processing what it saved: no follower has to be woken."""
    data, stream = list(payments(sizes.visible)), uuid4()

    with open_ledger(folder) as app, open_view(folder) as view:

        def once(version: int, each: Payment) -> float:
            begun = perf_counter()
            for recording in app.save(app.event_of(stream, version, each)):
                view.add_account(recording.domain_event, Tracking(app.name, recording.notification.id))
            cents = view.cents("SELECT cents FROM accounts WHERE account = %s", each.account)
            took_s = perf_counter() - begun
            assert cents == each.cents
            return took_s

        yield lambda: p50_ms([once(version, each) for version, each in enumerate(data, 1)])


async def write_ledger(url: str, name: str, writers: str, seconds: str) -> None:
    """The role of a worker: threads that append single events."""
    from benchmarks.worker import say, say_ready

    host = url.rpartition("host=")[2].replace("%2F", "/")
    data = list(payments(1_000))
    with PostgresLedger(env=env_of(url, host, int(writers))) as app, ThreadPoolExecutor(int(writers)) as pool:
        say_ready()
        begin_ns = int(sys.stdin.readline())
        end_ns = begin_ns + int(float(seconds) * 1e9)

        def write(_: int) -> int:
            stream = uuid4()
            for version, each in enumerate(cycle(data), 1):
                app.save(app.event_of(stream, version, each))
                if monotonic_ns() >= end_ns:
                    return version - 1
            return 0

        say(sum(pool.map(write, range(int(writers)))))


# -- eventsource-py --------------------------------------------------------------------------------


def engine_of(url: str, host: str, pool: int = POOL) -> AsyncEngine:
    """What the store is given."""
    return create_async_engine(f"postgresql+asyncpg://postgres@/{name_of(url)}?host={host}", pool_size=pool, max_overflow=10)


@asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[PostgreSQLEventStore]:
    """A store in a database of its own."""
    engine = engine_of(database_of(folder), str(server().folder))
    try:
        store = PostgreSQLEventStore(engine, create_schema=True)
        await _make_schema(engine)
        yield store
    finally:
        await engine.dispose()


async def _make_schema(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        there = (await connection.execute(text("SELECT to_regclass('events') IS NOT NULL"))).scalar_one()
        if not there:
            raw: Any = await connection.get_raw_connection()
            await raw.driver_connection.execute(get_schema("events"))
            tables, _, rest = get_schema("checkpoints").partition("CREATE OR REPLACE FUNCTION")  # PostgreSQL refuses their GET DIAGNOSTICS
            _, altered, column = rest.rpartition("ALTER TABLE")
            await raw.driver_connection.execute(tables + altered + column)


async def _run_projection(engine: AsyncEngine, store: PostgreSQLEventStore, count: int) -> float:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE total (id int PRIMARY KEY, cents bigint)"))
    projection: Any = PostgresTotal(async_sessionmaker(engine))
    manager = SubscriptionManager(store, InMemoryEventBus(), SQLCheckpointRepository(engine, enable_tracing=False), enable_tracing=False)
    await manager.subscribe(projection, SubscriptionConfig(start_from="beginning", batch_size=eventsource.PAGE_RECORDS), name="view")
    begun = perf_counter()
    await manager.start()  # returns when it has caught up
    await manager.stop()
    rate = count / (perf_counter() - begun)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT sum(cents) FROM total"))).scalar_one() == total_of(count)
    return rate


class PostgresTotal(eventsource.TotalProjection):
    UPSERT = text("INSERT INTO total VALUES (1, :cents) ON CONFLICT (id) DO UPDATE SET cents = total.cents + excluded.cents")


class PostgresAccounts(AccountsProjection):
    UPSERT = text("INSERT INTO accounts VALUES (:account, :cents) ON CONFLICT (account) DO UPDATE SET cents = accounts.cents + excluded.cents")


@contextmanager
def store_catch_up(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A projection into one row, one transaction for each event."""
    count = sizes.catch_up_slow // 5

    async def run() -> float:
        async with open_store(folder) as store:
            await eventsource._append_all(store, new_stream(), list(payments(count)), sizes.bulk_commit)
            return await _run_projection(engine_of(database_of(folder), str(server().folder)), store, count)

    yield lambda: asyncio.run(run())


@contextmanager
def store_visible(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from `append` until a read of the projection's table gives the new state; see `eventsource.visible`."""

    async def run() -> float:
        async with open_store(folder) as store:
            engine = engine_of(database_of(folder), str(server().folder))
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE accounts (account text PRIMARY KEY, cents bigint)"))
            checkpoints, bus = SQLCheckpointRepository(engine, enable_tracing=False), InMemoryEventBus(enable_tracing=False)
            projection: Any = PostgresAccounts(async_sessionmaker(engine), checkpoints)
            manager = SubscriptionManager(store, bus, checkpoints, enable_tracing=False)
            await manager.subscribe(projection, SubscriptionConfig(start_from="beginning"), name="view")
            await manager.start()
            took_s = [await eventsource._see(store, bus, engine, each) for each in payments(sizes.visible)]
            await manager.stop()
            await engine.dispose()
            return p50_ms(took_s)

    yield lambda: asyncio.run(run())


async def write_store(url: str, name: str, writers: str, seconds: str) -> None:
    """The role of a worker: tasks that append single events, in a loop of its own."""
    from benchmarks.worker import say, say_ready

    host = url.rpartition("host=")[2].replace("%2F", "/")
    data = list(payments(1_000))

    async def body() -> int:
        engine = engine_of(url, host, int(writers))
        store = PostgreSQLEventStore(engine)
        say_ready()
        end_ns = int(sys.stdin.readline()) + int(float(seconds) * 1e9)

        async def write() -> int:
            stream, done = new_stream(), 0
            for each in cycle(data):
                await store.append(stream, [event_of(stream, each)], ExpectedVersion.any_())
                if monotonic_ns() >= end_ns:
                    break
                done += 1
            return done

        counts = await asyncio.gather(*(write() for _ in range(int(writers))))
        await engine.dispose()
        return sum(counts)

    with ThreadPoolExecutor(1) as pool:
        say(pool.submit(asyncio.run, body()).result())


@contextmanager
def store_processes(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """The tables are made first."""

    async def make() -> None:
        await _make_schema(engine_of(database_of(folder), str(server().folder)))

    with processes(folder, sizes, role="write-eventsource", count=8, tasks=8) as work:
        asyncio.run(make())
        yield work


LEDGER_WRITERS = Case(eventsourcing.NAME, partial(eventsourcing.writers, opens=open_ledger), fresh=True, note=FEWER)
LEDGER_BULK = Case(eventsourcing.NAME, partial(eventsourcing.bulk, opens=open_ledger), fresh=True, note=FEWER)
LEDGER_REPLAY = Case(eventsourcing.NAME, partial(eventsourcing.replay, opens=open_ledger), note=FEWER)
LEDGER_CATCH_UP = Case(eventsourcing.NAME, ledger_catch_up, fresh=True, note=FEWER)
LEDGER_VISIBLE = Case(eventsourcing.NAME, ledger_visible, fresh=True)
LEDGER_PROCESSES = Case(eventsourcing.NAME, partial(processes, role="write-eventsourcing", count=8, tasks=8), fresh=True)
STORE_WRITERS = Case(eventsource.NAME, partial(eventsource.writers, opens=open_store), fresh=True, note=FEWER)
STORE_BULK = Case(eventsource.NAME, partial(eventsource.bulk, opens=open_store), fresh=True, note=FEWER)
STORE_REPLAY = Case(eventsource.NAME, partial(eventsource.replay, opens=open_store), note=FEWER)
STORE_CATCH_UP = Case(eventsource.NAME, store_catch_up, fresh=True, note=FEWER)
STORE_VISIBLE = Case(eventsource.NAME, store_visible, fresh=True)
STORE_PROCESSES = Case(eventsource.NAME, store_processes, fresh=True)
