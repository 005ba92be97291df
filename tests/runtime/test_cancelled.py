# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""`Cancelled` means absent, an answer means present: at every step of a write, and of the run around it.

Each place is a run of its own on a fresh store: seven kinds of write, in the situations in which a
request may be found (alone, in a group, behind a flush, before a full journal, in doubt, before the
turnstile). After the call all is left to settle, looked at, closed, opened again and looked at again.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from perdure.actors.subscription import Place
from perdure.backends.environment import Environment
from perdure.backends.faulty import FaultyBackend, in_doubt
from perdure.backends.lmdb.faulty import LmdbFaults, faulty_lmdb
from perdure.backends.lmdb.files import FileLock
from perdure.runtime import START, App, Append, Conflict, Delete, Fold, Limits, Put, Unavailable, event, of, open_runtime

EVERY_STEP = bool(os.environ.get("PERDURE_EVERY_STEP"))
"""Whether sweeps over lmdb leave out no step."""
COUNT = Fold(0, lambda state, event: state + 1)


@event("cancelled-wrote")
@attrs.frozen
class Wrote:
    text: str


APP = App(events=of(Wrote))


# -- what is written -------------------------------------------------------------------------


async def texts(rt, stream):
    return [found.data.text async for found in rt.read(stream)]


async def place(rt):
    kept = await Place("subscription s", rt.backend).read()
    return 0 if kept is None else kept.position


def plain(make):
    """A write that needs no preparation."""

    @asynccontextmanager
    async def ready(rt):
        yield lambda: make(rt)

    return ready


@asynccontextmanager
async def saving(rt):
    async with rt.subscribe(of(Wrote), after=START, name="s") as events:
        assert [(await anext(events)).position for _ in range(2)] == [1, 2]
        yield events.save


@attrs.frozen
class Call:
    ready: Callable
    """Opens what the write needs, and gives the write."""
    look: Callable[..., Awaitable[set[bool]]]
    """Of each part of the write, whether it is there."""
    kept_at_leaving: bool = False
    """Leaving the subscription keeps its place once more."""


async def appended(rt):
    found = await texts(rt, "a-1")
    return {found.count(text) == 1 for text in ("mine 1", "mine 2")}


async def transacted(rt):
    bucket = rt.kv("b", str)
    return {"mine" in await texts(rt, "a-1"), "mine" in await texts(rt, "c-1"), await bucket.get("new") is not None, await bucket.get("old") is None}


CALLS = {
    "append": Call(plain(lambda rt: rt.append("a-1", [Wrote("mine 1"), Wrote("mine 2")])), appended),
    "keyed": Call(plain(lambda rt: rt.append("a-1", [Wrote("mine 1"), Wrote("mine 2")], key=b"once")), appended),
    "transact": Call(
        plain(lambda rt: rt.transact(Append("a-1", [Wrote("mine")]), Append("c-1", [Wrote("mine")]), Put("b", "new", "x"), Delete("b", "old"))), transacted
    ),
    "put": Call(plain(lambda rt: rt.kv("b", str).put("new", "x")), lambda rt: one(rt.kv("b", str).get("new"), lambda entry: entry is not None)),
    "delete": Call(plain(lambda rt: rt.kv("b", str).delete("old")), lambda rt: one(rt.kv("b", str).get("old"), lambda entry: entry is None)),
    "execute": Call(
        plain(lambda rt: rt.execute("a-1", COUNT, lambda count: [Wrote("mine 1"), Wrote("mine 2")], attempts_max=20)), appended
    ),
    "save": Call(saving, lambda rt: one(place(rt), lambda position: position == 1), kept_at_leaving=True),
}


async def one(read, is_there):
    return {is_there(await read)}


# -- in which situation ----------------------------------------------------------------------


@attrs.define
class Scene:
    """A runtime on a store that can be made to fail, and other callers."""

    rt: object
    backend: FaultyBackend
    lmdb: LmdbFaults
    folder: Path
    nursery: trio.Nursery
    asked: list[tuple[str, str]] = attrs.field(factory=list)
    answered: list[tuple[str, str]] = attrs.field(factory=list)

    def others(self, *streams):
        """Append elsewhere at the same time."""
        for stream in streams:
            self.asked.append((stream, f"other {len(self.asked)}"))
            self.nursery.start_soon(self._append, *self.asked[-1])

    async def _append(self, stream, text):
        await self.rt.append(stream, [Wrote(text)])
        self.answered.append((stream, text))


async def alone(scene):
    pass


async def in_a_group_of_three(scene):
    scene.others("a-1", "b-1")


async def with_a_slow_flush(scene):
    """Its own: there are steps before the group is written and after."""
    scene.backend.delay("commit", 0.02, for_good=True)
    scene.backend.delay("commit", 0.02, for_good=True, after=True)
    scene.others("a-1", "b-1")


async def behind_a_flush(scene):
    scene.backend.delay("commit", 0.04)
    scene.others("a-1")
    await wait_all_tasks_blocked()
    scene.others("b-1", "a-1")


async def before_a_full_journal(scene):
    """One in flight, one waiting, one in the hand of the stream's actor, one in its mailbox."""
    scene.backend.delay("commit", 0.02, for_good=True)
    for _ in range(4):
        scene.others("a-1")
        await wait_all_tasks_blocked()
    assert scene.rt.status().find("stream a-1").mailbox == 1


def flush_fails(*, stored, reopening_fails=False):
    async def fails(scene):
        scene.backend.fail("commit", in_doubt, after=stored)
        if reopening_fails:
            scene.backend.fail("reopen", Unavailable("a test"))
        scene.others("a-1", "b-1")

    return fails


def lmdb_flush_fails(*, stored):
    async def fails(scene):
        scene.lmdb.fail_commit(stored=stored)
        scene.lmdb.refuse_open()
        scene.others("a-1", "b-1")

    return fails


def before_a_lock(name):
    """Another process has the turnstile for a while."""

    async def held(scene):
        lock = FileLock(scene.folder / name)
        assert lock.take()

        async def hold():
            await trio.sleep(0.012)
            lock.close()

        scene.nursery.start_soon(hold)
        scene.others("a-1", "b-1")

    return held


EVERYWHERE = {
    "alone": alone,
    "in a group": in_a_group_of_three,
    "behind a flush": behind_a_flush,
    "slow flush": with_a_slow_flush,
    "full journal": before_a_full_journal,
    "lost": flush_fails(stored=False),
    "stored": flush_fails(stored=True),
    "stored, not reopened at once": flush_fails(stored=True, reopening_fails=True),
}
ON_LMDB = {
    "in a group": in_a_group_of_three,
    "full journal": before_a_full_journal,
    "lost": lmdb_flush_fails(stored=False),
    "stored": lmdb_flush_fails(stored=True),
    "gate taken": before_a_lock("gate.lock"),
    "next taken": before_a_lock("next.lock"),
}
IN_A_THREAD = {name: ON_LMDB[name] for name in ("in a group", "stored", "gate taken")}


# -- the law ---------------------------------------------------------------------------------


async def keeps_the_law(strike, stores, faults, call, situation, outcomes):
    """One run: `Cancelled` and nothing of it is there, now and later; or an answer and all of it is."""
    number = stores.fresh()
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(stores.open(number))
        limits = Limits(mailbox=1, journal_bytes=1) if situation is before_a_full_journal else Limits()
        rt = await stack.enter_async_context(open_runtime(backend, APP, limits=limits))
        await rt.append("a-1", [Wrote("first")])
        await rt.append("a-1", [Wrote("second")])
        await rt.kv("b", str).put("old", "x")
        make = await stack.enter_async_context(call.ready(rt))
        answer = None
        async with trio.open_nursery() as nursery:
            scene = Scene(rt, backend, faults, stores.folder(number), nursery)
            await situation(scene)
            with strike as scope:
                answer = await make()
        await wait_all_tasks_blocked(0.002)

        assert not isinstance(answer, Conflict)
        there = not scope.cancelled_caught
        assert await call.look(rt) == {there}, "now"
        assert sorted(scene.answered) == sorted(scene.asked)
    faults.heal()
    async with stores.open(number) as backend, open_runtime(backend, APP) as rt:
        assert await call.look(rt) == {there or call.kept_at_leaving}, "opened again"
        for stream, text in scene.asked:
            assert (await texts(rt, stream)).count(text) == 1
    outcomes.add(there)


@pytest.fixture
def cancelling(load):
    return load("tests/cancelling.py")


@pytest.fixture
def swept(cancelling, tmp_path):
    """Sweeps one call in one situation; both outcomes must have been seen."""

    def swept(stores, call, situation, **how):
        outcomes: set[bool] = set()
        with faulty_lmdb(tmp_path) as faults:
            cancelling.sweep(lambda strike: keeps_the_law(strike, stores, faults, CALLS[call], situation, outcomes), **how)
        assert outcomes == {False, True}

    return swept


@pytest.mark.parametrize("situation", EVERYWHERE)
@pytest.mark.parametrize("call", CALLS)
def test_each_step_of_the_run_on_memory(cancelling, swept, tmp_path, call, situation):
    swept(cancelling.Stores("memory", tmp_path), call, EVERYWHERE[situation], of="run")


@pytest.mark.parametrize("situation", ["alone", "in a group"])
@pytest.mark.parametrize("call", CALLS)
def test_each_own_step_on_lmdb(cancelling, swept, tmp_path, call, situation):
    swept(cancelling.Stores("lmdb", tmp_path), call, EVERYWHERE[situation])


@pytest.mark.parametrize("situation", ON_LMDB)
@pytest.mark.parametrize("call", CALLS if EVERY_STEP else ["append", "transact", "save"])
def test_steps_of_the_run_on_lmdb(cancelling, swept, tmp_path, call, situation):
    swept(cancelling.Stores("lmdb", tmp_path), call, ON_LMDB[situation], of="run", stride=1 if EVERY_STEP else 5)


@pytest.mark.parametrize("situation", IN_A_THREAD)
@pytest.mark.parametrize("call", CALLS if EVERY_STEP else ["append", "save"])
def test_steps_of_the_run_while_a_thread_flushes(cancelling, swept, tmp_path, call, situation):
    stores = cancelling.Stores("lmdb", tmp_path, "?flush=thread", Environment())
    swept(stores, call, IN_A_THREAD[situation], of="run", stride=1 if EVERY_STEP else 6, real_time=True)
