"""eventsource-py 0.8 on SQLite (`SQLiteEventStore`, with aiosqlite), used as its documentation does.

Events are its pydantic `DomainEvent`s, stored as JSON by orjson. `append` takes all events of a commit of one stream.
The store opens SQLite in WAL mode and leaves `synchronous` as SQLite was built: checked to be FULL on its connections.
Its durable projection is a `DatabaseProjection` (SQLAlchemy, one transaction for each event) driven by a
`SubscriptionManager`, which writes the checkpoint once for each batch of 1,000. Tracing and metrics are off.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, cast
from uuid import uuid4

from eventsource import DomainEvent, InMemoryEventBus, handles, register_event
from eventsource.adapters.sql.checkpoints import SQLCheckpointRepository
from eventsource.adapters.sql.projection import DatabaseProjection
from eventsource.adapters.sqlite.store import SQLiteEventStore
from eventsource.application.subscriptions import SubscriptionConfig, SubscriptionManager
from eventsource.domain import StreamId
from eventsource.ports import ExpectedVersion, FeedReadOptions
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from benchmarks.figures import p50_ms
from benchmarks.harness import FEWER, Case, Work
from benchmarks.payload import Payment, payments, total_of
from benchmarks.peers.raw_sqlite import PRAGMAS, check_pragmas
from benchmarks.sizes import Sizes

NAME = "eventsource-py"
CATEGORY = "Account"
PAGE_RECORDS = 1_000


@register_event
class PaymentRecorded(DomainEvent):
    """The five fields of the payload, beside what the library wants of an event."""

    event_type: str = "PaymentRecorded"
    aggregate_type: str = CATEGORY
    account: str
    cents: int
    currency: str
    reference: str
    note: str


def event_of(stream: StreamId, data: Payment) -> PaymentRecorded:
    return PaymentRecorded(
        aggregate_id=stream.aggregate_id, account=data.account, cents=data.cents, currency=data.currency, reference=data.reference, note=data.note
    )


def new_stream() -> StreamId:
    return StreamId(aggregate_id=uuid4(), category=CATEGORY)


@asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[SQLiteEventStore]:
    store = SQLiteEventStore(str(folder / "events.db"))
    try:
        connection = await store._conn()
        check_pragmas(*[await _answer(await connection.execute(pragma)) for pragma in PRAGMAS])
        yield store
    finally:
        await store.close()


async def _answer(cursor: Any) -> Any:
    return (await cursor.fetchone())[0]


Opens = Callable[[Path], AbstractAsyncContextManager[Any]]


def _in_store(folder: Path, body: Callable[[Any], Awaitable[float]], opens: Opens = open_store) -> Work:
    """*body* with an open store in an event loop of its own; it times itself, so that neither is counted."""

    async def run() -> float:
        async with opens(folder) as store:
            return await body(store)

    return lambda: asyncio.run(run())


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event for each `append`."""
    data = list(payments(sizes.one_writer))

    async def body(store: Any) -> float:
        begun = perf_counter()
        await _append_each(store, new_stream(), data)
        return len(data) / (perf_counter() - begun)

    yield _in_store(folder, body)


async def _append_each(store: Any, stream: StreamId, data: Sequence[Payment]) -> None:
    for each in data:
        await store.append(stream, [event_of(stream, each)], ExpectedVersion.any_())


@contextmanager
def writers(folder: Path, sizes: Sizes, opens: Opens = open_store) -> Iterator[Work]:
    """Sixty-four tasks, each appending single events to a stream of its own."""
    count, tasks = sizes.writers_slow, sizes.writers
    data = [list(payments(count // tasks)) for _ in range(tasks)]

    async def body(store: Any) -> float:
        begun = perf_counter()
        await asyncio.gather(*(_append_each(store, new_stream(), each) for each in data))
        return count / (perf_counter() - begun)

    yield _in_store(folder, body, opens)


@contextmanager
def bulk(folder: Path, sizes: Sizes, opens: Opens = open_store) -> Iterator[Work]:
    """A thousand events for each `append`."""
    data = list(payments(sizes.bulk_slow))

    async def body(store: Any) -> float:
        begun = perf_counter()
        await _append_all(store, new_stream(), data, sizes.bulk_commit)
        return len(data) / (perf_counter() - begun)

    yield _in_store(folder, body, opens)


async def _append_all(store: Any, stream: StreamId, data: Sequence[Payment], commit: int) -> None:
    for start in range(0, len(data), commit):
        await store.append(stream, [event_of(stream, each) for each in data[start : start + commit]], ExpectedVersion.any_())


@contextmanager
def replay(folder: Path, sizes: Sizes, opens: Opens = open_store) -> Iterator[Work]:
    """`read_all` in pages of 1,000, as its own catch-up reads, each event validated back to its class."""
    count = sizes.replay_slow

    async def fill(store: Any) -> float:
        await _append_all(store, new_stream(), list(payments(count)), sizes.bulk_commit)
        return 0.0

    async def body(store: Any) -> float:
        total, position, more = 0, None, True
        begun = perf_counter()
        while more:
            more = False
            async for envelope in store.read_all(position, FeedReadOptions(limit=PAGE_RECORDS)):
                total += cast(PaymentRecorded, envelope.event).cents
                position, more = envelope.position, True
        rate = count / (perf_counter() - begun)
        assert total == total_of(count)
        return rate

    _in_store(folder, fill, opens)()
    yield _in_store(folder, body, opens)


class TotalProjection(DatabaseProjection):
    """One number in one row."""

    TABLE = "CREATE TABLE total(id INTEGER PRIMARY KEY, cents INTEGER)"
    SUM = "SELECT SUM(cents) FROM total"
    UPSERT = text("INSERT INTO total VALUES (1, :cents) ON CONFLICT (id) DO UPDATE SET cents = cents + :cents")

    @handles(PaymentRecorded)
    async def add(self, conn: Any, event: PaymentRecorded) -> None:
        await conn.execute(self.UPSERT, {"cents": event.cents})


class AccountsProjection(DatabaseProjection):
    """One number for each account."""

    TABLE = "CREATE TABLE accounts(account TEXT PRIMARY KEY, cents INTEGER)"
    SUM = "SELECT SUM(cents) FROM accounts"
    UPSERT = text("INSERT INTO accounts VALUES (:account, :cents) ON CONFLICT (account) DO UPDATE SET cents = cents + :cents")

    CENTS = text("SELECT cents FROM accounts WHERE account = :account")

    @handles(PaymentRecorded)
    async def add(self, conn: Any, event: PaymentRecorded) -> None:
        await conn.execute(self.UPSERT, {"account": event.account, "cents": event.cents})


@contextmanager
def catch_up_single(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A projection into one row, one transaction for each event."""
    yield _catch_up(folder, sizes, TotalProjection)


@contextmanager
def catch_up_keyed(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A projection with a row for each account, one transaction for each event."""
    yield _catch_up(folder, sizes, AccountsProjection)


def _catch_up(folder: Path, sizes: Sizes, projection_class: Any) -> Work:
    count = sizes.catch_up_slow // 5

    async def body(store: Any) -> float:
        await _append_all(store, new_stream(), list(payments(count)), sizes.bulk_commit)
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'events.db'}")
        try:
            return await _run_projection(store, engine, projection_class, count)
        finally:
            await engine.dispose()

    return _in_store(folder, body)


async def _make_table(engine: AsyncEngine, projection_class: Any) -> None:
    async with engine.begin() as connection:
        check_pragmas(*[(await connection.execute(text(pragma))).scalar_one() for pragma in PRAGMAS])
        await connection.execute(text(projection_class.TABLE))


async def _run_projection(store: Any, engine: AsyncEngine, projection_class: Any, count: int) -> float:
    await _make_table(engine, projection_class)
    projection = projection_class(async_sessionmaker(engine))
    manager = SubscriptionManager(store, InMemoryEventBus(), SQLCheckpointRepository(engine, enable_tracing=False), enable_tracing=False)
    await manager.subscribe(projection, SubscriptionConfig(start_from="beginning", batch_size=PAGE_RECORDS), name="view")
    begun = perf_counter()
    await manager.start()  # returns when it has caught up
    await manager.stop()
    rate = count / (perf_counter() - begun)

    async with engine.connect() as connection:
        assert (await connection.execute(text(projection_class.SUM))).scalar_one() == total_of(count)
    return rate


@contextmanager
def visible(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from `append` until a read of the projection's table gives the new state. The event is published to the in-memory bus
    after the append, and the bus hands it to the projection, which keeps its checkpoint itself: the subscription does not while live."""

    async def body(store: Any) -> float:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'events.db'}")
        try:
            await _make_table(engine, AccountsProjection)
            checkpoints, bus = SQLCheckpointRepository(engine, enable_tracing=False), InMemoryEventBus(enable_tracing=False)
            projection: Any = AccountsProjection(async_sessionmaker(engine), checkpoints)
            manager = SubscriptionManager(store, bus, checkpoints, enable_tracing=False)
            await manager.subscribe(projection, SubscriptionConfig(start_from="beginning"), name="view")
            await manager.start()
            took_s = [await _see(store, bus, engine, each) for each in payments(sizes.visible)]
            await manager.stop()
            return p50_ms(took_s)
        finally:
            await engine.dispose()

    yield _in_store(folder, body)


async def _see(store: Any, bus: InMemoryEventBus, engine: AsyncEngine, data: Payment) -> float:
    stream = new_stream()
    begun = perf_counter()
    event = event_of(stream, data)
    await store.append(stream, [event], ExpectedVersion.any_())
    await bus.publish([event])
    async with engine.connect() as connection:
        cents = (await connection.execute(AccountsProjection.CENTS, {"account": data.account})).scalar_one()
    took_s = perf_counter() - begun
    assert cents == data.cents
    return took_s


@contextmanager
def fold_streams(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """Each stream by `read_stream`. An append takes one stream, so they are interleaved event by event."""
    count, each_count = sizes.fold_streams_slow // 4, sizes.fold_stream_events
    streams = [new_stream() for _ in range(count)]

    async def fill(store: Any) -> float:
        for version in range(each_count):
            for stream, each in zip(streams, payments(count, start=version * count), strict=True):
                await _append_each(store, stream, [each])
        return 0.0

    async def body(store: Any) -> float:
        total = 0
        begun = perf_counter()
        for stream in streams:
            async for envelope in store.read_stream(stream):
                total += cast(PaymentRecorded, envelope.event).cents
        rate = count * each_count / (perf_counter() - begun)
        assert total == total_of(count * each_count)
        return rate

    _in_store(folder, fill)()
    yield _in_store(folder, body)


ONE_WRITER = Case(NAME, one_writer, fresh=True)
WRITERS = Case(NAME, writers, fresh=True, note=FEWER)
BULK = Case(NAME, bulk, fresh=True, note=FEWER)
REPLAY = Case(NAME, replay, note=FEWER)
CATCH_UP_SINGLE = Case(NAME, catch_up_single, fresh=True, note=FEWER)
CATCH_UP_KEYED = Case(NAME, catch_up_keyed, fresh=True, note=FEWER)
VISIBLE = Case(NAME, visible, fresh=True)
FOLD_STREAMS = Case(NAME, fold_streams, note=FEWER)
