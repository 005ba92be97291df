"""Cuts in a database: rows that hold more than goes are made smaller, beliefs of before are worth nothing, stores of before can be cut."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random

import pytest

from perdure.backends.commit import ANY, Append, Cut, Write, propose
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, draft, drafts
from perdure.backends.errors import Misuse, Truncated
from perdure.backends.event import START
from perdure.backends.postgres import cutting, people
from perdure.backends.selector import EVERYTHING
from perdure.backends.urls import open_backend
from postgres_server import run

LONG_AGO_US = 1_700_000_000_000_000
STREAMS = ["a-1", "a-2", "b"]


async def left(backend):
    """All that there is to read, and what is told of the rest."""
    records, after = [], START
    while (page := await backend.read_log(after=after, limit=50, bytes_max=1 << 20, over_cuts=True)).examined > after:
        records += page.records
        after = page.examined
    back = []
    for info in await backend.streams(limit=99):
        try:
            back.append(await backend.read_stream(info.name, after=0, limit=20, bytes_max=1 << 20, backward=True))
        except Truncated as error:
            back.append(str(error))
    return records, back, await backend.streams(limit=99), sorted(map(str, await backend.cuts()))


def a_write(draw: Random, lasts: dict[str, int]) -> Write:
    stream = draw.choice(STREAMS)
    if draw.random() < 0.3:
        return Cut(stream, draw.randint(1, lasts.get(stream, 0) + 2), draw.choice([None, "bafy"]))
    return Append(stream, drafts(draw.choice([1, 2, 5, 20, 300])), draw.choice([ANY, ANY, lasts.get(stream, 0)]))


@pytest.mark.parametrize("seed", range(4))
async def test_handles_that_cut_by_turns_leave_what_memory_leaves(database, seed):
    draw = Random(seed)
    async with AsyncExitStack() as stack:
        memory = await stack.enter_async_context(open_backend("memory:"))
        handles = [await stack.enter_async_context(open_backend(database)) for _ in range(3)]
        for number in range(60):
            lasts = {info.name: info.last for info in await memory.streams(limit=9)}
            commit = propose([a_write(draw, lasts)], id=draw.randbytes(16), at_us=LONG_AGO_US + number, own=True)
            expected = await memory.commit([commit])
            found = await draw.choice(handles).commit([commit])
            assert [repr(answer) for answer in found.answers] == [repr(answer) for answer in expected.answers]
            if draw.random() < 0.3:
                await tidy(Desk(draw.choice(handles)))
            if number % 10 == 9:
                assert await left(draw.choice(handles)) == await left(memory)
        for handle in handles:
            assert await handle.verify() == []


async def test_of_a_row_that_holds_more_only_what_is_left_stays(database):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        await desk.done(Append("a", [draft(b"secret-%d" % number) for number in range(100)]), at_us=LONG_AGO_US)
        before = await desk.log()
        await desk.done(Cut("a", 41))
        await tidy(desk)

        told = "SELECT events, position('secret-39' IN encode(payload, 'escape')), position('secret-40' IN encode(payload, 'escape')) FROM perdure.runs"
        assert run(database, told) == [(60, 0, 1)]
        assert await desk.stream("a", after=40) == before[40:]
        await desk.done(Cut("a", 100))
        await tidy(desk)
        assert run(database, "SELECT position, seq, payload FROM perdure.events") == [(100, 100, b"secret-99")]
        assert await desk.stream("a", after=99) == before[99:]
        assert await backend.verify() == []


async def _append_after_all_was_deleted(database):
    """One handle believes that seq 2 is next; meanwhile the other one appends it, and it is cut and deleted."""
    async with open_backend(database) as one, open_backend(database) as other:
        desk, elsewhere = Desk(one), Desk(other)
        await desk.done(Append("a", [draft()], 0), at_us=LONG_AGO_US)
        await elsewhere.done(Append("a", [draft()], 1), at_us=LONG_AGO_US)
        await elsewhere.done(Cut("a", 3))
        await tidy(elsewhere)

        return (await desk.append("a", 1)).last


async def test_who_believes_what_was_deleted_since_is_not_believed(database):
    assert await _append_after_all_was_deleted(database) == 3


async def test_a_store_that_is_cut_in_the_same_epoch_is_caught(database, monkeypatch):
    monkeypatch.setattr(cutting, "NEW_EPOCH", "SELECT 1")

    assert await _append_after_all_was_deleted(database) == 2


BEFORE = [
    "DROP VIEW perdure.events, perdure.streams",
    "DROP TABLE perdure.cuts",
    "ALTER TABLE perdure.names DROP COLUMN cut, DROP COLUMN archive, DROP COLUMN swept",
    "ALTER TABLE perdure.head DROP COLUMN moved",
    *(step for step in people.STEPS if "VIEW" in step),
    "UPDATE perdure.head SET format = 1",
]
"""From format 2 back to 1."""


async def test_a_store_of_the_format_before_is_brought_up_to_date_and_can_be_cut(database):
    async with open_backend(database) as backend:
        await Desk(backend).done(Append("a", drafts(9)))
        before = await left(backend)
    for step in BEFORE:
        run(database, step)

    with pytest.raises(Misuse, match="open it once for writing"):
        async with open_backend(database + "&mode=ro"):
            pass
    async with open_backend(database) as backend:
        assert await left(backend) == before
        await Desk(backend).done(Cut("a", 4))
        assert [info.first for info in await backend.streams(limit=9)] == [4]


async def test_a_reader_with_archives_passes_over_what_was_cut(database):
    async with open_backend(database) as backend:
        desk = Desk(backend)
        for name in ("a", "b", "a"):
            await desk.done(Append(name, drafts(30)), at_us=LONG_AGO_US)
        await desk.done(Cut("a", 41))

        for _ in range(2):
            page = await backend.read_log(after=START, limit=1_000, bytes_max=1 << 20, where=EVERYTHING.within(streams=["a"]), over_cuts=True)
            assert [record.seq for record in page.records] == list(range(41, 61))
            await tidy(desk)
