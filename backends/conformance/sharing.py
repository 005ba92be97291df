"""Laws of a store that several processes write to, for what declares `shared_writes`.

Two handles of one store stand for two processes: what one remembers, the other does not know. Who
cannot get the right to write is told so: see `turns`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from perdure.backends.commit import LEASES, Answer, Append, Appended, Check, Committed, Delete, Fence, Put, SaveSnapshot, Stored, Unless, Write
from perdure.backends.conformance import law
from perdure.backends.conformance.law import (
    Desk,
    Part,
    Stores,
    appending,
    draft,
    holds,
    is_a,
    new_id,
    new_name,
    now_us,
    open_desk,
    same,
)
from perdure.backends.conformance.waiting import ends, waits_on, woken
from perdure.backends.errors import Conflict, KeyReused, PerdureError
from perdure.backends.event import START, Position
from perdure.backends.selector import EVERYTHING

MANY_GROUPS = 1_010
"""More than are looked through for an id of which nothing else is known."""

TwoDesks = Callable[[Desk, Desk], Awaitable[None]]


class SharingPart(Part):
    """Laws whose checks get two handles of one fresh store."""

    def two(self, sentence: str) -> Callable[[TwoDesks], law.Check]:
        """Mark a function of two desks as the check of *sentence*; who does not declare `shared_writes` keeps it."""

        def mark(function: TwoDesks) -> law.Check:
            async def check(stores: Stores) -> None:
                name = new_name()
                async with open_desk(stores, name) as one:
                    if one.backend.capabilities.shared_writes:
                        async with open_desk(stores, name) as other:
                            await function(one, other)

            check.__name__ = function.__name__
            return self.law(sentence)(check)

        return mark


PART = SharingPart("sharing")


# -- judging ---------------------------------------------------------------------------------


@PART.two("Of two appenders with the same expectation one wins, whichever processes they are in.")
async def of_two_processes_one_wins(one: Desk, other: Desk) -> None:
    for round in range(20):
        answers: list[Answer] = []

        async def write(desk: Desk, round: int = round, answers: list[Answer] = answers) -> None:
            answers.append(await desk.ask(appending("a", 1, round), Put("k", b"x", b"%d" % round, round)))

        async with trio.open_nursery() as nursery:
            for desk in (one, other, one, other):
                nursery.start_soon(write, desk)
        same(sum(isinstance(answer, Committed) for answer in answers), 1, f"the number of winners of round {round}")
        same(sum(isinstance(answer, Conflict) for answer in answers), 3, f"the number of losers of round {round}")
    same((len(await one.stream("a")), await other.backend.revision()), (20, 20), "the numbers of events and of changes")


@PART.two("Facts are judged anew when another process has committed: last seqs and revisions.")
async def expectations_are_judged_anew(one: Desk, other: Desk) -> None:
    for number in range(0, 20, 2):
        await one.done(appending("a", 1, number), Put("k", b"x", b"", number))
        stale = is_a(await other.ask(appending("a", 1, number), Put("k", b"x", b"", number)), Conflict)
        facts = [(what, actual) for what, _, _, actual in stale.facts()]
        same(facts, [("stream", number + 1), ("entry", number + 1)], "what the other process conflicts with")
        await other.done(appending("a", 1, number + 1), Put("k", b"x", b"", number + 1), Check(0, stream="b"))
        is_a(await one.ask(Check(number + 1, stream="a"), Check(number + 1, bucket="k", key=b"x"), Put("k", b"y", b"")), Conflict)
    await one.store(Delete("k", b"x"))
    same(is_a(await other.ask(Put("k", b"x", b"", 20)), Conflict).actual, 0, "the revision of what another process deleted")
    same([record.seq for record in await other.stream("a")], list(range(1, 21)), "the list of seqs")


@PART.two("A key is known to all processes: the first answer again; with another content `KeyReused`; stored once.")
async def a_key_is_known_to_all(one: Desk, other: Desk) -> None:
    for number in range(5):
        first = await one.done(appending("a", 1, number), Put("k", b"x", b""), key=b"%d" % number)
        same(await other.ask(appending("a", 1, number), Put("k", b"x", b""), key=b"%d" % number), first, "the answer in another process")
        is_a(await other.ask(appending("a", 2, number), key=b"%d" % number), KeyReused)
    answers: list[Answer] = []

    async def ask(desk: Desk) -> None:
        answers.append(await desk.ask(appending("b", 1), key=b"both"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, one)
        nursery.start_soon(ask, other)
    same(answers[0], answers[1], "the answer to the second of two at once")
    same((len(await one.stream("a")), len(await one.stream("b"))), (5, 1), "the numbers of events")


@PART.two("An append condition is judged with the events of every process.")
async def conditions_are_judged_anew(one: Desk, other: Desk) -> None:
    for number in range(6):
        writer, asker = (one, other) if number % 2 else (other, one)
        seat = Unless(EVERYTHING.within(tags=[f"seat:{number}"]), after=START)
        await asker.done(seat, appending("asker"))
        taken = await writer.done(Append("taken", [draft(tags=[f"seat:{number}"])]), seat)
        conflict = is_a(await asker.ask(seat, appending("asker")), Conflict)
        same((conflict.what, conflict.actual), ("condition", taken.position), "the conflict")
        await asker.done(Unless(EVERYTHING, after=Position(taken.position or 0)), appending("asker"))


@PART.two("A fence is checked against what another process has stolen.")
async def a_stolen_lease_is_seen(one: Desk, other: Desk) -> None:
    for number in range(1, 12, 2):
        holder, thief = (one, other) if number % 4 == 1 else (other, one)
        await holder.done(Put(LEASES, b"job", number.to_bytes(8, "big")))
        await holder.done(Fence("job", number), appending("a"))
        await thief.done(Put(LEASES, b"job", (number + 1).to_bytes(8, "big")))
        lost = is_a(await holder.ask(Fence("job", number), appending("a")), Conflict)
        same(lost.facts(), (("fence", "job", number, number + 1),), "the conflict of the old holder")


@PART.two("The table of types is one: events that any process was the first to write are read by all.")
async def types_are_shared(one: Desk, other: Desk) -> None:
    for number in range(12):
        writer, reader = (one, other) if number % 2 else (other, one)
        await writer.done(Append("a", [draft(b"%d" % number, type=f"type-{number}"), draft(type=f"type-{number // 2}")]))
        same([record.type for record in await reader.stream("a", after=2 * number)], [f"type-{number}", f"type-{number // 2}"], "the types")
    await one.done(Append("b", [draft(type="new-1")]))
    await other.done(Append("b", [draft(type="new-2")]))
    for desk in (one, other):
        same([record.type for record in await desk.stream("b")], ["new-1", "new-2"], "the types that two processes were the first to write")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.two("`at` never goes back in the log, whichever process writes: the store's time is that of all.")
async def time_is_shared(one: Desk, other: Desk) -> None:
    at_us = now_us()
    await one.done(appending("a"), at_us=at_us)
    await other.done(appending("a"), at_us=at_us + 200_000_000)
    await one.done(appending("a"), at_us=at_us + 1_000_000)
    await one.done(appending("a"), at_us=at_us + 400_000_000)
    times = [(record.at_us - at_us) // 1_000_000 for record in await other.log()]
    same(times, [0, 200, 200, 400], "the list of times, in seconds,")
    holds(await other.backend.now_us() >= at_us + 400_000_000, "the store's time is before its last event")


# -- order -----------------------------------------------------------------------------------


@PART.two("`follows` is the head just before the group's first event, whoever wrote before.")
async def follows_is_the_head_whoever_wrote(one: Desk, other: Desk) -> None:
    head = 0
    for number, count in enumerate([1, 2, 1, 3, 1, 1, 2, 1, 4, 1]):
        desk = one if number % 3 else other
        group = await desk.group([appending("a", count)], [Put("k", b"x", b"")], [appending("b", 1)])
        same(group.follows, head, f"what group {number} follows")
        last = is_a(group.answers[2], Committed).position
        holds(last is not None and last > head, f"the group after {head} ends at {last}")
        head = last or 0
        same((await one.backend.head(), await other.backend.head()), (head, head), "the heads")
        if group.records is not None:
            same([record.position for record in group.records()], [r.position for r in await other.log(after=group.follows)], "the group's records")


@PART.two("Positions and revisions are in commit order over all processes: one order per store, none given twice.")
async def one_order(one: Desk, other: Desk) -> None:
    spans: list[tuple[int, int, int, int]] = []
    clock = iter(range(1 << 30))

    async def write(desk: Desk, stream: str) -> None:
        for number in range(15):
            began = next(clock)
            done = await desk.done(appending(stream, 1, number), Put("k", stream.encode(), b""))
            revision = is_a(done.parts[1], Stored).revision
            spans.append((began, next(clock), done.position or 0, revision))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(write, (one, other)[number % 2], f"s-{number}")
    by_position = sorted(spans, key=lambda span: span[2])
    same([span[3] for span in by_position], sorted({span[3] for span in spans}), "the revisions in the order of positions")
    asked = 0
    for began, ended, position, _ in by_position:
        asked = max(asked, began)
        holds(asked <= ended, f"position {position} was answered before the commit of a lower one was asked")
    logs = [[(record.position, record.stream, record.seq) for record in await desk.log()] for desk in (one, other)]
    same(logs[0], logs[1], "the log as the other process reads it")
    same([position for position, _, _ in logs[0]], [span[2] for span in by_position], "the positions in the log")
    same(await one.backend.verify(), [], "the list of problems")


@PART.two("When `commit` has answered, every later read by any process sees it.")
async def what_was_answered_is_seen_by_all(one: Desk, other: Desk) -> None:
    for number in range(1, 11):
        writer, reader = (one, other) if number % 2 else (other, one)
        id = new_id()
        answer = await writer.done(appending("a"), Put("k", b"x", b"%d" % number), SaveSnapshot("s", Position(number), "f", b"%d" % number), id=id)
        backend = reader.backend
        entry, snapshot, info = await backend.get("k", b"x"), await backend.read_snapshot("s"), await backend.stream("a")
        seen = (len(await reader.stream("a")), await backend.head(), entry and entry.value, snapshot and snapshot.position, info and info.last)
        same(seen, (number, answer.position, b"%d" % number, number, number), "what another process reads")
        same(await backend.answer(id), answer, "what another process knows of the commit")
        same([change.revision for change in (await backend.read_changes("k", after=number - 1, limit=9)).changes], [number], "the change")


# -- waiting ---------------------------------------------------------------------------------


@PART.two("A follower in one process is woken by what another commits, and then sees it.")
async def others_commits_wake(one: Desk, other: Desk) -> None:
    for writer, waiter in ((one, other), (other, one)):
        head, revision = await waiter.backend.head(), await waiter.backend.revision()
        await woken(partial(waiter.backend.wait_beyond, head), partial(writer.append, "a"), "wait_beyond, and another process appends,")
        same(len(await waiter.log(after=head)), 1, "the number of events it sees")
        await woken(partial(waiter.backend.wait_changed, revision), partial(writer.store, Put("k", b"x", b"")), "wait_changed, and another puts,")
        await woken(partial(waiter.backend.wait_changed, revision + 1), partial(writer.store, Delete("k", b"x")), "wait_changed, and another deletes,")
        same(len((await waiter.backend.read_changes("k", after=revision, limit=9)).changes), 1, "the number of changes it sees")


@PART.two("A wake-up comes when what it tells of can be read, and none is lost.")
async def a_wake_up_comes_with_what_it_tells(one: Desk, other: Desk) -> None:
    async def follow(desk: Desk, until: int) -> None:
        cursor = START
        while cursor < until:
            await ends(desk.backend.wait_beyond(cursor), f"wait_beyond({cursor}) beside another process that appends")
            page = await desk.backend.read_log(after=cursor, limit=100, bytes_max=1 << 20)
            holds(page.records, f"woken beyond {cursor}, it reads nothing there")
            cursor = page.examined

    async def watch(desk: Desk, until: int) -> None:
        revision = 0
        while revision < until:
            await ends(desk.backend.wait_changed(revision), f"wait_changed({revision}) beside another process that puts")
            found = await desk.backend.read_changes("k", after=revision, limit=100)
            holds(found.changes, f"woken beyond revision {revision}, it reads no change")
            revision = found.examined

    async with trio.open_nursery() as nursery:
        for desk in (one, other):
            nursery.start_soon(follow, desk, 40)
            nursery.start_soon(watch, desk, 40)
        for number in range(40):
            for _ in range(number % 8):
                await trio.lowlevel.checkpoint()
            await (one if number % 3 else other).done(appending("a"), Put("k", b"x", b"%d" % number))


@PART.two("A commit without events wakes no follower of the log in another process, events no watcher of kv.")
async def nobody_elsewhere_is_woken_for_nothing(one: Desk, other: Desk) -> None:
    await one.done(appending("a"), Put("k", b"x", b""))
    await waits_on(
        lambda: other.backend.wait_beyond(Position(1)),
        [lambda: one.store(Put("k", b"x", b"")), lambda: one.done(SaveSnapshot("s", Position(1), "f", b"")), lambda: one.done(Check(1, stream="a"), key=b"k")],
        "wait_beyond(1) in another process",
    )
    await waits_on(lambda: other.backend.wait_changed(2), [lambda: one.append("a", 2)], "wait_changed(2) in another process")


@PART.two("A view stands still whoever commits, and begins with all that any process committed before.")
async def views_stand_beside_others(one: Desk, other: Desk) -> None:
    if not one.backend.capabilities.views:
        return
    for number in range(1, 4):
        await one.done(appending("a"), Put("k", b"x", b"%d" % number))
        async with other.backend.view() as view:
            for _ in range(2):
                entry = await view.get("k", b"x")
                same((await view.head(), entry and entry.value), (2 * number - 1, b"%d" % number), "what the view shows")
                if _ == 0:
                    await one.done(appending("a"), Put("k", b"x", b"later"))
        same(await other.backend.head(), 2 * number, "the head after the view")


@PART.two("Drawn ids are kept for each process, those of its last group, however many groups others commit since.")
async def each_process_has_its_last_ids(one: Desk, other: Desk) -> None:
    ids = [new_id() for _ in range(5)]
    last: list[list[Write]] = [[Put("k", b"x", b"1")], [Check(0, stream="none")], [Delete("k", b"y")], [appending("a"), Put("k", b"z", b"")]]
    group = await one.group(*last, [Check(9, stream="none")], ids=ids)
    for number in range(MANY_GROUPS):
        await other.done(Put("k", b"other", b"%d" % number) if number % 2 else appending("b"))
    for desk in (one, other):
        same([await desk.backend.answer(id) for id in ids], [*group.answers[:4], None], "what is known of the last group of a process")


# -- opening and closing ---------------------------------------------------------------------


@PART.two("Closing one handle leaves the others working; what it was the first to know is not lost.")
async def closing_one_leaves_the_others(one: Desk, other: Desk) -> None:
    await one.done(Append("a", [draft(type="first")]), Put("k", b"x", b"1"), key=b"once")
    await woken(lambda: other.backend.wait_beyond(Position(1)), lambda: _close_and_append(one, other), "wait_beyond in a process that stays")
    answer = await other.done(Append("a", [draft(type="first")]), Put("k", b"x", b"1"), key=b"once")
    same(answer.position, 1, "the answer to a key that the closed one had used")
    is_a(await other.ask(appending("a", 1, 1)), Conflict)
    same(await other.append("a", 1, 2), Appended(3, 3, Position(3)), "the append after another was closed")


async def _close_and_append(one: Desk, other: Desk) -> None:
    await one.backend.aclose()
    await other.append("a", 1, 1)


@PART.law("Capabilities are tested both ways: without `shared_writes` a second opening is refused, another store, or shares this process's.")
async def undeclared_sharing_is_safe(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        declared = one.backend.capabilities
        holds(not declared.shared_writes or (declared.shared_reads and declared.durable), "shared_writes without shared_reads and durable")
        if declared.shared_writes:
            return
        await one.done(appending("a", 1, 0), Put("k", b"x", b"1"))
        with suppress(PerdureError):
            async with open_desk(stores, name) as other:
                shared = other.backend.id == one.backend.id
                same(len(await other.log()), int(shared), f"the number of events in a second opening with {'the same' if shared else 'another'} id")
                await other.done(appending("a", 1, int(shared)))
                is_a(await one.ask(appending("a", 1, int(shared))), Conflict)
        same(len(await one.stream("a")), len({record.seq for record in await one.stream("a")}), "the number of seqs")
