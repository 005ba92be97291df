"""Every deliberate liar is caught by the law that is named for it; the honest store they are made of breaks none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from perdure.backends.conformance import CHECKS, run_checks
from perdure.backends.conformance.law import Desk, appending
from perdure.backends.errors import Corrupt, InDoubt, Misuse, Unavailable
from perdure.backends.faulty import METHODS, FaultyBackend, in_doubt
from perdure.backends.memory import open_memory
from perdure.backends.protocol import State

NAMES = [
    "ack before commit",
    "ack of what closing loses",
    "two winners",
    "swallowed conflict",
    "swallowed error",
    "an await between the look at a revision and the put",
    "a cache of entries",
    "reads of what is on its way",
    "lost wake-up",
    "wake-up for nothing",
    "a page that ends inside a commit",
    "unordered pages",
    "a cursor beyond what was read",
    "revisions that come back after a delete",
    "a steal that keeps the fence",
    "a fence that is not checked",
    "a key answered for other content",
    "a conflict kept under its key",
    "a stale snapshot",
    "an engine that lets one bad commit fail its group",
    "time that goes back",
    "changes without deletes",
    "changes of other revisions",
    "entries that outlive their delete",
    "a view that moves",
    "a view without an end",
    "a store that is never closed",
    "a store that is closed only once",
    "loading under new numbers",
    "loading what is damaged",
    "commits while it is loaded",
    "a loading that does not outlive its process",
    "revisions anew",
    "deletes that are not brought",
    "keys that are not brought",
    "deletes that are not traced",
    "a change forgotten for the one before",
    "changes of states overlooked",
    "commits where it was",
    "commits while they are held",
    "a moment that moves",
]
SHARED_NAMES = [
    "a cache that is trusted though another process wrote",
    "a wake-up before visibility",
    "no wake-up for other processes",
    "a group that follows what its process knew",
    "one row of ids for all processes",
    "a handle whose closing takes the others with it",
    "numbers that are given before the commit",
    "an Unavailable that commits later",
    "a wait for a frozen process without a limit",
    "a wait that blocks the loop",
    "a cancelled wait that stays in the way",
    "a doubt answered with absent",
    "a doubt answered with there",
    "a reopening that keeps its caches",
    "a doubtful store that goes on committing",
    "reads that show what is in doubt",
    "a doubt looked for among events only",
    "an end of a stream that is known until one writes oneself",
    "a doubt hidden by what others committed",
    "reopenings that overlap",
    "reopenings that closing leaves waiting",
    "a fence that is known until one is told otherwise",
    "a steal that looks at nothing",
    "beats that are changes",
]

CUT_NAMES = [
    "a cut that forgets the last seq",
    "a cut that closing loses",
    "a stream that begins where it was cut",
    "an archive that nobody is told of",
    "a log that leaves out what was cut",
    "a log that is cut for everybody",
    "a cut that asks no consumer",
    "a cut that does not see who registers in its group",
    "a cut behind another that nobody sees",
    "a condition judged over what is left",
    "a cut without its commit",
    "a cut beyond the end",
    "a sweep that takes too much",
    "a sweep that takes keys",
    "a view that sees later cuts",
    "a loading that forgets archives",
    "cuts that are not declared",
]


@pytest.fixture
def liars(load):
    return load("tests/backends/liars")


@pytest.fixture
def shared_liars(load):
    return load("tests/backends/shared_liars.py")


@pytest.fixture
def cut_liars(load):
    return load("tests/backends/cut_liars.py")


def test_every_liar_is_tried(liars, shared_liars, cut_liars):
    assert list(cut_liars.LIARS) == CUT_NAMES
    assert list(liars.LIARS) == NAMES
    assert list(shared_liars.LIARS) == SHARED_NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_a_liar_is_caught(name, liars, autojump_clock):
    make, law = liars.LIARS[name]

    board = await run_checks(liars.LiarStores(make), only=[law])

    assert [score.law.name for score in board.failed] == [law]


@pytest.mark.parametrize("name", CUT_NAMES)
async def test_a_liar_about_cuts_is_caught(name, liars, cut_liars, autojump_clock):
    make, law = cut_liars.LIARS[name]

    board = await run_checks(liars.LiarStores(make), only=[law])

    assert [score.law.name for score in board.failed] == [law]


@pytest.mark.parametrize("name", SHARED_NAMES)
async def test_a_liar_about_others_or_doubt_is_caught(name, shared_liars, autojump_clock):
    make, law = shared_liars.LIARS[name]

    failed: list[str] = []
    for _ in range(8 if law.startswith("histories") else 1):  # those are drawn: one alone may miss the moment
        board = await run_checks(shared_liars.SharedStores(make), only=[law])
        failed = failed or [score.law.name for score in board.failed]

    assert failed == [law]


async def test_what_those_are_made_of_is_honest(shared_liars, autojump_clock):
    board = await run_checks(shared_liars.SharedStores(shared_liars.Honest))

    assert [(score.law.name, score.broken) for score in board.failed] == []
    assert {score.missing for score in board.scores} == {None, "open_small", "advance", "hold_open", "hold_elsewhere"}


async def test_what_the_liars_are_made_of_is_honest(liars, autojump_clock):
    board = await run_checks(liars.LiarStores(liars.Liar))

    assert [(score.law.name, score.broken) for score in board.failed] == []


def test_each_law_has_a_name_of_its_own():
    names = [law.name for law in CHECKS]

    assert len(set(names)) == len(names)


# -- the faulty wrapper ----------------------------------------------------------------------


@pytest.fixture
async def faulty():
    return FaultyBackend(open_memory())


async def test_a_fault_before_a_commit_stores_nothing(faulty):
    faulty.fail("commit", Unavailable("a test"), nth=2)

    await Desk(faulty).append("a")
    with pytest.raises(Unavailable):
        await Desk(faulty).append("a")
    await Desk(faulty).append("b")

    assert [record.stream for record in await Desk(faulty).log()] == ["a", "b"]


async def test_a_fault_after_a_commit_loses_only_its_answer(faulty):
    faulty.fail("commit", in_doubt, after=True)

    with pytest.raises(InDoubt) as caught:
        await Desk(faulty).ask(appending("a"), key=b"once")

    assert caught.value.key == b"once"
    assert faulty.state is State.DOUBTFUL
    await faulty.reopen()
    assert await faulty.answer(caught.value.id) == await Desk(faulty).ask(appending("a"), key=b"once")


async def test_a_fault_for_good_lasts_until_it_is_healed(faulty):
    faulty.fail("read_log", Corrupt("a frame", "a test"), nth=2, for_good=True)

    assert await Desk(faulty).log() == []
    for _ in range(3):
        with pytest.raises(Corrupt):
            await Desk(faulty).log()
    faulty.heal()

    assert await Desk(faulty).log() == []
    assert faulty.calls["read_log"] == 5


async def test_a_delay_takes_its_time(faulty, autojump_clock):
    faulty.delay("commit", 3, nth=1)
    faulty.delay("commit", 4, nth=1, after=True)

    await Desk(faulty).append("a")

    assert trio.current_time() == pytest.approx(7)


@pytest.mark.parametrize(("after", "stored"), [(False, 0), (True, 1)])
async def test_a_cancellation_strikes_before_or_after(faulty, after, stored):
    with trio.CancelScope() as scope:
        faulty.cancel("commit", scope, after=after)
        await Desk(faulty).append("a")

    assert scope.cancelled_caught
    assert await faulty.head() == stored


async def test_the_reads_of_a_view_go_wrong_too(faulty):
    faulty.fail("get", Unavailable("a test"))

    async with faulty.view() as view:
        with pytest.raises(Unavailable):
            await view.get("k", b"x")

        assert await view.get("k", b"x") is None


async def test_a_fault_needs_a_method_and_a_call(faulty):
    with pytest.raises(Misuse):
        faulty.fail("append", Unavailable("a test"))
    with pytest.raises(Misuse):
        faulty.fail("commit", Unavailable("a test"), nth=0)
    for method in METHODS:
        faulty.fail(method, Unavailable("a test"), nth=9)
