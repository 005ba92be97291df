"""eventsourcing 9.5 on SQLite, used as its documentation does where it is fastest.

Events are msgspec structs, mapped to MessagePack and saved without an aggregate object (the library's documented example 9,
by its own figures 4.5 times faster than its JSON transcoder). Where mapping weighs most, the library's default, dataclasses
through its JSON transcoder, stands beside it as a peer of its own. `Application.save` takes all events of a commit at once.
The library opens SQLite in WAL mode and leaves `synchronous` as SQLite was built: checked to be FULL on its connections.
Aggregates are read by `repository.get` with a projector function; the log by `recorder.select_notifications`, 1,000 at a
time (what its own followers do). Its durable projection is a view with a tracking row, one transaction for
each event (`Projection.process_event`); a runner that pulls in batches exists, a view that commits in batches does not.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, cast
from uuid import UUID, uuid4

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, Mapper, StoredEvent, Tracking
from eventsourcing.projection import Projection
from eventsourcing.sqlite import SQLiteDatastore, SQLiteFactory, SQLiteTrackingRecorder
from eventsourcing.utils import Environment, get_topic, resolve_topic

from benchmarks.harness import FEWER, Case, Work
from benchmarks.payload import Payment, payments, total_of
from benchmarks.peers.raw_sqlite import check_durable
from benchmarks.sizes import Sizes

NAME = "eventsourcing"
JSON_NAME = "eventsourcing JSON"
PAGE_RECORDS = 1_000
ACCOUNTS_TABLE = "CREATE TABLE IF NOT EXISTS accounts(account TEXT PRIMARY KEY, cents INTEGER)"
PAYMENT_UPSERT = "INSERT INTO accounts VALUES (:account, :cents) ON CONFLICT (account) DO UPDATE SET cents = cents + :cents"


class PaymentMade(msgspec.Struct, frozen=True):
    """The five fields of the payload, beside what the library wants of an event."""

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    account: str
    cents: int
    currency: str
    reference: str
    note: str


@dataclass(frozen=True)
class JsonPaymentMade:
    """The same for the library's default mapper."""

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    account: str
    cents: int
    currency: str
    reference: str
    note: str


class StructMapper(Mapper[UUID]):
    """Struct to MessagePack and back, by the event's topic."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=msgspec.msgpack.encode(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return msgspec.msgpack.decode(stored_event.state, type=resolve_topic(stored_event.topic))


class JsonLedger(Application[UUID]):
    """All as the library has it."""

    env: ClassVar[dict[str, str]] = {"PERSISTENCE_MODULE": "eventsourcing.sqlite"}
    event_class: ClassVar[Any] = JsonPaymentMade

    def event_of(self, stream: UUID, version: int, data: Payment) -> Any:
        return self.event_class(stream, version, datetime.now(UTC), data.account, data.cents, data.currency, data.reference, data.note)

    def events_of(self, stream: UUID, data: Iterable[Payment], start: int = 1) -> list[Any]:
        return [self.event_of(stream, version, each) for version, each in enumerate(data, start)]


class Ledger(JsonLedger):
    """As in example 9."""

    event_class = PaymentMade

    def construct_mapper(self) -> Mapper[UUID]:
        return StructMapper(self.construct_transcoder())


@contextmanager
def open_ledger(folder: Path, ledger_class: type[JsonLedger] = Ledger) -> Iterator[JsonLedger]:
    with ledger_class(env={"SQLITE_DBNAME": str(folder / "ledger.db")}) as app:
        check_datastore(cast(SQLiteFactory, app.factory).datastore)
        yield app


def check_datastore(datastore: SQLiteDatastore) -> None:
    with datastore.get_connection(commit=True) as connection:
        check_durable(connection._sqlite_conn)


Opens = Callable[[Path], AbstractContextManager[JsonLedger]]


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event for each `save`."""
    count, stream = sizes.one_writer, uuid4()
    data = list(payments(count))

    with open_ledger(folder) as app:

        def work() -> float:
            begun = perf_counter()
            _save_each(app, stream, data)
            return count / (perf_counter() - begun)

        yield work


def _save_each(app: JsonLedger, stream: UUID, data: Sequence[Payment]) -> None:
    for version, each in enumerate(data, 1):
        app.save(app.event_of(stream, version, each))


@contextmanager
def writers(folder: Path, sizes: Sizes, opens: Opens = open_ledger) -> Iterator[Work]:
    """Sixty-four threads, each saving single events to a stream of its own: the library is synchronous and thread-safe."""
    count, threads = sizes.writers_slow, sizes.writers
    data = [list(payments(count // threads)) for _ in range(threads)]

    with opens(folder) as app, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))

        def work() -> float:
            begun = perf_counter()
            list(pool.map(lambda each: _save_each(app, uuid4(), each), data))
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def bulk(folder: Path, sizes: Sizes, opens: Opens = open_ledger) -> Iterator[Work]:
    """A thousand events for each `save`."""
    count, commit, stream = sizes.bulk_slow, sizes.bulk_commit, uuid4()
    data = list(payments(count))

    with opens(folder) as app:

        def work() -> float:
            begun = perf_counter()
            for start in range(0, count, commit):
                app.save(*app.events_of(stream, data[start : start + commit], start + 1))
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def replay(folder: Path, sizes: Sizes, opens: Opens = open_ledger) -> Iterator[Work]:
    """The notification log in pages, each event mapped back to its struct."""
    count = sizes.replay_slow

    with opens(folder) as app:
        fill(app, count, sizes.bulk_commit)

        def work() -> float:
            total = 0
            begun = perf_counter()
            for event, _ in _log(app):
                total += event.cents
            rate = count / (perf_counter() - begun)
            assert total == total_of(count)
            return rate

        yield work


def fill(app: JsonLedger, count: int, commit: int) -> None:
    """A log to read, in commits as of `bulk`: on PostgreSQL a `save` of some thousands never ends (its pipeline is only read at the end)."""
    stream = uuid4()
    for start in range(0, count, commit):
        app.save(*app.events_of(stream, payments(min(commit, count - start), start=start), start + 1))


def _log(app: JsonLedger) -> Iterator[tuple[PaymentMade, int]]:
    start, to_domain_event = 1, app.mapper.to_domain_event
    while page := app.recorder.select_notifications(start, PAGE_RECORDS):
        for notification in page:
            yield cast(PaymentMade, to_domain_event(notification)), notification.id
        start = page[-1].id + 1


class TotalView(SQLiteTrackingRecorder):
    """One number in one row."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), "CREATE TABLE IF NOT EXISTS total(id INTEGER PRIMARY KEY, cents INTEGER)"]

    def add(self, cents: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute("INSERT INTO total VALUES (1, :cents) ON CONFLICT (id) DO UPDATE SET cents = cents + :cents", {"cents": cents})
            self._insert_tracking(cursor, tracking)

    def total(self) -> int:
        return _sum(self.datastore, "total")


class AccountsView(SQLiteTrackingRecorder):
    """One number for each account."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), ACCOUNTS_TABLE]

    def add(self, account: str, cents: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(PAYMENT_UPSERT, {"account": account, "cents": cents})
            self._insert_tracking(cursor, tracking)

    def total(self) -> int:
        return _sum(self.datastore, "accounts")


def _sum(datastore: SQLiteDatastore, table: str) -> int:
    with datastore.transaction(commit=False) as cursor:
        cursor.execute(f"SELECT SUM(cents) FROM {table}")
        return int(cursor.fetchone()[0])


def cents_of(datastore: SQLiteDatastore, account: str) -> int:
    with datastore.transaction(commit=False) as cursor:
        cursor.execute("SELECT cents FROM accounts WHERE account = ?", [account])
        return int(cursor.fetchone()[0])


class TotalProjection(Projection[TotalView]):
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.add(domain_event.cents, tracking)


class AccountsProjection(Projection[AccountsView]):
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.add(domain_event.account, domain_event.cents, tracking)


@contextmanager
def catch_up_single(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A projection whose view is one row; state and tracking in one transaction for each event."""
    with _catch_up(folder, sizes, TotalProjection, TotalView) as work:
        yield work


@contextmanager
def catch_up_keyed(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A projection whose view has a row for each account; state and tracking in one transaction for each event."""
    with _catch_up(folder, sizes, AccountsProjection, AccountsView) as work:
        yield work


@contextmanager
def open_view(folder: Path, view_class: Any) -> Iterator[Any]:
    factory: Any = InfrastructureFactory.construct(Environment("View", {**Ledger.env, "SQLITE_DBNAME": str(folder / "view.db")}))
    with factory:
        view = factory.tracking_recorder(view_class)
        check_datastore(factory.datastore)
        yield view


@contextmanager
def _catch_up(folder: Path, sizes: Sizes, projection_class: Any, view_class: Any) -> Iterator[Work]:
    # SQLite recorders refuse `subscribe`, which the library's projection runner needs: the log is pulled, as its followers do.
    count = sizes.catch_up_slow

    with open_ledger(folder) as app, open_view(folder, view_class) as view:
        app.save(*app.events_of(uuid4(), payments(count)))
        projection = projection_class(view)

        def work() -> float:
            begun = perf_counter()
            for event, number in _log(app):
                projection.process_event(event, Tracking(app.name, number))
            rate = count / (perf_counter() - begun)
            assert view.total() == total_of(count)
            return rate

        yield work


@contextmanager
def fold_streams(folder: Path, sizes: Sizes, ledger_class: type[JsonLedger] = Ledger) -> Iterator[Work]:
    """Each stream by `repository.get` with a projector function."""
    count, each_count = sizes.fold_streams_slow, sizes.fold_stream_events
    streams = [uuid4() for _ in range(count)]

    with open_ledger(folder, ledger_class) as app:
        for version in range(1, each_count + 1):
            app.save(*(app.event_of(stream, version, each) for stream, each in zip(streams, payments(count, start=(version - 1) * count), strict=True)))

        def work() -> float:
            total = 0
            begun = perf_counter()
            for stream in streams:
                total += cast(int, app.repository.get(stream, projector_func=cast(Any, _project)))
            rate = count * each_count / (perf_counter() - begun)
            assert total == total_of(count * each_count)
            return rate

        yield work


def _project(_: None, events: Iterable[PaymentMade]) -> int:
    total = 0
    for event in events:
        total += event.cents
    return total


ONE_WRITER = Case(NAME, one_writer, fresh=True)
WRITERS = Case(NAME, writers, fresh=True, note=FEWER)
BULK = Case(NAME, bulk, fresh=True, note=FEWER)
BULK_JSON = Case(JSON_NAME, partial(bulk, opens=partial(open_ledger, ledger_class=JsonLedger)), fresh=True, note=FEWER)
REPLAY = Case(NAME, replay, note=FEWER)
REPLAY_JSON = Case(JSON_NAME, partial(replay, opens=partial(open_ledger, ledger_class=JsonLedger)), note=FEWER)
CATCH_UP_SINGLE = Case(NAME, catch_up_single, fresh=True, note=FEWER)
CATCH_UP_KEYED = Case(NAME, catch_up_keyed, fresh=True, note=FEWER)
FOLD_STREAMS = Case(NAME, fold_streams, note=FEWER)
FOLD_STREAMS_JSON = Case(JSON_NAME, partial(fold_streams, ledger_class=JsonLedger), note=FEWER)
