# mypy: disable-error-code="arg-type,assignment,list-item,operator"
"""Who waits for a model that another runtime keeps is told as soon as it is there, also where the last events were not wanted by it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from perdure.actors import snapshots
from perdure.actors.beyond import Beyond
from perdure.actors.fold import Keyed
from perdure.backends.memory import open_memory
from perdure.runtime import START, App, NewEvent, Projection, SqlProjection, event, of, open_runtime

WITHIN_S = 3.0


@event("ticked")
@attrs.frozen
class Ticked:
    number: int = 1


def add(state, event):
    return state + event.data.number


def tables(tx):
    tx.execute("CREATE TABLE ticks (position INTEGER PRIMARY KEY, number INTEGER)")


def note(event, tx):
    tx.execute("INSERT INTO ticks VALUES (?, ?)", (event.position, event.data.number))


def note_there(event, tx):
    tx.execute("INSERT INTO ticks VALUES (%s, %s)", (event.position, event.data.number))


@pytest.fixture(autouse=True)
def soon(caplog, monkeypatch):
    caplog.set_level(logging.CRITICAL, "perdure")
    monkeypatch.setattr(snapshots, "IDLE_S", 0.2)  # what was wanted is kept by the owner when it has been idle for so long


def made(kind, request):
    """A projection of that kind, and the app that runs it."""
    if kind == "single":
        one = Projection("ticks", version=1, initial=0, step=add, events=of(Ticked))
    elif kind == "keyed":
        one = Keyed("ticks", version=1, initial=0, key=lambda event: "all", step=add, events=of(Ticked))
    else:
        url = f"sqlite:{request.getfixturevalue('tmp_path') / 'x'}" if kind == "sqlite" else request.getfixturevalue("database")
        handle = note if kind == "sqlite" else note_there
        return (one := SqlProjection("ticks", version=1, database=url, tables=tables, handle=handle, events=of(Ticked))), App(sql=[one])
    return one, App(projections=[one])


KINDS = pytest.mark.parametrize("kind", ["single", "keyed", "sqlite", "postgres"])


@asynccontextmanager
async def two(tmp_path, app, other_app):
    """The owner, and another one on the same store."""
    url = f"lmdb:{tmp_path / 'store'}"
    async with open_runtime(url, app) as owner, open_runtime(url, other_app) as other:
        yield owner, other


async def ticked_and_more(rt, ticks=3, others=500):
    """The head, behind many events that nobody wants."""
    await rt.append("a", [Ticked() for _ in range(ticks)])
    return (await rt.append("b", [NewEvent({}, type="other") for _ in range(others)])).position


@KINDS
@pytest.mark.parametrize("standing_by", [True, False], ids=["standing by", "not running"])
async def test_it_waits_no_longer_than_for_what_is_wanted(request, tmp_path, kind, standing_by):
    projection, app = made(kind, request)
    async with two(tmp_path, app, app if standing_by else App()) as (owner, other):
        assert other.status().find("ticks") is None or other.status().find("ticks").state == "standing by"
        head = await ticked_and_more(owner)

        with trio.fail_after(WITHIN_S):
            await other.model(projection).wait_for(head)

        assert other.model(projection).position == head


@KINDS
async def test_it_is_told_of_what_comes_while_it_waits(request, tmp_path, kind):
    projection, app = made(kind, request)
    async with two(tmp_path, app, app) as (owner, other):
        head = await ticked_and_more(owner)
        with trio.fail_after(2 * WITHIN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.model(projection).wait_for, head + 7)
                await trio.sleep(0.5)
                await owner.append("b", [NewEvent({}, type="other") for _ in range(7)])


async def test_nothing_wanted_is_jumped_over(tmp_path):
    """The state that is shown is the fold up to the position that is shown."""
    projection = Projection("ticks", version=1, initial=0, step=add, events=of(Ticked))
    app = App(projections=[projection])
    seen = []
    async with two(tmp_path, app, app) as (owner, other):
        for _ in range(20):
            head = await ticked_and_more(owner, ticks=1, others=2)
            with trio.fail_after(WITHIN_S):
                await other.model(projection).wait_for(head)
            seen.append(other.model(projection).state)

    assert seen == list(range(1, 21))


async def test_who_does_not_look_beyond_is_caught(tmp_path, monkeypatch):
    async def nothing_beyond(self, kept):
        return kept

    monkeypatch.setattr(Beyond, "reach", nothing_beyond)
    projection = Projection("ticks", version=1, initial=0, step=add, events=of(Ticked))
    async with two(tmp_path, App(projections=[projection]), App(projections=[projection])) as (owner, other):
        head = await ticked_and_more(owner)
        await other.model(projection).wait_for(3)
        head = (await owner.append("b", [NewEvent({}, type="other")])).position

        with pytest.raises(trio.TooSlowError), trio.fail_after(WITHIN_S):
            await other.model(projection).wait_for(head)


async def test_nobody_writes_for_those_who_wait(tmp_path):
    projection = Projection("ticks", version=1, initial=0, step=add, events=of(Ticked))
    app = App(projections=[projection])
    async with two(tmp_path, app, app) as (owner, other):
        head = await ticked_and_more(owner)
        await other.model(projection).wait_for(head)
        before = owner.status().journal.commits + other.status().journal.commits
        for _ in range(5):
            head = (await owner.append("b", [NewEvent({}, type="other")])).position
            await other.model(projection).wait_for(head)
        written = owner.status().journal.commits + other.status().journal.commits - before

    assert written <= 5 + 2  # their beats


async def test_each_part_of_the_log_is_looked_at_once():
    backend = open_memory()
    async with open_runtime(backend) as rt:
        head = await ticked_and_more(rt, ticks=1, others=30)
        beyond = Beyond(backend, of(Ticked))

        assert await beyond.reach(START) == START
        assert await beyond.reach(1) == head
        assert await beyond.reach(1) == head
        assert await beyond.reach(START) == START
        tick = (await rt.append("a", [Ticked()])).position
        assert await beyond.reach(2) == tick - 1
