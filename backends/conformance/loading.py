"""Laws of loading a store: filling it with what another one held."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.backends.commit import Append, Appended, Put, Unless, key_id
from perdure.backends.conformance.law import MANY, Desk, Part, Stores, appending, draft, fails, holds, new_name, open_desk, same
from perdure.backends.errors import Corrupt, Misuse, Truncated, Unavailable, Unsupported
from perdure.backends.event import START, Position, Record
from perdure.backends.frame import with_checksum
from perdure.backends.protocol import State
from perdure.backends.selector import EVERYTHING

PART = Part("loading")


async def _written(stores: Stores) -> list[Record]:
    """Records of a store: several streams, commits of several events, types, tags and meta."""
    async with open_desk(stores) as desk:
        for number in range(1, 9):
            events = [draft(b"%d.%d" % (number, place), type=f"type-{number % 3}", tags=["t", f"n:{number}"] if place % 2 else ()) for place in range(number)]
            await desk.done(Append(f"s-{number % 3}", events), Append("all", [draft(b"x" * number, occurred_us=number)]), Put("k", b"x", b""))
        await desk.append("many", 40)
        return await desk.log()


def moved(record: Record, **changes: object) -> Record:
    """*record* with other fields, and the checksum that these have."""
    return with_checksum(msgspec.structs.replace(record, **changes))


def _loads(desk: Desk) -> bool:
    return desk.backend.capabilities.loads


def _in_parts(records: Sequence[Record], commits: int) -> list[list[Record]]:
    """Whole commits, so many at a time."""
    ids = list(dict.fromkeys(record.commit for record in records))
    return [[record for record in records if record.commit in ids[at : at + commits]] for at in range(0, len(ids), commits)]


@PART.law("What is loaded is read as it was: stream, seq, position, type, time, commit, tags, meta, payload and checksum.")
async def what_is_loaded_is_read(stores: Stores) -> None:
    records = await _written(stores)
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        for part in _in_parts(records, 3):
            await desk.backend.load(part)
        await desk.backend.end_load()

        same(await desk.log(), records, "the log")
        same(await desk.log(limit=1), records, "the log, commit by commit")
        for stream in ("s-0", "all", "many"):
            own = [record for record in records if record.stream == stream]
            same(await desk.stream(stream), own, f"stream {stream}")
            same(await desk.stream(stream, backward=True), own[::-1], f"stream {stream}, backward")
        tagged = [record for record in records if "n:5" in record.tags]
        same(await desk.log(where=EVERYTHING.within(tags=("n:5",))), tagged, "what has a tag")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.law("A store that was loaded goes on where the records end: position, seqs, time; append conditions see what was loaded.")
async def a_loaded_store_goes_on(stores: Stores) -> None:
    records = await _written(stores)
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        await desk.backend.load(records)
        await desk.backend.end_load()

        same(desk.backend.state, State.OPEN, "the state")
        last = records[-1]
        answer = await desk.done(appending("all", 1, 8), Unless(EVERYTHING.within(tags=("none",)), after=START))
        same(answer.parts, (Appended(9, 9, Position(last.position + 1)),), "the answer to the next append")
        holds((await desk.log(after=last.position))[0].at_us >= last.at_us, "time goes back after what was loaded")
        refused = await desk.ask(appending("all"), Unless(EVERYTHING.within(tags=("n:8",)), after=START))
        same(getattr(refused, "what", None), "condition", "what the append condition finds")


@PART.law("Positions that are loaded may have gaps, between commits and inside them; nothing is read there, and nothing is missing.")
async def positions_may_have_gaps(stores: Stores) -> None:
    records = [moved(record, position=Position(record.position * 3 + (50_000 if record.position > 20 else 7))) for record in await _written(stores)]
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        for part in _in_parts(records, 2):
            await desk.backend.load(part)
        await desk.backend.end_load()
        while await desk.backend.maintain():
            pass

        same(await desk.backend.head(), records[-1].position, "the head")
        same(await desk.log(), records, "the log")
        for after in (0, 1, records[3].position, records[3].position + 1, 20_000, records[-2].position):
            rest = [record for record in records if record.position > after]
            same(await desk.log(after=Position(after)), rest, f"the log after {after}")
        same(await desk.stream("all"), [record for record in records if record.stream == "all"], "a stream")
        await desk.done(appending("new"), Unless(EVERYTHING.within(types=("no-such",)), after=START))
        same((await desk.log(after=records[-1].position))[0].position, records[-1].position + 1, "the next position")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.law("A stream that is loaded may begin beyond seq 1: what was before is `Truncated`.")
async def a_stream_may_begin_later(stores: Stores) -> None:
    records = [record for record in await _written(stores) if record.stream == "many"]
    later = [moved(record, seq=record.seq + 10, position=Position(record.position + 100)) for record in records]
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        await desk.backend.load(later)
        await desk.backend.end_load()

        same(await desk.stream("many", after=10), later, "what is after seq 10")
        truncated = await fails(Truncated, desk.stream("many"), "reading from the beginning")
        same((truncated.stream, truncated.first), ("many", 11), "what the error says")
        same(await desk.append("many", 1, 50), Appended(51, 51, Position(later[-1].position + 1)), "the next append")


@PART.law("While a store is being loaded nothing is committed: `Unavailable`, with what to do, until loading has ended.")
async def what_is_loaded_takes_no_commits(stores: Stores) -> None:
    records = await _written(stores)
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        same(desk.backend.state, State.LOADING, "the state")
        error = await fails(Unavailable, desk.ask(Put("k", b"x", b"")), "a put into a store that is being loaded")
        holds("loaded" in str(error), f"the error does not say why: {error}")
        await desk.backend.load(records)
        await fails(Unavailable, desk.ask(appending("a")), "a commit after some was loaded")
        same(await desk.log(), records, "what is stored")

        await desk.backend.end_load()
        await desk.append("a")


@PART.law("A store says that it is being loaded after its process has died; loading goes on, or begins anew.")
async def loading_outlives_its_process(stores: Stores) -> None:
    records, name = await _written(stores), new_name()
    first, *rest = _in_parts(records, 4)
    async with open_desk(stores, name) as desk:
        if not (_loads(desk) and desk.backend.capabilities.durable):
            return
        await desk.backend.begin_load()
        await desk.backend.load(first)
    async with open_desk(stores, name) as desk:
        same(desk.backend.state, State.LOADING, "the state after opening again")
        await fails(Unavailable, desk.ask(appending("a")), "a commit")
        await desk.backend.begin_load()
        same(await desk.log(), first, "what was loaded")
        await desk.backend.load(rest[0])
    async with open_desk(stores, name) as desk:
        await desk.backend.begin_load(anew=True)
        same((await desk.backend.head(), await desk.log(), await desk.backend.streams(limit=MANY)), (0, [], []), "what is left of it")
        await desk.backend.load(records)
        await desk.backend.end_load()
    async with open_desk(stores, name) as desk:
        same((desk.backend.state, await desk.log()), (State.OPEN, records), "state and log at the end")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.law("Every handle of a store that is being loaded refuses commits, and none does once loading has ended.")
async def others_see_the_loading(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not (_loads(one) and one.backend.capabilities.shared_writes):
            return
        async with open_desk(stores, name) as other:
            await one.backend.begin_load()
            await fails(Unavailable, other.ask(appending("a")), "a commit of another process")
            same(other.backend.state, State.LOADING, "the state that the other process sees")
            await one.backend.end_load()
            await other.append("a")
            same(other.backend.state, State.OPEN, "the state after loading")


@PART.law("Records that do not follow are refused, and nothing of the call is stored: positions, seqs, times, ordinals, commits in part.")
async def what_does_not_follow_is_refused(stores: Stores) -> None:
    records = [record for record in await _written(stores) if record.stream == "many"]
    start = records[0].position
    bad = {
        "a position given twice": [*records[:5], moved(records[5], position=records[4].position)],
        "a seq left out": [*records[:5], *records[6:]],
        "a seq given twice": [*records[:5], moved(records[5], seq=5)],
        "time that goes back": [moved(records[0], commit=b"a" * 16, ordinal=0), moved(records[1], commit=b"b" * 16, ordinal=0, at_us=records[0].at_us - 1)],
        "a commit of two times": [records[0], moved(records[1], at_us=records[0].at_us + 1)],
        "events of a commit in another order": [moved(records[0], ordinal=1), moved(records[1], ordinal=0)],
        "seq 0": [moved(records[0], seq=0)],
        "a stream without a name": [moved(records[0], stream="")],
    }
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        for what, given in bad.items():
            await fails(Misuse, desk.backend.load(given), f"loading {what}")
            same((await desk.backend.head(), await desk.log()), (0, []), f"what is stored after {what}")
        await desk.backend.load(records[:10])
        await fails(Misuse, desk.backend.load(records[10:]), "loading the rest of a commit")
        await fails(Misuse, desk.backend.load([moved(records[10], commit=b"c" * 16, position=start)]), "loading a position that is there")
        same(await desk.log(), records[:10], "the log")


@PART.law("A record that does not fit its checksum is `Corrupt`, and nothing of the call is stored.")
async def damage_is_not_loaded(stores: Stores) -> None:
    records = await _written(stores)
    async with open_desk(stores) as desk:
        if not _loads(desk):
            return
        await desk.backend.begin_load()
        for place in (0, 17, len(records) - 1):
            for change in ({"payload": b"other"}, {"crc": records[place].crc ^ 1}, {"version": 9}):
                damaged = [*records[:place], msgspec.structs.replace(records[place], **change), *records[place + 1 :]]
                await fails(Corrupt, desk.backend.load(damaged), f"loading a record whose {next(iter(change))} is another")
        same(await desk.log(), [], "what is stored")


@PART.store("Only an empty store is loaded: `Misuse`, and nothing changes; nothing is loaded before `begin_load` or after `end_load`.")
async def only_an_empty_store_is_loaded(desk: Desk) -> None:
    if not _loads(desk):
        return
    await desk.append("a", 2, type="other")
    records = await desk.log()
    await fails(Misuse, desk.backend.begin_load(), "loading a store that has events")
    await fails(Misuse, desk.backend.begin_load(anew=True), "loading it anew")
    await fails(Misuse, desk.backend.load([moved(records[0], position=Position(9), seq=3)]), "loading without begin_load")
    await desk.backend.end_load()

    same((await desk.log(), desk.backend.state), (records, State.OPEN), "log and state")
    await desk.append("a", 1, 2)


@PART.store("A store that holds nothing but what was deleted is not empty: its revision would come back.")
async def a_store_with_a_past_is_not_loaded(desk: Desk) -> None:
    if not _loads(desk):
        return
    await desk.done(Put("$checkpoints", b"x", b"1"), key=b"once")
    await fails(Misuse, desk.backend.begin_load(), "loading a store that has an entry")
    same(await desk.backend.answer(key_id(b"once")) is not None, True, "whether the commit is known still")


@PART.store("Capabilities are tested both ways: without `loads`, loading is `Unsupported`.")
async def undeclared_loading_is_unsupported(desk: Desk) -> None:
    if _loads(desk):
        await desk.backend.begin_load()
        await desk.backend.end_load()
        return
    for call in (desk.backend.begin_load(), desk.backend.load([]), desk.backend.end_load()):
        error = await fails(Unsupported, call, "loading what declares no `loads`")
        same(error.capability, "loads", "the capability in the error")
