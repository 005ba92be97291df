# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""Opening and closing a runtime: what leaves, in which order, and how soon."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
import trio

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.runtime import (
    START,
    AlreadyRunning,
    App,
    ClockAhead,
    Closed,
    Corrupt,
    InDoubt,
    Limits,
    Projection,
    RuntimeFailed,
    What,
    event,
    lifecycle,
    of,
    open_runtime,
)


@event("opened")
@attrs.frozen
class Happened:
    number: int


def add(state, event):
    return state + event.data.number


SUM = Projection("sum", version=1, initial=0, step=add, events=of(Happened))
INLINE = Environment(threads=InlineThreads())


def faulty():
    return FaultyBackend(open_memory(environment=INLINE))


class Bad(Exception):
    pass


async def test_the_bodys_exception_leaves_as_it_is(autojump_clock):
    bad = Bad()

    with pytest.raises(Bad) as caught:
        async with open_runtime("memory:", App(projections=[SUM])) as rt:
            await rt.append("a-1", [Happened(1)])
            raise bad

    assert caught.value is bad and bad.__cause__ is None


async def test_a_failing_journal_cancels_the_body_and_runtime_failed_leaves(autojump_clock):
    backend, failure, doubts = faulty(), OSError("the disk is gone"), []
    backend.fail("commit", failure)

    with pytest.raises(RuntimeFailed) as caught:
        async with open_runtime(backend) as rt:
            try:
                await rt.append("a-1", [Happened(1)])
            except InDoubt as doubt:
                doubts.append(doubt)
            await trio.sleep_forever()

    assert caught.value.__cause__ is failure and doubts[0].__cause__ is failure


async def test_both_failing_leave_as_a_group(autojump_clock):
    backend = faulty()
    backend.fail("commit", OSError("gone"))

    with pytest.RaisesGroup(Bad, RuntimeFailed):
        async with open_runtime(backend) as rt:
            with trio.CancelScope(shield=True):
                with pytest.raises(InDoubt):
                    await rt.append("a-1", [Happened(1)])
                await trio.sleep(1)
                raise Bad


async def test_cancellation_from_outside_passes_through(autojump_clock):
    with trio.move_on_after(5) as scope:
        async with open_runtime("memory:", App(projections=[SUM])):
            await trio.sleep_forever()
        raise AssertionError("not reached")

    assert scope.cancelled_caught


async def test_cancellation_from_outside_closes_in_order(autojump_clock):
    backend = faulty()
    with trio.move_on_after(5):
        async with open_runtime(backend, App(projections=[SUM])) as rt:
            await rt.append("a-1", [Happened(1)])
            await rt.model(SUM).wait_for(await rt.head())
            await trio.sleep_forever()

    assert await backend.snapshots("sum") == [1]


async def test_cancellation_from_outside_does_not_hide_a_failure(autojump_clock):
    backend = faulty()
    backend.delay("commit", 1)
    backend.fail("commit", OSError("gone"))

    with pytest.RaisesGroup(RuntimeFailed):
        with trio.CancelScope() as outer:
            async with open_runtime(backend) as rt:
                with trio.CancelScope(shield=True):
                    outer.cancel()
                    with pytest.raises(InDoubt):
                        await rt.append("a-1", [Happened(1)])
                await trio.sleep_forever()


async def _enter(manager):
    async with manager:
        pass


async def test_calls_after_closing_say_closed(autojump_clock):
    backend = faulty()
    async with open_runtime(backend) as rt:
        await rt.append("a-1", [Happened(1)])
        bucket = rt.kv("b", int)

    for call in (
        lambda: rt.append("a-1", [Happened(1)]),
        lambda: rt.append("b-1", [Happened(1)]),
        lambda: bucket.put("x", 1),
        lambda: rt.project(SUM),
        lambda: _enter(rt.subscribe(of(Happened))),
    ):
        with pytest.raises(Closed):
            await call()
    assert await backend.head() == 1


async def test_closing_withdraws_what_is_in_no_group_and_answers_what_is(autojump_clock):
    backend, told = faulty(), {}
    backend.delay("commit", 1, for_good=True)

    async def append(rt, name):
        try:
            told[name] = await rt.append(f"{name}-1", [Happened(1)])
        except Closed as closed:
            told[name] = closed

    async with trio.open_nursery() as outside:
        async with open_runtime(backend) as rt:
            outside.start_soon(append, rt, "first")
            await trio.sleep(0.5)
            outside.start_soon(append, rt, "second")
            await trio.sleep(0.1)

    assert told["first"].last == 1 and isinstance(told["second"], Closed)
    assert await backend.head() == 1


async def test_requests_in_a_full_mailbox_are_refused_at_closing(autojump_clock):
    backend, closed = faulty(), []
    backend.delay("commit", 1, for_good=True)

    async def append(rt):
        try:
            await rt.append("a-1", [Happened(1)])
        except Closed as error:
            closed.append(error)

    async with trio.open_nursery() as outside:
        async with open_runtime(backend, limits=Limits(mailbox=2, journal_bytes=300)) as rt:
            for _ in range(20):
                outside.start_soon(append, rt)
            await trio.sleep(0.5)

    assert len(closed) == 20 - await backend.head()


async def test_projections_snapshot_without_catching_up(autojump_clock):
    backend = faulty()
    async with open_runtime(backend, App(projections=[SUM])) as rt:
        for number in range(5):
            await rt.append("a-1", [Happened(number)])
        await rt.model(SUM).wait_for(await rt.head())
        assert await backend.snapshots("sum") == []

    assert await backend.snapshots("sum") == [5]


async def test_many_projections_are_all_kept_at_closing(autojump_clock):
    backend = faulty()
    many = [attrs.evolve(SUM, name=f"sum-{number}") for number in range(20)]
    backend.delay("commit", 0.01, for_good=True)
    began = 0.0

    async with open_runtime(backend, App(projections=many)) as rt:
        await rt.append("a-1", [Happened(1)])
        await trio.sleep(0.1)
        began = trio.current_time()

    assert [await backend.snapshots(projection.name) for projection in many] == [[1]] * 20
    assert trio.current_time() - began < 1


async def test_closing_is_bounded_even_if_the_store_hangs(autojump_clock):
    backend = faulty()
    backend.delay("commit", 10_000)

    async with trio.open_nursery() as outside:
        async with open_runtime(backend, App(projections=[SUM]), limits=Limits(close_s=3)) as rt:

            async def append():
                with pytest.raises(InDoubt):
                    await rt.append("a-1", [Happened(1)])

            outside.start_soon(append)
            await trio.sleep(0.5)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)


async def test_a_projection_in_the_programs_nursery_is_kept_at_closing_too(autojump_clock):
    backend = faulty()

    async with trio.open_nursery() as outside:
        async with open_runtime(backend) as rt:
            model = await outside.start(rt.project, SUM)
            await rt.append("a-1", [Happened(7)])
            await model.wait_for(await rt.head())

    assert await backend.snapshots("sum") == [1]


async def test_subscriptions_end_after_the_event_in_hand_and_keep_their_place(autojump_clock):
    backend, got = faulty(), []

    async def follow(rt, started):
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            async for found in events:
                got.append(found.position)
                started.set()
                await trio.sleep(1)

    async with trio.open_nursery() as outside:
        async with open_runtime(backend) as rt:
            await rt.append("a-1", [Happened(1)])
            await rt.append("a-1", [Happened(2)])
            started = trio.Event()
            outside.start_soon(follow, rt, started)
            await started.wait()
    async with open_runtime(backend) as rt, rt.subscribe(of(Happened), name="s") as events:
        first = await anext(events)

    assert got == [1] and first.position == 1  # the event in hand was not asked beyond: at least once


async def test_who_waits_for_a_model_is_told_at_closing(autojump_clock):
    told = []

    async def wait(model):
        with pytest.raises(Closed) as caught:
            await model.wait_for(99)
        told.append(caught.value)

    async with trio.open_nursery() as outside:
        async with open_runtime("memory:", App(projections=[SUM])) as rt:
            outside.start_soon(wait, rt.model(SUM))
            await trio.sleep(1)
    assert "the runtime" in str(told[0])


async def test_lifecycle_events_end_with_the_runtime(autojump_clock):
    seen = []

    async def watch(rt, ready):
        async with lifecycle(rt) as listener:
            ready.set()
            seen.extend([(found.actor, found.what) async for found in listener])

    async with trio.open_nursery() as outside:
        async with open_runtime("memory:", App(projections=[SUM])) as rt:
            ready = trio.Event()
            outside.start_soon(watch, rt, ready)
            await ready.wait()
    assert ("projections/sum", What.STOPPED) in seen


async def test_status_is_the_tree_as_values(autojump_clock):
    async with open_runtime("memory:", App(projections=[SUM])) as rt, rt.subscribe(of(Happened), name="audit"):
        await rt.append("a-1", [Happened(3)])
        await rt.model(SUM).wait_for(await rt.head())
        status = rt.status()

    names = [actor.name for _, actor in status.root.walk()]
    assert names == ["runtime", "keeper", "journal", "streams", "stream a-1", "leases", "upkeep", "projections", "sum", "subscriptions", "audit"]
    found = status.find("sum")
    assert found is not None and (found.state, found.position, found.lag_events, found.restarts) == ("running", 1, 0, 0)


async def test_a_foreign_error_while_closing_leaves_instead_of_hanging(autojump_clock):
    backend, gone = faulty(), OSError("gone")

    async def follow(rt):
        async with rt.subscribe(of(Happened), after=START, name="s") as events:
            async for _ in events:
                await trio.sleep(0.1)

    with trio.fail_after(60), pytest.RaisesGroup(RuntimeFailed) as caught:
        async with trio.open_nursery() as outside:
            async with open_runtime(backend) as rt:
                await rt.append("a-1", [Happened(1)])
                outside.start_soon(follow, rt)
                await trio.sleep(0.5)
                backend.fail("commit", gone)
    assert caught.value.exceptions[0].__cause__ is gone


async def test_damage_found_by_upkeep_ends_upkeep_and_not_the_runtime(autojump_clock, caplog):
    caplog.set_level("CRITICAL", "perdure.supervisor")
    backend, damage = faulty(), Corrupt("a frame", "a test")
    backend.fail("maintain", damage, for_good=True)

    async with open_runtime(backend) as rt, lifecycle(rt) as listener:
        for _ in range(3):
            await rt.append("a-1", [Happened(1)])
            await trio.sleep(100)
        found = rt.status().find("upkeep")
        assert (found.state, found.restarts, found.last_error) == ("failed", 0, str(damage))
        assert backend.calls["maintain"] == 1
    assert [seen.actor for seen in [seen async for seen in listener] if seen.what is What.WARNED] == ["upkeep/merge"]


class ShortOfAnswers(FaultyBackend):
    async def commit(self, commits):
        group = await super().commit(commits)
        return attrs.evolve(group, answers=group.answers[:-1])


async def test_a_backend_that_answers_too_few_leaves_nobody_waiting(autojump_clock):
    doubts = []

    async def append(rt, name):
        with pytest.raises(InDoubt):
            await rt.append(name, [Happened(1)])
        doubts.append(name)

    with trio.fail_after(5), pytest.RaisesGroup(RuntimeFailed):
        async with trio.open_nursery() as outside:
            async with open_runtime(ShortOfAnswers(open_memory(environment=INLINE))) as rt:
                for name in ("a-1", "b-1", "c-1"):
                    outside.start_soon(append, rt, name)
                await trio.sleep_forever()
    assert sorted(doubts) == ["a-1", "b-1", "c-1"]


async def test_projections_are_not_started_again_while_closing(autojump_clock):
    backend, seen = faulty(), []

    async def follow(rt):
        async with rt.subscribe(of(Happened), name="s"):
            await trio.sleep(5)

    async def watch(rt):
        async with lifecycle(rt) as listener:
            seen.extend([found.what async for found in listener if found.actor == "projections/sum"])

    async with trio.open_nursery() as outside:
        async with open_runtime(backend, App(projections=[SUM])) as rt:
            outside.start_soon(follow, rt)
            outside.start_soon(watch, rt)
            await trio.sleep(1)
            backend.delay("commit", 3)
    assert seen == [What.STOPPED]


async def test_an_idle_stream_actor_ends_and_the_next_append_finds_another(autojump_clock):
    async with open_runtime("memory:") as rt:
        await rt.append("a-1", [Happened(1)])
        assert rt.status().find("stream a-1")
        await trio.sleep(5)
        assert not rt.status().find("stream a-1")

        assert (await rt.append("a-1", [Happened(1)])).last == 2


async def test_appends_around_the_moment_an_actor_ends_are_all_stored(autojump_clock):
    """An append may meet the actor just before, while, or just after it ends."""
    async with open_runtime("memory:") as rt:
        for turn in range(40):
            async with trio.open_nursery() as nursery:
                for delay in range(5):

                    async def append(delay=delay):
                        await trio.sleep(1.9 + 0.05 * delay)
                        for _ in range(delay):
                            await trio.lowlevel.checkpoint()
                        await rt.append("a-1", [Happened(1)])

                    nursery.start_soon(append)
                if turn % 2:
                    rt._streams._reap(all_idle=True)
        assert await rt.head() == 200


async def test_as_many_stream_actors_live_as_may(autojump_clock):
    async with open_runtime("memory:", limits=Limits(stream_actors=3)) as rt:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(rt.append, f"s-{number}", [Happened(1)])
        assert len(rt._streams) <= 3 and await rt.head() == 10


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(AlreadyRunning("s"), "here or in another process: "), (ClockAhead(400, 300), "set the clock right, or open the runtime again")],
)
def test_errors_that_have_two_reasons_name_both(error, remedy):
    assert remedy in str(error)


@pytest.mark.parametrize("url", ["file:{}", "lmdb:{}?log=segments"])
async def test_the_recovery_report_says_what_was_set_aside(tmp_path, url):
    async with open_runtime(url.format(tmp_path / "lived")) as rt:
        await rt.kv("b", str).put("k", "v")
        shutil.copytree(tmp_path / "lived", tmp_path / "killed")
    [log] = (tmp_path / "killed" / "log").glob("*.log")
    data = log.read_bytes()
    used = len(data.rstrip(b"\0"))
    log.write_bytes(data[: used - 4] + b"half of what was being written" + data[used + 26 :])

    async with open_runtime(url.format(tmp_path / "killed")) as rt:
        report = await rt.recovery_report()
        assert (await rt.kv("b", str).get("k")).value == "v"

    assert not report.clean
    assert not report.lost_nothing
    [cut] = report.cuts
    assert b"half of what" in Path(cut.kept_in).read_bytes()
