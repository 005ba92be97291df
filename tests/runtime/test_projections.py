# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""Projections: stop, restart, stand by, rebuild, and equal the fold of the log."""

from __future__ import annotations

import logging
from datetime import timedelta

import attrs
import pytest
import trio

from perdure.actors import snapshots
from perdure.backends.commit import Put, SaveSnapshot, propose
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Corrupt
from perdure.backends.event import Position
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.runtime import (
    START,
    AlreadyRunning,
    App,
    Keyed,
    Limits,
    Misuse,
    ModelFaulted,
    NewEvent,
    Projection,
    ProjectionFailed,
    StateTooLarge,
    TooManyRestarts,
    Unavailable,
    UnstableState,
    event,
    of,
    open_runtime,
)
from perdure.runtime import RuntimeFailed as Failed
from perdure.runtime.testing import check_projection, crash, fold
from perdure.runtime.verify_models import verify_models


@event("projected")
@attrs.frozen
class Happened:
    number: int
    key: str = "k"


BROKEN = {"at": -1}


def add(state, event):
    if event.data.number == BROKEN["at"]:
        raise ZeroDivisionError("told to")
    return state + event.data.number


def add_otherwise(state, event):
    return state + 2 * event.data.number


SUM = Projection("sum", version=1, initial=0, step=add, events=of(Happened))
BY = Keyed("by", version=1, initial=0, step=add, events=of(Happened), key=lambda event: event.data.key)
BOTH = App(projections=[SUM, BY])
INLINE = Environment(threads=InlineThreads())


@pytest.fixture(autouse=True)
def whole(caplog):
    BROKEN["at"] = -1
    caplog.set_level(logging.CRITICAL, "perdure.supervisor")


@pytest.fixture
def backend():
    return FaultyBackend(open_memory(environment=INLINE))


async def fill(rt, *numbers, stream="a-1"):
    for number in numbers:
        await rt.append(stream, [Happened(number, f"k{number % 3}")])


async def states(rt, model):
    return {entry.key: entry.state async for entry in model.scan()}


# -- stop ------------------------------------------------------------------------------------


async def test_one_that_raises_stands_before_the_event_and_stays_readable(backend, autojump_clock):
    BROKEN["at"] = 3
    async with open_runtime(backend, BOTH) as rt:
        await fill(rt, 1, 2, 3, 4)
        for projection in (SUM, BY):
            with pytest.raises(ModelFaulted) as caught:
                await rt.model(projection).wait_for(4)
            assert "ZeroDivisionError" in caught.value.reason and "position 3" in caught.value.reason
        assert (rt.model(SUM).state, rt.model(SUM).position) == (3, 2)
        assert (await states(rt, rt.model(BY)), rt.model(BY).position) == ({"k1": 1, "k2": 2}, 2)
        for name in ("sum", "by"):
            found = rt.status().find(name)
            assert found is not None and (found.state, found.restarts) == ("faulted", 0)
        await rt.append("a-1", [Happened(1)])  # the rest goes on


async def test_stopping_survives_restarts_and_is_tried_again(backend, autojump_clock):
    BROKEN["at"] = 3
    async with open_runtime(backend, BOTH) as rt:
        await fill(rt, 1, 2, 3, 4)
    async with open_runtime(backend) as rt:
        for projection in (SUM, BY):
            model = await rt.model(projection).refresh()
            assert model.fault is not None and "ZeroDivisionError" in model.fault and model.position == 2
    async with open_runtime(backend, BOTH) as rt:  # tried again: it fails again
        with pytest.raises(ModelFaulted):
            await rt.model(SUM).wait_for(3)
    BROKEN["at"] = -1
    async with open_runtime(backend, BOTH) as rt:
        for projection in (SUM, BY):
            await rt.model(projection).wait_for(4)
        assert (rt.model(SUM).state, await states(rt, rt.model(BY))) == (10, {"k0": 3, "k1": 5, "k2": 2})
    async with open_runtime(backend) as rt:
        for projection in (SUM, BY):
            assert (await rt.model(projection).refresh()).fault is None


async def test_in_your_own_nursery_it_fails_through_it(backend, autojump_clock):
    BROKEN["at"] = 2
    async with open_runtime(backend) as rt:
        with pytest.RaisesGroup(ProjectionFailed) as caught:
            async with trio.open_nursery() as nursery:
                await nursery.start(rt.project, SUM)
                await fill(rt, 1, 2)
        error = caught.value.exceptions[0]
        assert isinstance(error, ProjectionFailed) and (error.name, error.position, error.stream, error.seq) == ("sum", 2, "a-1", 2)
        assert isinstance(error.__cause__, ZeroDivisionError)


async def test_an_event_in_the_middle_of_a_commit_stops_it_there(backend, autojump_clock):
    BROKEN["at"] = 2
    async with open_runtime(backend, BOTH) as rt:
        await rt.append("a-1", [Happened(1), Happened(2), Happened(4)])
        with pytest.raises(ModelFaulted):
            await rt.model(SUM).wait_for(3)
        assert (rt.model(SUM).state, rt.model(SUM).position) == (1, 1)
    BROKEN["at"] = -1
    async with open_runtime(backend, BOTH) as rt:
        await rt.model(SUM).wait_for(3)
        await rt.model(BY).wait_for(3)
        assert (rt.model(SUM).state, await states(rt, rt.model(BY))) == (7, {"k": 7})


async def test_an_unreadable_event_stops_it(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        await fill(rt, 1)
        await rt.append("a-1", [NewEvent({"number": "no number"}, type="later-known")])

    @event("later-known")
    @attrs.frozen
    class Later:
        number: int

    late = Projection("late", version=1, initial=0, step=add, events=of(Happened, Later))
    async with open_runtime(backend, App(projections=[late])) as rt:
        with pytest.raises(ModelFaulted, match="Unreadable"):
            await rt.model(late).wait_for(2)
        assert rt.model(late).state == 1


# -- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [SUM, BY], ids=["single", "keyed"])
async def test_a_crashed_actor_comes_back_and_who_waits_goes_on_waiting(projection, backend, autojump_clock):
    async with open_runtime(backend, BOTH, limits=Limits(page_records=3)) as rt:
        await fill(rt, *range(20))
        crash(rt, projection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rt.model(projection).wait_for, 40)
            await trio.sleep(0.05)
            await fill(rt, *range(20), stream="b-1")
        assert rt.model(SUM).state == 380
        expected = {f"k{k}": 2 * sum(range(k, 20, 3)) for k in range(3)}
        await rt.model(BY).wait_for(40)
        assert await states(rt, rt.model(BY)) == expected


async def test_an_actor_out_of_budget_fails_the_runtime(backend, autojump_clock):
    backend.fail("get", OSError("a driver's bug"), nth=100, for_good=True)
    backend.fail("snapshots", OSError("a driver's bug"), nth=2, for_good=True)

    with pytest.raises(Failed) as caught:
        async with open_runtime(backend, App(projections=[SUM])) as rt:
            crash(rt, SUM)
            await trio.sleep_forever()

    assert isinstance(caught.value.__cause__, TooManyRestarts)


async def test_the_same_projection_twice_is_refused(backend, autojump_clock):
    async with open_runtime(backend, BOTH) as rt:
        with pytest.raises(AlreadyRunning):
            await rt.project(SUM)
        with pytest.raises(Misuse):
            rt.model(attrs.evolve(SUM, version=2))
        with pytest.raises(Misuse):
            rt.model("sum")


async def test_a_model_that_asks_for_itself_is_misuse(backend, autojump_clock):
    from perdure.actors.mailbox import current_actor

    async with open_runtime(backend, BOTH) as rt:
        token = current_actor.set("projection sum")
        with pytest.raises(Misuse, match="waits for itself"):
            await rt.model(SUM).wait_for(1)
        current_actor.reset(token)


async def test_running_one_in_your_own_task_leaves_no_trace_in_it(backend, autojump_clock):
    async with open_runtime(backend) as rt:
        with trio.move_on_after(1):
            await rt.project(SUM)
        with pytest.raises(ModelFaulted, match="not running"):
            await rt.model(SUM).wait_for(1)


# -- versions --------------------------------------------------------------------------------


async def test_another_version_is_refused_for_that_model_only(backend, autojump_clock):
    async with open_runtime(backend, BOTH) as rt:
        await fill(rt, 1, 2)
        await rt.model(SUM).wait_for(2)
    newer = attrs.evolve(SUM, version=2)
    async with open_runtime(backend, App(projections=[newer, BY])) as rt:
        await fill(rt, 3)
        with pytest.raises(ModelFaulted, match="another version"):
            await rt.model(newer).wait_for(3)
        assert (rt.model(newer).state, rt.model(newer).position) == (3, 2)
        await rt.model(BY).wait_for(3)


async def test_rebuild_starts_it_again_and_what_the_old_one_kept_is_never_used(backend, autojump_clock):
    async with open_runtime(backend, BOTH) as rt:
        await fill(rt, 1, 2, 3)
    newer = attrs.evolve(SUM, version=2, step=add_otherwise)
    by = attrs.evolve(BY, version=2, step=add_otherwise)
    async with open_runtime(backend, App(projections=[newer, by]), changed="rebuild") as rt:
        for model in (rt.model(newer), rt.model(by)):
            await model.wait_for(3)
        assert await rt.model(newer).as_of(position=Position(3)) == 12  # the old snapshot at 3 says 6
        assert (rt.model(newer).state, await states(rt, rt.model(by))) == (12, {"k0": 6, "k1": 2, "k2": 4})
    assert await backend.snapshots("sum") == [3]
    async with open_runtime(backend, App(projections=[newer, by])) as rt:
        assert rt.model(newer).state == 12


async def test_a_changed_step_is_a_warning(backend, autojump_clock, caplog):
    caplog.set_level(logging.WARNING, "perdure.projection")
    async with open_runtime(backend, App(projections=[SUM])) as rt:
        await fill(rt, 1)
        await rt.model(SUM).wait_for(1)
    changed = attrs.evolve(SUM, step=add_otherwise)
    async with open_runtime(backend, App(projections=[changed])) as rt:
        await fill(rt, 1)
        await rt.model(changed).wait_for(2)
        assert rt.model(changed).state == 3
    assert "step was changed" in caplog.text


# -- two runtimes ----------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [SUM, BY], ids=["single", "keyed"])
async def test_the_loser_of_the_compare_and_set_stands_by(projection, tmp_path, autojump_clock):
    url, app = f"lmdb:{tmp_path}/db", App(projections=[projection])
    async with open_runtime(url, app, environment=INLINE) as owner, open_runtime(url, app, environment=INLINE) as other:
        await fill(owner, 1, 2, 3)
        await owner.model(projection).wait_for(3)
        await trio.sleep(20)  # one of both has kept its state by now, the other has met that
        await fill(owner, 4)
        await trio.sleep(20)
        for rt in (owner, other):
            model = rt.model(projection)
            await model.wait_for(4)
            if projection is SUM:
                assert model.state == 10
            found = rt.status().find(projection.name)
            assert found is not None and found.restarts == 0
    async with open_runtime(url, app, environment=INLINE) as rt:
        await rt.model(projection).wait_for(4)
        assert rt.model(SUM).state == 10 if projection is SUM else await states(rt, rt.model(BY)) == {"k0": 3, "k1": 5, "k2": 2}


async def test_one_that_stands_by_never_overwrites_the_owners_fault(tmp_path, autojump_clock):
    url, app = f"lmdb:{tmp_path}/db", App(projections=[SUM])
    async with open_runtime(url, app, environment=INLINE) as owner:
        async with open_runtime(url, app, environment=INLINE) as other:
            await fill(owner, 1)
            await trio.sleep(20)
            BROKEN["at"] = 3
            await fill(owner, 2, 3)
            await trio.sleep(20)
            for rt in (owner, other):
                with pytest.raises(ModelFaulted):
                    await rt.model(SUM).wait_for(3)
    async with open_runtime(url, environment=INLINE) as rt:
        model = await rt.model(SUM).refresh()
        assert (model.position, model.state) == (2, 3) and model.fault is not None


# -- snapshots and bounds --------------------------------------------------------------------


async def test_an_older_snapshot_serves_when_one_does_not_verify(backend, autojump_clock, caplog):
    caplog.set_level(logging.WARNING, "perdure.projection")
    for number in range(4):
        async with open_runtime(backend, App(projections=[SUM])) as rt:
            await fill(rt, number)
            await rt.model(SUM).wait_for(number + 1)
    backend.fail("read_snapshot", Corrupt("the newest snapshot", "a test"))

    async with open_runtime(backend, App(projections=[SUM])) as rt:
        assert (rt.model(SUM).state, rt._models.all()[0].actor.restored_from) == (6, 3) or rt.model(SUM).position == 3
        await rt.model(SUM).wait_for(4)
        assert rt.model(SUM).state == 6
        backend.fail("read_snapshot", Corrupt("the newest snapshot", "a test"))
        assert await rt.model(SUM).as_of(position=Position(4)) == 6
    assert "does not verify" in caplog.text


async def test_a_snapshot_that_cannot_be_decoded_is_passed_over(backend, autojump_clock):
    async with open_runtime(backend, App(projections=[SUM])) as rt:
        await fill(rt, 1, 2)
        await rt.model(SUM).wait_for(2)
    good = await backend.read_snapshot("sum")
    assert good is not None
    bad = SaveSnapshot("sum", Position(2), good.fingerprint, b"\xc1", ())
    await backend.commit([propose([bad], id=bytes(16), at_us=await backend.now_us(), own=True)])

    async with open_runtime(backend, App(projections=[SUM])) as rt:
        await rt.model(SUM).wait_for(2)
        assert rt.model(SUM).state == 3


async def test_a_state_too_large_is_refused(backend, autojump_clock):
    grow = Projection("grow", version=1, initial="", step=lambda state, event: state + "x" * event.data.number, events=of(Happened))
    async with open_runtime(backend, App(projections=[grow, SUM]), limits=Limits(state_bytes=1_000)) as rt:
        await fill(rt, 2_000)
        await trio.sleep(2 * snapshots.IDLE_S)
        with pytest.raises(ModelFaulted, match="1,000: make it a Keyed"):
            await rt.model(grow).wait_for(99)
        await rt.model(SUM).wait_for(1)
        with pytest.RaisesGroup(StateTooLarge):
            async with trio.open_nursery() as nursery:
                await nursery.start(rt.project, attrs.evolve(grow, name="grow-2"))
                await trio.sleep(60)


async def test_a_key_too_large_stops_the_keyed_model_only(backend, autojump_clock):
    grow = Keyed("grow", version=1, initial="", step=lambda s, e: s + "x" * e.data.number, events=of(Happened), key=lambda e: e.data.key)
    async with open_runtime(backend, App(projections=[grow, SUM]), limits=Limits(value_bytes=1_000)) as rt:
        await fill(rt, 2_000)
        with pytest.raises(ModelFaulted, match="1,000"):
            await rt.model(grow).wait_for(99)
        await rt.model(SUM).wait_for(1)


async def test_an_unstable_state_is_never_restarted(backend, autojump_clock):
    @attrs.frozen
    class Mean:
        value: float = 0.0

    mean = Projection("mean", version=1, initial=Mean(), step=lambda state, event: Mean(event.data.number), events=of(Happened))
    async with open_runtime(backend, App(projections=[mean])) as rt:
        await fill(rt, 1)
        await trio.sleep(2 * snapshots.IDLE_S)
        with pytest.raises(ModelFaulted, match="value"):
            await rt.model(mean).wait_for(99)
        found = rt.status().find("mean")
        assert found is not None and found.restarts == 0
    assert issubclass(UnstableState, Exception)


@pytest.mark.parametrize("memory", [1, 600, 1 << 20])
@pytest.mark.parametrize("page", [1, 7, 1_000])
async def test_keyed_states_are_right_within_any_budget(memory, page, backend, autojump_clock):
    """Also after a restart, when not every key stands in memory; an event may touch several keys."""

    def keys(event):
        return [f"a{event.data.number % 17}", f"b{event.data.number % 5}"]

    by = attrs.evolve(BY, key=keys)
    expected: dict[str, int] = {}
    for round_ in range(3):
        async with open_runtime(backend, App(projections=[by]), limits=Limits(keyed_memory_bytes=memory, page_records=page)) as rt:
            await rt.append("a-1", [Happened(number) for number in range(60)])
            await fill(rt, *range(30))
            await rt.model(by).wait_for(await rt.head())
            for number in [*range(60), *range(30)]:
                for key in (f"a{number % 17}", f"b{number % 5}"):
                    expected[key] = expected.get(key, 0) + number
            assert await states(rt, rt.model(by)) == expected, round_
            actor = rt._models.all()[0].actor
            assert actor._recent_bytes <= max(memory, 300) and not actor._dirty


def count_key(state, event, key):
    return f"{state}{key}{event.data.number} "


TOLD = Keyed("told", version=1, initial="", step=count_key, events=of(Happened), key=lambda event: [event.data.key, "all"])


async def test_a_keyed_step_with_three_parameters_is_told_the_key(backend, autojump_clock):
    """Wherever it is taken: when it runs, for a moment of the past, in the kit, and when the model is verified."""
    expected = {"a": "a1 ", "b": "b2 ", "all": "all1 all2 "}
    async with open_runtime(backend, App(projections=[TOLD])) as rt:
        await rt.append("a-1", [Happened(1, "a"), Happened(2, "b")])
        await rt.model(TOLD).wait_for(await rt.head())
        assert await states(rt, rt.model(TOLD)) == expected
        assert (await rt.model(TOLD).as_of("all", position=Position(1))).state == "all1 "
        events = [found async for found in rt.read_all(of(Happened))]

    assert fold(TOLD, events) == expected
    await check_projection(TOLD, events)
    assert [report.problems for report in await verify_models(backend, App(projections=[TOLD]))] == [()]


# -- models ----------------------------------------------------------------------------------


async def test_as_of_by_position_and_by_time(autojump_clock):
    now = 1_700_000_000_000_000

    def clock():
        return now

    async with open_runtime("memory:", BOTH, environment=Environment(clock=clock, elapsed=lambda: now / 1e6, threads=InlineThreads())) as rt:
        moments = []
        for number in range(8):
            await rt.append("a-1", [Happened(number), Happened(0)])
            moments.append((await anext(rt.read("a-1", backward=True, limit=1))).at)
            now += 60_000_000
        await rt.model(SUM).wait_for(16)
        for number, moment in enumerate(moments):
            total = sum(range(number + 1))
            assert await rt.model(SUM).as_of(position=Position(2 * number + 2)) == total
            assert await rt.model(SUM).as_of(time=moment) == await rt.model(SUM).as_of(time=moment + timedelta(seconds=59)) == total
            assert (await rt.model(BY).as_of("k", time=moment)).state == total
        assert await rt.model(SUM).as_of(time=moments[0] - timedelta(microseconds=1)) == 0
        assert (await rt.model(BY).as_of("k", position=START)).state is None
        for wrong in ({}, {"position": START, "time": moments[0]}, {"time": moments[0].replace(tzinfo=None)}, {"position": -3}):
            with pytest.raises(Misuse):
                await rt.model(SUM).as_of(**wrong)


async def test_changes_are_conflated_and_each_listener_gets_its_own(backend, autojump_clock):
    async with open_runtime(backend, BOTH) as rt:
        one, other, single = rt.model(BY).changes(), rt.model(BY).changes(), rt.model(SUM).changes()
        assert await anext(single) == 0
        await fill(rt, 1, 2, 4)
        await rt.model(BY).wait_for(3)
        await rt.model(SUM).wait_for(3)
        assert set(await anext(one)) == set(await anext(other)) == {"k1", "k2"}
        assert await anext(single) == 7
        with trio.move_on_after(1) as scope:
            await anext(one)
        assert scope.cancelled_caught


async def test_a_model_that_no_one_runs_answers_from_its_last_snapshot(backend, autojump_clock):
    async with open_runtime(backend, BOTH) as rt:
        await fill(rt, 1, 2)
        for projection in (SUM, BY):
            await rt.model(projection).wait_for(2)
    async with open_runtime(backend) as rt:
        await fill(rt, 3)
        model = rt.model(SUM)
        with pytest.raises(Misuse):
            model.state
        assert ((await model.refresh()).state, model.position) == (3, 2)
        with pytest.raises(ModelFaulted, match="not running"):
            await model.wait_for(3)
        assert await rt.model(BY).get("k1") == 1
        with pytest.raises(ModelFaulted, match="another version"):
            await rt.model(attrs.evolve(BY, version=5)).refresh()


async def test_a_cursor_moved_by_nothing_wanted_is_kept_at_stop_and_used(backend, autojump_clock):
    @event("unwanted")
    @attrs.frozen
    class Unwanted:
        pass

    async with open_runtime(backend, BOTH) as rt:
        for _ in range(5):
            await rt.append("u-1", [Unwanted()])
        await rt.model(SUM).wait_for(5)
        assert await backend.scan("$checkpoints", limit=9) == []
    async with open_runtime(backend, BOTH) as rt:
        assert {running.actor.restored_from for running in rt._models.all()} == {5}
        await fill(rt, 9)
        await rt.model(SUM).wait_for(6)
        assert rt.model(SUM).state == 9
    assert isinstance(Put("b", "k", 1), Put)


async def test_an_interrupted_rebuild_is_nobodys_model():
    """Once its states are being deleted no version takes what is left for its own, not the old one either."""
    first = Keyed("kept", version=1, initial=0, step=add, events=of(Happened), key=lambda event: event.data.key)
    second = Keyed("kept", version=2, initial=0, step=add_otherwise, events=of(Happened), key=lambda event: event.data.key)
    memory = open_memory()
    async with open_runtime(memory, App(projections=[first])) as rt:
        await rt.append("s-1", [Happened(5)])
        await rt.model(first).wait_for(await rt.head())
    faulty = FaultyBackend(memory)
    faulty.fail("commit", Unavailable("told to"), nth=2, for_good=True)  # the first commit takes the checkpoint away, the next would delete the states

    with trio.move_on_after(1):
        async with open_runtime(faulty, App(projections=[second]), changed="rebuild"):
            await trio.sleep_forever()

    async with open_runtime(memory, App(projections=[first])) as rt:
        model = rt.model(first)
        with pytest.raises(ModelFaulted):
            await model.wait_for(await rt.head())
    async with open_runtime(memory, App(projections=[first]), changed="rebuild") as rt:
        await rt.model(first).wait_for(await rt.head())
        assert await rt.model(first).get("k") == 5


async def test_a_model_is_saved_when_asked():
    """What has been folded is durable then, without waiting for a snapshot to be due."""
    projection = Projection("asked", version=1, initial=0, step=add, events=of(Happened))
    memory = open_memory()

    async with open_runtime(memory, App(projections=[projection])) as rt:
        await rt.append("s-1", [Happened(5)])
        await rt.model(projection).wait_for(await rt.head())
        assert await rt.model(projection).save() == 1

        snapshot = await memory.read_snapshot("asked")
        assert snapshot is not None
        assert snapshot.position == 1
