# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""Supervisors carry out OTP's rules."""

from __future__ import annotations

import logging

import pytest
import trio

from perdure.actors.restart import Restart, Strategy
from perdure.actors.status import Hub, What
from perdure.actors.supervisor import Child, Supervisor
from perdure.backends.errors import Full, TooManyRestarts, Unavailable


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, "perdure.supervisor")


class Troupe:
    """Children that tell what happens to them, and fail when told."""

    def __init__(self):
        self.told = []
        self.fails = {}
        self.runs = {}
        self.stops = {}

    def child(self, name, restart=Restart.PERMANENT, **more):
        async def run(*, task_status):
            self.told.append(f"+{name}")
            self.runs[name] = self.runs.get(name, 0) + 1
            self.fails[name], self.stops[name] = trio.Event(), trio.Event()
            task_status.started()
            try:
                await self.fails[name].wait()
                if not self.stops[name].is_set():
                    raise RuntimeError(name)
            finally:
                self.told.append(f"-{name}")

        def stop():
            self.stops[name].set()
            self.fails[name].set()

        return Child(name, run, restart, stop=stop, **more)

    def running(self, *children, **more):
        return Supervisor("troupe", children, **more)


async def started(nursery, supervisor):
    await nursery.start(lambda task_status: supervisor.run(task_status=task_status))


async def test_children_start_in_order_and_stop_in_reverse(autojump_clock):
    troupe = Troupe()
    supervisor = troupe.running(*map(troupe.child, "abc"))

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        await supervisor.stop()

    assert troupe.told == ["+a", "+b", "+c", "-c", "-b", "-a"]


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-c", "-a", "+a", "+b", "+c"]),
        (Strategy.REST_FOR_ONE, ["-b", "-c", "+b", "+c"]),
    ],
)
async def test_strategies_stop_in_reverse_and_start_in_order(strategy, told, autojump_clock):
    troupe = Troupe()
    supervisor = troupe.running(*map(troupe.child, "abc"), strategy=strategy)

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.told.clear()
        troupe.fails["b"].set()
        await trio.sleep(1)
        assert troupe.told == told
        await supervisor.stop()


async def test_two_failures_at_once_start_each_child_once(autojump_clock):
    troupe = Troupe()
    supervisor = troupe.running(*map(troupe.child, "abc"), strategy=Strategy.ONE_FOR_ALL)

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.fails["a"].set()
        troupe.fails["c"].set()
        await trio.sleep(5)
        assert troupe.runs == {"a": 2, "b": 2, "c": 2}
        troupe.fails["b"].set()
        await trio.sleep(5)
        assert troupe.runs == {"a": 3, "b": 3, "c": 3}
        await supervisor.stop()
    assert troupe.told.count("+a") == troupe.told.count("-a")


async def test_an_earlier_child_that_fails_during_a_restart_takes_it_over(autojump_clock):
    troupe = Troupe()
    supervisor = troupe.running(*map(troupe.child, "abc"), strategy=Strategy.REST_FOR_ONE)

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.told.clear()
        troupe.fails["b"].set()
        await trio.sleep(0.05)
        troupe.fails["a"].set()
        await trio.sleep(5)
        assert troupe.told == ["-b", "-c", "-a", "+a", "+b", "+c"]
        await supervisor.stop()


async def test_a_child_that_left_stays_away_when_its_siblings_are_restarted(autojump_clock):
    troupe = Troupe()
    final = troupe.child("a", final=lambda error: True)
    supervisor = troupe.running(final, troupe.child("b"), troupe.child("c", Restart.TEMPORARY), strategy=Strategy.ONE_FOR_ALL)

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.fails["a"].set()
        await trio.sleep(1)
        troupe.fails["b"].set()
        await trio.sleep(1)
        assert troupe.runs == {"a": 1, "b": 2, "c": 1}
        await supervisor.stop()


async def test_out_of_budget_it_gives_up_with_the_failures_and_stops_the_others(autojump_clock):
    troupe = Troupe()
    hub = Hub()
    supervisor = troupe.running(troupe.child("a"), troupe.child("b"), publish=hub.publish)

    async def fail_on():
        while True:
            await trio.sleep(0.01)
            troupe.fails["b"].set()

    with pytest.RaisesGroup(TooManyRestarts) as caught:
        async with hub.listen() as listener, trio.open_nursery() as nursery:
            await started(nursery, supervisor)
            nursery.start_soon(fail_on)
    error = caught.value.exceptions[0]
    assert isinstance(error, TooManyRestarts) and (error.name, error.restarts) == ("b", 5)
    assert isinstance(error.__cause__, ExceptionGroup) and [str(one) for one in error.__cause__.exceptions] == ["b"] * 6
    assert troupe.runs == {"a": 1, "b": 6} and troupe.told[-1] == "-a" and troupe.stops["a"].is_set()
    hub.close()
    assert What.GAVE_UP in [event.what async for event in listener]


async def test_progress_beyond_the_furthest_is_forgiven_and_the_same_again_is_not(autojump_clock):
    troupe = Troupe()
    at = 0

    async def fail_on(gains):
        nonlocal at
        while True:
            await trio.sleep(0.01)
            at += gains
            troupe.fails["a"].set()

    async with trio.open_nursery() as nursery:
        await started(nursery, troupe.running(troupe.child("a", progress=lambda: at)))
        nursery.start_soon(fail_on, 1)
        await trio.sleep(100)
        assert troupe.runs["a"] > 100
        nursery.cancel_scope.cancel()

    troupe = Troupe()
    positions = iter([10, 0, 10, 0, 7, 3] * 10)  # it restores to an older place and never gets beyond 10
    with pytest.RaisesGroup(TooManyRestarts):
        async with trio.open_nursery() as nursery:
            await started(nursery, troupe.running(troupe.child("a", progress=lambda: next(positions))))
            nursery.start_soon(fail_on, 0)


@pytest.mark.parametrize("error", [Unavailable("a test"), Full("x", 1, 1)], ids=["unavailable", "full"])
async def test_the_stores_troubles_never_count(error, autojump_clock):
    runs = 0

    async def run(*, task_status):
        nonlocal runs
        runs += 1
        task_status.started()
        if runs < 30:
            raise error
        await trio.sleep_forever()

    supervisor = Supervisor("s", [Child("a", run)])
    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        await trio.sleep(1_000)
        assert runs == 30
        await supervisor.stop()


async def test_what_is_no_exception_passes(autojump_clock):
    class Bad(BaseException):
        pass

    async def run(*, task_status):
        task_status.started()
        await trio.sleep(1)
        raise BaseExceptionGroup("both", [ValueError(), Bad()])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await started(nursery, Supervisor("s", [Child("a", run)]))
    assert caught.group_contains(Bad) and caught.group_contains(ValueError)


async def test_a_failure_is_logged_kept_and_published(autojump_clock, caplog):
    caplog.set_level(logging.ERROR, "perdure.supervisor")
    troupe, hub = Troupe(), Hub()
    supervisor = troupe.running(troupe.child("a"), publish=hub.publish)

    async with hub.listen() as listener, trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.fails["a"].set()
        await trio.sleep(1)
        state, restarts, error = supervisor.slot("a")
        assert (state, restarts, str(error)) == ("running", 1, "a")
        await supervisor.stop()
    hub.close()

    assert "RuntimeError: a" in caplog.text
    told = [(event.what, event.error) async for event in listener]
    assert told[:4] == [(What.STARTED, None), (What.FAILED, "a"), (What.RESTARTED, "a"), (What.STARTED, None)]


async def test_a_child_that_does_not_stop_is_cut_after_the_grace_period(autojump_clock):
    async def run(*, task_status):
        task_status.started()
        await trio.sleep_forever()

    supervisor = Supervisor("s", [Child("deaf", run, stop=lambda: None)], grace_s=3)
    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        began = trio.current_time()
        await supervisor.stop()
        assert trio.current_time() - began == pytest.approx(3)


async def test_nothing_is_started_after_stopping(autojump_clock):
    """A child that waits for its restart when the supervisor stops stays away."""
    troupe = Troupe()
    supervisor = troupe.running(troupe.child("a"), troupe.child("b"))

    async with trio.open_nursery() as nursery:
        await started(nursery, supervisor)
        troupe.fails["a"].set()
        await trio.sleep(0.05)
        await supervisor.stop()
        await trio.sleep(10)
    assert troupe.runs == {"a": 1, "b": 1}


async def test_listeners_that_are_behind_lose_the_oldest_and_are_told(autojump_clock):
    from perdure.actors.status import Lifecycle

    hub = Hub(size=3)
    async with hub.listen() as listener:
        for number in range(5):
            hub.publish(Lifecycle(str(number), What.STARTED, None, 0.0))
        hub.close()
        assert ([event.actor async for event in listener], listener.lost) == (["2", "3", "4"], 2)
