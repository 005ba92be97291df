"""Laws of doubt resolved: what is known of commits whose flush failed, once the store was reopened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import trio

from perdure.backends.commit import Append, Appended, Check, Committed, Delete, Put, SaveSnapshot, Stored, Write, key_id, propose
from perdure.backends.conformance.abilities import FailsFlush
from perdure.backends.conformance.doubt import DoubtDesk, DoubtPart
from perdure.backends.conformance.law import Desk, appending, draft, drafts, fails, holds, is_a, new_id, new_name, now_us, open_desk, same
from perdure.backends.conformance.sharing import MANY_GROUPS
from perdure.backends.conformance.waiting import SOON_S, ends
from perdure.backends.errors import Closed, Conflict, InDoubt, Unavailable
from perdure.backends.event import Position
from perdure.backends.protocol import Backend, State

PART = DoubtPart("doubt resolved")
DOUBTS = 8
"""One soon after the other."""
CLOSINGS = 8
"""Each at a later moment of a reopening."""


def _kinds(number: int) -> dict[str, tuple[list[Write], bytes | None]]:
    """Commits of each kind, with their keys, none in the way of another. Alone, checks without a key are flushed by nobody."""
    return {
        "events": ([appending("a", 2), appending(f"b-{number}", 1)], None),
        "events with kv": ([Put("k", b"x", b"%d" % number), appending("c", 1), Delete("k", b"y")], None),
        "kv": ([Put("k", b"z", b"%d" % number)], None),
        "keyed events": ([appending("d", 1)], b"events-%d" % number),
        "keyed kv": ([Delete("k", b"z")], b"kv-%d" % number),
        "keyed checks": ([Check(0, stream="none")], b"checks-%d" % number),
        "a snapshot": ([SaveSnapshot(f"s-{number}", Position(1), "f", b"")], None),
        "checks": ([Check(0, stream="none")], None),
    }


async def _is_true(desk: Desk, writes: Sequence[Write], answer: Committed, id: bytes, what: str) -> None:
    """*answer* says of each write where it is, and there it is."""
    parts = iter(answer.parts)
    for write in writes:
        if isinstance(write, Append):
            part = is_a(next(parts), Appended)
            found = await desk.stream(write.stream, after=part.first - 1, limit=len(write.events))
            commits = [record.commit for record in found[: len(write.events)]]
            same(commits, [id] * len(write.events), f"the commit of the events at seqs {part.first} to {part.last} ({what})")
            same((found[-1].seq, found[-1].position), (part.last, part.position), f"the last event ({what})")
        elif isinstance(write, Put | Delete):
            key = write.key if isinstance(write.key, bytes) else write.key.encode()
            revision = is_a(next(parts), Stored).revision
            changed = (await desk.backend.read_changes(write.bucket, after=revision - 1, limit=99)).changes
            holds([one for one in changed if one.key == key and one.revision >= revision], f"no change of {key!r} from revision {revision} on ({what})")
    same(list(parts), [], f"the list of parts too many ({what})")
    appended = [part.position or 0 for part in answer.parts if isinstance(part, Appended)]
    same(answer.position, max(appended, default=None), f"the position of the commit ({what})")


@PART.desk("Reopened, `answer(id)` says of each commit in doubt what was stored of it: None, or its `Committed`.")
async def each_answer_is_true(desk: DoubtDesk) -> None:
    await desk.append("a", 3)
    for number, (what, (writes, key)) in enumerate(list(_kinds(0).items())[:-1]):
        drawn = new_id()
        id = drawn if key is None else key_id(key)
        await desk.fail(writes, ids=[drawn], keys=[key])
        await desk.back()
        answer = await desk.backend.answer(id)
        same(answer is not None, desk.stored, f"whether {what} in doubt are known to be stored")
        if answer is not None:
            await _is_true(desk, writes, answer, id, what)
        await desk.append("other", 1, number)


@PART.desk("So it does of several in one group, and what conflicted among them is not there.")
async def each_answer_of_a_group_is_true(desk: DoubtDesk) -> None:
    await desk.append("a", 3)
    for number in range(1, 4):
        kinds = _kinds(number)
        writes: list[list[Write]] = [*(writes for writes, _ in kinds.values()), [appending("a", 1, 9_999)], [Check(7, stream="none")]]
        keys = [*(key for _, key in kinds.values()), b"conflict", None]
        drawn = [new_id() for _ in writes]
        ids = [id if key is None else key_id(key) for id, key in zip(drawn, keys, strict=True)]
        await desk.fail(*writes, ids=drawn, keys=keys)
        await desk.back()
        answers = [await desk.backend.answer(id) for id in ids]
        same([answer is not None for answer in answers], [desk.stored] * len(kinds) + [False] * 2, "whether each of a group in doubt is known to be stored")
        for what, one, id, answer in zip(kinds, writes, ids, answers, strict=False):
            if answer is not None:
                await _is_true(desk, one, answer, id, f"{what}, in a group")


@PART.desk("What was answered as absent may be committed again with the same id, and is there once, however often its flush fails.")
async def what_is_absent_may_be_asked_again(desk: DoubtDesk) -> None:
    for what, (writes, key) in list(_kinds(0).items())[:-1]:
        commit = propose(writes, id=new_id(), at_us=now_us(), key=key, own=True)
        before = len(await desk.log())
        failures = 0
        while (answer := await desk.backend.answer(commit.id)) is None and failures < 3:
            desk.stores.fail_flush(desk.backend, stored=desk.stored)
            await fails(InDoubt, desk.backend.commit([commit]), "a commit whose flush fails")
            await desk.back()
            failures += 1
        if answer is None:
            answer = is_a((await desk.backend.commit([commit])).answers[0], Committed)
        same(failures, 1 if desk.stored else 3, f"how often it was tried ({what})")
        same(await desk.backend.answer(commit.id), answer, f"what is known of it in the end ({what})")
        same(len(await desk.log()) - before, sum(len(w.events) for w in writes if isinstance(w, Append)), f"the number of events ({what})")
        if key is not None:
            same((await desk.backend.commit([commit])).answers, [answer], f"the answer to its key ({what})")
            same(len(await desk.log()) - before, sum(len(w.events) for w in writes if isinstance(w, Append)), f"the number of events ({what})")


@PART.desk("Caches are dropped with the doubt: expectations are judged by what is stored, right after reopening.")
async def expectations_are_true_after_reopening(desk: DoubtDesk) -> None:
    last, revision = 1, 1
    await desk.done(appending("a", 1, 0), Put("k", b"x", b"", 0))
    for number in range(6):
        await desk.fail([appending("a", 1, last), appending(f"new-{number}", 1, 0), Put("k", b"x", b"", revision)])
        await desk.back()
        wrong = is_a(await desk.ask(appending("a", 1, last + (not desk.stored)), Put("k", b"x", b"", revision + (not desk.stored))), Conflict)
        last, revision = last + desk.stored, revision + desk.stored
        same([fact[3] for fact in wrong.facts()], [last, revision], "the last seq and the revision that a conflict tells")
        is_a(await desk.ask(appending(f"new-{number}", 1, int(not desk.stored))), Conflict)
        group = await desk.group([appending("a", 1, last), Put("k", b"x", b"", revision)], [appending(f"new-{number}", 1, int(desk.stored))])
        same([type(answer) for answer in group.answers], [Committed, Committed], "the kinds of the answers to true expectations")
        last, revision = last + 1, revision + 1


@PART.desk("Caches are dropped with the doubt: event types that a lost flush brought are brought again.")
async def types_are_true_after_reopening(desk: DoubtDesk) -> None:
    for number in range(4):
        await desk.fail([Append("a", [draft(type=f"lost-{number}"), draft(type=f"lost-{number}-too")])])
        await desk.back()
        await desk.done(Append("b", [draft(type=f"kept-{number}"), draft(type=f"lost-{number}")]))
    same([r.type for r in await desk.stream("b")], [f"{what}-{number}" for number in range(4) for what in ("kept", "lost")], "the types")
    same(await desk.backend.verify(), [], "the list of problems")


@PART.law("Over doubts, stored or not, seqs have no gap, positions and revisions one order, none given twice.", needs=["fail_flush"])
async def numbers_survive_doubt(stores: FailsFlush) -> None:
    name, told = new_name(), list[Committed]()
    async with stores.open(name) as backend, AsyncExitStack() as stack:
        desk = DoubtDesk(backend, stores, name, stored=True)
        for number in range(12):
            desk.stored = number % 3 == 0
            ids = [new_id(), new_id()]
            commits: list[list[Write]] = [[Append("a", drafts(2)), Put("k", b"x", b"")], [appending("b", 1)]]
            if number % 2:
                await desk.fail(*commits, ids=ids)
                await desk.back()
                for id, writes in zip(ids, commits, strict=True):
                    told.append(await backend.answer(id) or await desk.done(*writes, id=id))
            else:
                told += [is_a(answer, Committed) for answer in (await desk.group(*commits, ids=ids)).answers]
        log = await desk.log()
        same([r.seq for r in await desk.stream("a")], list(range(1, 25)), "the seqs of one stream")
        same([r.seq for r in await desk.stream("b")], list(range(1, 13)), "the seqs of another")
        same([r.position for r in log], sorted({r.position for r in log}), "the positions")
        same([answer.position for answer in told], [r.position for r in log if r.ordinal == (1 if r.stream == "a" else 0)], "the positions that were told")
        revisions = [part.revision for answer in told for part in answer.parts if isinstance(part, Stored)]
        same(revisions, sorted(set(revisions)), "the revisions that were told")
        same((len(revisions), await backend.revision(), await backend.verify()), (12, revisions[-1], []), "how many, the newest, and the problems")
        if backend.capabilities.durable:
            await backend.aclose()
            again = await stack.enter_async_context(open_desk(stores, name))
            same(await again.log(), log, "the log when the store was opened again")


@PART.desk("Other processes' commits between a failed flush and the reopening do not hide the answer, however many.")
async def others_do_not_hide_the_answer(desk: DoubtDesk) -> None:
    if not desk.backend.capabilities.shared_writes:
        return
    async with open_desk(desk.stores, desk.name) as other:
        await desk.append("a")
        kinds = _kinds(0)
        drawn = [new_id() for _ in kinds]
        ids = [id if key is None else key_id(key) for id, (_, key) in zip(drawn, kinds.values(), strict=True)]
        await desk.fail(*(writes for writes, _ in kinds.values()), ids=drawn, keys=[key for _, key in kinds.values()])
        await other.backend.reopen()
        same(desk.backend.state, State.DOUBTFUL, "the state of a handle with a doubt, when another one is open again,")
        await fails(Unavailable, desk.ask(Put("k", b"never", b""), at_us=now_us()), "a commit to a handle that has not been reopened")
        groups = MANY_GROUPS if desk.stored else 20
        for number in range(groups):
            await other.append("other", 1, number)
        await desk.back()
        answers = [await desk.backend.answer(id) for id in ids]
        same([answer is not None for answer in answers], [desk.stored] * len(ids), "whether each is known to be stored")
        for (what, (writes, _)), id, answer in zip(kinds.items(), ids, answers, strict=True):
            if answer is not None:
                await _is_true(desk, writes, answer, id, what)
        same([record.seq for record in await desk.stream("other")], list(range(1, groups + 1)), "the other's seqs")


@PART.desk("A doubt that comes soon after does not hide what became of the one before, however many reopen the store at once.")
async def each_doubt_has_its_own_answer(desk: DoubtDesk) -> None:
    ids = [new_id() for _ in range(DOUBTS)]
    async with trio.open_nursery() as nursery:
        for number, id in enumerate(ids):
            await desk.fail([Put("k", b"%d" % number, b"")], ids=[id])
            for _ in range(3):  # some of them are still at it when the next one is in doubt
                nursery.start_soon(desk.backend.reopen)
            await desk.back()
    answers = [await desk.backend.answer(id) for id in ids]
    same([answer is not None for answer in answers], [desk.stored] * DOUBTS, "whether each is known to be stored")
    entries = [await desk.backend.get("k", b"%d" % number) for number in range(DOUBTS)]
    same([entry is not None for entry in entries], [desk.stored] * DOUBTS, "whether each is there")


@PART.law("Closing a store ends its reopenings at any moment, however many: each is done or `Closed`, and none opens it again.", needs=["fail_flush"])
async def closing_ends_reopenings(stores: FailsFlush) -> None:
    for steps in range(0, 2 * CLOSINGS, 2):
        name, ended = new_name(), 0

        async def reopen(backend: Backend) -> None:
            nonlocal ended
            with suppress(Closed):
                await backend.reopen()
            ended += 1

        async with stores.open(name) as backend, trio.open_nursery() as nursery:
            desk = DoubtDesk(backend, stores, name, stored=bool(steps % 4))
            await desk.append("a")
            await desk.fail([appending("a")])
            for _ in range(3):
                nursery.start_soon(reopen, backend)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await ends(backend.aclose(), "closing a store that is being reopened")
            with trio.move_on_after(SOON_S):
                while ended < 3:  # noqa: ASYNC110 - they have nothing to tell it by
                    await trio.sleep(0.01)
            same((ended, backend.state), (3, State.CLOSED), "how many reopenings ended, and the state")
            nursery.cancel_scope.cancel()
            await fails(Closed, backend.reopen(), "reopening a closed store")
            if backend.capabilities.durable:
                async with open_desk(stores, name) as again:
                    await again.append("a", 1, 1 + desk.stored)
                    same((len(await again.log()), await again.backend.verify()), (2 + desk.stored, []), "the number of events, and the problems")


@PART.desk("What is committed the moment the store is open again does not hide what became of the doubt.")
async def early_commits_do_not_hide_the_answer(desk: DoubtDesk) -> None:
    async def hurry() -> None:
        while True:
            try:
                await desk.done(Put("k", b"early", b""), at_us=now_us())
            except Unavailable:
                await trio.lowlevel.checkpoint()
            else:
                return

    for number in range(8):
        id = new_id()
        await desk.fail([Put("k", b"x", b"%d" % number)], ids=[id])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry)
            await desk.back()
        same(await desk.backend.answer(id) is not None, desk.stored, "whether the commit in doubt is known to be stored")
        entry = await desk.backend.get("k", b"x")
        same(entry is not None and entry.value == b"%d" % number, desk.stored, "whether it is there")
