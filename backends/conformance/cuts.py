"""Laws of cuts: the front of a stream goes, and nobody takes what is left for the whole."""

from __future__ import annotations

import attrs

from perdure.backends.commit import ANY, CHECKPOINTS, EXISTS, HOLDS, Answer, Append, Check, Committed, Cut, Delete, Put, Unless
from perdure.backends.conformance.law import Broken, Desk, Part, Stores, appending, draft, fails, holds, is_a, new_id, new_name, open_desk, same
from perdure.backends.errors import Conflict, Misuse, TooLarge, Truncated, Unsupported
from perdure.backends.event import START, Position, Record
from perdure.backends.held import Hold, pack_hold
from perdure.backends.limits import CUT_EVENTS
from perdure.backends.protocol import CutBound, StreamInfo
from perdure.backends.selector import EVERYTHING, Selector

PART = Part("cuts")
DAY_US = 86_400_000_000


@attrs.frozen
class _Told:
    """What a `Truncated` says."""

    stream: str
    first: int
    archive: str | None
    position: int


def _told(error: Truncated) -> _Told:
    return _Told(error.stream, error.first, error.archive, error.position)


async def _some(desk: Desk) -> list[Record]:
    """Positions 1 to 12, a day ago: `order-1` has seqs 1 to 6 at the odd ones up to 11, `order-2` and `user-1` what lies between."""
    at_us = await desk.backend.now_us() - DAY_US
    for number in range(1, 7):
        await desk.done(Append("order-1", [draft(b"%d" % number, type="placed" if number < 3 else "paid", tags=[f"n:{number}"])]), at_us=at_us)
        await desk.done(Append("order-2" if number % 2 else "user-1", [draft(b"x", type="seen", tags=["all"])]), at_us=at_us)
    return await desk.log()


async def tidy(desk: Desk) -> None:
    """All upkeep that is due."""
    while await desk.backend.maintain():
        pass


async def _place(desk: Desk, position: int, name: bytes = b"subscription s", bucket: str = CHECKPOINTS) -> None:
    await desk.store(Put(bucket, name, pack_hold(Hold(position))))


async def _everything(desk: Desk) -> list[Record]:
    """The log as far as it is left."""
    page = await desk.backend.read_log(after=START, limit=1_000, bytes_max=1 << 30, over_cuts=True)
    same(page.examined, page.head, "how far one page over the cuts looked")
    return page.records


async def _info(desk: Desk, stream: str) -> StreamInfo:
    info = await desk.backend.stream(stream)
    if info is None:
        raise Broken("", f"stream {stream!r} is not known any more")
    return info


def _conflict(answer: Answer) -> tuple[str, str, object, object]:
    return is_a(answer, Conflict).facts()[0]


def _cuts(desk: Desk) -> bool:
    return desk.backend.capabilities.cuts


@PART.store("A cut moves a stream's first, never its last seq; what is left is read as before, before upkeep and after it.")
async def a_cut_moves_the_first(desk: Desk) -> None:
    if not _cuts(desk):
        return
    before = await _some(desk)

    answer = await desk.done(Cut("order-1", 4))

    same(answer.parts, (), "the parts of the answer to a cut")
    left = [record for record in before if record.stream != "order-1" or record.seq >= 4]
    own = [record for record in left if record.stream == "order-1"]
    for when in ("before upkeep", "after it"):
        info = await _info(desk, "order-1")
        same((info.first, info.last, info.position, info.cut), (4, 6, 11, 5), f"first, last, position and cut {when}")
        same([stream.first for stream in await desk.backend.streams(limit=9)], [4, 1, 1], f"the firsts {when}")
        same(await desk.stream("order-1", after=3), own, f"the stream {when}")
        same(await desk.stream("order-1", after=4), own[1:], f"the stream after seq 4 {when}")
        same(await desk.stream("order-1", backward=True, limit=2), own[:0:-1], f"its last two {when}")
        same(await desk.stream("order-1", backward=True), own[::-1], f"the stream backward {when}")
        same(await _everything(desk), left, f"what is left of the log {when}")
        same(await desk.log(after=Position(5)), [record for record in left if record.position > 5], f"the log after the cut {when}")
        same(await desk.log(after=Position(8), where=EVERYTHING.within(tags=["n:5"])), [own[1]], f"what has a tag {when}")
        same(await desk.backend.verify(), [], f"the list of problems {when}")
        await tidy(desk)
    same((await desk.append("order-1", 1, 6)).last, 7, "the next seq")


@PART.store("Reading a stream before its first is `Truncated(first, archive)`, backward too.")
async def before_the_first_is_truncated(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)
    await desk.done(Cut("order-1", 3, "bafyone"))

    for when in ("before upkeep", "after it"):
        for after, backward in ((0, False), (1, False), (3, True), (1, True)):
            error = await fails(Truncated, desk.stream("order-1", after=after, backward=backward), f"{after=} {backward=} {when}")
            same(_told(error), _Told("order-1", 3, "bafyone", 0), "what it says")
        same([record.seq for record in await desk.stream("order-1", after=2, limit=2)], [3, 4], f"the stream from its first on {when}")
        await tidy(desk)
    await desk.done(Cut("order-1", 5, "bafytwo"))
    error = await fails(Truncated, desk.stream("order-1", after=3), "after the second cut, what that cut")
    same(_told(error), _Told("order-1", 5, "bafytwo", 0), "what it says")
    await desk.done(Cut("order-1", 6))
    error = await fails(Truncated, desk.stream("order-1", after=4), "after a cut without archive, what that cut")
    same(_told(error), _Told("order-1", 6, "bafytwo", 0), "what it says: the newest archive that there is")


@PART.store("A log reader is told of what it would miss: `Truncated`, if an event that it may select has been cut beyond its place; nobody else is.")
async def a_reader_of_the_log_is_told(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)
    await desk.done(Cut("order-1", 4, "bafyone"))
    missing: list[tuple[int, Selector[object]]] = [
        (0, EVERYTHING),
        (4, EVERYTHING),
        (0, EVERYTHING.within(categories=["order"])),
        (4, EVERYTHING.within(streams=["user-1", "order-1"])),
        (0, EVERYTHING.within(types=["placed"])),
        (3, EVERYTHING.within(types=["paid"])),
        (0, EVERYTHING.within(types=["gone"]) | EVERYTHING.within(types=["paid"])),
        (0, EVERYTHING.within(tags=["n:1"])),
    ]
    whole: list[tuple[int, Selector[object], list[int]]] = [
        (5, EVERYTHING, [6, 7, 8, 9, 10, 11, 12]),
        (0, EVERYTHING.within(categories=["user"]), [4, 8, 12]),
        (0, EVERYTHING.within(streams=["order-2"]), [2, 6, 10]),
        (0, EVERYTHING.within(types=["seen"]), [2, 4, 6, 8, 10, 12]),
        (3, EVERYTHING.within(types=["placed"]), []),
        (5, EVERYTHING.within(types=["paid"]), [7, 9, 11]),
        (0, EVERYTHING.within(types=["seen"], tags=["all"]), [2, 4, 6, 8, 10, 12]),
    ]

    for when in ("before upkeep", "after it"):
        for after, where in missing:
            error = await fails(Truncated, desk.log(after=Position(after), where=where), f"the log after {after}, {where}, {when}")
            same((error.stream, error.first, error.archive), ("order-1", 4, "bafyone"), "what it says")
            await desk.log(after=Position(error.position), where=where)
        for after, where, positions in whole:
            found = await desk.log(after=Position(after), where=where)
            same([record.position for record in found], positions, f"the log after {after}, {where}, {when}")
        same(
            sorted((bound.type or "", bound.position) for bound in await desk.backend.cuts()), [("paid", 5), ("placed", 3)], f"how far it was cut {when}"
        )
        await tidy(desk)


@PART.store("Each cut changes what `cuts` says, one behind an older one too: who knows the streams that had been cut sees that there may be more.")
async def each_cut_is_told(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await desk.append("a-1", 2)
    await desk.append("a-2", 2)
    await desk.done(Cut("a-2", 2))
    newest = await _times(desk)

    await desk.done(Cut("a-1", 2))

    same(await _times(desk) > newest, True, "whether a cut behind the newest one is seen")


async def _times(desk: Desk) -> int:
    return sum(bound.times for bound in await desk.backend.cuts())


@PART.store("Expectations, ids and keys are judged as if nothing had been cut.")
async def what_is_expected_stays(desk: Desk) -> None:
    if not _cuts(desk):
        return
    at_us = await desk.backend.now_us() - DAY_US
    id = new_id()
    first = await desk.done(appending("a", 3), key=b"once", at_us=at_us)
    await desk.done(appending("a", 2), id=id, at_us=at_us)
    await desk.done(appending("b"), at_us=at_us)

    await desk.done(Cut("a", 6))
    await tidy(desk)

    same(await desk.ask(appending("a", 3), key=b"once"), first, "the answer to a known key")
    same(_conflict(await desk.ask(appending("a", 1, 0))), ("stream", "a", 0, 5), "an append that expects no stream")
    same(_conflict(await desk.ask(Check(4, stream="a"), appending("c"))), ("stream", "a", 4, 5), "a check of another last seq")
    await desk.done(Check(5, stream="a"), appending("c"))
    await desk.done(Check(EXISTS, stream="a"), appending("c"))
    same((await desk.append("a", 1, 5)).last, 6, "the next seq")
    same(await desk.backend.verify(), [], "the list of problems")


@PART.store("An append condition over what may have been cut cannot be judged: `Truncated`, and nothing is stored; over the rest it is judged.")
async def conditions_know_of_cuts(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)
    await desk.done(Cut("order-1", 4))

    for when in ("before upkeep", "after it"):
        for query in (EVERYTHING.within(tags=["n:1"]), EVERYTHING.within(types=["placed"]), EVERYTHING.within(streams=["order-1"], types=["no-such"])):
            is_a(await desk.ask(Unless(query, after=START), appending("new")), Truncated)
        same(await desk.backend.stream("new"), None, f"the stream of what could not be judged {when}")
        after = Unless(EVERYTHING.within(tags=["n:5"]), after=Position(5))
        same(_conflict(await desk.ask(after, appending("new")))[3], 9, f"the first match after the cut {when}")
        await desk.done(Unless(EVERYTHING.within(types=["no-such"]), after=START), Unless(EVERYTHING.within(tags=["n:5"]), after=Position(9)))
        await tidy(desk)


@PART.store("A cut stops at the lowest place of any registered consumer: beyond it, it is a conflict that names that one.")
async def a_cut_stops_at_consumers(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)
    await _place(desk, 9, b"projection p")
    await _place(desk, 5)
    await _place(desk, 7, b"report", HOLDS)

    same(_conflict(await desk.ask(Cut("order-1", 5))), ("hold", f"{CHECKPOINTS}/subscription s", 7, 5), "a cut beyond a checkpoint")
    await desk.done(Cut("order-1", 4))
    await _place(desk, 11)
    same(_conflict(await desk.ask(Cut("order-1", 6))), ("hold", f"{HOLDS}/report", 9, 7), "a cut beyond a hold")
    await desk.store(Delete(HOLDS, b"report"))
    same(_conflict(await desk.ask(Cut("order-1", 7))), ("hold", f"{CHECKPOINTS}/projection p", 11, 9), "a cut beyond another checkpoint")
    group = await desk.group([Put(CHECKPOINTS, b"subscription t", pack_hold(Hold(1)))], [Cut("order-1", 6)], [Delete(CHECKPOINTS, b"subscription t")])
    same(_conflict(group.answers[1]), ("hold", f"{CHECKPOINTS}/subscription t", 9, 1), "a cut after a commit of its group that registers somebody")
    group = await desk.group([Put(CHECKPOINTS, b"projection p", pack_hold(Hold(12)))], [Cut("order-1", 7)])
    is_a(group.answers[1], Committed)
    info = await _info(desk, "order-1")
    same(info.first, 7, "the first seq after all of them have passed")


@PART.store("A cut of what is not there is a conflict, of what is gone already none; more than 10,000 events of a stream at once are `TooLarge`.")
async def cuts_are_judged(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)

    same(_conflict(await desk.ask(Cut("order-1", 8))), ("cut", "order-1", 8, 7), "a cut beyond the end")
    same(_conflict(await desk.ask(Cut("no-such", 2))), ("cut", "no-such", 2, 1), "a cut of no stream")
    group = await desk.group([appending("order-1", 2)], [Cut("order-1", 8)], [Cut("order-1", 3)], [Cut("order-1", 1)])
    holds(all(isinstance(answer, Committed) for answer in group.answers), f"the answers are {group.answers}")
    info = await _info(desk, "order-1")
    same((info.first, info.last, info.cut), (8, 8, 13), "first, last and cut after a cut of what its group appended")
    await desk.append("many", CUT_EVENTS)
    await desk.append("many", 2)
    error = is_a(await desk.ask(Cut("many", CUT_EVENTS + 2)), TooLarge)
    same((error.size, error.limit), (CUT_EVENTS + 1, CUT_EVENTS), "size and limit in the error")
    await desk.done(Cut("many", CUT_EVENTS + 1))
    for bad in (0, -1, True, "1"):
        await fails(Misuse, desk.ask(Cut("order-1", bad)), f"a cut at {bad!r}")  # type: ignore[arg-type]  # on purpose
    await fails(Misuse, desk.ask(Cut("order-1", 1), appending("order-1")), "a cut and an append of one stream in one commit")


@PART.store("A cut happens with the rest of its commit or not at all, and a later commit of its group sees it.")
async def a_cut_is_of_its_commit(desk: Desk) -> None:
    if not _cuts(desk):
        return
    before = await _some(desk)

    await desk.ask(Cut("order-1", 4), Check(9, stream="user-1"))
    same(await desk.log(), before, "the log after a cut whose commit was a conflict")
    await desk.done(Cut("order-1", 4), Cut("user-1", 2), appending("order-2", 1, 3), Put("k", b"x", b"y"))
    same([stream.first for stream in await desk.backend.streams(limit=9)], [4, 1, 2], "the firsts")
    answer = await desk.ask(Cut("order-1", 5), key=b"once")
    same(await desk.ask(Cut("order-1", 5), key=b"once"), answer, "the answer to the key of a cut")


@PART.store("A stream of which all was cut goes on with its next seq.")
async def what_was_emptied_goes_on(desk: Desk) -> None:
    if not _cuts(desk):
        return
    await _some(desk)

    await desk.done(Cut("order-1", 7))
    for when in ("before upkeep", "after it"):
        info = await _info(desk, "order-1")
        same((info.first, info.last, info.position, info.cut), (7, 6, 11, 11), f"first, last, position and cut {when}")
        same(await desk.stream("order-1", after=6), [], f"what is left {when}")
        await fails(Truncated, desk.stream("order-1", backward=True), f"reading it backward {when}")
        await fails(Truncated, desk.stream("order-1"), f"reading it {when}")
        same(await desk.backend.verify(), [], f"the list of problems {when}")
        await tidy(desk)
    same((await desk.append("order-1", 2, 6)).last, 8, "the last seq after an append")
    same([record.seq for record in await desk.stream("order-1", after=6)], [7, 8], "its seqs")
    await desk.done(Cut("order-1", 8))
    await desk.append("order-1", 1, 8)
    same(await desk.backend.verify(), [], "the list of problems")


@PART.law("Cuts outlive closing: what was cut stays so, what is left stays whole, seqs go on.")
async def cuts_outlive_closing(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not (_cuts(desk) and desk.backend.capabilities.durable):
            return
        left = [record for record in await _some(desk) if record.stream == "user-1"]
        await desk.done(Cut("order-1", 4, "bafyone"), Cut("order-2", 4))
    for _ in range(2):
        async with open_desk(stores, name) as desk:
            error = await fails(Truncated, desk.stream("order-1"), "reading what was cut")
            same(_told(error), _Told("order-1", 4, "bafyone", 0), "what it says")
            await fails(Truncated, desk.log(), "reading the log from before the cut")
            same(await desk.log(where=EVERYTHING.within(categories=["user"])), left, "another category")
            same([record.seq for record in await desk.stream("order-1", after=3)], [4, 5, 6], "what is left")
            same(await desk.backend.verify(), [], "the list of problems")
            await tidy(desk)
    async with open_desk(stores, name) as desk:
        same((await desk.append("order-2", 1, 3)).last, 4, "the next seq of a stream without events")
        same((await desk.append("order-1", 1, 6)).last, 7, "the next seq")


@PART.law("A process sees another one's cuts.")
async def cuts_are_shared(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not (_cuts(one) and one.backend.capabilities.shared_writes):
            return
        await _some(one)
        async with open_desk(stores, name) as other:
            await other.append("order-1", 1, 6)
            await one.done(Cut("order-1", 8))
            await tidy(one)

            await fails(Truncated, other.log(), "reading the log after the other one's cut")
            same((await other.append("order-1", 1, 7)).last, 8, "the next seq")
            await other.done(Cut("order-1", 9))
            same((await one.append("order-1", 1, 8)).last, 9, "the next seq")
            same(await one.backend.verify(), [], "the list of problems")


@PART.store("A view does not see a cut that came after it.")
async def a_view_does_not_see_later_cuts(desk: Desk) -> None:
    if not (_cuts(desk) and desk.backend.capabilities.views):
        return
    before = await _some(desk)

    async with desk.backend.view() as view:
        await desk.done(Cut("order-1", 7))
        await tidy(desk)

        page = await view.read_log(after=START, limit=1_000, bytes_max=1 << 30)
        same(page.records, before, "the log in the view")
        own = [record for record in before if record.stream == "order-1"]
        same(await view.read_stream("order-1", after=0, limit=99, bytes_max=1 << 30), own, "the stream in the view")


@PART.law("What was cut elsewhere is loaded as it is: firsts, last seqs, archives, and who is told of it.")
async def cuts_are_loaded(stores: Stores) -> None:
    async with open_desk(stores) as desk:
        if not (_cuts(desk) and desk.backend.capabilities.loads):
            return
        await _some(desk)
        await desk.done(Cut("order-1", 4, "bafyone"), Cut("order-2", 4))
        left, streams, bounds = await _everything(desk), await desk.backend.streams(limit=9), await desk.backend.cuts()
    async with open_desk(stores) as desk:
        await desk.backend.begin_load()
        await desk.backend.load_cuts([stream for stream in streams if stream.cut], bounds)
        await desk.backend.load(left)
        await fails(Misuse, desk.backend.load_cuts(streams[:1], []), "loading a cut of a stream that is there")
        await desk.backend.end_load()

        same(await desk.backend.streams(limit=9), streams, "the streams")
        same(_by_name(await desk.backend.cuts()), _by_name(bounds), "how far the log was cut")
        same(await _everything(desk), left, "what is left of the log")
        same(await desk.log(where=EVERYTHING.within(categories=["user"])), [one for one in left if one.stream == "user-1"], "a category")
        error = await fails(Truncated, desk.stream("order-1"), "reading what was cut elsewhere")
        same(_told(error), _Told("order-1", 4, "bafyone", 0), "what it says")
        same((await desk.append("order-2", 1, 3)).last, 4, "the next seq of a stream without events")
        same(await desk.backend.verify(), [], "the list of problems")


def _by_name(bounds: list[CutBound]) -> list[tuple[str, str, int, str]]:
    return sorted((bound.category, bound.type or "", bound.position, bound.stream) for bound in bounds)


@PART.store("Capabilities are tested both ways: without `cuts` a cut is `Unsupported`.")
async def cuts_are_declared(desk: Desk) -> None:
    await desk.append("a", 3, ANY)
    if _cuts(desk):
        await desk.done(Cut("a", 2))
        return
    await fails(Unsupported, desk.ask(Cut("a", 2)), "a cut by what declares no `cuts`")
    same(await desk.backend.cuts(), [], "what was cut")
    same(len(await desk.stream("a")), 3, "the number of events")
