"""Laws of bringing a store elsewhere: what there is beside its log is read and loaded as it is, and the old place says where it is now."""

from __future__ import annotations

from contextlib import AsyncExitStack

import attrs
import trio

from perdure.backends.carried import Answered, BucketEntry, Numbers, Rest, Tombstone, Traced, TracePage
from perdure.backends.commit import BEATS, CHECKPOINTS, LEASES, MODELS, NEW_FENCE, Committed, Cut, Delete, Fence, Put, PutAll, SaveSnapshot, Stored, key_id
from perdure.backends.conformance.law import MANY, Desk, Part, Stores, appending, fails, holds, is_a, new_name, open_desk, same
from perdure.backends.errors import Conflict, Misuse, StoreMoved, Unavailable, Unsupported
from perdure.backends.event import Position
from perdure.backends.protocol import Backend, Snapshot, State

PART = Part("moving")
PLACE = "lmdb:/another/place"
CLAIMS = 12
"""One soon after the other."""


@attrs.frozen
class Held:
    """All that a store holds beside its log."""

    entries: list[BucketEntry]
    aged: list[Tombstone | Answered]
    snapshots: list[Snapshot]
    numbers: Numbers


async def entries_of(backend: Backend, *, beyond: int = 0, limit: int = 3, bytes_max: int = MANY) -> list[BucketEntry]:
    """All entries beyond a revision, read page by page."""
    found: list[BucketEntry] = []
    after: bytes | None = b""
    while after is not None:
        page = await backend.read_entries(beyond=beyond, after=after, limit=limit, bytes_max=bytes_max)
        found, after = found + page.entries, page.after
    return found


async def aged_of(backend: Backend, *, since_us: int = 0, limit: int = 3) -> list[Tombstone | Answered]:
    """The same of what ages."""
    found: list[Tombstone | Answered] = []
    after: bytes | None = b""
    while after is not None:
        page = await backend.read_aged(since_us=since_us, after=after, limit=limit)
        found, after = found + page.aged, page.after
    return found


async def held_by(backend: Backend) -> Held:
    """All of it."""
    snapshots = [await backend.read_snapshot(head.name, at_most=head.position) for head in await backend.snapshot_heads()]
    kept = [snapshot for snapshot in snapshots if snapshot is not None]
    return Held(await entries_of(backend), await aged_of(backend), kept, await backend.read_numbers())


async def _written(stores: Stores) -> Held:
    """What a store holds whose entries were put, deleted and put again, of watched and unwatched buckets."""
    async with open_desk(stores) as desk:
        for number in range(12):
            await desk.done(Put("users", b"u\0%d" % (number % 5), b"value %d" % number), key=b"key %d" % number)
            states = [(b"%d" % (number % 4), b"state %d" % number), (b"same", b"%d" % number)]
            await desk.done(PutAll(f"{MODELS}m", states), Put(CHECKPOINTS, b"m", b"%d" % number))
        await desk.done(Delete("users", b"u\x001"), Delete("users", b"u\x002"))
        await desk.done(Put("users", b"u\x002", b"again"), Delete(CHECKPOINTS, b"m"), Put(BEATS, b"me", b"beat"))
        await desk.done(Put(LEASES, b"projection m", NEW_FENCE + b"me"))
        for position in (2, 5):
            await desk.done(SaveSnapshot("m", Position(position), "print", b"state at %d" % position), Put(CHECKPOINTS, b"n", b"x"))
        return await held_by(desk.backend)


def _moves(desk: Desk) -> bool:
    return desk.backend.capabilities.moves


def _rest(held: Held) -> Rest:
    return Rest(entries=held.entries, aged=held.aged, snapshots=held.snapshots, numbers=held.numbers)


@PART.law("What a store holds beside its log is loaded and read as it was: entries with revisions, tombstones, kept answers, snapshots, counters.")
async def what_is_beside_the_log_is_loaded_as_it_was(stores: Stores) -> None:
    async with open_desk(stores) as desk:
        if not _moves(desk):
            return
    held = await _written(stores)
    async with open_desk(stores) as desk:
        await desk.backend.begin_load()
        await desk.backend.load_rest(_rest(held))
        same(await held_by(desk.backend), held, "what was loaded")
        await desk.backend.load_rest(_rest(held))
        same(await held_by(desk.backend), held, "the same, loaded twice")
        await desk.backend.end_load()
        same(await held_by(desk.backend), held, "what is there once it is open")


@PART.law("In a store that was loaded expectations, fences and keys hold as before, and revisions go on.")
async def what_was_loaded_counts(stores: Stores) -> None:
    async with open_desk(stores) as desk:
        if not _moves(desk):
            return
    held = await _written(stores)
    put = next(entry for entry in held.entries if entry.bucket == "users")
    gone = next(one for one in held.aged if isinstance(one, Tombstone))
    fence = next(entry for entry in held.entries if entry.bucket == LEASES)
    async with open_desk(stores) as desk:
        await desk.backend.begin_load()
        await desk.backend.load_rest(_rest(held))
        await desk.backend.end_load()

        changes = await desk.backend.read_changes("users", after=gone.revision - 1, limit=100)
        same([(change.key, change.value) for change in changes.changes if change.revision == gone.revision], [(gone.key, None)], "the delete, as a change")
        again = await desk.done(Put("users", b"u\x000", b"value 0"), key=b"key 0")
        same(again, await desk.backend.answer(key_id(b"key 0")), "the answer to a key that is known")
        is_a(await desk.ask(Put("users", put.key, b"x", put.revision - 1)), Conflict)
        is_a(await desk.ask(Put("users", put.key, b"x"), Fence("projection m", fence.revision - 1)), Conflict)
        stored = is_a((await desk.done(Put("users", put.key, b"x", put.revision), Fence("projection m", fence.revision))).parts[0], Stored)
        same(stored.revision, held.numbers.revision + 1, "the next revision")


@PART.store("Entries beyond a revision are those that changed since, of watched buckets and of others, however small the pages.")
async def changed_entries_are_found_by_revision(desk: Desk) -> None:
    if not _moves(desk):
        return
    for number in range(30):
        await desk.done(Put("a", b"%d" % (number % 7), b"%d" % number), Put(CHECKPOINTS, b"%d" % (number % 5), b"%d" % number))
        await desk.done(PutAll(f"{MODELS}m", [(b"%d" % (number % 6), b"%d" % number)]), Put("b", b"k%d" % number, b"x"))
        if number % 9 == 4:
            await desk.done(Delete("a", b"%d" % (number % 7)))
    whole = await entries_of(desk.backend, limit=100)
    same(whole, sorted(whole, key=lambda entry: (entry.bucket.encode(), entry.key)), "all entries, which are in order")
    same(await entries_of(desk.backend, limit=1), whole, "the same, one at a time")
    same(await entries_of(desk.backend, bytes_max=1), whole, "the same, a byte at a time")
    for beyond in (1, 20, 40, 59, await desk.backend.revision()):
        wanted = [entry for entry in whole if entry.revision > beyond]
        for limit in (1, 3, 100):
            found = await entries_of(desk.backend, beyond=beyond, limit=limit)
            same(sorted(found, key=lambda entry: (entry.bucket, entry.key)), wanted, f"what is beyond {beyond}")


async def traced_of(backend: Backend, *, limit: int = 3) -> dict[tuple[str, bytes], Traced]:
    """What was changed since the trace was begun."""
    found: dict[tuple[str, bytes], Traced] = {}
    after: bytes | None = b""
    while after is not None:
        page = await backend.read_trace(after=after, limit=limit)
        holds(not any((one.bucket, one.key) in found for one in page.traced), "an entry is traced twice")
        found, after = found | {(one.bucket, one.key): one for one in page.traced}, page.after
    return found


@PART.law("A trace holds each entry that is changed or deleted while it is kept, whatever its bucket and its process, until it is forgotten as it was.")
async def a_trace_holds_what_is_changed(stores: Stores) -> None:
    name = new_name()
    async with AsyncExitStack() as stack:
        desk = other = await stack.enter_async_context(open_desk(stores, name))
        if not _moves(desk):
            return
        if desk.backend.capabilities.shared_writes:
            other = await stack.enter_async_context(open_desk(stores, name))
        for number in range(4):
            await other.done(Put("a", b"%d" % number, b"x"), PutAll(f"{MODELS}m", [(b"%d" % number, b"x")]), Put(CHECKPOINTS, b"%d" % number, b"x"))
        same((await desk.backend.read_trace(limit=9)).trace, 0, "the trace of a store that is not followed")
        trace = await desk.backend.begin_trace()
        same((await desk.backend.read_trace(limit=9), await traced_of(desk.backend)), (TracePage(trace, [], None), {}), "a trace at its beginning")

        await other.done(PutAll(f"{MODELS}m", [(b"%d" % number, b"y") for number in (0, 2, 7)]), Put("a", b"9", b"y"))
        await desk.done(Delete("a", b"1"), Delete(CHECKPOINTS, b"3"), Delete(f"{MODELS}m", b"1"))
        wanted = {("a", b"9"), ("a", b"1"), (CHECKPOINTS, b"3"), *((f"{MODELS}m", b"%d" % number) for number in (0, 1, 2, 7))}
        found = await traced_of(desk.backend)
        same(set(found), wanted, "what is traced")
        same(set(await traced_of(desk.backend, limit=1)), wanted, "the same, one at a time")

        await other.done(Put("a", b"9", b"z"), PutAll(f"{MODELS}m", [(b"0", b"z")]))
        await desk.backend.forget_trace(list(found.values()))
        same(set(await traced_of(desk.backend)), {("a", b"9"), (f"{MODELS}m", b"0")}, "what was changed again")

        again = await desk.backend.begin_trace()
        holds(again > trace, "two traces with one number")
        same(await traced_of(desk.backend), {}, "a trace that was begun anew")
        await desk.backend.end_trace()
        await other.done(Put("a", b"9", b"w"))
        same(await desk.backend.read_trace(limit=9), TracePage(0, [], None), "a trace that was ended")


@PART.store("Named entries are read as they are, however few bytes are wanted; what is not there, or deleted, is left out.")
async def named_entries_are_read(desk: Desk) -> None:
    if not _moves(desk):
        return
    for number in range(5):
        await desk.done(Put("a", b"%d" % number, b"x" * 50), PutAll(f"{MODELS}m", [(b"%d" % number, b"y" * 50)]))
    await desk.done(Delete("a", b"1"))
    names = [("a", b"4"), ("a", b"1"), (f"{MODELS}m", b"0"), ("none", b"0"), ("a", b"0"), ("a", b"none")]
    whole = {(entry.bucket, entry.key): entry for entry in await entries_of(desk.backend)}
    wanted = [whole[name] for name in names if name in whole]
    same(await desk.backend.read_these(names, bytes_max=MANY), (wanted, len(names)), "all of them")
    for bytes_max in (1, 60, 100):
        found, left = list[BucketEntry](), names
        while left:
            entries, count = await desk.backend.read_these(left, bytes_max=bytes_max)
            holds(count > 0, "nothing was looked at")
            found, left = found + entries, left[count:]
        same(found, wanted, f"the same, {bytes_max} bytes at a time")


@PART.store("What ages is found by its time: tombstones and kept answers from any time on, none twice, none that was put again.")
async def what_ages_is_found_by_time(desk: Desk) -> None:
    if not _moves(desk):
        return
    for number in range(12):
        await desk.done(Put("a", b"%d" % number, b"x"), key=b"key %d" % number)
        await desk.done(Delete("a", b"%d" % number))
    await desk.done(Put("a", b"3", b"again"))
    whole = await aged_of(desk.backend, limit=100)
    same(sum(isinstance(one, Tombstone) for one in whole), 11, "the number of tombstones")
    same(await aged_of(desk.backend, limit=1), whole, "the same, one at a time")
    times = sorted({one.at_us if isinstance(one, Tombstone) else one.kept.at_us for one in whole})
    for since_us in (times[0], times[len(times) // 2], times[-1], times[-1] + 1):
        wanted = [one for one in whole if (one.at_us if isinstance(one, Tombstone) else one.kept.at_us) >= since_us]
        same(await aged_of(desk.backend, since_us=since_us), wanted, f"what ages since {since_us}")


@PART.store("What is named as gone is taken away, and leaves nothing; nothing is loaded into a store that is not being loaded.")
async def what_is_gone_is_taken_away(desk: Desk) -> None:
    if not _moves(desk):
        return
    await fails(Misuse, desk.backend.load_rest(Rest(entries=[BucketEntry("a", b"k", 1, b"x")])), "loading into a store that is open")
    await desk.backend.begin_load()
    kept = [BucketEntry("a", b"k", 1, b"x"), BucketEntry(f"{MODELS}m", b"k", 2, b"x"), BucketEntry("a", b"stays", 3, b"x")]
    snapshots = [Snapshot("m", Position(place), "print", b"s", 1_000) for place in (0, 1)]
    await desk.backend.load_rest(Rest(entries=kept, aged=[Tombstone("a", b"gone", 4, 1_000)], snapshots=snapshots[:1], numbers=Numbers(4, 1_000)))
    await desk.backend.load_rest(Rest(gone=[("a", b"k"), (f"{MODELS}m", b"k"), ("a", b"gone"), ("a", b"never there")], gone_snapshots=[("m", Position(0))]))
    await desk.backend.end_load()
    same(await entries_of(desk.backend), kept[2:], "what is left")
    same((await aged_of(desk.backend), await desk.backend.snapshot_heads()), ([], []), "what ages, and snapshots")
    same([change.key for change in (await desk.backend.read_changes("a", after=0, limit=10)).changes], [b"stays"], "the changes")


@PART.law("A store that was moved takes no commit, by any handle, also after it was opened again: `StoreMoved`, with the place; reads go on.")
async def a_moved_store_says_where_it_is(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not _moves(desk):
            return
        await desk.append("a", 3)
        records = await desk.log()
        async with desk.backend.hold_commits() as held:
            await held.mark(PLACE)
        same((desk.backend.state, await desk.backend.moved_to()), (State.MOVED, PLACE), "state and place")
        error = await fails(StoreMoved, desk.ask(appending("a")), "an append")
        same(error.to, PLACE, "the place in the error")
        await fails(StoreMoved, desk.ask(Put("k", b"x", b"")), "a put")
        same(await desk.log(), records, "the log")
        if not desk.backend.capabilities.durable:
            return
    async with open_desk(stores, name) as desk:
        same((desk.backend.state, await desk.backend.moved_to()), (State.MOVED, PLACE), "state and place after opening again")
        await fails(StoreMoved, desk.ask(appending("a")), "an append after opening again")


@PART.law("Another process that has the store open is told that it was moved, writer and follower.")
async def others_are_told_that_it_was_moved(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not (_moves(one) and one.backend.capabilities.shared_writes):
            return
        async with open_desk(stores, name) as other:
            await other.append("a")
            async with trio.open_nursery() as nursery:

                async def follow() -> None:
                    await fails(StoreMoved, other.backend.wait_beyond(Position(1)), "waiting for more")

                async def watch() -> None:
                    await fails(StoreMoved, other.backend.wait_changed(await other.backend.revision()), "waiting for changes")

                nursery.start_soon(follow)
                nursery.start_soon(watch)
                await trio.sleep(0.05)
                async with one.backend.hold_commits() as held:
                    await held.mark(PLACE)
            await fails(StoreMoved, other.ask(appending("a")), "a commit of another process")
            same(other.backend.state, State.MOVED, "the state that the other process sees")


@PART.store("Whoever waits in a store that is moved is told so at once.")
async def who_waits_is_told_that_it_was_moved(desk: Desk) -> None:
    if not _moves(desk):
        return
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            await fails(StoreMoved, desk.backend.wait_beyond(Position(0)), "waiting for more")

        nursery.start_soon(follow)
        await trio.sleep(0.02)
        async with desk.backend.hold_commits() as held:
            await held.mark(PLACE)
    await fails(StoreMoved, desk.backend.wait_changed(0), "waiting for changes")


@PART.store("A store that is here again takes commits, its revisions going on after those of the other place.")
async def a_store_may_come_back(desk: Desk) -> None:
    if not _moves(desk):
        return
    await desk.append("a", 2)
    async with desk.backend.hold_commits() as held:
        await held.mark(PLACE)
    async with desk.backend.hold_commits() as held:
        await held.mark("", revision=70)
    same((desk.backend.state, await desk.backend.moved_to()), (State.OPEN, ""), "state and place")
    same(await desk.store(Put("k", b"x", b"")), 71, "the next revision")
    await desk.append("a", 1, 2)


@PART.store("A store that was moved elsewhere may be loaded with what came there since: then it is like any other.")
async def a_moved_store_is_loaded_again(desk: Desk) -> None:
    if not _moves(desk):
        return
    await desk.append("a", 2)
    records = await desk.log()
    async with desk.backend.hold_commits() as held:
        await held.mark(PLACE)
    await desk.backend.begin_load()
    same((desk.backend.state, await desk.backend.moved_to()), (State.LOADING, ""), "state and place")
    same(await desk.log(), records, "the log")
    await desk.backend.end_load()
    await desk.append("a", 1, 2)


@PART.store("While commits are held none is made; what waits is made afterwards, once, or told where the store is.")
async def held_commits_wait(desk: Desk) -> None:
    if not _moves(desk):
        return
    answers: list[object] = []

    async def append(stream: str) -> None:
        try:
            answers.append(await desk.ask(appending(stream, 1, 0)))
        except StoreMoved as error:
            answers.append(error)

    for place in ("", PLACE):
        async with trio.open_nursery() as nursery:
            async with desk.backend.hold_commits() as held:
                head = await desk.backend.head()
                nursery.start_soon(append, f"s{place}")
                await trio.sleep(0.05)
                same((await desk.backend.head(), len(answers)), (head, 1 if place else 0), "head and answers while commits are held")
                if place:
                    await held.mark(place)
    is_a(answers[0], Committed)
    is_a(answers[1], StoreMoved)
    same(await desk.backend.head(), 1, "the head at the end")


@PART.law("One at a time has the right to bring a store elsewhere.")
async def one_at_a_time_moves_a_store(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not _moves(one):
            return

        async def claim(desk: Desk) -> None:
            async with desk.backend.claim_move():
                pass

        async with one.backend.claim_move():
            await fails(Unavailable, claim(one), "claiming it twice")
            if one.backend.capabilities.shared_writes:
                async with open_desk(stores, name) as other:
                    await fails(Unavailable, claim(other), "claiming it in another process")
            await one.append("a")
        await claim(one)


@PART.store("Capabilities are tested both ways: without `moves`, leaving and loading the rest are `Unsupported`.")
async def undeclared_moving_is_unsupported(desk: Desk) -> None:
    if _moves(desk):
        holds(desk.backend.capabilities.loads, "it declares `moves` and cannot be loaded")
        return

    async def hold() -> None:
        async with desk.backend.hold_commits():
            pass

    async def claim() -> None:
        async with desk.backend.claim_move():
            pass

    for call in (hold(), claim(), desk.backend.load_rest(Rest())):
        error = await fails(Unsupported, call, "moving what declares no `moves`")
        same(error.capability, "moves", "the capability in the error")


@PART.law("Nothing is cut while somebody has the claim: `Unavailable`, and nothing happened; the rest of what is written goes on.")
async def nothing_is_cut_while_it_is_brought_elsewhere(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not (one.backend.capabilities.moves and one.backend.capabilities.cuts):
            return
        await one.append("a", CLAIMS)
        async with one.backend.claim_move():
            await fails(Unavailable, one.ask(Cut("a", 3)), "a cut while the store is brought elsewhere")
            if one.backend.capabilities.shared_writes:
                async with open_desk(stores, name) as other:
                    await fails(Unavailable, other.ask(Cut("a", 3)), "the same in another process")
            await one.append("a")
        same([info.first for info in await one.backend.streams(limit=9)], [1], "the firsts")
        for first in range(2, CLAIMS):
            await one.done(Cut("a", first))
            async with one.backend.claim_move():  # its end lets others cut at once
                pass
