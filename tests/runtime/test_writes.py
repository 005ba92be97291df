# mypy: disable-error-code="arg-type,union-attr,attr-defined,var-annotated,call-overload"
# Positions are written as plain numbers here, and payloads of any type are looked into.
"""Writes through the runtime: cancelled, crowded, in doubt, and racing each other."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.faulty import FaultyBackend, in_doubt
from perdure.backends.memory import open_memory
from perdure.runtime import (
    App,
    Append,
    Appended,
    Committed,
    Conflict,
    Fold,
    InDoubt,
    Keyed,
    KeyReused,
    Limits,
    Put,
    Unavailable,
    event,
    of,
    open_runtime,
)


@event("wrote")
@attrs.frozen
class Wrote:
    number: int
    text: str = ""


INLINE = Environment(threads=InlineThreads())
COUNT = Fold(0, lambda state, event: state + 1)


def faulty():
    return FaultyBackend(open_memory(environment=INLINE))


async def cancelled_at(step, call):
    """Whether *call*, cancelled when other tasks have had *step* turns, gave its answer."""
    answered = False
    async with trio.open_nursery() as nursery:

        async def work():
            nonlocal answered
            await call()
            answered = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(work)
        for _ in range(step):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return answered


@pytest.mark.parametrize("slow", [False, True], ids=["quick", "slow"])
@pytest.mark.parametrize("what", ["append", "transact", "put", "delete"])
async def test_cancelled_means_absent_and_an_answer_means_present(what, slow, autojump_clock):
    """At every Trio checkpoint: an append, a transaction, a put and a delete."""
    outcomes = set()
    for step in range(30):
        backend = faulty()
        async with open_runtime(backend) as rt:
            bucket = rt.kv("b", int)
            await bucket.put("gone", 1)
            if slow:
                backend.delay("commit", 0)
                backend.delay("commit", 0, after=True)
            calls = {
                "append": lambda rt=rt: rt.append("a-1", [Wrote(1)]),
                "transact": lambda rt=rt: rt.transact(Append("a-1", [Wrote(1)]), Put("b", "x", 1)),
                "put": lambda bucket=bucket: bucket.put("x", 1),
                "delete": lambda bucket=bucket: bucket.delete("gone"),
            }
            answered = await cancelled_at(step, calls[what])
            await trio.sleep(1)
            there = {
                "append": await rt.head() == 1,
                "transact": await rt.head() == 1 and await bucket.get("x") is not None,
                "put": await bucket.get("x") is not None,
                "delete": await bucket.get("gone") is None,
            }
            assert there[what] == answered, step
        outcomes.add(answered)
    assert outcomes == {False, True}


async def test_withdrawn_from_a_full_mailbox_and_a_full_journal(autojump_clock):
    backend = faulty()
    backend.delay("commit", 5)
    async with open_runtime(backend, limits=Limits(mailbox=1, journal_bytes=200)) as rt:
        scopes = [trio.CancelScope() for _ in range(12)]
        stored = []

        async def append(scope, number):
            with scope:
                await rt.append("a-1", [Wrote(number)])
                stored.append(number)

        async with trio.open_nursery() as nursery:
            for number, scope in enumerate(scopes):
                nursery.start_soon(append, scope, number)
            await trio.sleep(1)
            for scope in scopes[::2]:
                scope.cancel()
        assert sorted(stored) == sorted([found.data.number async for found in rt.read("a-1")])
        assert len(stored) < 12


async def test_the_journal_holds_back_beyond_its_bytes(autojump_clock):
    """Never more waits than `journal_bytes` and one commit."""
    backend, seen = faulty(), []
    backend.delay("commit", 1, for_good=True)
    async with open_runtime(backend, limits=Limits(journal_bytes=10_000)) as rt, trio.open_nursery() as nursery:

        async def watch():
            while True:
                seen.append(rt.status().journal.waiting_bytes)
                await trio.sleep(0.05)

        nursery.start_soon(watch)
        async with trio.open_nursery() as writers:
            for number in range(60):
                writers.start_soon(rt.append, f"a-{number}", [Wrote(1, "x" * 1_000)])
                writers.start_soon(rt.transact, Put("b", f"{number}", "x" * 1_000))
        nursery.cancel_scope.cancel()
        assert await rt.head() == 60
    assert 9_000 <= max(seen) <= 10_000 + 1_200


async def test_past_commit_s_its_callers_are_in_doubt_and_the_flush_goes_on(autojump_clock):
    backend = faulty()
    backend.delay("commit", 100)
    async with open_runtime(backend, limits=Limits(commit_s=30)) as rt:
        began = trio.current_time()
        with pytest.raises(InDoubt) as caught:
            await rt.append("a-1", [Wrote(1)], key=b"once")
        assert 30 <= trio.current_time() - began <= 33.1
        assert caught.value.key == b"once"

        with pytest.raises(Unavailable, match="has taken no commit for 30 s"):
            await rt.append("a-1", [Wrote(2)])
        await trio.sleep(40)
        assert await rt.append("a-1", [Wrote(1)], key=b"once") == Appended(1, 1, 1)
        assert await rt.head() == 1


async def test_an_answer_that_was_lost_is_found_again(autojump_clock):
    backend = faulty()
    backend.fail("commit", in_doubt, after=True)
    async with open_runtime(backend) as rt:
        assert await rt.append("a-1", [Wrote(1)], key=b"once") == Appended(1, 1, 1)
        assert await rt.append("a-1", [Wrote(1)], key=b"once") == Appended(1, 1, 1)
        with pytest.raises(KeyReused):
            await rt.append("a-1", [Wrote(2)], key=b"once")


async def test_unavailable_is_told_to_each_and_the_runtime_goes_on(autojump_clock):
    backend = faulty()
    backend.fail("commit", Unavailable("a test"))
    async with open_runtime(backend) as rt:
        failed = []

        async def append(number):
            try:
                await rt.append(f"a-{number}", [Wrote(1)])
            except Unavailable as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(append, number)
        assert len({id(error) for error in failed}) == 5
        assert (await rt.append("a-9", [Wrote(1)])).last == 1


async def test_of_many_writers_with_one_expectation_exactly_one_wins(autojump_clock):
    async with open_runtime("memory:") as rt:
        answers = []

        async def write(number):
            answers.append(await rt.append("a-1", [Wrote(number)], expected=0))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(write, number)
        assert sum(isinstance(answer, Appended) for answer in answers) == 1
        assert {answer.facts() for answer in answers if isinstance(answer, Conflict)} == {(("stream", "a-1", 0, 1),)}


async def test_two_runtimes_on_one_store_have_one_winner(tmp_path, autojump_clock):
    url, answers = f"lmdb:{tmp_path}/db", []
    async with open_runtime(url, environment=INLINE) as one, open_runtime(url, environment=INLINE) as other:

        async def write(rt, turn):
            answers.append((turn, await rt.append("a-1", [Wrote(turn)], expected=turn)))

        for turn in range(20):
            async with trio.open_nursery() as nursery:
                for rt in (one, other, one, other):
                    nursery.start_soon(write, rt, turn)
        assert await one.head() == 20
    winners = [turn for turn, answer in answers if isinstance(answer, Appended)]
    assert winners == list(range(20))


async def test_appends_of_one_stream_keep_the_order_in_which_they_were_asked(autojump_clock):
    backend = faulty()
    backend.delay("commit", 0.01, for_good=True)
    async with open_runtime(backend, limits=Limits(mailbox=4, journal_bytes=500, group_commits=3)) as rt:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(rt.append, "a-1", [Wrote(number)])
                await wait_all_tasks_blocked()
        assert [found.data.number async for found in rt.read("a-1")] == list(range(40))


# -- derived commits -------------------------------------------------------------------------


async def test_derived_commits_ride_along_with_the_next_event_commit(autojump_clock):
    """A keyed projection beside a lone writer costs no flush of its own."""
    by = Keyed("by", version=1, initial=0, step=lambda state, event: state + 1, events=of(Wrote), key=lambda event: event.stream)
    async with open_runtime("memory:", App(projections=[by])) as rt:
        await rt.append("a-1", [Wrote(0)])
        before = rt.status().journal
        for number in range(50):
            await rt.append("a-1", [Wrote(number)])
        during = rt.status().journal
        await rt.model(by).wait_for(await rt.head())

        assert during.groups - before.groups <= 52
        assert await rt.model(by).get("a-1") == 51


async def test_callers_never_keep_projections_out(autojump_clock):
    """With groups filled by callers, checkpoints are still written."""
    by = Keyed("by", version=1, initial="", step=lambda state, event: event.data.text, events=of(Wrote), key=lambda event: event.stream)
    async with open_runtime("memory:", App(projections=[by]), limits=Limits(group_bytes=2_000)) as rt:
        async with trio.open_nursery() as nursery:

            async def write(stream):
                while True:
                    await rt.append(stream, [Wrote(1, "x" * 1_500)])

            for number in range(4):
                nursery.start_soon(write, f"a-{number}")
            while await rt.head() < 50:
                await trio.lowlevel.checkpoint()
            with trio.fail_after(5):
                await rt.model(by).wait_for(50)
            nursery.cancel_scope.cancel()


# -- execute ---------------------------------------------------------------------------------


async def test_execute_decides_again_on_conflict(autojump_clock):
    async with open_runtime("memory:") as rt:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: rt.execute("a-1", COUNT, lambda count: [Wrote(count)], attempts_max=10))
        assert [found.data.number async for found in rt.read("a-1")] == [0, 1, 2, 3, 4]


async def test_execute_returns_the_conflict_after_attempts_max(autojump_clock):
    backend, answers = faulty(), []
    backend.delay("commit", 1, for_good=True)
    async with open_runtime(backend) as rt, trio.open_nursery() as nursery:

        async def run():
            answers.append(await rt.execute("a-1", COUNT, lambda count: [Wrote(count)], attempts_max=2))

        for _ in range(6):
            nursery.start_soon(run)
    assert {type(answer) for answer in answers} == {Appended, Conflict}
    assert sum(isinstance(answer, Appended) for answer in answers) == await backend.head()


async def test_execute_with_one_key_at_once_gives_one_answer(autojump_clock):
    """Whoever comes second gets the first answer, even if it decided on a newer state."""
    backend = faulty()
    async with open_runtime(backend) as rt:
        answers = []

        async def run(number):
            for _ in range(number):
                await trio.lowlevel.checkpoint()
            answers.append(await rt.execute("a-1", COUNT, lambda count: [Wrote(count)], key=b"once"))

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(run, number)
        assert answers == [Appended(1, 1, 1)] * 12


async def test_execute_of_nothing_stores_nothing():
    async with open_runtime("memory:") as rt:
        await rt.append("a-1", [Wrote(1)])
        assert await rt.execute("a-1", COUNT, lambda count: []) == Appended(2, 1, None)
        assert await rt.head() == 1


async def test_a_bucket_writes_its_own_type_also_through_transact():
    async with open_runtime("memory:") as rt:
        many = rt.kv("many", dict[str, Wrote])
        await many.put("x", {"a": Wrote(1)})
        assert isinstance(await rt.transact(Put("many", "y", {"b": Wrote(2)}), Put(many, "z", {})), Committed)
        assert [entry.value for entry in (await many.scan()).entries] == [{"a": Wrote(1)}, {"b": Wrote(2)}, {}]

