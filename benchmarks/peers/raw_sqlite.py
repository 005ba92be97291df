"""SQLite by hand: write-ahead log, `synchronous=FULL` (a sync at each commit), one table of stream, seq and payload."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.harness import Case, NotDurable, Work
from benchmarks.payload import Payment, add_payment, decode_payment, encode_payment, payments, total_of
from benchmarks.sizes import Sizes

INSERT = "INSERT INTO events(stream, seq, type, payload) VALUES (?, ?, 'payment', ?)"
PRAGMAS = ("PRAGMA journal_mode", "PRAGMA synchronous")
SYNCHRONOUS_FULL = 2


def check_durable(connection: sqlite3.Connection) -> None:
    """Raises `NotDurable` unless *connection* syncs at each commit."""
    check_pragmas(*(connection.execute(pragma).fetchone()[0] for pragma in PRAGMAS))


def check_pragmas(journal: str, synchronous: int) -> None:
    """Raises `NotDurable` unless the answers to `PRAGMAS` say that each commit is synced."""
    if (journal, synchronous) != ("wal", SYNCHRONOUS_FULL):
        raise NotDurable(f"journal_mode is {journal}, synchronous is {synchronous}: expected wal and {SYNCHRONOUS_FULL}")


@contextmanager
def open_table(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "raw.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE events(position INTEGER PRIMARY KEY, stream TEXT, seq INTEGER, type TEXT, payload BLOB, UNIQUE(stream, seq))")
        check_durable(connection)
        yield connection


@contextmanager
def one_writer(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """One event, one durable transaction."""
    count = sizes.one_writer
    events = list(payments(count))

    with open_table(folder) as connection:

        def work() -> float:
            begun = perf_counter()
            for seq, each in enumerate(events, 1):
                connection.execute(INSERT, ("account-1", seq, encode_payment(each)))
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def bulk(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """A thousand events, one durable transaction."""
    count, commit = sizes.bulk_fast, sizes.bulk_commit
    events = list(payments(count))

    with open_table(folder) as connection:

        def work() -> float:
            begun = perf_counter()
            for start in range(0, count, commit):
                _insert(connection, start, events[start : start + commit])
            return count / (perf_counter() - begun)

        yield work


@contextmanager
def replay(folder: Path, sizes: Sizes) -> Iterator[Work]:
    """All payloads in order, decoded by msgspec, into the same fold."""
    count = sizes.replay

    with open_table(folder) as connection:
        _insert(connection, 0, payments(count))

        def work() -> float:
            total = 0
            begun = perf_counter()
            for (payload,) in connection.execute("SELECT payload FROM events ORDER BY position"):
                total = add_payment(total, decode_payment(payload))
            rate = count / (perf_counter() - begun)
            assert total == total_of(count)
            return rate

        yield work


def _insert(connection: sqlite3.Connection, start: int, events: Iterable[Payment]) -> None:
    rows = (("account-1", start + seq, encode_payment(each)) for seq, each in enumerate(events, 1))
    connection.execute("BEGIN")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")


ONE_WRITER = Case("raw SQLite", one_writer, fresh=True)
BULK = Case("raw SQLite", bulk, fresh=True)
REPLAY = Case("raw SQLite", replay)
