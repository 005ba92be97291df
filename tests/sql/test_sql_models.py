# mypy: disable-error-code="arg-type,list-item,possibly-undefined,union-attr"
"""SQL read models: rows that stand where their position says, one owner at a time, and what is refused at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from bookkeeping import INLINE, Paid, append, book, payments, projected, tables, totals
from perdure.backends.sql import Mark
from perdure.runtime import App, Misuse, NewEvent, Projection, SqlProjection, of, open_runtime
from shops import SqliteShop

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
