"""Two processes, one read model in SQL: its rows equal an independent count, whatever happens to its owner and to its database.

TABLE_HANDOVERS says how often the owner is killed, ended or frozen.
"""

from __future__ import annotations

import os
import random
from itertools import cycle, islice
from pathlib import Path

import pytest
import trio

from crowd.driver import Crowd, Member, gather, wait_until
from crowd.laws import Reference, acknowledged, ordered
from crowd.tallies import NAME, is_locked, read_done, read_position, read_tallies, read_version

HANDOVERS = int(os.environ.get("TABLE_HANDOVERS", "6"))
LEASE_S = 2.0
MORE_S = 2.0
WHATS = ("kill", "freeze", "kill", "end")


def runs(host: Member) -> bool:
    """Whether it applies events, as far as it has told."""
    told = host.of("runs", "waits")
    return host.alive and bool(told) and told[-1].kind == "runs"


async def enter(crowd: Crowd, name: str, database: Path) -> Member:
    return await crowd.start(name, "tabulate", database=str(database), lease_s=LEASE_S, gate_s=1.0)


async def judge(crowd: Crowd, database: Path) -> None:
    """All ends; the rows against the log."""
    log = await crowd.log()
    await wait_until(lambda: read_position(database) >= log[-1].position, "the tables to get to the end")
    await crowd.end_all()
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
    reference = Reference(log)
    assert read_done(database) == [(event.position, event.by, event.number) for event in log]
    assert read_tallies(database) == {key: reference.last(key) for key in reference.keys}


@pytest.mark.timeout(60 + 12 * HANDOVERS)
async def test_its_rows_are_an_independent_count_whatever_happens_to_its_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, database, in_transaction = random.Random(7), tmp_path / "tallies.sqlite", 0
    async with gather(tmp_path) as crowd:
        writer = await crowd.start("w", "append", pace_s=0.005, gate_s=1.0)
        hosts = [await enter(crowd, name, database) for name in ("h1", "h2")]
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
            stood_at = read_position(database)
            with trio.move_on_after(LEASE_S + MORE_S) as late:
                while read_position(database) <= stood_at:
                    await trio.sleep(0.02)
            if late.cancelled_caught:
                assert what == "freeze", f"{what}: nobody went on"
                in_transaction += 1
                assert is_locked(database) or not writer.of("ack")[-1].number(2) > stood_at
            if what == "freeze":
                owner.thaw()
                await wait_until(lambda owner=owner, heir=heir: runs(owner) != runs(heir), "one of them to run it")  # type: ignore[misc]
            else:
                hosts = [heir, await enter(crowd, owner.options.by.partition(".")[0], database)]
        await writer.end()
        await judge(crowd, database)

    with capsys.disabled():
        print(f"\n  {HANDOVERS} hand-overs of a read model in SQL; {in_transaction} freezes in a transaction")


async def test_a_database_that_is_deleted_while_it_is_written_is_built_again(tmp_path: Path) -> None:
    database = tmp_path / "tallies.sqlite"
    async with gather(tmp_path) as crowd:
        writer = await crowd.start("w", "append", pace_s=0.002)
        await enter(crowd, "h", database)
        await wait_until(lambda: read_position(database) > 100, "some events to be applied")
        database.unlink()
        await wait_until(lambda: read_position(database) > 300, "the database to be built again")
        await writer.end()
        await judge(crowd, database)


async def test_a_new_version_takes_the_place_of_the_old_one_whole_though_its_builders_are_killed(tmp_path: Path) -> None:
    draw, database = random.Random(8), tmp_path / "tallies.sqlite"
    async with gather(tmp_path) as crowd:
        await (await crowd.start("h", "append", "tabulate", database=str(database), pace_s=0.001)).noted("ack", 1_500)
        await crowd.end_all()
        before = read_done(database)
        for _ in range(4):
            builder = await crowd.launch("h", "tabulate", database=str(database), tables_version=2)
            await wait_until(lambda: (tmp_path / f"{database.name}.{NAME}.building").exists() or read_version(database) == 2, "the tables to be built")
            await trio.sleep(draw.uniform(0, 0.05))  # the moment is real time
            await builder.kill()
            assert read_done(database)[: len(before)] == before
        await crowd.start("h", "tabulate", database=str(database), tables_version=2)
        await wait_until(lambda: read_version(database) == 2, "the new tables to be read")
        await judge(crowd, database)
