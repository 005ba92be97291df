"""Laws of leases: entries of a reserved bucket whose fences the engine makes and checks. When one is taken is the runtime's affair.

Two handles of one store stand for two processes.
"""

from __future__ import annotations

from typing import Final

from perdure.backends.commit import BEATS, EXISTS, LEASES, NEW_FENCE, Committed, Delete, Fence, Put, SaveSnapshot, Stored, Write
from perdure.backends.conformance.law import Desk, appending, holds, is_a, same
from perdure.backends.conformance.sharing import SharingPart
from perdure.backends.errors import Conflict
from perdure.backends.event import Position

PART = SharingPart("leases")
_JOB: Final = b"job"


async def _take(desk: Desk, owner: bytes, revision: int = 0, *more: Write) -> int | None:
    """The fence, if the lease could be taken whose entry is of that revision."""
    answer = await desk.ask(Put(LEASES, _JOB, NEW_FENCE + owner, revision), *more)
    if isinstance(answer, Conflict):
        return None
    entry = await desk.backend.get(LEASES, _JOB)
    assert entry is not None
    same(entry.value[8:], owner, "the owner of the lease")
    return int.from_bytes(entry.value[:8], "big")


async def _revision(desk: Desk, bucket: str, key: bytes) -> int:
    entry = await desk.backend.get(bucket, key)
    return 0 if entry is None else entry.revision


@PART.store("A lease's fence is the revision of the commit that took it: a number that nobody has had, also after it was given back.")
async def a_fence_is_a_revision(desk: Desk) -> None:
    fences = []
    for number in range(6):
        await desk.store(Put("k", b"x", b"%d" % number))
        fence = await _take(desk, b"%d" % number, await _revision(desk, LEASES, _JOB))
        same(fence, await _revision(desk, LEASES, _JOB), "the fence")
        await desk.done(Fence("job", fence or 0), appending("a"))
        fences.append(fence)
        if number % 2:
            await desk.done(Fence("job", fence or 0), Delete(LEASES, _JOB))
            is_a(await desk.ask(Fence("job", fence or 0), appending("a")), Conflict)
    same(fences, sorted(set(fences), key=lambda fence: fence or 0), "the fences in the order in which they were given")
    group = await desk.group([Put("k", b"x", b"")], [Put(LEASES, _JOB, NEW_FENCE)], [Put(LEASES, b"other", NEW_FENCE)])
    both = [await desk.backend.get(LEASES, key) for key in (_JOB, b"other")]
    same([entry and int.from_bytes(entry.value, "big") for entry in both], [entry and entry.revision for entry in both], "the fences of one group")
    same(len({is_a(part, Stored).revision for answer in group.answers for part in is_a(answer, Committed).parts}), 3, "the number of revisions")


@PART.store("A beat moves the revision of its entry and nothing else: the fence holds on.")
async def a_beat_keeps_the_fence(desk: Desk) -> None:
    fence = await _take(desk, b"me", 0, Put(BEATS, b"me", b"here", 0))
    lease, before = await desk.backend.get(LEASES, _JOB), await _revision(desk, BEATS, b"me")
    for _ in range(3):
        after = await desk.store(Put(BEATS, b"me", b"here", EXISTS))
        holds(after > before, "a beat did not move its revision")
        before = after
        await desk.done(Fence("job", fence or 0), appending("a"))
    same(await desk.backend.get(LEASES, _JOB), lease, "the lease after three beats")
    kept = await desk.store(Put(LEASES, _JOB, (fence or 0).to_bytes(8, "big") + b"me"))
    holds(kept != fence, "a put got the revision of another one")
    await desk.done(Fence("job", fence or 0), appending("a"))


@PART.two("A steal is a compare-and-set: of two thieves one wins, and a beat in between keeps both off.")
async def of_two_thieves_one_wins(one: Desk, other: Desk) -> None:
    for _ in range(3):
        await _take(one, b"old", await _revision(one, LEASES, _JOB), Put(BEATS, b"old", b"", 0))
        lease, beat = await _revision(other, LEASES, _JOB), await _revision(other, BEATS, b"old")
        await one.done(Put(BEATS, b"old", b"", EXISTS))
        for desk in (one, other):
            same(await _take(desk, b"thief", lease, Delete(BEATS, b"old", beat)), None, "a steal after a beat")
        beat = await _revision(other, BEATS, b"old")
        stolen = [await _take(desk, owner, lease, Delete(BEATS, b"old", beat)) for desk, owner in ((other, b"1"), (one, b"2"))]
        same([fence is not None for fence in stolen], [True, False], "who has it, of two that saw the same beat")
        is_a(await one.ask(Put(BEATS, b"old", b"", EXISTS)), Conflict)


@PART.two("Whoever was thrown out stores nothing any more, of whatever kind, and in the same group too; the new owner does.")
async def the_old_owner_stores_nothing(one: Desk, other: Desk) -> None:
    await one.append("a")
    old = await _take(one, b"old") or 0
    await one.done(Fence("job", old), appending("a", 1, 1))
    new = await _take(other, b"new", await _revision(other, LEASES, _JOB)) or 0
    kinds: list[Write] = [appending("a"), Put("k", b"x", b""), Delete("k", b"x"), SaveSnapshot("s", Position(1), "", b""), Put(BEATS, b"old", b"")]
    for write in kinds:
        lost = is_a(await one.ask(write, Fence("job", old)), Conflict)
        same(lost.facts(), (("fence", "job", old, new),), "the conflict of the old owner")
    group = await one.group([Fence("job", old), appending("a")], [Fence("job", new), appending("a", 1, 2)], [Fence("job", old), appending("a")])
    same([type(answer) for answer in group.answers], [Conflict, Committed, Conflict], "the kinds of the answers in one group")
    same((len(await other.log()), await other.backend.get("k", b"x"), await other.backend.snapshots("s")), (3, None, []), "what is stored")
    await one.done(Delete(LEASES, _JOB))
    same(is_a(await other.ask(Fence("job", new), appending("a")), Conflict).facts(), (("fence", "job", new, 0),), "the conflict where there is no lease")


@PART.two("Beats leave nothing behind: no changes, and when they end no tombstone.")
async def beats_leave_nothing(one: Desk, other: Desk) -> None:
    await one.done(Put(LEASES, _JOB, NEW_FENCE), Put(BEATS, b"me", b"", 0))
    for desk in (one, other, one):
        await desk.done(Put(BEATS, b"me", b"", EXISTS))
    same((await other.backend.read_changes(BEATS, after=0, limit=9)).changes, [], "the changes of beats")
    await one.done(Delete(BEATS, b"me"))
    same((await other.backend.scan(BEATS, limit=9), (await other.backend.read_changes(BEATS, after=0, limit=9)).changes), ([], []), "what is left")
    same([change.key for change in (await other.backend.read_changes(LEASES, after=0, limit=9)).changes], [_JOB], "the changes of leases")
