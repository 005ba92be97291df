"""Migration: a store is elsewhere what it was, whatever happens on the way; and the old place says where it is."""

from __future__ import annotations

import os

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moving import Writes

from perdure.backends.carried import Rest, Tombstone
from perdure.backends.commit import Put
from perdure.backends.conformance.law import Desk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt, Misuse, PerdureError, StoreMoved, Unavailable
from perdure.backends.faulty import FaultyBackend
from perdure.backends.limits import LIMITS
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime
from perdure.runtime.carry import Carrier, digest_of
from perdure.runtime.migrate import bring, migrate_store, roll_back

KINDS = ("lmdb", "file", "logged", "postgresql")


@pytest.fixture
def place(tmp_path, request):
    """`place(kind, name)`: the URL of a place where there may be a store."""
    made = {}

    def url(kind: str, name: str) -> str:
        if kind == "postgresql":
            if name not in made:
                made[name] = request.getfixturevalue("postgres").new_database()
            return made[name]
        return f"lmdb:{tmp_path}/{name}?log=segments" if kind == "logged" else f"{kind}:{tmp_path}/{name}"

    return url


async def digests(url):
    """Those of the store there."""
    async with open_backend(url) as backend:
        return await digest_of(backend)


async def written(url, count=150, seed=1):
    """A store with everything in it; its digests."""
    async with open_backend(url) as backend:
        writes = Writes(seed)
        await writes.many(Desk(backend), count)
        return await digest_of(backend)


# -- the same store, elsewhere ---------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [("lmdb", "file"), ("file", "lmdb"), ("lmdb", "logged"), ("lmdb", "postgresql"), ("postgresql", "file")])
async def test_a_store_is_elsewhere_what_it_was(place, source, target):
    here, there = place(source, "here"), place(target, "there")
    before = await written(here)

    done = await migrate_store(here, there)

    assert await digests(there) == before
    assert done.log_digest == before.log
    async with open_backend(here) as old, open_backend(there) as new:
        assert (old.id, old.state) == (new.id, State.MOVED)
        assert await new.verify() == []
        with pytest.raises(StoreMoved, match="there" if target != "postgresql" else "postgresql"):
            await Desk(old).append("late")
        await Desk(new).append("late")


async def test_a_live_store_goes_through_all_backends_and_nothing_is_lost(place, monkeypatch):
    """Small steps, so that much happens between two of them; each place's writer goes on at the next one."""
    monkeypatch.setattr("perdure.runtime.pages.PAGE_EVENTS", 25)
    monkeypatch.setattr("perdure.runtime.pages.PAGE_ROWS", 7)
    here, writes = place("lmdb", "0"), Writes()
    await written(here, 300, seed=9)
    writes.done = 1_000

    for number, kind in enumerate(["file", "lmdb", "postgresql", "lmdb"], 1):
        there = place(kind, str(number))
        async with open_backend(here) as source, trio.open_nursery() as nursery:
            nursery.start_soon(writes.go_on, Desk(source))
            await trio.sleep(0.1)
            async with open_backend(there, loading=True, id=source.id) as target, source.claim_move():
                done = await bring(source, target)
            before = await digest_of(source)
        assert done.longest_pause_s < 0.5
        assert await digests(there) == before
        here = there

    async with open_backend(here) as backend:
        payloads = [record.payload for record in await Desk(backend).log()]
        assert [payload for payload in payloads if payload in set(writes.appended)][-len(writes.appended) :] == writes.appended
        assert await backend.verify() == []


STEPS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["bring", "maintain", "nothing"])), max_size=6)


@given(STEPS, st.integers(0, 1 << 32), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_written_meanwhile_the_target_holds_the_same(autojump_clock, steps, seed, rows):
    """Tombstones and keys are forgotten at once where upkeep comes in between; pages are tiny."""
    limits = attrs.evolve(LIMITS, keys_kept_s=1e-6, tombstones_kept_s=1e-6)
    environment = Environment(threads=InlineThreads())
    source, target = open_memory(environment=environment, limits=limits), open_memory(environment=environment)
    writes, carrier = Writes(seed), Carrier(source, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.runtime.pages.PAGE_ROWS", rows)
        patch.setattr("perdure.runtime.pages.PAGE_EVENTS", rows)
        await carrier.begin()
        await carrier.catch_up()
        for count, then in steps:
            await writes.many(Desk(source), count)
            if then == "maintain":
                while await source.maintain():
                    pass
            elif then == "bring":
                await carrier.catch_up()
        async with source.hold_commits():
            await carrier.finish()
        await target.end_load()

    assert await digest_of(target) == await digest_of(source)
    assert await target.verify() == []


# -- cut off ---------------------------------------------------------------------------------


class Killed(Exception):
    """Nothing that anybody handles."""


CUTS = [
    *(("target", method, nth) for method in ("begin_load", "load", "load_rest", "end_load") for nth in (1, 3)),
    *(("source", method, nth) for method in ("read_log", "read_entries", "hold_commits", "mark") for nth in (1, 3)),
]


@pytest.mark.parametrize(("side", "method", "nth"), CUTS)
@pytest.mark.parametrize("after", [False, True])
async def test_a_migration_that_is_cut_off_at_any_step_goes_on(tmp_path, monkeypatch, side, method, nth, after):
    """Between two attempts the source is in use again, if it is still there; at no time do both take commits."""
    monkeypatch.setattr("perdure.runtime.pages.PAGE_EVENTS", 20)
    monkeypatch.setattr("perdure.runtime.pages.PAGE_ROWS", 10)
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here, 90)
    writes = Writes(5)
    writes.done = 500

    async def attempt(faulty: bool) -> None:
        async with open_backend(here) as source, source.claim_move(), open_backend(there, loading=True, id=source.id) as target:
            backends = {"source": FaultyBackend(source), "target": FaultyBackend(target)}
            if faulty:
                backends[side].fail(method, Killed(), nth=nth, after=after)
            await bring(backends["source"], backends["target"])

    try:
        await attempt(True)
    except* Killed:
        pass
    async with open_backend(here) as source, open_backend(there, loading=True) as target:
        takes = [backend for backend in (source, target) if backend.state is State.OPEN and await backend.head()]
        assert len(takes) <= 1
        if source.state is State.OPEN:
            await writes.many(Desk(source), 15)
    await attempt(False)

    async with open_backend(here) as source, open_backend(there) as target:
        assert (source.state, target.state) == (State.MOVED, State.OPEN)
        assert await digest_of(source) == await digest_of(target)
        assert {record.payload for record in await Desk(target).log()} >= set(writes.appended)


async def test_a_target_whose_opening_fails_leaves_the_source_where_it_is(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    before = await written(here, 40)
    async with open_backend(here) as source, source.claim_move(), open_backend(there, loading=True, id=source.id) as target:
        faulty = FaultyBackend(target)
        faulty.fail("end_load", Unavailable("a test"))

        with pytest.raises(Unavailable):
            await bring(source, faulty)

        assert (await source.moved_to(), source.state, target.state) == ("", State.OPEN, State.LOADING)
        await Desk(source).append("goes-on")
    await migrate_store(here, there)
    assert before != await digests(there) == await digests(here)


async def test_what_comes_faster_than_it_is_brought_keeps_no_writer_waiting(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here, 40)
    async with open_backend(here) as source, source.claim_move(), open_backend(there, loading=True, id=source.id) as target:
        slow = FaultyBackend(target)
        slow.delay("snapshot_heads", 0.2, for_good=True)

        with pytest.raises(Unavailable, match="let them wait longer"):
            await bring(source, slow, pause_s=0.1)

        assert await source.moved_to() == ""
        await Desk(source).append("goes-on")


# -- targets that lie ------------------------------------------------------------------------


class LosesTombstones(FaultyBackend):
    async def load_rest(self, rest: Rest) -> None:
        await super().load_rest(attrs.evolve(rest, aged=[one for one in rest.aged if not isinstance(one, Tombstone)]))


class LosesSnapshots(FaultyBackend):
    async def load_rest(self, rest: Rest) -> None:
        await super().load_rest(attrs.evolve(rest, snapshots=[]))


class LosesEntries(FaultyBackend):
    async def load_rest(self, rest: Rest) -> None:
        await super().load_rest(attrs.evolve(rest, entries=rest.entries[1:]))


class LosesEvents(FaultyBackend):
    async def load(self, records):
        await super().load([record for record in records if record.commit != records[0].commit])


@pytest.mark.parametrize("lies", [LosesTombstones, LosesSnapshots, LosesEntries, LosesEvents])
async def test_a_target_that_loses_something_is_found_out_before_the_source_says_that_it_is_there(lies, autojump_clock):
    source, target = open_memory(), lies(open_memory())
    desk, carrier = Desk(source), Carrier(source, target)
    await Writes().many(desk, 60)

    with pytest.raises(PerdureError) as caught:
        await carrier.begin()
        await carrier.catch_up()
        await Writes(7).many(desk, 60)
        async with source.hold_commits():
            await carrier.finish()

    assert isinstance(caught.value, Corrupt | Misuse)


# -- back again ------------------------------------------------------------------------------


async def test_a_rollback_and_the_same_migration_once_more(place):
    here, there = place("lmdb", "here"), place("postgresql", "there")
    before = await written(here)
    await migrate_store(here, there)

    await roll_back(here, there)

    async with open_backend(here) as source, open_backend(there) as target:
        assert (source.state, target.state) == (State.OPEN, State.MOVED)
        with pytest.raises(StoreMoved, match="here"):
            await Desk(target).append("late")
        assert (await digest_of(source)).log == before.log
        revision = await source.revision()
        assert await Desk(source).store(Put("users", b"new", b"x")) == revision + 1
        await Writes(3).many(Desk(source), 20)
    done = await migrate_store(here, there)
    assert done.events == 20
    assert await digests(here) == await digests(there)


@pytest.mark.parametrize("what", ["events", "entries", "deletes", "keys"])
async def test_what_the_target_has_accepted_is_not_rolled_back(tmp_path, what):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here)
    await migrate_store(here, there)
    async with open_backend(there) as target:
        desk = Desk(target)
        match what:
            case "events":
                await desk.append("a")
            case "entries":
                await desk.done(Put("users", b"1", b"x"))
            case "deletes":
                await desk.done(Put("users", b"1", b"x"))
            case "keys":
                await desk.done(Put("$checkpoints", b"1", b"x"), key=b"a key")

    with pytest.raises(Misuse, match="would lose"):
        await roll_back(here, there)

    done = await migrate_store(there, here)
    assert done.events == (what == "events")
    assert await digests(here) == await digests(there)


async def test_checkpoints_and_leases_of_the_target_do_not_hinder_a_rollback(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here)
    await migrate_store(here, there)
    async with open_backend(there) as target:
        await Desk(target).done(Put("$checkpoints", b"m", b"x"), Put("$beats", b"m", b"x"))
        newest = await target.revision()

    await roll_back(here, there)

    async with open_backend(here) as source:
        assert await Desk(source).store(Put("users", b"1", b"x")) > newest


async def test_a_rollback_that_is_cut_off_is_ended_by_the_same_command(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"file:{tmp_path}/there"
    await written(here, 30)
    await migrate_store(here, there)
    async with open_backend(there) as target, target.hold_commits() as held:
        await held.mark(f"lmdb:{os.path.realpath(tmp_path)}/here")

    with pytest.raises(Misuse, match="--rollback"):
        await migrate_store(here, there)
    await roll_back(here, there)

    async with open_runtime(here) as rt:
        await rt.append("a", [])
