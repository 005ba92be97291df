"""`simulate` as users meet it: what it finds, what it refuses, and what it tells."""

from __future__ import annotations

import attrs
import pytest
import trio

from perdure.backends.errors import Misuse, Unsupported
from perdure.runtime import App, Keyed, Projection, event, of
from perdure.runtime.simulation import NO_FAULTS, Faults, Injection, Plan, laws, scheduler, simulate
from perdure.runtime.simulation.faults import WHATS, injection_of
from perdure.runtime.simulation.shrink import least


@event("simulated-noted")
@attrs.frozen
class Noted:
    key: str
    number: int


async def idle(rt, random):
    await rt.append("noted-1", [Noted("a", 1)])


# -- what it finds in folds ------------------------------------------------------------------


def mutating(state, event):
    state.append(event.data.number)
    return state


def joining(state, event):
    return " ".join({*state.split(), event.data.key, *(f"{event.data.key}{n}" for n in range(5))})


def failing(state, event):
    return state + 10 // (event.data.number % 7)


JOINED = Projection("joined", version=1, initial="", step=joining, events=of(Noted))


@pytest.mark.parametrize(
    ("projection", "law"),
    [
        (Projection("mutating", version=1, initial=[], step=mutating, events=of(Noted), type=list[int]), laws.PURE),
        (Keyed("mutating", version=1, initial=[], step=mutating, events=of(Noted), key=lambda e: e.data.key, type=list[int]), laws.PURE),
        (Projection("failing", version=1, initial=0, step=failing, events=of(Noted)), laws.GOES_ON),
    ],
)
def test_a_fold_that_is_none_is_found(projection, law):
    report = simulate(App(projections=[projection]), seeds=20, faults=NO_FAULTS)

    assert report.failed is not None
    assert law in {violation.law for violation in report.failed.violations}


def test_a_state_in_the_order_of_a_set_is_found():
    report = simulate(App(projections=[JOINED]), seeds=2, faults=NO_FAULTS, hash_seeds=True)

    assert report.failed is not None
    assert "PYTHONHASHSEED" in str(report.failed.violations[0])


# -- what it finds in workloads and checks -----------------------------------------------------


def test_what_a_workload_raises_is_found():
    async def work(rt, random):
        await rt.append("noted-1", [Noted("a", 1)])
        assert random.random() < 0.5, "too much"

    report = simulate(App(events=of(Noted)), work, seeds=20, faults=NO_FAULTS)

    assert report.failed is not None
    assert report.failed.violations[0].law == laws.WORKLOAD
    assert "too much" in str(report)


def test_what_a_check_raises_is_found_with_the_fewest_faults():
    async def check(rt):
        assert await rt.head() < 3

    async def work(rt, random):
        for _ in range(4):
            await rt.append("noted-1", [Noted("a", 1)])

    report = simulate(App(events=of(Noted)), work, check=check, seeds=20)

    assert report.shortest is not None
    assert report.shortest.plan.injections == ()
    assert report.shortest.plan.sessions == 1
    assert report.shortest.commits < 10


@pytest.mark.parametrize("how", [trio.lowlevel.checkpoint, lambda: trio.sleep(1)])
def test_a_workload_without_an_end_is_found(monkeypatch, how):
    monkeypatch.setattr(scheduler, "ROUNDS_MAX", 5_000)

    async def work(rt, random):
        while True:
            await how()

    report = simulate(App(events=of(Noted)), work, seeds=1, faults=NO_FAULTS, shrink_tries=0)

    assert report.failed is not None
    assert report.failed.violations[0].law == laws.ENDS


def test_ctrl_c_ends_it():
    async def work(rt, random):
        raise KeyboardInterrupt

    with pytest.raises(BaseException) as caught:
        simulate(App(events=of(Noted)), work, seeds=1)

    assert caught.group_contains(KeyboardInterrupt) or isinstance(caught.value, KeyboardInterrupt)


# -- several runtimes ------------------------------------------------------------------------


def test_another_runtime_takes_over_from_one_that_was_killed():
    seen: list[str] = []

    async def work(rt, random):
        await rt.append("noted-1", [Noted("a", 1)])
        await trio.sleep(5)

    simulate(App(events=of(Noted)), work, runtimes=2, seeds=30, faults=Faults.only("crash", "freeze"), on_run=lambda run: seen.extend(holders(run)))

    assert {"1", "2"} <= set(seen)


def holders(run):
    """The runtimes that had the store open in a run where more than one had."""
    opened = [line.who[0] for line in run.trace.lines("life") if line.text == "has opened the store"]
    return opened if {"1", "2"} <= set(opened) else []


def test_nobody_opens_the_store_while_a_frozen_runtime_has_it():
    async def work(rt, random):
        for _ in range(5):
            await rt.append("noted-1", [Noted("a", 1)])
            await trio.sleep(random.random())

    def look(run):
        holder = ""
        for line in run.trace.lines("life"):
            if line.text == "has opened the store":
                assert not holder, f"{line.who} opened what {holder} had open"
                holder = line.who
            elif line.text in ("ends", "is killed") and line.who == holder:
                holder = ""

    report = simulate(App(events=of(Noted)), work, runtimes=3, seeds=40, faults=Faults.only("freeze", "crash", "restart", gap=10), on_run=look)

    assert report.ok, report
    assert report.counts["freeze"] > 5


# -- what it refuses -------------------------------------------------------------------------


async def test_inside_of_trio_it_says_so():
    with pytest.raises(Misuse, match="a loop of its own"):
        simulate(App(events=of(Noted)), idle, seeds=1)


def test_a_trio_that_it_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr(trio, "__version__", "0.99.0")

    with pytest.raises(Unsupported, match=r"trio 0\.99\.0"):
        simulate(App(events=of(Noted)), idle, seeds=1)


@pytest.mark.parametrize("name", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r"])
def test_a_trio_without_the_switch_is_refused(monkeypatch, name):
    monkeypatch.delattr(trio._core._run, name)

    with pytest.raises(Unsupported):
        simulate(App(events=of(Noted)), idle, seeds=1)


def test_trio_is_left_as_it_was():
    inside = trio._core._run
    before = (inside._r, inside._ALLOW_DETERMINISTIC_SCHEDULING)

    simulate(App(events=of(Noted)), idle, seeds=1)

    assert (inside._r, inside._ALLOW_DETERMINISTIC_SCHEDULING) == before


@pytest.mark.parametrize(
    "wrong",
    [{"url": "postgresql:x"}, {"seeds": 0}, {"replay": "7"}, {"replay": "7/3/all/57:crush"}],
)
def test_what_it_cannot_do_it_says(wrong):
    with pytest.raises(Misuse):
        simulate(App(events=of(Noted)), idle, **{"seeds": 1, **wrong})


def test_an_app_without_events_needs_a_workload():
    with pytest.raises(Misuse, match="workload"):
        simulate(App(), seeds=1)


# -- plans and faults as texts -----------------------------------------------------------------


@pytest.mark.parametrize("injections", [None, (), (Injection(5, "crash", "0.1"), Injection(70, "power", "lose 3 0.5"), Injection(71, "wake", "twice"))])
def test_a_plan_is_read_back(injections):
    plan = Plan(7, sessions=2, commits=9, injections=injections)

    assert Plan(0).replayed(str(plan)) == plan


@pytest.mark.parametrize("what", WHATS)
def test_an_injection_is_read_back(what):
    injection = Injection(3, what, "some 1.5")

    assert injection_of(str(injection)) == injection


def test_only_some_faults():
    assert Faults.only("crash").power == 0
    assert Faults().without("crash").crash == 0
    with pytest.raises(Misuse, match="no fault is called"):
        Faults.only("crush")
    with pytest.raises(Misuse):
        Faults(crash=-1.0)


@pytest.mark.parametrize("needed", [[], [3], [0, 9], [2, 3, 7]])
def test_the_least_part_that_fails(needed):
    assert least(range(10), lambda some: set(needed) <= set(some)) == needed
