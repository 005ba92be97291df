"""A runtime that goes with its store: callers, subscriptions, projections and leases go on at the new place."""

from __future__ import annotations

import itertools

import attrs
import pytest
import trio

from perdure.actors.seat import seat_of
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Misuse, RuntimeFailed, StoreMoved, Unavailable
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import EVERYTHING, START, App, Event, Keyed, NewEvent, Position, Projection, Runtime, open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.migrate import migrate, migrate_store, move_back


def count(state: int, event: Event[object]) -> int:
    return state + 1


ALL = Projection("all", version=1, initial=0, step=count, events=EVERYTHING)
EACH = Keyed("each", version=1, initial=0, step=count, events=EVERYTHING, key=lambda event: event.stream)


@attrs.define
class Traffic:
    """Writers and followers of a runtime; *waits_s*: how long each append took."""

    rt: Runtime
    seen: dict[str, list[int]] = attrs.field(factory=dict)
    waits_s: list[float] = attrs.field(factory=list)
    acknowledged: list[int] = attrs.field(factory=list)

    async def write(self, *, task_status=trio.TASK_STATUS_IGNORED):
        stop, ended = trio.Event(), trio.Event()

        async def end() -> None:
            stop.set()
            await ended.wait()

        task_status.started(end)
        try:
            while not stop.is_set():
                began = trio.current_time()
                answer = await self.rt.append(f"s-{len(self.acknowledged) % 5}", [NewEvent({"n": len(self.acknowledged)}, type="noted")])
                self.acknowledged.append(answer.position or 0)
                self.waits_s.append(trio.current_time() - began)
                await trio.sleep(0.005)
        finally:
            ended.set()

    async def follow(self, name):
        seen = self.seen[name or ""] = []
        async with self.rt.subscribe(EVERYTHING, after=START, name=name) as events:
            async for event in events:
                seen.append(event.position)  # noqa: PERF401 - it never ends

    async def check(self):
        """All that was acknowledged is there once, and everybody has seen it once, in order."""
        head = await self.rt.head()
        assert self.acknowledged == list(range(1, head + 1))
        await self.rt.model(ALL).wait_for(head)
        await self.rt.model(EACH).wait_for(head)
        assert self.rt.model(ALL).state == head
        assert sum([await self.rt.model(EACH).get(f"s-{number}") or 0 for number in range(5)]) == head
        with trio.fail_after(5):
            while any(len(seen) < head for seen in self.seen.values()):  # noqa: ASYNC110 - lists have no events
                await trio.sleep(0.01)
        assert all(seen == self.acknowledged for seen in self.seen.values())


async def test_a_runtime_goes_from_memory_to_a_file_to_lmdb_to_a_server_and_back(tmp_path, database):
    places = [f"file:{tmp_path}/a", f"lmdb:{tmp_path}/b", database, f"lmdb:{tmp_path}/c"]
    async with open_runtime("memory:", App(projections=[ALL, EACH])) as rt, trio.open_nursery() as nursery:
        traffic = Traffic(rt)
        nursery.start_soon(traffic.follow, "kept")
        nursery.start_soon(traffic.follow, None)
        end_writing = await nursery.start(traffic.write)
        for place in places:
            await trio.sleep(0.2)
            done = await migrate(rt, place)
            assert done.longest_pause_s < 0.5
        await trio.sleep(0.2)
        await end_writing()
        await traffic.check()
        status = rt.status().find("all")
        assert status is not None
        assert status.owner is not None
        nursery.cancel_scope.cancel()

    async with open_runtime(places[-1], App(projections=[ALL, EACH])) as rt:
        assert rt.model(ALL).state == len(traffic.acknowledged)
    for place in places[:-1]:
        with pytest.raises(StoreMoved):
            async with open_runtime(place):
                pass


async def test_a_runtime_goes_back_with_all_that_has_come_since(tmp_path):
    async with open_runtime("memory:", App(projections=[ALL, EACH])) as rt, trio.open_nursery() as nursery:
        traffic = Traffic(rt)
        nursery.start_soon(traffic.follow, "kept")
        end_writing = await nursery.start(traffic.write)
        await migrate(rt, f"lmdb:{tmp_path}/there")
        await trio.sleep(0.2)
        await move_back(rt)
        await trio.sleep(0.2)
        await end_writing()
        await traffic.check()
        nursery.cancel_scope.cancel()


async def test_a_runtime_whose_migration_fails_goes_on_where_it_is(tmp_path):
    faulty = FaultyBackend(open_memory())
    async with open_runtime(faulty, App(projections=[ALL, EACH])) as rt:
        faulty.fail("read_aged", Unavailable("a test"), nth=2)
        await rt.append("a", [NewEvent(1, type="x")])
        with pytest.raises(Unavailable, match="a test"):
            await migrate(rt, f"lmdb:{tmp_path}/there")

        await rt.append("a", [NewEvent(2, type="x")])
        await migrate(rt, f"lmdb:{tmp_path}/there")
        await rt.append("a", [NewEvent(3, type="x")])
        await rt.model(ALL).wait_for(Position(3))
    async with open_backend(f"lmdb:{tmp_path}/there") as backend:
        assert await backend.head() == 3


async def test_a_cancelled_migration_leaves_the_runtime_where_it_is(tmp_path):
    async with open_runtime("memory:") as rt:
        await rt.append("a", [NewEvent(1, type="x")])
        with trio.move_on_after(0):
            await migrate(rt, f"lmdb:{tmp_path}/there")

        await rt.append("a", [NewEvent(2, type="x")])
        assert (await migrate(rt, f"lmdb:{tmp_path}/there")).head == 2


def test_wherever_a_migration_is_cancelled_the_runtime_is_at_one_place_and_that_is_what_it_says(load, tmp_path):
    numbers, inline = itertools.count(), Environment(threads=InlineThreads())

    async def once(strike) -> None:
        there, done = f"lmdb:{tmp_path}/{next(numbers)}", None
        async with open_runtime("memory:", environment=inline) as rt:
            await rt.append("a", [NewEvent(1, type="x")])
            await rt.kv("b", int).put("k", 1)
            with strike:
                done = await migrate(rt, there)
            assert (done is None) is (seat_of(rt.backend).left is None)
            await rt.append("a", [NewEvent(2, type="x")])
            if done is None:
                done = await migrate(rt, there)
            assert await rt.head() == 2
        async with open_backend(there, environment=inline) as backend:
            assert (await backend.head(), backend.state) == (2, State.OPEN)

    assert load("tests/cancelling.py").sweep(once) > 10


async def test_who_cancels_while_the_source_is_marked_is_too_late(tmp_path, autojump_clock):
    inline = Environment(threads=InlineThreads())
    faulty, done = FaultyBackend(open_memory(environment=inline)), None
    faulty.delay("mark", 2.0)
    async with open_runtime(faulty, environment=inline) as rt:
        with trio.move_on_after(1.0):
            done = await migrate(rt, f"lmdb:{tmp_path}/there")
        assert done is not None
        await rt.append("a", [NewEvent(1, type="x")])


async def test_two_migrations_of_one_runtime_are_one_too_many(tmp_path):
    refused: list[tuple[str, str]] = []

    async def go(place: str) -> None:
        try:
            await migrate(rt, f"lmdb:{tmp_path}/{place}")
        except Misuse as error:
            refused.append((place, str(error)))

    async with open_runtime("memory:") as rt:
        await rt.append("a", [NewEvent(1, type="x")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go, "a")
            nursery.start_soon(go, "b")
        await rt.append("a", [NewEvent(2, type="x")])
    assert len(refused) == 1
    assert "already" in refused[0][1]
    assert not (tmp_path / refused[0][0]).exists()


@pytest.mark.parametrize("target", ["memory:", "file:{}/here", "nonsense"])
async def test_where_a_runtime_cannot_go(tmp_path, target):
    async with open_runtime(f"file:{tmp_path}/here") as rt:
        with pytest.raises(Misuse):
            await migrate(rt, target.format(tmp_path))
        with pytest.raises(Misuse, match="no way back"):
            await move_back(rt)
        await rt.append("a", [NewEvent(1, type="x")])


async def test_a_runtime_whose_store_another_one_has_moved_fails_and_says_where_it_is(tmp_path):
    here, there = f"lmdb:{tmp_path}/here", f"lmdb:{tmp_path}/there"
    with pytest.raises(RuntimeFailed) as caught:
        async with open_runtime(here, App(projections=[ALL])) as rt:
            await rt.append("a", [NewEvent(1, type="x")])
            done = await migrate_store(here, there)
            with pytest.raises(StoreMoved, match="there"):
                await rt.append("a", [NewEvent(2, type="x")])
            await trio.sleep(10)

    assert isinstance(caught.value.__cause__, StoreMoved)
    assert caught.value.__cause__.to == done.target
    async with open_backend(here) as old, open_backend(there) as new:
        assert (await digest_of(old)).log == (await digest_of(new)).log
