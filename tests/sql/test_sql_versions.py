# mypy: disable-error-code="arg-type,var-annotated"
"""Versions of an SQL read model: built beside, swapped once, or refused."""

from __future__ import annotations

from contextlib import closing

import pytest

from bookkeeping import INLINE, Paid, append, payments, projected, put, tables, totals
from failing import Failing
from perdure.backends.errors import Unavailable
from perdure.runtime import ModelFaulted, Rewound, SqlProjection, of, open_runtime


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
