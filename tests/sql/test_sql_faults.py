# mypy: disable-error-code="attr-defined,arg-type,union-attr,var-annotated,possibly-undefined,list-item"
"""SQL read models: rows equal to an independent count whatever fails, versions built beside, and what is refused."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import psycopg
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backends.databases import open_database
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.memory import open_memory
from perdure.backends.sql import Mark
from perdure.runtime import (
    App,
    Misuse,
    ModelFaulted,
    NewEvent,
    Projection,
    ProjectionFailed,
    Rewound,
    SqlProjection,
    WrongStore,
    event,
    of,
    open_runtime,
)
from perdure.runtime.testing import crash
from shops import PostgresShop, SqliteShop, Wrapped

INLINE = Environment(threads=InlineThreads())


@event("paid")
@attrs.frozen
class Paid:
    customer: str
    cents: int


@pytest.fixture(autouse=True)
def silent(caplog):
    caplog.set_level(logging.CRITICAL, "perdure")


@pytest.fixture
def backend():
    return open_memory(environment=INLINE)


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path):
    if request.param == "sqlite":
        return SqliteShop(tmp_path / "shop.sqlite")
    return PostgresShop(request.getfixturevalue("postgres"), request.getfixturevalue("database"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.sqlite"


@pytest.fixture
def file(path):
    return SqliteShop(path)


def tables(tx):
    tx.execute("CREATE TABLE payments (position INTEGER PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL CHECK (cents >= 0))")
    tx.execute("CREATE INDEX payments_by_customer ON payments (customer)")
    tx.execute("CREATE TABLE totals (customer TEXT PRIMARY KEY, cents INTEGER NOT NULL)")


def book(event, tx):
    put(event, tx, event.data.cents)


def put(event, tx, cents):
    """Applied twice, or not at all, the totals are wrong."""
    customer = event.data.customer
    tx.execute("INSERT INTO payments VALUES (?, ?, ?)", (event.position, customer, cents))
    tx.execute("INSERT INTO totals VALUES (?, ?) ON CONFLICT (customer) DO UPDATE SET cents = totals.cents + excluded.cents", (customer, cents))


def payments(shop, **changes):
    database, version = changes.pop("database", None) or shop.url, changes.pop("version", 1)
    what = {"tables": tables, "handle": book, "events": of(Paid), **changes}
    return SqlProjection("payments", version=version, database=database, **{**what, "tables": shop.says(what["tables"]), "handle": shop.says(what["handle"])})


def totals(shop):
    return dict(shop.rows("SELECT customer, cents FROM totals"))


async def append(rt, *cents, customer="ada"):
    answer = await rt.append("payments", [Paid(customer, each) for each in cents])
    return answer.position


async def projected(backend, projection, **options):
    """Run it to the head, and close."""
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE, **options) as rt:
        model = rt.model(projection)
        await model.wait_for(await rt.head())
        return model.position


# -- what it does --------------------------------------------------------------------------------


async def test_its_rows_are_there_when_the_position_was_waited_for(backend, shop):
    model = payments(shop)

    async with open_runtime(backend, App(sql=[model])) as rt:
        await rt.model(model).wait_for(await append(rt, 5, 7))
        assert totals(shop) == {"ada": 12}
        status = rt.status().find("payments")

    assert (status.state, status.position, status.lag_events) == ("running", 2, 0)


async def test_after_a_restart_it_goes_on_behind_its_row(backend, shop):
    for cents in (1, 2, 4):
        async with open_runtime(backend, environment=INLINE) as rt:
            await append(rt, cents)
        await projected(backend, payments(shop))

    assert totals(shop) == {"ada": 7}
    assert shop.rows("SELECT projection, version, position, fault FROM perdure_checkpoints") == [("payments", 1, 3, "")]


async def test_events_that_are_not_wanted_move_its_row_too(backend, shop, autojump_clock):
    async with open_runtime(backend, App(sql=[payments(shop)]), environment=INLINE) as rt:
        await rt.append("other", [NewEvent({"a": 1}, type="other")])
        await trio.sleep(3)

        assert shop.rows("SELECT position FROM perdure_checkpoints") == [(1,)]


async def test_it_runs_in_a_nursery_of_the_program_too(backend, shop):
    async with open_runtime(backend) as rt, trio.open_nursery() as nursery:
        model = await nursery.start(rt.project, payments(shop))
        await model.wait_for(await append(rt, 3))
        nursery.cancel_scope.cancel()

    assert totals(shop) == {"ada": 3}


# -- whatever fails ------------------------------------------------------------------------------


class Failing(Wrapped):
    """Fails before or after some of its commits, as a list says; what it did after is done."""

    def __init__(self, inner, faults):
        super().__init__(inner)
        self.faults = faults

    def move(self, before, after, work, *, building=False):
        fault = self.faults.pop(0) if self.faults else None
        if fault == "before":
            raise Unavailable("told to")
        moved = super().move(before, after, work, building=building)
        if fault == "after":
            raise Unavailable("told to")
        return moved

    @classmethod
    def at(cls, shop, faults):
        """What opens it."""

        def open_it(projection, *, create):
            database = open_database(shop.url, projection, create=create)
            return None if database is None else cls(database, faults)

        return open_it


class TwoTransactions(Failing):
    """A liar: the rows in one transaction, the position in the next."""

    def move(self, before, after, work, *, building=False):
        self.inner.move(before, before, work, building=building)
        return super().move(before, after, lambda tx: None, building=building)


async def play(kind, cents, page, faults, shop):
    """Append, project, and let the database fail as told; the totals."""
    backend = open_memory(environment=INLINE)
    projection = payments(shop, database=kind.at(shop, faults))
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE) as rt:
        for start in range(0, len(cents), page):
            for customer, each in cents[start : start + page]:
                await append(rt, each, customer=customer)
            await trio.sleep(0.01)
        await rt.model(projection).wait_for(await rt.head())
    return totals(shop)


def counted(cents):
    found = Counter()
    for customer, each in cents:
        found[customer] += each
    return dict(found)


CENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=12)
FAULTS = st.lists(st.sampled_from([None, None, "before", "after"]), max_size=8)


def judge(cents, page, faults, shop):
    found = trio.run(play, Failing, cents, page, faults, shop, clock=trio.testing.MockClock(autojump_threshold=0))
    assert found == counted(cents)


@given(CENTS, st.integers(1, 5), FAULTS)
def test_its_rows_are_an_independent_count_whatever_the_file_does(cents, page, faults):
    with TemporaryDirectory() as folder:
        judge(cents, page, faults, SqliteShop(Path(folder) / "x.sqlite"))


@pytest.fixture(scope="module")
def many(postgres):
    return partial(PostgresShop, postgres, postgres.new_database()), count()


@settings(max_examples=20)
@given(CENTS, st.integers(1, 5), FAULTS)
def test_its_rows_are_an_independent_count_whatever_the_server_does(many, cents, page, faults):
    make, numbers = many
    judge(cents, page, faults, make(schema=f"s{next(numbers)}"))


def test_a_database_that_moves_the_row_in_another_transaction_is_caught(shop):
    cents = [("a", 1), ("b", 2)]

    clock = trio.testing.MockClock(autojump_threshold=0)

    with pytest.raises(ModelFaulted, match=r"(?i)unique constraint"):  # the first event comes twice
        trio.run(play, TwoTransactions, cents, 1, ["before"], shop, clock=clock)


async def test_a_locked_database_is_waited_for(backend, shop):
    projection = payments(shop)
    async with open_runtime(backend, App(sql=[projection])) as rt:
        await rt.model(projection).wait_for(await append(rt, 1))
        with shop.locked():
            head = await append(rt, 2)
            await trio.sleep(shop.busy_s + 0.2)  # longer than the database itself is asked to wait
            assert rt.model(projection).position < head
        await rt.model(projection).wait_for(head)

        assert totals(shop) == {"ada": 3}
        assert rt.status().find("payments").restarts == 0


@pytest.mark.parametrize("left", [(), ("-wal", "-shm")], ids=["with its log", "without its log"])
async def test_a_deleted_file_is_built_again(backend, file, path, left, autojump_clock):
    projection = payments(file)
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE) as rt:
        await rt.model(projection).wait_for(await append(rt, 1, 2))
        for suffix in {"", "-wal", "-shm"} - set(left):
            path.with_name(path.name + suffix).unlink()
        await trio.sleep(5)
        assert totals(file) == {"ada": 3}

        path.unlink()
        await rt.model(projection).wait_for(await append(rt, 4))
        await trio.sleep(5)
        assert totals(file) == {"ada": 7}


DROPPED = {
    "the schema": "DROP SCHEMA models CASCADE",
    "one table": "DROP TABLE models.totals",
    "our tables": "DROP TABLE models.perdure_checkpoints, models.perdure_tables; DROP TABLE models.payments, models.totals",
    "the row": "DELETE FROM models.perdure_checkpoints",
}


@pytest.mark.parametrize("dropped", [*DROPPED, "the database"])
async def test_dropped_tables_are_built_again(backend, postgres, database, dropped, autojump_clock):
    shop = PostgresShop(postgres, database)
    projection = payments(shop)
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE) as rt:
        await rt.model(projection).wait_for(await append(rt, 1, 2))
        if dropped == "the database":
            shop.drop_database()
        else:
            shop.rows(DROPPED[dropped])
        await trio.sleep(10)
        assert totals(shop) == {"ada": 3}

        await rt.model(projection).wait_for(await append(rt, 4))
        assert totals(shop) == {"ada": 7}
        assert rt.status().find("payments").restarts == 0


async def test_one_restored_from_an_older_copy_goes_on_from_its_row(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop))
    restore = shop.copy()
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 2)
    await projected(backend, payments(shop))

    restore()
    await projected(backend, payments(shop))

    assert totals(shop) == {"ada": 3}


async def test_one_of_another_store_is_refused(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop))

    async with open_runtime(open_memory(environment=INLINE)) as rt:
        with pytest.raises(WrongStore):
            await rt.project(payments(shop))

    assert totals(shop) == {"ada": 1}


async def test_a_file_that_is_no_database_stands_still_and_says_what_to_do(backend, file, path):
    path.write_text("this is no database, but long enough to be looked at as one")

    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)

    with pytest.raises(ModelFaulted, match="delete the database"):
        await projected(backend, payments(file))


async def test_an_actor_that_fails_is_started_again_and_goes_on(backend, shop, autojump_clock):
    projection = payments(shop)
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE) as rt:
        await rt.model(projection).wait_for(await append(rt, 1))
        crash(rt, projection, RuntimeError("told to"))
        await rt.model(projection).wait_for(await append(rt, 2))
        await trio.sleep(5)
        status = rt.status().find("payments")

    assert (status.restarts, status.restored_from) == (1, 1)
    assert totals(shop) == {"ada": 3}


async def test_a_full_database_is_waited_for(backend, file, autojump_clock):
    faults = []

    class Small(Failing):
        def move(self, before, after, work, *, building=False):
            pages = 1 if self.faults else 1 << 30  # SQLite takes its present size then
            self.inner._live.execute(f"PRAGMA max_page_count = {pages}")
            return super().move(before, after, work, building=building)

    projection = payments(file, database=Small.at(file, faults))
    async with open_runtime(backend, App(sql=[projection]), environment=INLINE) as rt:
        faults += [None] * 3
        head = await append(rt, *range(1_000))
        await trio.sleep(60)

        assert not faults  # it was tried again and again
        await rt.model(projection).wait_for(head)

    assert totals(file) == {"ada": sum(range(1_000))}


# -- handlers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 4])
async def test_a_raising_handler_stops_it_before_the_event_with_the_reason(backend, shop, page):
    async with open_runtime(backend, environment=INLINE) as rt:
        for cents in [(1, 2, -3, 4)] if page == 4 else [(1,), (2,), (-3,), (4,)]:
            await append(rt, *cents)

    async with open_runtime(backend) as rt:
        with pytest.raises(ProjectionFailed) as failed:
            await rt.project(payments(shop))

    assert failed.value.position == 3
    assert totals(shop) == {"ada": 3}
    assert isinstance(failed.value.__cause__, sqlite3.IntegrityError | psycopg.IntegrityError)
    assert "check constraint" in shop.rows("SELECT fault FROM perdure_checkpoints")[0][0].lower()


async def test_a_corrected_handler_goes_on_with_the_event(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1, -3, 4)
    async with open_runtime(backend) as rt:
        with pytest.raises(ProjectionFailed):
            await rt.project(payments(shop))

    def corrected(event, tx):
        put(event, tx, abs(event.data.cents))

    await projected(backend, payments(shop, handle=corrected))

    assert totals(shop) == {"ada": 8}
    assert shop.rows("SELECT fault FROM perdure_checkpoints") == [("",)]


MEDDLING = ["COMMIT", "COMMIT -- too", "ROLLBACK", "SAVEPOINT x", "UPDATE perdure_checkpoints SET position = 9"]
MEDDLING_IN_POSTGRES = [
    *(" -- x\n ; /* y */ commit", "END", "ABORT", "SELECT 1; COMMIT", "START TRANSACTION", "PREPARE TRANSACTION 'x'"),
    *("DO $$ BEGIN COMMIT; END $$", "/* /* */ */ COMMIT"),
]


@pytest.mark.parametrize("sql", [*MEDDLING, "ATTACH 'x' AS x", "PRAGMA synchronous=OFF", *MEDDLING_IN_POSTGRES])
async def test_a_handler_cannot_end_the_transaction_nor_move_the_row(backend, shop, sql):
    def meddle(event, tx):
        book(event, tx)
        tx.execute(sql)

    async with open_runtime(backend) as rt:
        await append(rt, 1)
        with pytest.raises((ProjectionFailed, Misuse)):
            await rt.project(payments(shop, handle=meddle))

    assert totals(shop) == {}


async def test_a_handler_that_goes_on_after_its_statement_rolled_all_back_stops_it(backend, shop):
    def meddle(event, tx):
        book(event, tx)
        try:
            tx.execute("INSERT OR ROLLBACK INTO payments VALUES (1, 'x', -1)" if shop.kind == "sqlite" else "INSERT INTO payments VALUES (1, 'x', -1)")
        except (sqlite3.IntegrityError, psycopg.IntegrityError):
            with suppress(psycopg.Error):
                tx.execute("INSERT INTO totals VALUES ('x', 1)")

    async with open_runtime(backend) as rt:
        await append(rt, 1)
        with pytest.raises(Misuse, match="rolled the whole transaction back"):
            await rt.project(payments(shop, handle=meddle))

    assert totals(shop) == {}


async def test_a_transaction_is_of_no_use_after_its_handler(backend, shop):
    kept = []
    projection = payments(shop, handle=lambda event, tx: kept.append(tx))
    async with open_runtime(backend, App(sql=[projection])) as rt:
        await rt.model(projection).wait_for(await append(rt, 1))

    with pytest.raises(Misuse, match="over"):
        kept[0].execute("SELECT 1")


async def test_tables_that_cannot_be_made_stop_it_and_leave_nothing(backend, shop):
    def broken(tx):
        tables(tx)
        tx.execute("CREATE TABLE payments (x INTEGER)")

    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)

    with pytest.raises(ModelFaulted, match="already exists"):
        await projected(backend, payments(shop, tables=broken))

    assert shop.rows("SELECT * FROM perdure_checkpoints") == []


# -- versions ------------------------------------------------------------------------------------


def doubled(event, tx):
    put(event, tx, 2 * event.data.cents)


MORE = {
    "sqlite": [
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)",
        "CREATE TRIGGER noted AFTER INSERT ON payments BEGIN INSERT INTO notes (text) VALUES (new.customer); END",
    ],
    "postgres": [
        "CREATE DOMAIN words AS text CHECK (VALUE <> '')",
        "CREATE TABLE notes (id serial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, text words)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO notes (text) VALUES (new.customer); RETURN new; END'",
        "CREATE TRIGGER noted AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION note()",
    ],
}


def more_tables(shop):
    def make(tx):
        tables(tx)
        tx.execute("CREATE VIEW rich AS SELECT customer FROM totals WHERE cents > 2")
        for sql in MORE[shop.kind]:
            tx.execute(sql)

    return make


async def test_a_new_version_is_built_beside_and_swapped_while_readers_stay(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1, 2)
    await projected(backend, payments(shop))

    seen = []

    def watching(event, tx):
        doubled(event, tx)
        seen.append(totals(shop))

    with closing(shop.connect()) as reader:
        await projected(backend, payments(shop, version=2, handle=watching, tables=more_tables(shop)))
        found = reader.execute("SELECT customer, cents FROM totals").fetchall()

    assert seen == [{"ada": 3}, {"ada": 3}]
    assert found == [("ada", 6)]
    assert shop.rows("SELECT text FROM notes") == [("ada",), ("ada",)]
    assert shop.rows("SELECT * FROM rich") == [("ada",)]
    names = "name FROM sqlite_master WHERE type = 'index' AND name" if shop.kind == "sqlite" else "indexname FROM pg_indexes WHERE indexname"
    assert ("payments_by_customer",) in shop.rows(f"SELECT {names} LIKE 'payments%'")
    if shop.kind == "sqlite":
        assert [left.name for left in shop.path.parent.glob("*building*")] == []
    else:
        assert shop.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%building%'") == []


async def test_the_tables_of_the_old_version_go_and_those_of_others_stay(backend, shop):
    other = SqlProjection(
        "count",
        version=1,
        database=shop.url,
        tables=lambda tx: tx.execute("CREATE TABLE seen (position INTEGER)"),
        handle=shop.says(lambda event, tx: tx.execute("INSERT INTO seen VALUES (?)", (event.position,))),
    )
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop, tables=more_tables(shop)))
    await projected(backend, other)

    await projected(backend, payments(shop, version=2))

    assert shop.names() == {"payments", "totals", "seen", "perdure_checkpoints", "perdure_tables"}
    assert shop.rows("SELECT position FROM seen") == [(1,)]


async def test_a_build_that_was_broken_off_goes_on_where_it_was(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
        await append(rt, 2)
    await projected(backend, payments(shop))
    calls = []

    def once(event, tx):
        if event.position == 2 and len(calls) < 3:
            calls.append(0)
            raise ZeroDivisionError
        calls.append(event.position)
        doubled(event, tx)

    with pytest.raises(ModelFaulted):
        await projected(backend, payments(shop, version=2, handle=once))
    assert totals(shop) == {"ada": 3}
    calls += [0, 0, 0]
    await projected(backend, payments(shop, version=2, handle=once))

    assert calls[-1:] == [2]
    assert calls.count(1) == 2  # in the page that failed, and again without the event that could not be applied
    assert totals(shop) == {"ada": 6}


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_swap_that_fails_is_done_once(backend, shop, fault, autojump_clock):
    class FailingSwap(Failing):
        def swap(self, before, built):
            swapped = fault == "after" and super().swap(before, built)
            if not faults:
                return swapped or super().swap(before, built)
            faults.clear()
            raise Unavailable("told to")

    faults = ["once"]
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1, 2)
    await projected(backend, payments(shop))

    await projected(backend, payments(shop, version=2, handle=doubled, database=FailingSwap.at(shop, [])))

    assert not faults
    assert totals(shop) == {"ada": 6}
    assert shop.rows("SELECT version, position FROM perdure_checkpoints") == [(2, 2)]


async def test_tables_whose_names_are_taken_stop_the_swap_and_the_old_ones_stay(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop))
    shop.rows("CREATE TABLE notes (mine TEXT)")

    with pytest.raises(ModelFaulted, match=r'notes"? already exists'):
        await projected(backend, payments(shop, version=2, tables=more_tables(shop)))

    assert totals(shop) == {"ada": 1}


async def test_tables_beyond_the_end_of_the_log_are_refused(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop))
    shop.rows("UPDATE perdure_checkpoints SET position = 99")

    async with open_runtime(backend) as rt:
        with pytest.raises(Rewound):
            await rt.project(payments(shop))


@pytest.mark.parametrize("changes", [{"events": of(Paid).within(streams=["payments"])}, {"version": 1}], ids=["another selector", "an older version"])
async def test_another_definition_is_refused_and_the_tables_stay(backend, shop, changes):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop, version=2))

    with pytest.raises(ModelFaulted, match="version 2"):
        await projected(backend, payments(shop, **{"version": 2, **changes}))

    assert totals(shop) == {"ada": 1}


async def test_another_definition_is_built_beside_if_it_is_asked_for(backend, shop):
    async with open_runtime(backend, environment=INLINE) as rt:
        await append(rt, 1)
    await projected(backend, payments(shop))

    await projected(backend, payments(shop, events=of(Paid).within(streams=["others"])), changed="rebuild")

    assert totals(shop) == {}


# -- owners --------------------------------------------------------------------------------------


def test_an_owner_whose_fence_was_passed_changes_nothing(shop):
    frozen, heir = shop.open(), shop.open()
    projection = payments(shop)
    mark = Mark(projection="payments", version=1, fingerprint="f", step="", store="s", position=0, fence=5)
    assert frozen.make(mark, projection.tables)
    assert heir.move(mark, attrs.evolve(mark, fence=9), lambda tx: None)

    moved = frozen.move(mark, attrs.evolve(mark, position=1), lambda tx: tx.execute("INSERT INTO totals VALUES ('x', 1)"))

    assert not moved
    assert totals(shop) == {}
    frozen.close()
    heir.close()


async def test_two_runtimes_on_one_store_apply_each_event_once(tmp_path, shop):
    projection = payments(shop)
    url = f"lmdb:{tmp_path / 'store'}"
    async with open_runtime(url, App(sql=[projection])) as first, open_runtime(url, App(sql=[projection])) as second:
        for number in range(5):
            head = await append(first if number % 2 else second, number)
        await first.model(projection).wait_for(head)
        await second.model(projection).wait_for(head)
        states = {rt.status().find("payments").state for rt in (first, second)}

    assert totals(shop) == {"ada": 10}
    assert states == {"running", "standing by"}


async def test_who_stands_by_takes_over(tmp_path, shop):
    projection = payments(shop)
    url = f"lmdb:{tmp_path / 'store'}"
    async with open_runtime(url, App(sql=[projection])) as second_later:
        async with open_runtime(url) as reader:
            await reader.model(projection).wait_for(await append(reader, 1))
        await append(second_later, 2)
    async with open_runtime(url, App(sql=[projection])) as rt:
        await rt.model(projection).wait_for(await append(rt, 4))

    assert totals(shop) == {"ada": 7}
    fences = shop.rows("SELECT fence FROM perdure_checkpoints")
    assert fences[0][0] > 0


# -- what is refused at once ---------------------------------------------------------------------


@pytest.mark.parametrize("url", ["shop.sqlite", "sqlite:", "sqlite::memory:", "mysql:x", "postgresql:", 7])
def test_what_names_no_database_is_misuse(url):
    with pytest.raises(Misuse):
        SqlProjection("payments", version=1, database=url, tables=tables, handle=book, events=of(Paid))


async def test_a_missing_folder_is_named(backend, tmp_path):
    async with open_runtime(backend) as rt:
        with pytest.raises(Misuse, match="make it first"):
            await rt.project(payments(SqliteShop(tmp_path / "nowhere" / "x.sqlite")))


MISPLACED = [partial(App, projections=[payments(SqliteShop(Path("x")))]), partial(App, sql=[Projection("x", version=1, initial=0, step=min)])]


@pytest.mark.parametrize("wrong", MISPLACED)
def test_an_app_takes_each_kind_in_its_place(wrong):
    with pytest.raises(Misuse):
        wrong()


def test_a_name_is_given_once_in_an_app(shop):
    with pytest.raises(Misuse, match="two projections"):
        App(projections=[Projection("payments", version=1, initial=0, step=min)], sql=[payments(shop)])
