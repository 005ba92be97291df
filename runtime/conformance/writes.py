"""Laws of writes: cancelled, repeated under a key, decided on a state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from perdure.backends.commit import Append, Appended, Check, Committed, Delete, Put, Stored, Unless
from perdure.backends.conformance.law import Stores, fails, holds, is_a, same
from perdure.backends.errors import Closed, Conflict, KeyReused, Misuse, PerdureError
from perdure.backends.event import START
from perdure.backends.selector import of
from perdure.runtime.conformance.kit import COUNT, Happened, RuntimePart, listed, runtime_on
from perdure.runtime.runtime import Runtime

PART = RuntimePart("writes")


async def _cancelled_at(step: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether *call*, cancelled after so many turns of others, gave its answer."""
    answered = False
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            nonlocal answered
            await call()
            answered = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(work)
        for _ in range(step):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return answered


@PART.runtime("`Cancelled` from a write means nothing was stored, always; an answer means it was.")
async def cancelled_means_absent(rt: Runtime) -> None:
    seen = set()
    for step in range(25):
        before = await rt.head()
        answered = await _cancelled_at(step, lambda: rt.append("a-1", [Happened(1)]))
        await rt.append("b-1", [Happened(1)])
        same(await rt.head() - before - 1, int(answered), f"the number of events of an append cancelled at step {step}")
        seen.add(answered)
    holds(False in seen, "no append could be cancelled")


@PART.runtime("Cancelled from a read or a wait: nothing changed.")
async def cancelled_reads_change_nothing(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(n) for n in range(3)])
    reader = rt.read("a-1")
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(reader)
    holds(scope.cancelled_caught, "a read in a cancelled scope is not cancelled")
    same([event.seq for event in await listed(reader)], [1, 2, 3], "what the reader gives afterwards")


@PART.runtime("A known key with the same content gives the first answer; with another, `KeyReused`.")
async def a_key_gives_its_first_answer(rt: Runtime) -> None:
    first = await rt.append("a-1", [Happened(1)], key=b"k")
    await rt.append("a-1", [Happened(2)])
    same(await rt.append("a-1", [Happened(1)], key=b"k"), first, "the second answer")
    await fails(KeyReused, rt.append("a-1", [Happened(9)], key=b"k"), "another content under the key")
    same(await rt.head(), is_a(first.position, int) + 1, "the head")
    wrong: list[Any] = [b"", "text", b"x" * 256]
    for key in wrong:
        await fails(PerdureError, rt.append("a-1", [Happened(1)], key=key), f"key={key!r:.20}")


@PART.runtime("`transact` is one commit, whole or not at all; its parts answer appends, puts and deletes in order.")
async def transact_is_whole(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    done = is_a(await rt.transact(Put("k", "x", 1), Append("a-1", [Happened(1)]), Delete("k", "y")), Committed)
    same([type(part) for part in done.parts], [Stored, Appended, Stored], "the list of parts")
    conflict = is_a(await rt.transact(Put("k", "x", 2), Append("a-1", [Happened(2)], 7), Check(3, bucket="k", key="z")), Conflict)
    same(len(conflict.facts()), 2, "the number of failures told")
    condition = Unless(of(Happened).within(tags=["tag:t"]), after=START)
    is_a(await rt.transact(condition, Append("b-1", [Happened(1, tag="t")])), Committed)
    is_a(await rt.transact(condition, Append("b-1", [Happened(1, tag="t")])), Conflict)
    entry = await bucket.get("x")
    same((entry and entry.value, await rt.head()), (1, is_a(done.position, int) + 1), "what is stored")
    wrong: list[Any] = [(), (Append("a-1", [Happened(1)]), Append("a-1", [Happened(1)])), ("text",), (Put("$own", "x", 1),)]
    for writes in wrong:
        await fails(Misuse, rt.transact(*writes), f"transact{writes!r:.60}")


@PART.runtime("`execute` folds, decides, and appends with the expectation, again on conflict.")
async def execute_decides_again(rt: Runtime) -> None:
    async def count() -> None:
        is_a(await rt.execute("a-1", COUNT, lambda state: [Happened(state)], attempts_max=20), Appended)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(count)
    same([event.data.number for event in await listed(rt.read("a-1"))], list(range(8)), "what was decided")


@PART.runtime("`execute` asks for its `key` first: known, the first answer, undecided.")
async def execute_asks_for_its_key(rt: Runtime) -> None:
    def never(_: int) -> list[object]:
        raise AssertionError("it decided again")

    first = await rt.execute("a-1", COUNT, lambda state: [Happened(state)], key=b"k")
    await rt.append("a-1", [Happened(9)])
    same(await rt.execute("a-1", COUNT, never, key=b"k"), first, "the second answer")
    await rt.transact(Put("k", "x", 1), key=b"kv")
    await fails(Misuse, rt.execute("a-1", COUNT, never, key=b"kv"), "a key of a commit without an append")


@PART.runtime("Of an empty decision: `Appended` with `first == last + 1`, and nothing is stored.")
async def an_empty_decision_stores_nothing(rt: Runtime) -> None:
    same(await rt.execute("a-1", COUNT, lambda state: []), Appended(1, 0, None), "the answer on an empty stream")
    await rt.append("a-1", [Happened(1)])
    same(await rt.execute("a-1", COUNT, lambda state, more: more, []), Appended(2, 1, None), "the answer")
    same(await rt.head(), 1, "the head")


@PART.runtime("After `attempts_max` it returns that `Conflict`.")
async def execute_gives_up(rt: Runtime) -> None:
    answers: list[object] = []

    async def once() -> None:
        answers.append(await rt.execute("a-1", COUNT, lambda state: [Happened(state)], attempts_max=1))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(once)
    same(await rt.head(), sum(isinstance(answer, Appended) for answer in answers), "the head, one for each that was not refused,")
    holds(all(isinstance(answer, Appended | Conflict) for answer in answers), f"the answers are {answers}")
    await fails(Misuse, rt.execute("a-1", COUNT, lambda state: [], attempts_max=0), "attempts_max=0")


@PART.law("A closed runtime says `Closed`, and nothing is stored.")
async def a_closed_runtime_says_so(stores: Stores) -> None:
    async with runtime_on(stores) as rt:
        bucket = rt.kv("k", int)
        await rt.append("a-1", [Happened(1)])
    await fails(Closed, rt.append("a-1", [Happened(1)]), "an append")
    await fails(Closed, rt.append("b-1", [Happened(1)]), "an append to another stream")
    await fails(Closed, rt.transact(Put("k", "x", 1)), "a transaction")
    await fails(Closed, bucket.put("x", 1), "a put")
