"""eventsourcing 9.5 on SQLite: how long until a saved event is seen in a durable view.

SQLite recorders refuse `subscribe`, so the library's `ProjectionRunner` is not to be had. Two of its other ways are: a
follower in a thread of its own, prompted by the leader (`MultiThreadedRunner`), which as here goes beside the writer; and
processing in the writer's own call what it has just saved (`NewSingleThreadedRunner`), where the writer waits for its views and
no thread has to be woken. Either keeps view and tracking in one durable transaction. The library's own `wait` polls ten times
a second: here the follower says itself when it is through.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any, ClassVar
from uuid import UUID, uuid4

from eventsourcing.application import ProcessingEvent
from eventsourcing.persistence import Tracking
from eventsourcing.sqlite import SQLiteProcessRecorder
from eventsourcing.system import Follower, Leader, MultiThreadedRunner, System
from eventsourcing.utils import get_topic

from benchmarks.figures import p50_ms
from benchmarks.harness import Case, Work
from benchmarks.payload import Payment, payments
from benchmarks.peers.eventsourcing import (
    ACCOUNTS_TABLE,
    NAME,
    PAYMENT_UPSERT,
    AccountsProjection,
    AccountsView,
    Ledger,
    cents_of,
    check_datastore,
    open_ledger,
    open_view,
)
from benchmarks.sizes import Sizes


@contextmanager
def inline(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """p50 from `save` until a read of the view gives the new state, the writer processing what it saved."""
    data, stream = list(payments(sizes.visible)), uuid4()

    with open_ledger(folder) as app, open_view(folder, AccountsView) as view:
        projection = AccountsProjection(view)

        def save(event: Any) -> None:
            for recording in app.save(event):
                projection.process_event(recording.domain_event, Tracking(app.name, recording.notification.id))

        yield lambda: _p50_ms(data, lambda version, each: save(app.event_of(stream, version, each)), view.datastore)


@contextmanager
def threaded(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """The same with a follower in a thread of its own."""
    data, stream = list(payments(sizes.visible)), uuid4()
    system = System(pipes=[[LeadingLedger, AccountsFollower]])
    names = {"LEADINGLEDGER_SQLITE_DBNAME": "ledger.db", "ACCOUNTSFOLLOWER_SQLITE_DBNAME": "view.db"}
    runner: MultiThreadedRunner[UUID] = MultiThreadedRunner(system, env={name: str(folder / file) for name, file in names.items()})
    runner.start()
    try:
        app, follower = runner.get(LeadingLedger), runner.get(AccountsFollower)
        check_datastore(app.factory.datastore)
        check_datastore(follower.factory.datastore)

        def save(version: int, data: Payment) -> None:
            follower.through.clear()
            app.save(app.event_of(stream, version, data))
            assert follower.through.wait(timeout=10)

        yield lambda: _p50_ms(data, save, follower.factory.datastore)
    finally:
        runner.stop()


def _p50_ms(data: Sequence[Payment], save: Callable[[int, Payment], None], datastore: Any) -> float:
    took_s = []
    for version, each in enumerate(data, 1):
        begun = perf_counter()
        save(version, each)
        cents = cents_of(datastore, each.account)
        took_s.append(perf_counter() - begun)
        assert cents == each.cents
    return p50_ms(took_s)


class LeadingLedger(Leader[UUID], Ledger):
    """A ledger that prompts its followers."""


class AccountsRecorder(SQLiteProcessRecorder):
    """One number for each account, kept in the transaction that keeps the tracking."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), ACCOUNTS_TABLE]

    def _insert_events(self, c: Any, stored_events: Any, **kwargs: Any) -> Any:
        c.execute(PAYMENT_UPSERT, kwargs["payment"])
        return super()._insert_events(c, stored_events, **kwargs)


class AccountsFollower(Follower[UUID]):
    env: ClassVar[dict[str, str]] = {**Ledger.env, "PROCESS_RECORDER_TOPIC": get_topic(AccountsRecorder)}

    def __init__(self, env: Any = None) -> None:
        super().__init__(env)
        self.through = Event()

    construct_mapper = Ledger.construct_mapper

    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        processing_event.collect_events(payment={"account": domain_event.account, "cents": domain_event.cents})

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        super().process_event(domain_event, tracking)
        self.through.set()


VISIBLE = Case(NAME, threaded, fresh=True)
VISIBLE_INLINE = Case("eventsourcing inline", inline, fresh=True)
