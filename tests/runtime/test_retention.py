"""Retention: what must stay stays, what went is in the archive, and models equal the fold of what they say they cover."""

from __future__ import annotations

import random

import attrs
import pytest
import trio

from perdure.backends.blobs.directory import DirectoryBlobs
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.commit import HOLDS, Append, Cut, Put, SaveSnapshot
from perdure.backends.conformance.cuts import tidy
from perdure.backends.conformance.law import Desk, draft, drafts
from perdure.backends.environment import Environment, InlineThreads, random_id
from perdure.backends.errors import BlobsUnavailable, Full, Misuse, ModelFaulted, Truncated, Unavailable
from perdure.backends.event import Position, to_datetime
from perdure.backends.faulty import FaultyBackend
from perdure.backends.held import Hold, pack_hold
from perdure.backends.memory import open_memory
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.runtime import App, Event, Keyed, Projection, event, of, open_runtime
from perdure.runtime.archives import Archived
from perdure.runtime.cli import app as cli
from perdure.runtime.retention import Retention, plan, retain
from perdure.runtime.verify_models import verify_models

DAY_US = 86_400_000_000
DAY_S = 86_400.0


@event("retained", version=1)
@attrs.frozen
class Retained:
    n: int


@pytest.fixture
async def blobs():
    async with open_blobs("directory:/blobs", environment=Environment(disk=SimulatedDisk().process(), threads=InlineThreads())) as store:
        yield store


def new_store():
    return open_memory(environment=Environment(threads=InlineThreads()))


@pytest.fixture
async def desk():
    """Ten days of `s-1` and `s-2`, an event of each a day, and one of `other`; the last ones are of today."""
    desk = Desk(new_store())
    now = await desk.backend.now_us()
    for day in range(10):
        await desk.done(*[Append(name, [draft(b"%d" % day * 10)]) for name in ("s-1", "s-2", "other")], at_us=now - (9 - day) * DAY_US)
    return desk


def at(policies, planned):
    return {one.info.name: one.first for one in planned}


async def planned(desk, *policies):
    return {one.info.name: one.first for one in (await plan(desk.backend, policies, now_us=await desk.backend.now_us())).planned}


# -- what may go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "firsts"),
    [
        (Retention(categories=["s"], age_s=3.5 * DAY_S), {"s-1": 7, "s-2": 7}),
        (Retention(streams=["s-2"], age_s=100 * DAY_S), {}),
        (Retention(streams=["s-2"], count=4), {"s-2": 7}),
        (Retention(streams=["s-2", "other"], count=0), {"s-2": 11, "other": 11}),
        (Retention(streams=["s-2"], count=2, age_s=7.5 * DAY_S), {"s-2": 3}),
        (Retention(categories=["s"], count=2, covered_by=["p"]), {"s-1": 5, "s-2": 5}),
        (Retention(categories=["s"], count=2, covered_by=["p", "none"]), {}),
    ],
)
async def test_a_policy_says_what_goes(desk, policy, firsts, autojump_clock):
    for position in (12, 30):
        await desk.done(SaveSnapshot("p", Position(position), "f", b"x"))

    assert await planned(desk, policy) == firsts


async def test_the_first_policy_that_names_a_stream_counts(desk, autojump_clock):
    assert await planned(desk, Retention(streams=["s-1"], count=9), Retention(categories=["s"], count=1)) == {"s-1": 2, "s-2": 10}


async def test_nothing_goes_that_a_consumer_has_not_passed(desk, autojump_clock):
    await desk.store(Put(HOLDS, b"report", pack_hold(Hold(13))))

    assert await planned(desk, Retention(categories=["s"], count=0)) == {"s-1": 6, "s-2": 5}


@pytest.mark.parametrize("bad", [{}, {"streams": ["a"]}, {"age_s": 1}, {"categories": "abc", "count": 1}, {"streams": ["a"], "count": -1}])
def test_a_policy_that_says_nothing_is_misuse(bad):
    with pytest.raises(Misuse):
        Retention(**bad)


# -- what goes -------------------------------------------------------------------------------


async def test_a_dry_run_says_what_goes_and_changes_nothing(desk, blobs, autojump_clock):
    policies, before = [Retention(categories=["s"], count=3)], await desk.log()

    dry = await retain(desk.backend, policies, ids=random_id, dry_run=True)

    assert (await desk.log(), await blobs.cids(), dry.dry) == (before, [], True)
    done = await retain(desk.backend, policies, ids=random_id, blobs=blobs)
    assert done.gone == dry.gone
    assert (done.events, done.bytes) == (14, 14 * (10 + 20))
    assert await planned(desk, *policies) == {}


async def test_what_went_is_in_the_archive_and_what_must_stay_stays(desk, blobs, autojump_clock):
    before = await desk.log()

    done = await retain(desk.backend, [Retention(categories=["s"], age_s=3.5 * DAY_S)], ids=random_id, blobs=blobs)
    await tidy(desk)

    assert [info.archive for info in await desk.backend.streams(limit=9)] == [None, done.archive, done.archive]
    assert [record.seq for record in await desk.stream("s-1", after=6)] == [7, 8, 9, 10]
    assert await Desk(Archived(desk.backend, blobs)).log() == before


async def test_without_an_archive_it_is_gone(desk, autojump_clock):
    done = await retain(desk.backend, [Retention(categories=["s"], count=1, archive=False)], ids=random_id)

    assert (done.events, done.archive) == (18, None)
    with pytest.raises(Misuse, match="no blob store"):
        await retain(desk.backend, [Retention(streams=["other"], count=1)], ids=random_id)


async def test_more_than_may_go_at_once_goes_in_steps(blobs, autojump_clock):
    desk = Desk(new_store())
    for _ in range(3):
        await desk.done(Append("s", drafts(9_000)))

    done = await retain(desk.backend, [Retention(streams=["s"], count=500)], ids=random_id, blobs=blobs)

    assert done.events == 26_500
    assert [info.first for info in await desk.backend.streams(limit=9)] == [26_501]
    assert len(await Desk(Archived(desk.backend, blobs)).log()) == 27_000


@pytest.mark.parametrize("nth", range(1, 4))
@pytest.mark.parametrize("after", [False, True])
async def test_a_run_that_is_cut_off_is_gone_on_with(blobs, nth, after, autojump_clock):
    """Whatever has happened, all events are in the log or in archives that its streams lead to."""
    inner = new_store()
    desk = Desk(inner)
    names = [f"s-{number}" for number in range(130)]
    for start in range(0, 130, 10):
        await desk.done(*[Append(name, drafts(5)) for name in names[start : start + 10]])
    before = await desk.log()
    backend = FaultyBackend(inner)
    backend.fail("commit", Unavailable("a test"), nth=nth, after=after)

    with pytest.raises(Unavailable):
        await retain(backend, [Retention(categories=["s"], count=2)], ids=random_id, blobs=blobs)
    await tidy(desk)

    assert await Desk(Archived(inner, blobs)).log() == before
    await retain(inner, [Retention(categories=["s"], count=2)], ids=random_id, blobs=blobs)
    assert {info.first for info in await inner.streams(limit=200)} == {4}
    assert await Desk(Archived(inner, blobs)).log() == before


async def test_who_registers_meanwhile_keeps_what_it_needs(desk, blobs, autojump_clock):
    class Registers(FaultyBackend):
        async def commit(self, commits):
            if any(isinstance(write, Cut) for commit in commits for write in commit.writes):
                await desk.store(Put(HOLDS, b"late", pack_hold(Hold(0))))
            return await super().commit(commits)

    done = await retain(Registers(desk.backend), [Retention(categories=["s"], count=1)], ids=random_id, blobs=blobs)

    assert (done.gone, len(done.held)) == ((), 2)
    assert "$holds/late" in done.held[0]
    assert len(await desk.log()) == 30


async def test_what_was_cut_under_its_hands_is_not_taken_for_archived(desk, blobs, autojump_clock):
    class CutsMeanwhile(DirectoryBlobs):
        def __init__(self):
            pass

        async def put(self, source, *, media_type=""):
            await desk.done(Cut("s-1", 4))
            return await blobs.put(source, media_type=media_type)

    with pytest.raises(Unavailable, match="cut by somebody else meanwhile"):
        await retain(desk.backend, [Retention(categories=["s"], count=1)], ids=random_id, blobs=CutsMeanwhile())

    assert [info.first for info in await desk.backend.streams(limit=9)] == [1, 4, 1]


# -- models ----------------------------------------------------------------------------------


def total(state: int, event: Event[Retained]) -> int:
    return state + event.data.n


TOTAL = Projection("total", version=1, initial=0, step=total, events=of(Retained))
BY_STREAM = Keyed("by-stream", version=1, initial=0, step=total, events=of(Retained), key=lambda event: event.stream)
NEW = Projection("new", version=1, initial=0, step=total, events=of(Retained))


async def _fill(backend, seed=1):
    draw = random.Random(seed)
    async with open_runtime(backend, App(projections=[TOTAL, BY_STREAM])) as rt:
        numbers = [draw.randint(1, 99) for _ in range(60)]
        for place, number in enumerate(numbers):
            await rt.append(f"s-{place % 3}", [Retained(number)])
        await rt.model(TOTAL).wait_for(Position(60))
        await rt.model(BY_STREAM).wait_for(Position(60))
    return numbers


async def test_models_are_rebuilt_and_looked_at_with_the_archives(blobs, autojump_clock):
    inner = new_store()
    backend = _unclosed(inner)
    numbers = await _fill(backend)
    await retain(inner, [Retention(categories=["s"], count=2)], ids=random_id, blobs=blobs)

    async with open_runtime(backend, App(projections=[TOTAL, NEW]), blobs=blobs) as rt:
        new = rt.model(NEW)
        await new.wait_for(Position(60))
        assert new.state == rt.model(TOTAL).state == sum(numbers)
        for position in (0, 1, 30, 59):
            assert (await new.as_of(position=Position(position))) == sum(numbers[:position])
    report = await verify_models(Archived(inner, blobs), App(projections=[TOTAL, BY_STREAM]))
    assert [(one.problems, one.left_out) for one in report] == [((), ""), ((), "")]


async def test_without_them_they_say_what_they_cannot_reach(blobs, autojump_clock):
    inner = new_store()
    backend = _unclosed(inner)
    numbers = await _fill(backend)
    await retain(inner, [Retention(categories=["s"], count=2)], ids=random_id, blobs=blobs)

    async with open_runtime(backend, App(projections=[TOTAL, NEW])) as rt:
        assert rt.model(TOTAL).state == sum(numbers)
        assert await rt.model(TOTAL).as_of(position=Position(60)) == sum(numbers)
        with pytest.raises(Truncated, match="has been cut"):
            await rt.model(TOTAL).as_of(position=Position(30))
        with pytest.raises(Truncated):
            await rt.model(TOTAL).as_of(time=to_datetime(1))
        with pytest.raises(ModelFaulted, match="has been cut"):
            await rt.model(NEW).wait_for(Position(60))
    report = await verify_models(inner, App(projections=[TOTAL, BY_STREAM]))
    assert all("have been cut" in one.left_out and not one.problems for one in report)


def _unclosed(inner):
    """The store, open also after the runtime on it has ended."""

    class Unclosed(FaultyBackend):
        async def aclose(self):
            await trio.lowlevel.checkpoint()

    return Unclosed(inner)


async def test_an_app_keeps_to_its_retention(blobs, autojump_clock):
    backend = _unclosed(new_store())
    await _fill(backend)
    app = App(projections=[TOTAL, BY_STREAM], retention=[Retention(categories=["s"], count=2)])

    async with open_runtime(backend, app, blobs=blobs) as rt:
        await trio.sleep(1)
        assert [info.first for info in await backend.streams(limit=9)] == [19, 19, 19]
        for _ in range(9):
            await rt.append("s-0", [Retained(1)])
        await trio.sleep(10)
        await rt.model(TOTAL).wait_for(Position(69))
        await trio.sleep(7_300)
        assert [info.first for info in await backend.streams(limit=9)] == [28, 19, 19]
    assert len(await blobs.cids()) == 2


@pytest.mark.parametrize("where", ["blobs", "store"])
async def test_what_fails_is_tried_again_and_fails_nothing_else(blobs, where, autojump_clock):
    backend = _unclosed(new_store())
    await _fill(backend)
    app = App(projections=[TOTAL, BY_STREAM], retention=[Retention(categories=["s"], count=2)])
    if where == "store":
        backend = _FullOnce(backend)

    async with open_runtime(backend, app, blobs=_Refusing(blobs, 1 if where == "blobs" else 0)):
        await trio.sleep(60)
        assert [info.first for info in await backend.streams(limit=9)] == [1, 1, 1]
        await trio.sleep(7_300)
        assert [info.first for info in await backend.streams(limit=9)] == [19, 19, 19]


class _FullOnce(FaultyBackend):
    """Has no room for the first cut."""

    left = 1

    async def commit(self, commits):
        if self.left and any(isinstance(write, Cut) for commit in commits for write in commit.writes):
            self.left = 0
            raise Full("a test", 1, 1)
        return await super().commit(commits)


class _Refusing:
    """A blob store that takes nothing, so many times."""

    def __init__(self, inner, times):
        self._inner, self._left = inner, times

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def put(self, source, *, media_type=""):
        if self._left:
            self._left -= 1
            raise BlobsUnavailable("directory:/blobs", "a test")
        return await self._inner.put(source, media_type=media_type)


async def test_who_is_outrun_by_another_that_cuts_says_so(desk, blobs, autojump_clock):
    class CutsMeanwhile(FaultyBackend):
        async def read_stream(self, stream, *, after, limit, bytes_max, backward=False):
            await desk.done(Cut("s-1", 9))
            return await super().read_stream(stream, after=after, limit=limit, bytes_max=bytes_max, backward=backward)

    with pytest.raises(Unavailable, match="cut by somebody else meanwhile"):
        await retain(CutsMeanwhile(desk.backend), [Retention(categories=["s"], count=1)], ids=random_id, blobs=blobs)


async def test_an_app_that_archives_needs_a_blob_store():
    with pytest.raises(Misuse, match="open the runtime with blobs="):
        async with open_runtime("memory:", App(retention=[Retention(streams=["a"], count=1)])):
            pass


# -- commands --------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A store on disk, and an app beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept_app.py").write_text("from perdure.runtime import App, Retention\napp = App(retention=[Retention(categories=['s'], count=1)])\n")
    for number in range(3):
        assert _run("append", "lmdb:store", "s-1", "happened", str(number)) == 0
    return "lmdb:store"


def _run(*args):
    with pytest.raises(SystemExit) as ended:
        cli.app(list(args), exit_on_error=False)
    return ended.value.code or 0


def test_the_commands_retain_and_read_with_archives(kept, capsys):
    assert _run("retain", kept, "--app", "kept_app:app", "--dry-run") == 0
    assert "2 events of 1 streams would go, 42 bytes" in capsys.readouterr().out
    assert _run("retain", kept, "--app", "kept_app:app", "--blobs", "directory:blobs") == 0
    assert "2 events of 1 streams went, 42 bytes; archive b" in capsys.readouterr().out

    with pytest.raises(Truncated, match="what was before has been cut"):
        cli.app(["read", kept, "s-1"], exit_on_error=False)
    assert _run("read", kept, "s-1", "--with-archive", "directory:blobs", "--json") == 0

    assert len(capsys.readouterr().out.splitlines()) == 3
