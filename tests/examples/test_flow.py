# mypy: disable-error-code="arg-type,call-arg,var-annotated,assignment"
# Positions, roles and words are drawn here, and plain ones kept in dictionaries of anything.
"""Flows end as a plain calculation says, whenever their worker is there, and no step whose answer was stored is done again."""

from __future__ import annotations

import time
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import flow
from flow import APP, OPEN, NoSuchFlow, Worker, order, start, tell
from flow_state import FLOW, HAPPENINGS, Done, Ended, Told, Waiting
from perdure.runtime import TooLarge, open_runtime
from perdure.runtime.testing import simulate

DAY_S = 0.05
NOW = time.time
SOON_S = 0.5
"""A worker that begins has to get its lease first."""


# -- a plain one -----------------------------------------------------------------------------


def plain(day_s, presences, paid_at):
    """Steps and outcome of an order begun at 0: the worker is there from, until, ..., the last time for ever."""

    def served(at):
        return next(max(at, begin) for begin, end in presences if at < end)

    at = served(0.0)
    steps = [("reserve", at)]
    for days, then in ((5, "remind"), (2, "release")):
        over = served(at + days * day_s)
        if paid_at is not None and paid_at <= over:
            return [*steps, ("ship", served(max(at, paid_at)))], "shipped for 7"
        at = over
        steps.append((then, at))
    return steps, "nobody paid"


@pytest.mark.parametrize(
    ("presences", "paid_at", "steps", "outcome"),
    [
        ([(0, 999)], None, ["reserve 0", "remind 50", "release 70"], "nobody paid"),
        ([(0, 999)], 30, ["reserve 0", "ship 30"], "shipped for 7"),
        ([(0, 10), (80, 999)], 60, ["reserve 0", "ship 80"], "shipped for 7"),
        ([(0, 10), (80, 999)], 90, ["reserve 0", "remind 80", "ship 90"], "shipped for 7"),
    ],
)
def test_the_plain_one_is_plain(presences, paid_at, steps, outcome):
    found, came = plain(10, presences, paid_at)

    assert ([f"{name} {at:g}" for name, at in found], came) == (steps, outcome)


# -- the same in a store ---------------------------------------------------------------------


async def live(store, day_s, presences, paid_at):
    """What was done when, and what came of it."""
    done, began_s = [], trio.current_time()

    async def act(name, key):
        assert key == f"17/{name}"
        done.append((name, trio.current_time() - began_s))
        return "ok"

    async with store.open(APP) as rt, trio.open_nursery() as nursery:

        async def pay():
            await trio.sleep_until(began_s + paid_at)
            await tell(rt, "17", "paid", "7")

        await start(rt, "17", "order")
        if paid_at is not None:
            nursery.start_soon(pay)
        for begin, end in presences:
            await trio.sleep_until(began_s + begin)
            with trio.move_on_at(began_s + end):
                await Worker(rt, {"order": order(act, day_s)}, now=store.now).run()
        nursery.cancel_scope.cancel()
    async with store.open(APP) as rt:
        state, _ = await rt.fold("flow-17", FLOW)
        return done, state.outcome, (await rt.kv(OPEN, str).scan()).entries


lengths = st.integers(1, 9).map(lambda number: number * 20 + 7.5)


@pytest.mark.parametrize("stores", ["memory", "lmdb"], indirect=True)
def test_it_equals_a_plain_one(stores):
    """In virtual time; whenever the worker is there, and whenever it is paid."""

    @settings(max_examples=stores.examples // 3)
    @given(st.lists(st.tuples(lengths, lengths), max_size=2), st.one_of(st.none(), st.integers(0, 40).map(lambda number: number * 10 + 1.25)))
    def holds(lengths, paid_at):
        presences, at = [], 0.0
        for here, away in lengths:
            presences.append((at, at + here))
            at += here + away
        presences.append((at, at + 300))
        steps, outcome = plain(20.0, presences, paid_at)

        done, came, still_open = stores.run(lambda store: live(store, 20.0, presences, paid_at))

        assert (came, still_open) == (outcome, ())
        assert [name for name, _ in done] == [name for name, _ in steps]
        assert [at for _, at in done] == pytest.approx([at for _, at in steps], abs=SOON_S)

    holds()


def test_flows_go_on_where_they_were(stores):
    """On every store: one is paid, one is not, and each step is done by another worker in another runtime."""
    done, steps = [], {"1": ["reserve", "ship"], "2": ["reserve", "remind", "release"]}

    async def main(store):
        async with store.open(APP) as rt:
            assert [await start(rt, id, "order") for id in ("1", "2", "1")] == [True, True, False]
        open_ = True
        while open_:
            async with store.open(APP) as rt, trio.open_nursery() as nursery:

                async def act(name, key):
                    done.append(key)
                    nursery.cancel_scope.deadline = trio.current_time() + 0.1
                    return "ok"

                nursery.cancel_scope.deadline = trio.current_time() + 2
                nursery.start_soon(Worker(rt, {"order": order(act, 0.2)}).run)
                if done and await tell(rt, "1", "paid", "7"):
                    assert not await tell(rt, "1", "paid", "8")
            async with store.open(APP) as rt:
                open_ = bool((await rt.kv(OPEN, str).scan()).entries)
        async with store.open(APP) as rt:
            assert not await tell(rt, "2", "paid", "7")
            return [(await rt.fold(f"flow-{id}", FLOW))[0].outcome for id in ("1", "2")]

    assert stores.run(main) == ["shipped for 7", "nobody paid"]
    assert {id: [key.partition("/")[2] for key in done if key.startswith(id)] for id in steps} == steps


def test_a_step_that_raises_is_tried_again_until_its_time_is_over():
    """Rests grow; what came is kept, a time-out too."""

    async def main():
        tried = []

        async def fails(key):
            tried.append(trio.current_time())
            raise OSError("away")

        async def kind(one):
            return f"{await one.step('hard', fails, timeout_s=10)}"

        async with open_runtime("memory:", APP) as rt:
            await start(rt, "1", "kind")
            with trio.move_on_after(30):
                await Worker(rt, {"kind": kind}, now=trio.current_time).run()
            state, _ = await rt.fold("flow-1", FLOW)
            return [round(at - tried[0]) for at in tried], state.done, state.outcome

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == ([0, 1, 3, 7], {"hard": None}, "None")


def test_a_step_whose_time_was_over_while_nobody_was_there_is_not_done():
    """Its time is what was kept, not what a new worker would give it."""

    async def main():
        tried = []

        async def hangs(key):
            tried.append(key)
            await trio.sleep_forever()

        async def kind(one):
            return f"{await one.step('hard', hangs, timeout_s=10)}"

        async with open_runtime("memory:", APP) as rt:
            await start(rt, "1", "kind")
            for away_s in (5, 20, 0):
                with trio.move_on_after(2):
                    await Worker(rt, {"kind": kind}, now=trio.current_time).run()
                await trio.sleep(away_s)
            state, _ = await rt.fold("flow-1", FLOW)
            return tried, state.outcome

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == (["1/hard", "1/hard"], "None")


async def test_a_step_whose_value_cannot_be_stored_keeps_no_other_flow_up(autojump_clock, caplog):
    async with open_runtime("memory:", APP) as rt:

        async def act(name, key):
            return "x" * (2 << 20) if key == "1/reserve" else "ok"

        for id in ("1", "2"):
            await start(rt, id, "order")
        await tell(rt, "2", "paid", "7")
        with trio.move_on_after(2):
            await Worker(rt, {"order": order(act, 1)}, now=trio.current_time).run()

        assert [(await rt.fold(f"flow-{id}", FLOW))[0].outcome for id in ("1", "2")] == [None, "shipped for 7"]
    assert "flow 1 stands still until the next worker" in caplog.text


async def test_a_value_that_is_too_long_is_refused(autojump_clock):
    async with open_runtime("memory:", APP) as rt:
        await start(rt, "1", "order")

        with pytest.raises(TooLarge, match="a value of signal 'paid'"):
            await tell(rt, "1", "paid", "x" * (flow.VALUE_MAX + 1))


async def test_a_flow_that_never_was_is_told_nothing(autojump_clock):
    async with open_runtime("memory:", APP) as rt:
        with pytest.raises(NoSuchFlow, match="start it first"):
            await tell(rt, "nope", "paid", "5")

        assert await rt.head() == 0


# -- killed ----------------------------------------------------------------------------------


async def beside(rt):
    """A worker; a step that was done, and is done again, is noted."""

    async def act(name, key):
        state, _ = await rt.fold(f"flow-{key.partition('/')[0]}", FLOW)
        if name in state.done:
            await rt.kv("again", str).put(key, name)
        await trio.sleep(DAY_S / 20)
        return "ok"

    await Worker(rt, {"order": order(act, DAY_S)}, now=lambda: NOW()).run()


async def work(rt, random: Random):
    """Orders; some are paid, in time or not."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_order, rt, f"{random.randrange(1 << 40)}", random.random() * 12 * DAY_S, random.random() < 0.7)


async def _order(rt, id, after_s, pays):
    await start(rt, id, "order")
    await trio.sleep(after_s)
    if pays:
        await tell(rt, id, "paid", "7")


async def check(rt):
    """All flows end; each step was done once, in an order that the words told to it explain."""
    bucket = rt.kv(OPEN, str)
    with trio.fail_after(120):
        while (await bucket.scan()).entries:
            await trio.sleep(0.2)
    assert not (await rt.kv("again", str).scan()).entries, "a step that was done was done again"
    streams = {}
    async for one in rt.read_all(HAPPENINGS):
        streams.setdefault(one.stream, []).append(one)
    for stream, events in streams.items():
        assert outcome_of(events) == events[-1].data.outcome, stream


def outcome_of(events):
    """What must have come of it, by the order of its events; what is not as it must be raises."""
    told, paid, waiting, done = None, None, {}, []
    for one in events:
        match one.data:
            case Told(_, value):
                told = value
            case Waiting(name, until):
                assert name not in waiting, "a time-out was set anew"
                waiting[name] = until
            case Done(name, value):
                assert name not in done, "a step was stored twice"
                done.append(name)
                if name.endswith("days"):
                    assert value == told, f"{name} saw {value}, it was told {told}"
                    paid = value
            case Ended():
                assert one is events[-1]
    late = ["first days", "remind", "last days"]
    ways = {"ship": [["reserve", "first days", "ship"], ["reserve", *late, "ship"]], "release": [["reserve", *late, "release"]]}
    assert done in ways[done[-1]]
    return f"shipped for {paid}" if paid else "nobody paid"


@pytest.fixture
def virtual(monkeypatch):
    """Days of two seconds, of a clock that goes on from process to process."""
    monkeypatch.setitem(globals(), "DAY_S", 2.0)
    monkeypatch.setitem(globals(), "NOW", lambda: 1e9 + trio.current_time())


@pytest.mark.usefixtures("virtual")
@pytest.mark.parametrize(("url", "runtimes", "seeds"), [("file:", 1, range(6)), ("lmdb:", 1, range(6)), ("file:", 2, range(101, 104))])
def test_simulated_crashes_do_nothing_twice(url, runtimes, seeds):
    """The last: with seed 101 a step's time was over before the next worker began, and its flow broke off."""
    report = simulate(APP, work, check=check, beside=beside, seeds=seeds, url=url, runtimes=runtimes)

    assert report.ok, report


@pytest.mark.usefixtures("virtual")
def test_a_worker_that_forgets_what_is_done_is_found(monkeypatch):
    """The check can fail: the step is done before it is looked up."""
    step = flow.Flow.step

    async def eager(self, name, action, *, timeout_s=None):
        await action(f"{self.id}/{name}")
        return await step(self, name, action, timeout_s=timeout_s)

    monkeypatch.setattr(flow.Flow, "step", eager)

    report = simulate(APP, work, check=check, beside=beside, seeds=20, shrink_tries=0)

    assert "was done again" in str(report)


def test_killed_processes_do_nothing_twice(survives):
    survives(__file__)
