"""Laws of `commit`: whole or not at all, each answered by itself, in one order."""

from __future__ import annotations

from itertools import pairwise

import trio

from perdure.backends.commit import ANY, Append, Appended, Check, Committed, Delete, Put, SaveSnapshot, Stored, Write, key_id
from perdure.backends.conformance.abilities import OpensSmall
from perdure.backends.conformance.law import Desk, Part, Stores, appending, draft, drafts, holds, is_a, new_name, now_us, open_desk, same
from perdure.backends.errors import Conflict, Full, KeyReused
from perdure.backends.event import Position
from perdure.backends.limits import LIMITS

PART = Part("commits")


@PART.store("A commit is a set of writes that happens whole or not at all.")
async def a_commit_happens_whole(desk: Desk) -> None:
    answer = await desk.done(appending("a", 2), appending("b", 1), Put("k", b"x", b"1"), SaveSnapshot("s", Position(3), "f", b"state"))

    same([part.__class__ for part in answer.parts], [Appended, Appended, Stored], "the kinds of the parts")
    same((len(await desk.stream("a")), len(await desk.stream("b"))), (2, 1), "the numbers of events")
    holds(await desk.backend.get("k", b"x"), "the entry of the commit is missing")
    holds(await desk.backend.read_snapshot("s"), "the snapshot of the commit is missing")


@PART.store("A commit is a set of writes that happens whole or not at all: what fails leaves nothing, of streams, kv or snapshots.")
async def a_commit_happens_not_at_all(desk: Desk) -> None:
    await desk.append("before")
    writes: list[Write] = [appending("a", 2), Put("k", b"x", b"1"), Delete("k", b"y"), SaveSnapshot("s", Position(1), "f", b"")]

    is_a(await desk.ask(*writes, Check(7, stream="before"), key=b"once"), Conflict)

    same(await desk.backend.stream("a"), None, "the stream of the failed commit")
    same(await desk.backend.get("k", b"x"), None, "the entry of the failed commit")
    same(await desk.backend.read_snapshot("s"), None, "the snapshot of the failed commit")
    same((await desk.backend.head(), await desk.backend.revision()), (1, 0), "head and revision")
    same(await desk.backend.answer(key_id(b"once")), None, "the answer kept of the failed commit")


@PART.store("`commit` takes independent commits; each gets its own answer, in order.")
async def answers_come_in_order(desk: Desk) -> None:
    group = await desk.group([appending("a", 3)], [Put("k", b"x", b"1")], [appending("b", 1), Put("k", b"y", b"2")], [Check(3, stream="a")])

    same(
        group.answers,
        [
            Committed(Position(3), (Appended(1, 3, Position(3)),)),
            Committed(None, (Stored(1),)),
            Committed(Position(4), (Appended(1, 1, Position(4)), Stored(2))),
            Committed(None, ()),
        ],
        "the list of answers",
    )


@PART.store("A later one sees the earlier ones.")
async def a_later_commit_sees_the_earlier_ones(desk: Desk) -> None:
    group = await desk.group(
        [appending("a", 2, 0), Put("k", b"x", b"1", 0)],
        [appending("a", 1, 2), Put("k", b"x", b"2", 1)],
        [appending("a", 1, 2)],
        [Delete("k", b"x", 2)],
        [Put("k", b"x", b"3", 0)],
    )

    kinds = [type(answer) for answer in group.answers]
    same(kinds, [Committed, Committed, Conflict, Committed, Committed], "the kinds of the answers")
    same(is_a(group.answers[2], Conflict).actual, 3, "the last seq that the third commit saw")


@PART.store("Each gets its own answer: one that fails does not fail its group.")
async def one_bad_commit_fails_alone(desk: Desk) -> None:
    await desk.done(appending("a", 1), key=b"used")

    group = await desk.group(
        [appending("b", 1)], [appending("c", 1, 9)], [appending("d", 1)], [appending("e", 5)], [appending("f", 1)], keys=[None, None, None, b"used", None]
    )

    same([type(answer) for answer in group.answers], [Committed, Conflict, Committed, KeyReused, Committed], "the kinds of the answers")
    same([info.name for info in await desk.backend.streams(limit=10)], ["a", "b", "d", "f"], "the list of streams")


@PART.store("`follows` is the head just before the group's first event.")
async def follows_is_the_head_before(desk: Desk) -> None:
    first = await desk.group([appending("a", 2)], [appending("a", 3)])
    second = await desk.group([Put("k", b"x", b"1")], [appending("a", 9, 0)], [appending("b", 1)])
    third = await desk.group([Put("k", b"x", b"2")])

    same((first.follows, second.follows, third.follows), (0, 5, 6), "what the groups follow")


@PART.store("A seq is a 1-based place in the stream, without gaps, never given twice.")
async def seqs_have_no_gaps(desk: Desk) -> None:
    for count in (1, 3, 2):
        await desk.append("a", count)
        await desk.append("b", 1)
        is_a(await desk.ask(appending("a", 1, 99)), Conflict)

    same([record.seq for record in await desk.stream("a")], [1, 2, 3, 4, 5, 6], "the list of seqs")


@PART.store("A position is strictly increasing in commit order, one order per store.")
async def positions_increase_in_commit_order(desk: Desk) -> None:
    parts = [await desk.append(stream, 2) for stream in ("a", "b", "a", "c")]

    log = await desk.log()
    positions = [record.position for record in log]
    holds(all(before < after for before, after in pairwise(positions)), f"positions are {positions}")
    same([record.stream for record in log], ["a", "a", "b", "b", "a", "a", "c", "c"], "the order of the log")
    same([part.position for part in parts], positions[1::2], "the list of positions answered")


@PART.store("An append of several is one commit, consecutive seqs.")
async def an_append_of_several_is_one_commit(desk: Desk) -> None:
    part = await desk.append("a", 3)

    records = await desk.stream("a")
    same((part.first, part.last, part.position), (1, 3, records[-1].position), "the answer")
    same(len({record.commit for record in records}), 1, "the number of commit ids")
    same([record.ordinal for record in records], [0, 1, 2], "the list of ordinals")


@PART.store("A commit may append to any number of streams; ordinals go on over all of them.")
async def a_commit_takes_many_streams(desk: Desk) -> None:
    answer = await desk.done(*(appending(f"s-{number}", 2) for number in range(40)))

    records = await desk.log()
    same([record.ordinal for record in records], list(range(80)), "the list of ordinals")
    same([record.stream for record in records[::2]], [f"s-{number}" for number in range(40)], "the order of streams")
    same(answer.position, records[-1].position, "the commit's position")


@PART.store("A commit without events has no position and does not move the head.")
async def only_events_have_positions(desk: Desk) -> None:
    await desk.append("a", 2)

    writes: list[Write] = [Put("k", b"x", b"1"), Check(2, stream="a"), SaveSnapshot("s", Position(2), "f", b"")]
    answers = [await desk.done(write) for write in writes]

    same([answer.position for answer in answers], [None, None, None], "the list of positions")
    same(await desk.backend.head(), 2, "the head")


@PART.store("`Appended(first, last, position)`: `position` None when nothing was appended, and `first == last + 1`.")
async def nothing_appended_has_no_position(desk: Desk) -> None:
    await desk.append("a", 2)

    same(await desk.done(Append("a", [], 2)), Committed(None, (Appended(3, 2, None),)), "the answer")
    same(await desk.done(Append("b", [])), Committed(None, (Appended(1, 0, None),)), "the answer for a stream without events")
    same(await desk.backend.head(), 2, "the head")


@PART.store("`Committed(position | None, parts)`: a part for each append, put and delete, in order; `put` and `delete` return `Stored`.")
async def parts_answer_the_writes_in_order(desk: Desk) -> None:
    answer = await desk.done(Put("k", b"x", b"1"), appending("a", 2), Check(0, stream="z"), Delete("k", b"y"), appending("b", 1))

    same(answer, Committed(Position(3), (Stored(1), Appended(1, 2, Position(2)), Stored(1), Appended(1, 1, Position(3)))), "the answer")


@PART.store("The engine takes the later of the proposed time and the log's last: `at` never goes back in the log.")
async def time_never_goes_back(desk: Desk) -> None:
    start = now_us()
    for offset in (0, -5_000_000, 7, -1):
        await desk.done(appending("a", 1), at_us=start + offset)
    await desk.group([appending("a", 1)], [appending("b", 1)], at_us=start - 1)

    same([record.at_us - start for record in await desk.log()], [0, 0, 7, 7, 7, 7], "the list of times")


@PART.store("`at` is one value per commit.")
async def a_commit_has_one_time(desk: Desk) -> None:
    at_us = now_us()
    await desk.done(appending("a", 3), appending("b", 2), at_us=at_us)

    same({record.at_us for record in await desk.log()}, {at_us}, "the set of times")


@PART.store("What was answered is there, however many ask at once: no commit is lost, none stored twice.")
async def concurrent_commits_all_count(desk: Desk) -> None:
    answers: list[Committed] = []

    async def write(number: int) -> None:
        for _ in range(5):
            answers.append(await desk.done(appending(f"s-{number % 3}", 2), Put("k", b"%d" % number, b"")))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(write, number)

    records = await desk.log()
    same(len(records), 100, "the number of events")
    same(sorted(answer.position or 0 for answer in answers), [record.position for record in records][1::2], "the positions answered")
    for stream in ("s-0", "s-1", "s-2"):
        seqs = [record.seq for record in await desk.stream(stream)]
        same(seqs, list(range(1, len(seqs) + 1)), f"the list of seqs of {stream}")


@PART.store("A commit that has begun is not interrupted: cancelled, it has stored all or nothing, and the store goes on.")
async def a_cancelled_commit_is_whole_or_nothing(desk: Desk) -> None:
    for number in range(5):
        with trio.move_on_after(0.0002 * number):
            await desk.ask(appending("a", 2), Put("k", b"x", b"%d" % number), appending("b", 2))

    a, b = await desk.stream("a"), await desk.stream("b")
    same(len(a), len(b), "the number of events in both streams")
    same(len(a) % 2, 0, "the rest of an append of two")
    same(await desk.append("a"), Appended(len(a) + 1, len(a) + 1, await desk.backend.head()), "the next append")


@PART.store("A group holds up to 4,096 commits, and is answered as each alone would be.")
async def a_large_group_is_answered_one_by_one(desk: Desk) -> None:
    count = LIMITS.group_commits
    group = await desk.group(*([Append(f"s-{number % 7}", [draft()], ANY)] for number in range(count)))

    same([is_a(answer, Committed).position for answer in group.answers], list(range(1, count + 1)), "the list of positions")
    same([record.stream for record in await desk.log()], [f"s-{number % 7}" for number in range(count)], "the order of the log")


@PART.store("A group's `records`, where the backend gives them, are what followers would read from the log.")
async def a_groups_records_are_those_of_the_log(desk: Desk) -> None:
    await desk.append("a", 2)
    group = await desk.group(
        [appending("a", 2, tags=["t"]), appending("b", 1, type="other", version=3)], [appending("c", 1, 9)], [Put("k", b"x", b"")], [appending("b", 2)]
    )

    if group.records is not None:
        same(group.records(), await desk.log(after=group.follows), "the list of the group's records")


@PART.law("If the group as a whole does not fit, it is halved and asked again: only the commit that does not fit is told so.", needs=["open_small"])
async def only_what_does_not_fit_is_full(stores: OpensSmall) -> None:
    async with stores.open_small(new_name()) as backend:
        desk = Desk(backend)
        big = Append("big", [draft(b"x" * 1_000_000) for _ in range(5)], ANY)

        group = await desk.group([appending("a", 1)], [big], [appending("b", 1)], [Put("k", b"x", b"1")], [appending("c", 1, 7)])

        same([type(answer) for answer in group.answers], [Committed, Full, Committed, Committed, Conflict], "the kinds of the answers")
        same([record.stream for record in await desk.log()], ["a", "b"], "the log")
        full = is_a(group.answers[1], Full)
        holds(full.limit_bytes > 0 and full.where, f"the error does not say what is full: {full}")


@PART.law("A full store still takes deletes, and goes on after them: 1 % is reserved.", needs=["open_small"])
async def a_full_store_takes_deletes(stores: OpensSmall) -> None:
    name = new_name()
    async with stores.open_small(name) as backend:
        desk = Desk(backend)
        stored = []
        for number in range(400):
            answer = await desk.ask(Put("k", b"%d" % number, b"x" * 30_000))
            if isinstance(answer, Full):
                break
            stored.append(b"%d" % number)
        else:
            holds(False, "the store took 12 MB and was never full")

        same(await desk.backend.get("k", b"%d" % len(stored)), None, "the entry that did not fit")
        for key in stored:
            is_a(await desk.ask(Delete("k", key)), Committed)
        await desk.done(Put("k", b"again", b"x" * 30_000))
        same([entry.key for entry in await backend.scan("k", limit=10)], [b"again"], "what is left")


@PART.store("A store has an id made at creation.")
async def a_store_has_an_id(desk: Desk) -> None:
    id = desk.backend.id
    await desk.append("a")
    same(desk.backend.id, id, "the id after a commit")
    holds(len(id) == 32 and int(id, 16) >= 0, f"the id is {id!r}, not 32 hexadecimal digits")


@PART.law("A store has an id made at creation: no two have the same, nor anything else in common.")
async def stores_are_apart(stores: Stores) -> None:
    async with open_desk(stores) as one, open_desk(stores) as other:
        holds(one.backend.id != other.backend.id, "two stores have the same id")
        await one.done(appending("a", 1), Put("k", b"x", b"1"), key=b"once")

        same((await other.backend.head(), await other.backend.revision()), (0, 0), "head and revision of the other store")
        await other.done(Append("a", drafts(2), 0), key=b"once")
