"""Laws of following kv."""

from __future__ import annotations

import trio

from perdure.backends.commit import Delete, Put, Write
from perdure.backends.conformance.abilities import MovesClock
from perdure.backends.conformance.law import Desk, Part, Stores, appending, fails, holds, new_name, open_desk, same
from perdure.backends.errors import Compacted
from perdure.backends.protocol import ChangedEntry, Changes

PART = Part("changes")
_DAY_S = 86_400


async def _all(desk: Desk, after: int = 0, limit: int = 1_000) -> list[ChangedEntry]:
    """Every change beyond *after*, slice by slice."""
    found: list[ChangedEntry] = []
    while True:
        slice = await desk.backend.read_changes("k", after=after, limit=limit)
        found += slice.changes
        if not slice.changes:
            return found
        holds(slice.examined > after, f"the changes after {after} examined up to {slice.examined}")
        after = slice.examined


@PART.store("Changes come in revision order, coalesced: of several changes of a key at least the last, deletes included.")
async def changes_are_coalesced(desk: Desk) -> None:
    puts: list[Write] = [Put("k", b"x", b"1"), Put("k", b"y", b"2"), Put("k", b"x", b"3"), Put("k", b"z", b"4")]
    for write in (*puts, Delete("k", b"z"), Put("k", b"w", b"6")):
        await desk.store(write)

    changes = await _all(desk)

    revisions = [change.revision for change in changes]
    same(revisions, sorted(revisions), "the order of revisions")
    last = {change.key: (change.revision, change.value) for change in changes}
    same(last, {b"y": (2, b"2"), b"x": (3, b"3"), b"z": (5, None), b"w": (6, b"6")}, "the last change of each key")


@PART.store("A change carries the value of its revision: what is told of one revision is never another's.")
async def a_change_has_its_own_value(desk: Desk) -> None:
    for number in range(1, 20):
        await desk.store(Put("k", b"%d" % (number % 3), b"%d" % number))

        for change in await _all(desk):
            same(change.value, b"%d" % change.revision, f"the value at revision {change.revision}")


@PART.store("Watching is resumable: slices of any size give the same changes.")
async def changes_are_resumable(desk: Desk) -> None:
    for number in range(30):
        await desk.done(Put("k", b"%d" % (number % 11), b"%d" % number), Delete("k", b"gone-%d" % (number % 7)), appending("a"))

    whole = await _all(desk)
    for limit in (1, 2, 3, 10):
        same(await _all(desk, limit=limit), whole, f"the changes in slices of {limit}")
    for after in range(0, 31, 3):
        same(await _all(desk, after), [change for change in whole if change.revision > after], f"the changes after {after}")


@PART.store("The changes of one commit share a revision and are not parted.")
async def a_commits_changes_stay_together(desk: Desk) -> None:
    for number in range(4):
        await desk.done(*(Put("k", b"%d-%d" % (number, place), b"") for place in range(5)))

    for limit in (1, 4, 5, 6, 9):
        after = 0
        while (slice := await desk.backend.read_changes("k", after=after, limit=limit)).changes:
            same(len(slice.changes) % 5, 0, f"the rest of changes in commits of five, limit {limit},")
            after = slice.examined


@PART.store("Changes are of their bucket; the cursor moves on over those of others.")
async def changes_are_of_their_bucket(desk: Desk) -> None:
    await desk.store(Put("k", b"x", b"1"))
    for number in range(5):
        await desk.store(Put("other", b"%d" % number, b""))

    slice = await desk.backend.read_changes("k", after=0, limit=10)
    same((len(slice.changes), slice.examined), (1, 6), "number and examined")
    same(await desk.backend.read_changes("k", after=1, limit=10), Changes([], 6), "the changes after the first")
    same(await desk.backend.read_changes("k", after=6, limit=10), Changes([], 6), "the changes after the last")
    same((await desk.backend.read_changes("never", after=0, limit=10)).changes, [], "the changes of a bucket without entries")


@PART.law("Watching is resumable also from another process: through another opening, and after the store was opened again.")
async def changes_are_resumable_elsewhere(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        for number in range(6):
            await desk.store(Put("k", b"%d" % number, b"%d" % number))
        await desk.store(Delete("k", b"1"))
        slice = await desk.backend.read_changes("k", after=0, limit=2)
    async with open_desk(stores, name) as desk:
        rest = await _all(desk, slice.examined)
        same([change.revision for change in [*slice.changes, *rest]], [1, 3, 4, 5, 6, 7], "the list of revisions")
        same(rest[-1], ChangedEntry(b"1", 7, None), "the delete")


@PART.store("A watcher misses nothing: by waiting and reading it comes to know the last value of every key.")
async def a_watcher_misses_nothing(desk: Desk) -> None:
    known: dict[bytes, bytes | None] = {}

    async def watch() -> None:
        cursor = 0
        while cursor < 60:
            await desk.backend.wait_changed(cursor)
            slice = await desk.backend.read_changes("k", after=cursor, limit=3)
            known.update({change.key: change.value for change in slice.changes})
            cursor = slice.examined

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for number in range(60):
            key = b"%d" % (number % 7)
            await desk.store(Delete("k", key) if number % 5 == 0 else Put("k", key, b"%d" % number))
            await trio.lowlevel.checkpoint()

    entries = {entry.key: entry.value for entry in await desk.backend.scan("k", limit=99)}
    same({key: value for key, value in known.items() if value is not None}, entries, "what the watcher knows")


@PART.law("Tombstones are kept 7 days.", needs=["advance"])
async def tombstones_are_kept(stores: MovesClock) -> None:
    async with open_desk(stores) as desk:
        await desk.store(Put("k", b"x", b"1"))
        await desk.store(Delete("k", b"x"))
        stores.advance(6 * _DAY_S)
        while await desk.backend.maintain():
            pass

        same(await _all(desk), [ChangedEntry(b"x", 2, None)], "the changes after 6 days")


@PART.law("An older `after` gets `Compacted`: scan, then watch from the scan's revision.", needs=["advance"])
async def what_is_forgotten_is_compacted(stores: MovesClock) -> None:
    async with open_desk(stores) as desk:
        await desk.done(Put("k", b"x", b"1"), Put("k", b"y", b"1"), Put("other", b"x", b"1"))
        await desk.store(Delete("k", b"x"))
        stores.advance(8 * _DAY_S)
        while await desk.backend.maintain():
            pass

        for after in (0, 1):
            error = await fails(Compacted, desk.backend.read_changes("k", after=after, limit=9), f"read_changes after {after}")
            same((error.bucket, error.first), ("k", 3), "bucket and first revision in the error")
        revision = await desk.backend.revision()
        same([entry.key for entry in await desk.backend.scan("k", limit=9)], [b"y"], "the scan")
        same(await _all(desk, revision), [], "the changes since the scan")
        same(len((await desk.backend.read_changes("other", after=0, limit=9)).changes), 1, "the changes of a bucket without deletes")
        same(await desk.store(Put("k", b"x", b"2", 0)), 3, "the revision of the key that was forgotten")
        same([change.key for change in await _all(desk, revision)], [b"x"], "the changes afterwards")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.law("A tombstone that was overtaken by a new value is no tombstone any more.", needs=["advance"])
async def an_overtaken_tombstone_is_none(stores: MovesClock) -> None:
    async with open_desk(stores) as desk:
        await desk.store(Put("k", b"x", b"1"))
        await desk.store(Delete("k", b"x"))
        await desk.store(Put("k", b"x", b"3"))
        stores.advance(8 * _DAY_S)
        while await desk.backend.maintain():
            pass

        same(await _all(desk, 2), [ChangedEntry(b"x", 3, b"3")], "the changes after 2")
        same([entry.value for entry in await desk.backend.scan("k", limit=9)], [b"3"], "the scan")
