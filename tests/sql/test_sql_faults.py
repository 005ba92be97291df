# mypy: disable-error-code="attr-defined,union-attr,var-annotated"
"""SQL read models: rows equal to an independent count whatever fails."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from bookkeeping import INLINE, append, payments, projected, totals
from failing import Failing
from perdure.backends.memory import open_memory
from perdure.runtime import App, ModelFaulted, WrongStore, open_runtime
from perdure.runtime.testing import crash
from shops import PostgresShop, SqliteShop


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
