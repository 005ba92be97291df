"""Handlers of SQL read models: those that raise, and those that do what they must not."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

import psycopg
import pytest

from bookkeeping import INLINE, append, book, payments, projected, put, tables, totals
from perdure.runtime import App, Misuse, ModelFaulted, ProjectionFailed, open_runtime


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
