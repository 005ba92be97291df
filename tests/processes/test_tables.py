"""Two processes, one read model in SQL: its rows equal an independent count, whatever happens to its owner and to its database.

TABLE_HANDOVERS says how often the owner is killed, ended or frozen.
"""

from __future__ import annotations

import os
import random
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import pytest
import trio

from crowd.driver import Crowd, Member, gather, wait_until
from crowd.laws import Reference, acknowledged, ordered
from crowd.tallies import NAME, Tables

HANDOVERS = int(os.environ.get("TABLE_HANDOVERS", "6"))
LEASE_S = 2.0
MORE_S = 2.0
IN_TRANSACTION_S = 2.0
"""So much more, where a frozen process holds the row: the server ends its transaction then."""
WHATS = ("kill", "freeze", "kill", "end")


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Tables]:
    """The store's URL, empty for one on this disk, and the tables: beside it in a file, or in the same database."""
    if request.param == "sqlite":
        return "", Tables(f"sqlite:{tmp_path / 'tallies.sqlite'}")
    database = request.getfixturevalue("database")
    return database, Tables(database)


def runs(host: Member) -> bool:
    """Whether it applies events, as far as it has told."""
    told = host.of("runs", "waits")
    return host.alive and bool(told) and told[-1].kind == "runs"


def one_runs(one: Member, other: Member) -> bool:
    return runs(one) != runs(other)


async def enter(crowd: Crowd, name: str, tables: Tables) -> Member:
    return await crowd.start(name, "tabulate", database=tables.url, lease_s=LEASE_S, gate_s=1.0)


async def judge(crowd: Crowd, tables: Tables) -> None:
    """All ends; the rows against the log."""
    log = await crowd.log()
    await wait_until(lambda: tables.position >= log[-1].position, "the tables to get to the end")
    await crowd.end_all()
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
    reference = Reference(log)
    assert tables.done() == [(event.position, event.by, event.number) for event in log]
    assert tables.tallies() == {key: reference.last(key) for key in reference.keys}


@pytest.mark.timeout(60 + 12 * HANDOVERS)
async def test_its_rows_are_an_independent_count_whatever_happens_to_its_owner(
    tmp_path: Path, where: tuple[str, Tables], capsys: pytest.CaptureFixture[str]
) -> None:
    url, tables = where
    draw, in_transaction = random.Random(7), 0
    async with gather(tmp_path, url) as crowd:
        writer = await crowd.start("w", "append", pace_s=0.005, gate_s=1.0)
        hosts = [await enter(crowd, name, tables) for name in ("h1", "h2")]
        await wait_until(lambda: any(runs(host) for host in hosts), f"one process to run {NAME}")
        for what in islice(cycle(WHATS), HANDOVERS):
            await trio.sleep(draw.uniform(0.1, 0.6))  # the moment is real time
            owner, heir = sorted(hosts, key=runs, reverse=True)
            match what:
                case "kill":
                    await owner.kill()
                case "end":
                    await owner.end()
                case "freeze":
                    owner.freeze()
            stood_at = tables.position
            with trio.move_on_after(LEASE_S + MORE_S + (IN_TRANSACTION_S if url else 0)) as late:
                while tables.position <= stood_at:
                    await trio.sleep(0.02)
            if late.cancelled_caught:
                assert what == "freeze", f"{what}: nobody went on"
                in_transaction += 1
                assert tables.is_locked() or not writer.of("ack")[-1].number(2) > stood_at
            if what == "freeze":
                owner.thaw()
                await wait_until(partial(one_runs, owner, heir), "one of them to run it")
            else:
                hosts = [heir, await enter(crowd, owner.options.by.partition(".")[0], tables)]
        await writer.end()
        await judge(crowd, tables)

    with capsys.disabled():
        print(f"\n  {HANDOVERS} hand-overs of a read model in SQL; {in_transaction} freezes in a transaction")


async def test_a_database_that_is_deleted_while_it_is_written_is_built_again(tmp_path: Path, where: tuple[str, Tables]) -> None:
    url, tables = where
    async with gather(tmp_path, url) as crowd:
        writer = await crowd.start("w", "append", pace_s=0.002)
        await enter(crowd, "h", tables)
        await wait_until(lambda: tables.position > 100, "some events to be applied")
        tables.delete()
        await wait_until(lambda: tables.position > 300, "the database to be built again")
        await writer.end()
        await judge(crowd, tables)


async def test_a_new_version_takes_the_place_of_the_old_one_whole_though_its_builders_are_killed(tmp_path: Path, where: tuple[str, Tables]) -> None:
    url, tables = where
    draw = random.Random(8)
    async with gather(tmp_path, url) as crowd:
        await (await crowd.start("h", "append", "tabulate", database=tables.url, pace_s=0.001)).noted("ack", 1_500)
        await crowd.end_all()
        before = tables.done()
        for _ in range(4):
            builder = await crowd.launch("h", "tabulate", database=tables.url, tables_version=2)
            await wait_until(lambda: tables.building or tables.version == 2, "the tables to be built")
            await trio.sleep(draw.uniform(0, 0.05))  # the moment is real time
            await builder.kill()
            assert tables.done()[: len(before)] == before
        await crowd.start("h", "tabulate", database=tables.url, tables_version=2)
        await wait_until(lambda: tables.version == 2, "the new tables to be read")
        await judge(crowd, tables)
