# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""The sweeps of `test_cancelled` can fail: runtimes that break the law are found out; and breaches that are known, each reduced."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio

from perdure.actors.mailbox import Slot, Stage
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend
from perdure.backends.memory import open_memory
from perdure.runtime import START, App, InDoubt, event, of, open_runtime

INLINE = Environment(threads=InlineThreads())


@event("liars-wrote")
@attrs.frozen
class Wrote:
    number: int


APP = App(events=of(Wrote))


@pytest.fixture
def laws(load):
    return load("tests/runtime/test_cancelled.py")


@pytest.fixture
def cancelling(load):
    return load("tests/cancelling.py")


# -- liars -----------------------------------------------------------------------------------


def takes_what_was_withdrawn(self):
    self.stage = Stage.TAKEN
    return True


def lets_go_of_what_was_taken(self, _):
    self.abandon()
    return trio.lowlevel.Abort.SUCCEEDED


_wait = Slot.wait


async def may_be_cancelled_after_the_answer(self):
    answer = await _wait(self)
    await trio.lowlevel.checkpoint()
    return answer


LIARS = {
    "takes what was withdrawn": ("take", takes_what_was_withdrawn),
    "lets go of what was taken": ("_abort", lets_go_of_what_was_taken),
    "may be cancelled after the answer": ("wait", may_be_cancelled_after_the_answer),
}


@pytest.mark.parametrize("situation", ["slow flush", "stored"])
@pytest.mark.parametrize("liar", LIARS)
def test_a_liar_is_caught(cancelling, laws, tmp_path, monkeypatch, liar, situation):
    stores, call = cancelling.Stores("memory", tmp_path), laws.CALLS["append"]
    monkeypatch.setattr(Slot, *LIARS[liar])

    with laws.faulty_lmdb(tmp_path) as lmdb, pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="now"), flatten_subgroups=True):
        cancelling.sweep(lambda strike: laws.keeps_the_law(strike, stores, lmdb, call, laws.EVERYWHERE[situation], set()), of="run")


def test_a_run_that_waits_for_ever_behind_a_shield_is_found(cancelling):
    async def once(strike):
        with strike, trio.CancelScope(shield=True):
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="waits for ever"):
        cancelling.sweep(once)


def test_each_step_is_struck_once(cancelling):
    """Four steps, and the moment before the first."""
    places = []

    async def once(strike):
        with strike:
            for _ in range(4):
                await trio.lowlevel.checkpoint()
        places.append((strike.nth, strike.struck))

    assert cancelling.sweep(once) == 5
    assert places == [(0, True), (1, True), (2, True), (3, True), (4, True), (5, False)]


# -- known breaches --------------------------------------------------------------------------



@asynccontextmanager
async def two_events_done(backend):
    """A named subscription whose place is not kept yet, and a disk that then takes longer than `commit_s` for its next flush."""
    async with open_runtime(backend, APP) as rt:
        for number in range(4):
            await rt.append("a-1", [Wrote(number)])
        async with rt.subscribe(of(Wrote), after=START, name="s") as events:
            await anext(events)
            await anext(events)
            backend.delay("commit", 40)
            yield events


async def test_a_save_cancelled_after_its_doubt_is_absent(autojump_clock):
    backend = FaultyBackend(open_memory(environment=INLINE))
    async with two_events_done(backend) as events:
        scope = trio.CancelScope()
        backend.cancel("get", scope)

        with scope, suppress(InDoubt):
            await events.save()
        await trio.sleep(60)

        assert not scope.cancelled_caught or await backend.get("$checkpoints", b"subscription s") is None


async def test_a_save_in_doubt_does_not_lose_the_place(autojump_clock):
    backend = FaultyBackend(open_memory(environment=INLINE))
    async with two_events_done(backend) as events:
        with pytest.raises(InDoubt):
            await events.save()
        await trio.sleep(60)
        await anext(events)

        await events.save()
