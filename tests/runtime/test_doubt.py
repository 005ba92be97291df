"""A flush that fails: every caller gets the true answer, nothing counts as a restart, and the program goes on."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import InDoubt, KeyReused, RuntimeFailed, Unavailable
from perdure.backends.event import START, Position
from perdure.backends.faulty import FaultyBackend
from perdure.backends.limits import Limits
from perdure.backends.lmdb.faulty import faulty_lmdb
from perdure.backends.memory import open_memory
from perdure.backends.ordered import OrderedBackend
from perdure.backends.protocol import State
from perdure.backends.urls import open_backend
from perdure.runtime import App, Appended, Event, Keyed, Projection, Stored, event, of, open_runtime
from perdure.runtime.lifecycle import lifecycle

INLINE = Environment(threads=InlineThreads())


@event("counted", version=1)
@attrs.frozen
class Counted:
    by: int


def add(state: int, event: Event[Counted]) -> int:
    return state + event.data.by


SUMS = [Projection(f"sum-{number}", version=1, initial=0, step=add, events=of(Counted)) for number in range(5)]
BY_STREAM = [Keyed(f"by-{number}", version=1, initial=0, step=add, events=of(Counted), key=lambda event: event.stream) for number in range(5)]
APP = App(projections=[*SUMS, *BY_STREAM])


@pytest.fixture
def url(tmp_path):
    return f"lmdb:{tmp_path / 'store'}"


@pytest.fixture
def broken(tmp_path):
    with faulty_lmdb(tmp_path) as faults:
        yield faults


@pytest.mark.parametrize("panic", [True, False], ids=["dead", "readable"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "lost"])
async def test_64_callers_and_10_projections_get_over_a_failed_flush(url, broken, stored, panic, autojump_clock):
    async with open_runtime(url, APP, environment=INLINE) as rt:
        answers: dict[int, list[Appended]] = {}

        async def append(number):
            answers[number] = [(await rt.append(f"s-{number}", [Counted(number)], expected=seq)).unwrap() for seq in range(10)]

        broken.fail_commit(nth=5, stored=stored, panic=panic)
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(append, number)

        head = await rt.head()
        assert head == 640
        assert all([a.last for a in answers[number]] == list(range(1, 11)) for number in range(64))
        assert {one.position for found in answers.values() for one in found} == set(range(1, 641))
        for projection in SUMS:
            await rt.model(projection).wait_for(head)
            assert rt.model(projection).state == sum(range(64)) * 10
        for keyed in BY_STREAM:
            await rt.model(keyed).wait_for(head)
            assert await rt.model(keyed).get("s-7") == 70
        status = rt.status()
        assert [found.restarts for projection in APP.projections if (found := status.find(projection.name))] == [0] * 10
        keeper = status.find("keeper")
        assert keeper is not None
        assert (keeper.restarts, keeper.state) == (1, "open")
        assert status.journal.doubts == 1
    assert broken.opened == 3  # made, opened, opened again


async def test_each_kind_of_commit_in_doubt_is_answered(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt:
        bucket = rt.kv("b", int)
        for stored in (True, False):
            broken.fail_commit(stored=stored)
            first = await rt.append("a-1", [Counted(1), Counted(2)])
            broken.fail_commit(stored=stored)
            put = await bucket.put("k", 1)
            broken.fail_commit(stored=stored)
            keyed = await rt.append("a-1", [Counted(3)], key=b"%d" % stored)
            broken.fail_commit(stored=stored)
            gone = await bucket.delete("k")

            assert (await rt.append("a-1", [Counted(3)], key=b"%d" % stored)) == keyed
            assert (first.last + 1, keyed.last) == (keyed.first, first.last + 1)
            assert isinstance(put, Stored)
            assert isinstance(gone, Stored)
            assert gone.revision == put.revision + 1
            assert await bucket.get("k") is None
        assert [one.seq async for one in rt.read("a-1")] == [1, 2, 3, 4, 5, 6]


async def test_it_is_brought_back_however_often_it_does_not_open(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt, lifecycle(rt) as happened:
        told: list[str] = []
        broken.fail_commit()
        broken.refuse_open(times=3)

        assert await rt.append("a-1", [Counted(1)]) == Appended(1, 1, Position(1))
        while not told or told[-1] != "restarted":
            with trio.fail_after(60):
                one = await anext(happened)
            told += [one.what.value] if one.actor == "keeper" else []

    assert told == ["failed", "failed", "failed", "restarted"]


async def test_a_flush_that_fails_for_good_leaves_as_one_error(url, broken, autojump_clock):
    with pytest.raises(RuntimeFailed) as caught, trio.fail_after(300):
        async with open_runtime(url, APP, environment=INLINE, limits=Limits(commit_s=30, reopen_s=60)) as rt:
            await rt.append("a-1", [Counted(1)])
            broken.fail_commit(for_good=True)
            began = trio.current_time()
            with pytest.raises(InDoubt) as doubt:
                await rt.append("a-1", [Counted(2)], key=b"mine")
            assert doubt.value.key == b"mine"
            assert 30 <= trio.current_time() - began <= 34
            with pytest.raises(Unavailable):
                await rt.append("a-1", [Counted(3)])
            await trio.sleep_forever()

    assert isinstance(caught.value.__cause__, Unavailable)
    assert "not brought back within 60 s" in str(caught.value)
    broken.heal()
    async with open_runtime(url, APP, environment=INLINE) as rt:
        assert [one.data async for one in rt.read("a-1")] == [Counted(1)]


async def test_a_bug_met_while_reopening_leaves_as_one_error_too(url, broken, autojump_clock, monkeypatch):
    async def reopen(self):
        raise ValueError("a bug")

    monkeypatch.setattr(OrderedBackend, "reopen", reopen)
    with pytest.raises(RuntimeFailed, match="a bug"), trio.fail_after(300):
        async with open_runtime(url, APP, environment=INLINE, limits=Limits(commit_s=30, reopen_s=60)) as rt:
            broken.fail_commit()
            with pytest.raises(InDoubt):
                await rt.append("a-1", [Counted(1)], key=b"mine")
            await trio.sleep_forever()


async def test_readers_wait_for_a_store_that_is_away(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt:
        await rt.append("a-1", [Counted(1)])
        seen: list[int] = []

        async def follow():
            async with rt.subscribe(of(Counted), after=START) as events:
                seen.extend([(await anext(events)).position for _ in range(3)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            broken.fail_commit()
            broken.refuse_open(times=5)
            nursery.start_soon(rt.append, "a-1", [Counted(2)])
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert rt.backend.state is not State.OPEN

            assert await rt.head() in (1, 2)
            await rt.append("a-1", [Counted(3)])

    assert seen == [1, 2, 3]


async def test_a_view_is_cut_when_the_store_has_to_be_reopened(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt:
        await rt.append("a-1", [Counted(1)])
        with pytest.raises(Exception, match="cut because the store had to be reopened"):
            async with rt.view():
                broken.fail_commit()
                await rt.append("a-1", [Counted(2)])
                await trio.sleep(1)
        assert await rt.head() == 2


async def test_two_runtimes_of_one_process_get_over_it_together(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE) as one, open_runtime(url, environment=INLINE) as two:
        answers = []

        async def append(rt, name):
            for _ in range(20):
                position = (await rt.append(name, [Counted(1)])).position
                answers.append(position)

        broken.fail_commit(nth=10, stored=True)
        broken.fail_commit(nth=20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, one, "a-1")
            nursery.start_soon(append, two, "b-1")
        assert sorted(answers) == list(range(1, 41))
        assert await one.head() == await two.head() == 40


async def test_a_model_does_not_go_back_because_the_store_took_nothing_for_a_while(autojump_clock):
    backend = FaultyBackend(open_memory(environment=INLINE))
    async with open_runtime(backend, App(projections=[SUMS[0]]), environment=INLINE) as rt:
        model, shown = rt.model(SUMS[0]), []
        await rt.append("a-1", [Counted(1)] * 5)
        await model.wait_for(await rt.head())
        await model.save()
        await rt.append("a-1", [Counted(1)] * 5)
        await model.wait_for(await rt.head())
        backend.fail("commit", Unavailable("a test"), nth=1)

        async with trio.open_nursery() as nursery:

            async def look():
                while True:
                    shown.append(model.position)
                    await trio.sleep(0.01)

            nursery.start_soon(look)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()

        assert set(shown) == {10}
        kept = await rt.backend.read_snapshot(SUMS[0].name)
        assert kept is not None
        assert kept.position == 10


@pytest.mark.parametrize("projection", [SUMS[0], BY_STREAM[0]], ids=["single", "keyed"])
@pytest.mark.parametrize("store", ["memory:", "lmdb:{}"])
async def test_a_save_that_was_in_doubt_and_was_kept_after_all_is_our_own(projection, store, tmp_path, autojump_clock, caplog):
    """And nobody is said to run it elsewhere: where processes share the store it has its lease all the time."""
    caplog.set_level("INFO")
    async with (
        open_backend(store.format(tmp_path / "store"), environment=INLINE) as inner,
        open_runtime(backend := FaultyBackend(inner), App(projections=[projection]), environment=INLINE, limits=Limits(commit_s=1)) as rt,
    ):
        await rt.append("a-1", [Counted(1)])
        backend.delay("commit", 5)  # of the projection's save: it is told of a doubt, and then it is stored
        await trio.sleep(30)
        head = (await rt.append("a-1", [Counted(1)])).position
        assert head is not None
        await rt.model(projection).wait_for(head)
        await rt.model(projection).save()
        status = rt.status().find(projection.name)

    assert status is not None
    assert (status.state, status.restarts, status.position) == ("running", 0, 2)
    assert "another process" not in caplog.text
    assert "elsewhere" not in caplog.text


async def test_a_fault_that_could_not_be_kept_at_once_is_not_passed_over(autojump_clock):
    def fails_at_3(state: int, event: Event[Counted]) -> int:
        if event.seq == 3:
            raise ValueError("three")
        return state + 1

    backend, careful = FaultyBackend(open_memory(environment=INLINE)), Projection("careful", version=1, initial=0, step=fails_at_3, events=of(Counted))
    async with open_runtime(backend, App(projections=[careful]), environment=INLINE) as rt:
        backend.fail("commit", Unavailable("a test"), nth=2)  # after the append that of the fault
        await rt.append("a-1", [Counted(1)] * 5)
        await trio.sleep(20)
        model = rt.model(careful)

        assert (model.fault is not None, model.state, model.position) == (True, 2, 2)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "lost"])
async def test_a_key_in_doubt_that_was_used_before_is_answered_for_its_own_content(url, broken, stored, autojump_clock):
    async with open_runtime(url, environment=INLINE) as rt:
        first = await rt.append("a-1", [Counted(1)], key=b"used")
        broken.fail_commit(stored=stored)
        answers: list[object] = []

        async def append(by, key):
            try:
                answers.append(await rt.append("a-1", [Counted(by)], key=key))
            except KeyReused as error:
                answers.append(error.key)

        async with trio.open_nursery() as nursery:
            for by, key in ((1, b"used"), (2, b"used"), (3, b"fresh"), (4, b"fresh")):
                nursery.start_soon(append, by, key)

        assert answers.count(first) == 1
        assert answers.count(b"used") == answers.count(b"fresh") == 1
        assert len([one async for one in rt.read("a-1")]) == 2


async def test_a_trouble_long_past_is_not_held_against_the_store(url, broken, autojump_clock):
    async with open_runtime(url, environment=INLINE, limits=Limits(reopen_s=20)) as rt:
        for _ in range(5):
            broken.fail_commit(stored=True)
            await rt.append("a-1", [Counted(1)])
            await trio.sleep(30)

        assert await rt.head() == 5


async def test_reopening_does_not_take_the_ground_from_under_readers(tmp_path):
    """With real threads: a page read while the environment is being closed would end the process."""
    with faulty_lmdb(tmp_path) as broken:
        async with open_runtime(f"lmdb:{tmp_path / 'store'}") as rt:
            for _ in range(20):
                await rt.append("a-1", [Counted(1)] * 500)

            async def read():
                while True:
                    assert len([one async for one in rt.read_all(of(Counted))]) >= 10_000

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(20):
                    broken.fail_commit(panic=False)
                    await rt.append("b-1", [Counted(1)])
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            keeper = rt.status().find("keeper")

    assert keeper is not None
    assert keeper.restarts == 20
