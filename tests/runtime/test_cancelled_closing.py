# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""A runtime cancelled at any step of its life: what was answered is there, nothing is there by half, and all is left in order."""

from __future__ import annotations

import os

import attrs
import pytest
import trio

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import in_doubt
from perdure.backends.lmdb.faulty import faulty_lmdb
from perdure.backends.lmdb.files import FileLock
from perdure.runtime import START, App, Append, Closed, Committed, InDoubt, Keyed, Limits, Projection, Put, Unavailable, event, of, open_runtime

EVERY_STEP = bool(os.environ.get("PERDURE_EVERY_STEP"))
INLINE = Environment(threads=InlineThreads())


@event("closing-wrote")
@attrs.frozen
class Wrote:
    text: str


def count(state, event):
    return state + 1


SUM = Projection("closing-sum", version=1, initial=0, step=count, events=of(Wrote))
BY = Keyed("closing-by", version=1, initial=0, step=count, events=of(Wrote), key=lambda event: event.stream)
APP = App(projections=[SUM, BY])
IMPATIENT = Limits(commit_s=0.3, close_s=0.2)


@attrs.define
class Told:
    """What each write was told, by its text."""

    answered: set[str] = attrs.field(factory=set)
    refused: set[str] = attrs.field(factory=set)
    """`Cancelled`, `Closed` or `Unavailable`: nothing of it may ever be there."""
    doubtful: set[str] = attrs.field(factory=set)

    async def write(self, rt, text):
        """An event in each of two streams and an entry, as one commit."""
        self.refused.add(text)
        try:
            answer = await rt.transact(Append("a-1", [Wrote(text)]), Append(f"b-{text}", [Wrote(text)]), Put("b", text, text))
        except (Closed, Unavailable):
            return
        except InDoubt:
            self.refused.discard(text)
            self.doubtful.add(text)
            return
        assert isinstance(answer, Committed)
        self.refused.discard(text)
        self.answered.add(text)


async def live(rt, told):
    """Three writers, a named subscription, a single write as it ends."""

    async def writer(name):
        for number in range(3):
            await told.write(rt, f"{name} {number}")

    async def follow():
        async with rt.subscribe(of(Wrote), after=START, name="s") as events:
            async for _ in events:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio.open_nursery() as writers:
            for name in "xyz":
                writers.start_soon(writer, name)
        await rt.model(SUM).wait_for(await rt.head())
        nursery.cancel_scope.cancel()


async def is_sound(backend, told):
    """After everything: opened again, whole, and equal to what the writers were told."""
    async with open_runtime(backend, APP, environment=INLINE) as rt:
        stored = [found.data.text async for found in rt.read("a-1")]
        pairs = {found.data.text async for found in rt.read_all(of(Wrote)) if found.stream.startswith("b-")}
        entries = {entry.key for entry in (await rt.kv("b", str).scan()).entries}
        assert len(stored) == len(set(stored))
        assert set(stored) == pairs == entries, "half of a commit"
        assert told.answered <= entries, "what was answered is not there"
        assert not told.refused & entries, "what was refused is there"
        head = await rt.head()
        async with rt.subscribe(of(Wrote), after=START, name="s"):
            pass
        if head:
            await rt.model(SUM).wait_for(head)
            await rt.model(BY).wait_for(head)
            assert rt.model(SUM).state == 2 * len(stored)
            assert await rt.model(BY).get("a-1") == (len(stored) or None)
    assert await backend.verify() == []


# -- disks -----------------------------------------------------------------------------------


# Each is told what to do, and gives what puts it right again.


def quick(backend, lmdb, folder):
    return backend.heal


def slow(backend, lmdb, folder):
    backend.delay("commit", 0.02, for_good=True)
    backend.delay("commit", 0.02, for_good=True, after=True)
    return backend.heal


def too_slow(backend, lmdb, folder):
    """It takes longer than closing may: the last group is cut, its callers are in doubt."""
    backend.delay("commit", 0.5, nth=4, for_good=True)
    return backend.heal


def failing(backend, lmdb, folder):
    backend.fail("commit", in_doubt, nth=3)
    backend.fail("commit", in_doubt, nth=5, after=True)
    return backend.heal


def dying(backend, lmdb, folder):
    lmdb.fail_commit(nth=3)
    lmdb.fail_commit(nth=6, stored=True)
    lmdb.refuse_open()
    return lmdb.heal


def locked(backend, lmdb, folder):
    """Another process has the right to write and keeps it: closing gives up waiting for the turnstile."""
    lock = FileLock(folder / "gate.lock")
    assert lock.take()
    return lock.close


EVERYWHERE = {disk.__name__: disk for disk in (quick, slow, too_slow, failing)}
ON_LMDB = {disk.__name__: disk for disk in (quick, slow, too_slow, dying, locked)}


# -- a life ----------------------------------------------------------------------------------


async def a_life(strike, stores, disk, lmdb):
    """From open to closed, with a caller outside; the scope around it is struck at some step of its body or of its closing."""
    number, told = stores.fresh(), Told()

    async def outside(rt):
        for turn in range(8):
            await told.write(rt, f"outside {turn}")

    async with stores.open(number) as backend:
        put_right = disk(backend, lmdb, stores.folder(number))
        async with trio.open_nursery() as nursery:
            with strike.scope:
                async with open_runtime(backend, APP, environment=INLINE, limits=IMPATIENT) as rt:
                    nursery.start_soon(outside, rt)
                    strike.begin()
                    await live(rt, told)
            strike.end()
        put_right()
    async with stores.open(number) as backend:
        await is_sound(backend, told)


async def an_opening(strike, stores, lmdb):
    """From nothing to open, struck on the way."""
    number, told = stores.fresh(), Told()
    with strike.scope:
        strike.begin()
        try:
            async with stores.open(number) as backend, open_runtime(backend, APP, environment=INLINE) as rt:
                strike.end()
                await told.write(rt, "x")
        finally:
            strike.end()
    async with stores.open(number) as backend:
        await is_sound(backend, told)


@pytest.fixture
def cancelling(load):
    return load("tests/cancelling.py")


@pytest.fixture
def swept(cancelling, tmp_path):
    """Sweeps a life or an opening, and tells how many places there were."""

    def swept(once, stores, *more, **how):
        with faulty_lmdb(tmp_path) as lmdb:
            return cancelling.sweep(lambda strike: once(strike, stores, *more, lmdb), of="run", **how)

    return swept


@pytest.mark.parametrize("disk", EVERYWHERE)
def test_steps_of_a_life_on_memory(cancelling, swept, tmp_path, disk):
    assert swept(a_life, cancelling.Stores("memory", tmp_path), EVERYWHERE[disk], stride=1 if EVERY_STEP else 2) > 30


@pytest.mark.parametrize("disk", ON_LMDB)
def test_steps_of_a_life_on_lmdb(cancelling, swept, tmp_path, disk):
    assert swept(a_life, cancelling.Stores("lmdb", tmp_path), ON_LMDB[disk], stride=1 if EVERY_STEP else 13) > 4


def test_steps_of_a_life_whose_thread_flushes(cancelling, swept, tmp_path):
    stores = cancelling.Stores("lmdb", tmp_path, "?flush=thread", Environment())

    assert swept(a_life, stores, quick, stride=1 if EVERY_STEP else 19, real_time=True) > 4


@pytest.mark.parametrize("scheme", ["memory", "lmdb"])
def test_each_step_of_an_opening(cancelling, swept, tmp_path, scheme):
    assert swept(an_opening, cancelling.Stores(scheme, tmp_path)) > 10
