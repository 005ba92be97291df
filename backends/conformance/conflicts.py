"""Laws of expectations, checks and fences: what a conflict says, and that it stores nothing."""

from __future__ import annotations

import trio

from perdure.backends.commit import ANY, EXISTS, LEASES, Answer, Check, Committed, Delete, Expected, Fence, Put, Unless
from perdure.backends.conformance.law import Desk, Part, appending, holds, is_a, refused, same
from perdure.backends.errors import Conflict
from perdure.backends.event import START
from perdure.backends.selector import EVERYTHING

PART = Part("conflicts")


def _facts(answer: Answer) -> tuple[tuple[str, str, object, object], ...]:
    return is_a(answer, Conflict).facts()


@PART.store("expected: a stream's last seq (0: no such stream; `EXISTS`; `ANY`).")
async def a_stream_is_as_expected(desk: Desk) -> None:
    held: list[Expected] = [0, 1, EXISTS, ANY, 4]
    for expected in held:
        await desk.append("a", 1, expected)

    same(len(await desk.stream("a")), 5, "the number of events")


@PART.store("A conflict says what, subject, expected and actual: of a stream whose last seq is another.")
async def a_stream_is_not_as_expected(desk: Desk) -> None:
    await desk.append("a", 3)

    same(_facts(await desk.ask(appending("a", 1, 2))), (("stream", "a", 2, 3),), "the conflict with a lower seq")
    same(_facts(await desk.ask(appending("a", 1, 4))), (("stream", "a", 4, 3),), "the conflict with a higher seq")
    same(_facts(await desk.ask(appending("a", 1, 0))), (("stream", "a", 0, 3),), "the conflict with no such stream")
    same(_facts(await desk.ask(appending("b", 1, EXISTS))), (("stream", "b", "exists", 0),), "the conflict with EXISTS")
    same(len(await desk.log()), 3, "the number of events")


@PART.store("expected: a key's revision (0: absent; `EXISTS`; `ANY`), for puts and deletes.")
async def an_entry_is_as_expected(desk: Desk) -> None:
    same(await desk.store(Put("k", b"x", b"1", 0)), 1, "the revision of the first put")
    same(await desk.store(Put("k", b"x", b"2", 1)), 2, "the revision of the second put")
    same(await desk.store(Put("k", b"x", b"3", EXISTS)), 3, "the revision of the third put")
    same(await desk.store(Delete("k", b"x", 3)), 4, "the revision of the delete")
    same(await desk.store(Put("k", b"x", b"4", 0)), 5, "the revision of a put after the delete")
    same(await desk.store(Delete("k", b"x", EXISTS)), 6, "the revision of the second delete")
    await desk.store(Delete("k", b"x", ANY))


@PART.store("A conflict says what, subject, expected and actual: of a key whose revision is another.")
async def an_entry_is_not_as_expected(desk: Desk) -> None:
    await desk.store(Put("k", b"x", b"1"))
    await desk.store(Put("k", b"gone", b"1"))
    await desk.store(Delete("k", b"gone"))

    same(_facts(await desk.ask(Put("k", b"x", b"2", 0))), (("entry", "k/x", 0, 1),), "the conflict with absent")
    same(_facts(await desk.ask(Put("k", b"x", b"2", 2))), (("entry", "k/x", 2, 1),), "the conflict with a revision")
    same(_facts(await desk.ask(Delete("k", b"x", 2))), (("entry", "k/x", 2, 1),), "the conflict of a delete")
    same(_facts(await desk.ask(Put("k", b"y", b"2", EXISTS))), (("entry", "k/y", "exists", 0),), "the conflict with EXISTS")
    same(_facts(await desk.ask(Put("k", b"gone", b"2", 2))), (("entry", "k/gone", 2, 0),), "the conflict with the revision before a delete")
    same((await desk.backend.scan("k", limit=9))[0].value, b"1", "the value")
    same(await desk.backend.revision(), 3, "the store's revision")


@PART.store("A check is of a stream's last seq, without writing there.")
async def a_check_of_a_stream_writes_nothing(desk: Desk) -> None:
    await desk.append("a", 2)

    holding: list[Expected] = [2, EXISTS, ANY]
    for expected in holding:
        await desk.done(Check(expected, stream="a"), appending("b", 1))
    conflict = await desk.ask(Check(1, stream="a"), appending("b", 1))

    same(_facts(conflict), (("stream", "a", 1, 2),), "the conflict")
    same((len(await desk.stream("a")), len(await desk.stream("b"))), (2, 3), "the numbers of events")


@PART.store("A check is of a key's revision, without writing there.")
async def a_check_of_an_entry_writes_nothing(desk: Desk) -> None:
    await desk.store(Put("k", b"x", b"1"))

    await desk.done(Check(1, bucket="k", key=b"x"), Check(0, bucket="k", key=b"y"), appending("b", 1))
    conflict = await desk.ask(Check(0, bucket="k", key=b"x"), appending("b", 1))

    same(_facts(conflict), (("entry", "k/x", 0, 1),), "the conflict")
    same((await desk.backend.revision(), await desk.backend.get("k", b"y")), (1, None), "revision and absent entry")


@PART.store("All are judged against the state before the commit; all that fail are reported.")
async def all_that_fail_are_reported(desk: Desk) -> None:
    await desk.done(appending("a", 2), Put("k", b"x", b"1"))

    conflict = is_a(
        await desk.ask(
            appending("a", 1, 1),
            appending("b", 1, 0),
            Put("k", b"x", b"2", 0),
            Check(5, stream="c"),
            Unless(EVERYTHING, after=START),
            Fence("lease", 3),
        ),
        Conflict,
    )

    kinds = [(what, expected, actual) for what, _, expected, actual in conflict.facts() if what != "condition"]
    same(kinds, [("stream", 1, 2), ("entry", 0, 1), ("stream", 5, 0), ("fence", 3, 0)], "the list of failures")
    same(len(conflict.facts()), 5, "the number of failures")
    same(len(conflict.more), 4, "the number of those after the first")


@PART.store("All are judged against the state before the commit: its own writes do not count.")
async def a_commit_does_not_see_itself(desk: Desk) -> None:
    await desk.done(appending("a", 2), Unless(EVERYTHING, after=START), Check(0, stream="b"), Put("k", b"x", b"1", 0))
    head = await desk.backend.head()

    await desk.done(appending("a", 1), Unless(EVERYTHING, after=head))


@PART.store("Of two appenders with the same expectation one wins.")
async def of_two_appenders_one_wins(desk: Desk) -> None:
    for round in range(20):
        answers: list[Answer] = []

        async def write(expected: int, answers: list[Answer] = answers) -> None:
            answers.append(await desk.ask(appending("a", 1, expected)))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(write, round)

        won = sum(isinstance(answer, Committed) for answer in answers)
        same(won, 1, f"the number of winners among three appends that expect {round}")
        same(len(await desk.stream("a")), round + 1, "the number of events")


@PART.store("Of two writers of a key with the same expectation one wins.")
async def of_two_writers_of_a_key_one_wins(desk: Desk) -> None:
    revision = 0
    for round in range(20):
        answers: list[Answer] = []

        async def write(value: bytes, expected: int, answers: list[Answer] = answers) -> None:
            answers.append(await desk.ask(Put("k", b"x", value, expected)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, b"one", revision)
            nursery.start_soon(write, b"other", revision)

        same(sum(isinstance(answer, Committed) for answer in answers), 1, f"the number of winners in round {round}")
        entry = await desk.backend.get("k", b"x")
        holds(entry is not None and entry.revision > revision, "the winner's entry is missing")
        revision = entry.revision if entry else 0


@PART.store("A `Conflict` is an exception that is returned: `.unwrap()` raises it, of a success returns itself.")
async def a_conflict_is_returned(desk: Desk) -> None:
    committed = is_a(await desk.ask(appending("a", 1)), Committed)
    conflict = is_a(await desk.ask(appending("a", 1, 0)), Conflict)

    holds(committed.unwrap() is committed, "unwrap() of a success gives something else")
    holds(committed.parts[0].unwrap() is committed.parts[0], "unwrap() of a part gives something else")
    holds(refused(Conflict, conflict.unwrap, "unwrap()") is conflict, "unwrap() of a conflict raises another")
    holds("expected 0, found 1" in str(conflict), f"its message is {conflict}")


@PART.store("A conflict stores nothing: no seq, position or revision is spent on it.")
async def a_conflict_spends_nothing(desk: Desk) -> None:
    await desk.done(appending("a", 1), Put("k", b"x", b"1"))
    for _ in range(3):
        is_a(await desk.ask(appending("a", 5, 0), Put("k", b"x", b"2")), Conflict)

    answer = await desk.done(appending("a", 1), Put("k", b"x", b"2"))

    same([attr for part in answer.parts for attr in (getattr(part, "last", None), getattr(part, "revision", None)) if attr], [2, 2], "seq and revision")
    same(await desk.backend.head(), 2, "the head")


@PART.store("A lease's fence is a number that only grows, checked in every commit of the holder.")
async def a_fence_is_checked(desk: Desk) -> None:
    first = await desk.done(Put(LEASES, b"job", (7).to_bytes(8, "big") + b"me"))
    holds(first, "the lease was not taken")

    await desk.done(Fence("job", 7), appending("a", 1))
    await desk.done(Put(LEASES, b"job", (9).to_bytes(8, "big") + b"thief"))
    stolen = await desk.ask(Fence("job", 7), appending("a", 1))
    group = await desk.group([Put(LEASES, b"job", (11).to_bytes(8, "big"))], [Fence("job", 9), appending("a", 1)], [Fence("job", 11), appending("a", 1)])

    same(_facts(stolen), (("fence", "job", 7, 9),), "the conflict of the old holder")
    same([type(answer) for answer in group.answers], [Committed, Conflict, Committed], "the kinds of the answers in one group")
    same(_facts(await desk.ask(Fence("other", 1))), (("fence", "other", 1, 0),), "the conflict where there is no lease")


@PART.store("Commits are strictly serialisable with respect to their checks.")
async def commits_are_serialisable(desk: Desk) -> None:
    """Each writer moves one unit between two counters that it has read; the sum stays."""
    await desk.done(Put("k", b"a", b"50"), Put("k", b"b", b"50"))

    async def move(times: int) -> None:
        moved = 0
        while moved < times:
            a, b = await desk.backend.get("k", b"a"), await desk.backend.get("k", b"b")
            assert a is not None and b is not None
            await trio.lowlevel.checkpoint()
            left, right = int(a.value) - 1, int(b.value) + 1
            answer = await desk.ask(Put("k", b"a", b"%d" % left, a.revision), Put("k", b"b", b"%d" % right, b.revision))
            moved += isinstance(answer, Committed)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(move, 5)

    same([int(entry.value) for entry in await desk.backend.scan("k", limit=2)], [30, 70], "the two counters")
