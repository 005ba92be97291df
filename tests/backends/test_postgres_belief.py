"""What a process believes of a store that others write to as well is checked by what it writes: never does it matter."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random

import attrs
import pytest

from perdure.backends.commit import ANY, EXISTS, Answer, Append, Check, Commit, Committed, Delete, Put, PutAll, Unless, Write, propose
from perdure.backends.conformance.law import MANY, Desk, appending, draft, new_id
from perdure.backends.environment import Environment
from perdure.backends.errors import Conflict, InDoubt, PerdureError
from perdure.backends.event import Position
from perdure.backends.postgres import Options, open_postgres
from perdure.backends.postgres import backend as postgres_backend
from perdure.backends.postgres.backend import PostgresBackend
from perdure.backends.postgres.wire import Lost, Question, Wire
from perdure.backends.postgres.writing import Place
from perdure.backends.selector import EVERYTHING
from perdure.backends.urls import open_backend
from postgres_server import run

STREAMS = ["a-1", "a-2", "b", "ä"]
KEYS = [b"x", b"y"]
SELECTORS = [EVERYTHING, EVERYTHING.within(streams=["b"]), EVERYTHING.within(types=["one"]), EVERYTHING.within(tags=["t"]), EVERYTHING.within(categories=["a"])]


def an_append(draw: Random) -> Write:
    count = draw.choice([1, 1, 1, 2, 3, 5, 300])
    tags = ["t"] if draw.random() < 0.2 else []
    size = draw.choice([0, 10, 10, 3_000])
    events = [draft(draw.randbytes(size), type=draw.choice(["one", "two"]) if count < 4 else "one", tags=tags) for _ in range(count)]
    return Append(draw.choice(STREAMS), events, draw.choice([ANY, ANY, ANY, EXISTS, 0, 1, 2]))


def a_write(draw: Random) -> Write:
    match draw.randrange(10):
        case 0:
            return Put("k", draw.choice(KEYS), draw.randbytes(3), draw.choice([ANY, 0, EXISTS]))
        case 1:
            return Delete("k", draw.choice(KEYS), draw.choice([ANY, EXISTS]))
        case 2:
            return PutAll("$models m", [(key, draw.randbytes(2)) for key in KEYS])
        case 3:
            return Check(stream=draw.choice(STREAMS), expected=draw.choice([0, EXISTS]))
        case 4:
            return Unless(draw.choice(SELECTORS[1:]), after=Position(draw.randrange(3_000)))
        case _:
            return an_append(draw)


def a_commit(draw: Random, now_us: int) -> Commit | None:
    writes = [a_write(draw) for _ in range(draw.choice([1, 1, 1, 2]))]
    try:
        return propose(writes, id=draw.randbytes(16), at_us=now_us, key=draw.choice([None, None, None, b"1", b"2"]), own=True)
    except PerdureError:
        return None  # two writes to one stream, or a condition alone


@pytest.mark.parametrize("seed", range(4))
async def test_handles_that_write_by_turns_give_the_answers_of_memory(database, seed):
    draw, now_us = Random(seed), 1_900_000_000_000_000
    async with AsyncExitStack() as stack:
        memory = await stack.enter_async_context(open_backend("memory:"))
        handles = [await stack.enter_async_context(open_backend(database)) for _ in range(3)]
        for number in range(80):
            group = [commit for _ in range(draw.choice([1, 1, 3])) if (commit := a_commit(draw, now_us + 20 * number)) is not None]
            if not group:
                continue

            expected = await memory.commit(group)
            found = await draw.choice(handles).commit(group)

            assert [repr(answer) for answer in found.answers] == [repr(answer) for answer in expected.answers]
            assert found.follows == expected.follows
            if expected.records is not None and any(type(answer) is Committed for answer in expected.answers) and found.records is not None:
                assert list(found.records()) == list(expected.records())
        for handle in handles:
            await same_reads(handle, memory, draw)
        assert await handles[0].verify() == []


async def same_reads(backend, memory, draw: Random) -> None:
    """Any page of either is the same."""
    head = await memory.head()
    assert (await backend.head(), await backend.revision()) == (head, await memory.revision())
    for _ in range(60):
        where, bounds = draw.choice(SELECTORS), {"limit": draw.choice([1, 2, 100, 256, 700]), "bytes_max": draw.choice([1, 5_000, 400_000, MANY])}
        start = Position(draw.randrange(head + 1))
        page, other = [await store.read_log(after=start, where=where, **bounds) for store in (backend, memory)]
        both = min(page.examined, other.examined)
        assert [r for r in page.records if r.position <= both] == [r for r in other.records if r.position <= both]
        stream, after, backward = draw.choice(STREAMS), draw.randrange(1_500), draw.random() < 0.5
        found, expected = [await store.read_stream(stream, after=after, backward=backward, **bounds) for store in (backend, memory)]
        assert found == expected


async def test_two_who_append_to_one_stream_by_turns_leave_no_gap(database):
    async with open_backend(database) as one, open_backend(database) as other:
        for number in range(10):
            await Desk((one, other)[number % 2]).append("a", 1 + number % 3)

        assert [record.seq for record in await Desk(one).stream("a")] == list(range(1, 20))
        assert await one.verify() == []


async def test_a_wrong_belief_does_not_hide_a_conflict(database):
    async with open_backend(database) as one, open_backend(database) as other:
        await Desk(one).append("a", 2)
        await Desk(other).append("a", 1)

        conflict = await Desk(one).ask(appending("a", 1, 2))

        assert isinstance(conflict, Conflict) and conflict.actual == 3
        assert (await Desk(one).append("a", 1, 3)).last == 4


async def put_by_a_wrong_belief(database: str) -> Answer:
    """The answer to who expects the revision that he himself made, another having written since."""
    async with open_backend(database) as one, open_backend(database) as other:
        await Desk(one).done(Put("k", b"x", b"1", 0))
        await Desk(other).done(Put("k", b"x", b"2"))

        return await Desk(one).ask(Put("k", b"x", b"3", 1))


async def test_a_wrong_belief_of_an_entry_does_not_hide_a_conflict(database):
    assert isinstance(await put_by_a_wrong_belief(database), Conflict)


async def test_a_store_that_does_not_check_what_it_believes_is_caught(database, monkeypatch):
    believed = Place.believed
    monkeypatch.setattr(Place, "believed", lambda *args: attrs.evolve(believed(*args), fixed_revision=False))

    assert isinstance(await put_by_a_wrong_belief(database), Committed)


async def test_an_event_that_was_stored_further_on_and_later_than_thought_fits_its_checksum(database):
    async with open_backend(database) as one, open_backend(database) as other:
        await Desk(one).append("a")
        later_us = await one.now_us() + 1_000_000
        await Desk(other).done(appending("b", 7), at_us=later_us)

        await Desk(one).done(appending("a", 5), at_us=later_us - 500_000)

        records = await Desk(one).log()
        assert [record.position for record in records] == list(range(1, 14))
        assert {record.at_us for record in records[8:]} == {later_us}
        assert run(database, "SELECT DISTINCT moved, sealed_at < at FROM perdure.runs WHERE seq > 1 AND stream = 'a'") == [(7, True)]
        assert await one.verify() == []


# -- what comes late -------------------------------------------------------------------------


class LateWire(Wire):
    """Its next statement that is a transaction of its own is held back, and the connection gone."""

    held: Question | None = None
    holds = False

    async def ask(self, *questions, **how):
        for one in questions:
            if LateWire.holds and isinstance(one, Question) and one.statement.commits:
                LateWire.held, LateWire.holds = one, False
                self.close()
                raise Lost("it was cut on purpose")
        return await super().ask(*questions, **how)


async def come_late(database: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of events, after a statement has come to the server when its doubt had been resolved."""
    monkeypatch.setattr(LateWire, "holds", False)
    backend = await open_postgres(database, Options(), environment=Environment(), wires=LateWire)
    assert isinstance(backend, PostgresBackend)
    try:
        await Desk(backend).append("a")
        monkeypatch.setattr(LateWire, "holds", True)
        id = new_id()
        with pytest.raises(InDoubt):
            await Desk(backend).done(appending("a"), id=id)
        await backend.reopen()
        assert await backend.answer(id) is None
        assert LateWire.held is not None

        wire = await backend._connect()
        await wire.ask(LateWire.held, within_s=5)
        wire.close()

        return await backend.head()
    finally:
        await backend.aclose()


async def test_what_comes_to_the_server_after_its_doubt_was_resolved_writes_nothing(database, monkeypatch):
    assert await come_late(database, monkeypatch) == 1


async def test_a_store_whose_doubts_end_without_a_new_epoch_is_caught(database, monkeypatch):
    monkeypatch.setattr(postgres_backend, "NEW_EPOCH", "SELECT 1")

    assert await come_late(database, monkeypatch) == 2
