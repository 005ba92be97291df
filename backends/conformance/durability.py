"""Laws of opening a store again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import attrs

from perdure.backends.commit import Append, Appended, Delete, Put, SaveSnapshot, key_id, propose
from perdure.backends.conformance.law import Desk, Part, Stores, appending, draft, fails, holds, is_a, new_id, new_name, now_us, open_desk, same
from perdure.backends.errors import Conflict, PerdureError, Unavailable
from perdure.backends.event import Position
from perdure.backends.protocol import Capabilities

PART = Part("durability")


async def _fill(desk: Desk) -> None:
    for number in range(1, 8):
        await desk.done(
            Append(f"s-{number % 3}", [draft(b"%d" % number, type=f"type-{number % 4}", tags=["t"] if number % 2 else [])] * number),
            Put("k", b"%d" % (number % 4), b"%d" % number),
            Delete("k", b"%d" % (number % 5)) if number % 4 != number % 5 else Put("other", b"x", b""),
            SaveSnapshot("s", Position(number), "f", b"%d" % number),
            key=b"key-%d" % number,
        )


async def _everything(desk: Desk) -> dict[str, Any]:
    backend = desk.backend
    return {
        "id": backend.id,
        "head": await backend.head(),
        "revision": await backend.revision(),
        "log": await desk.log(),
        "streams": await backend.streams(limit=99),
        "stream": [await desk.stream(f"s-{number}") for number in range(3)],
        "scan": await backend.scan("k", limit=99),
        "changes": await backend.read_changes("k", after=0, limit=99),
        "snapshots": await backend.snapshots("s"),
        "snapshot": await backend.read_snapshot("s", at_most=Position(4)),
        "answers": [await backend.answer(key_id(b"key-%d" % number)) for number in range(9)],
    }


@PART.law("Acknowledged means durable: what was answered is there when the store is opened again, all of it.")
async def all_is_there_again(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        await _fill(desk)
        before = await _everything(desk)
    for _ in range(2):
        async with open_desk(stores, name) as desk:
            after = await _everything(desk)
            for what, value in before.items():
                same(after[what], value, f"what the store says of {what} after reopening")
            same(await desk.backend.verify(), [], "the list of problems")


@PART.law("Acknowledged means durable: also when it is opened again after every commit.")
async def each_commit_is_there_again(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
    for number in range(5):
        async with open_desk(stores, name) as desk:
            same(len(await desk.stream("a")), 2 * number, "the number of events")
            await desk.done(appending("a", 2, 2 * number), Put("k", b"x", b"%d" % number, number))


@PART.law("Seqs, positions and revisions go on where they were, none given twice.")
async def numbers_go_on(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        await desk.done(appending("a", 3), Put("k", b"x", b"1"))
        await desk.store(Delete("k", b"x"))
    async with open_desk(stores, name) as desk:
        is_a(await desk.ask(appending("a", 1, 2)), Conflict)
        same(await desk.append("a", 2, 3), Appended(4, 5, Position(5)), "the append after reopening")
        same(await desk.store(Put("k", b"x", b"1", 0)), 3, "the revision after reopening")
        group = await desk.group([appending("b")])
        same(group.follows, 5, "what the group follows")


@PART.law("`at` never goes back in the log, not over opening it again either.")
async def time_does_not_go_back_over_reopening(stores: Stores) -> None:
    name, at_us = new_name(), now_us() + 60_000_000
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        await desk.done(appending("a"), at_us=at_us)
    async with open_desk(stores, name) as desk:
        await desk.done(appending("a"), at_us=at_us - 50_000_000)
        same([record.at_us for record in await desk.log()], [at_us, at_us], "the list of times")
        holds(await desk.backend.now_us() >= at_us, "the store's time is before its last event")


@PART.law("`at` does not go back before a commit of kv that came last in a group with events, not over opening it again either.")
async def time_does_not_go_back_before_entries(stores: Stores) -> None:
    name, at_us = new_name(), now_us() + 60_000_000
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        event, entry = propose([appending("a")], id=new_id(), at_us=at_us), propose([Put("k", b"x", b"")], id=new_id(), at_us=at_us + 5)
        await desk.backend.commit([event, entry])
    async with open_desk(stores, name) as desk:
        await desk.done(appending("a"), at_us=at_us)
        same([record.at_us for record in await desk.log()], [at_us, at_us + 5], "the list of times")


@PART.law("Upkeep is durable and changes nothing that was acknowledged.")
async def upkeep_loses_nothing(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if not desk.backend.capabilities.durable:
            return
        for _ in range(20):
            await _fill(desk)
        before = await _everything(desk)
        while await desk.backend.maintain():
            pass
    async with open_desk(stores, name) as desk:
        after = await _everything(desk)
        for what, value in before.items():
            same(after[what], value, f"what the store says of {what} after upkeep and reopening")
        same(await desk.backend.verify(), [], "the list of problems")


@PART.law("Giving room back to the disk changes nothing that was acknowledged, whether it can be done or not.")
async def shrinking_loses_nothing(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        await _fill(desk)
        await desk.done(Put("large", b"x", bytes(900_000)))
        await desk.store(Delete("large", b"x"))
        before = await _everything(desk)
        for _ in range(2):
            await desk.backend.shrink()
            same(await _everything(desk), before, "what the store says after giving room back")
        await desk.append("after", 2)
        durable = desk.backend.capabilities.durable
        before = await _everything(desk)
    if durable:
        async with open_desk(stores, name) as desk:
            same(await _everything(desk), before, "what the store says after giving room back and reopening")
            same(await desk.backend.verify(), [], "the list of problems")


@PART.law("A second opening of a store shares it: both see what each commits, either may close first. Undeclared `shared_writes`: it is `Unavailable`.")
async def a_second_opening_shares(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not one.backend.capabilities.durable:
            return
        if not one.backend.capabilities.shared_writes:
            async with AsyncExitStack() as stack:
                await fails(Unavailable, stack.enter_async_context(stores.open(name)), "a second opening of a store that one may have open")
            await one.append("a")
            return
        async with open_desk(stores, name) as other:
            same(other.backend.id, one.backend.id, "the id of the second opening")
            for number in range(6):
                writer, reader = (one, other) if number % 2 else (other, one)
                await writer.done(appending("a", 1, number, type=f"type-{number}"), Put("k", b"x", b"", number))
                same(await reader.payloads("a"), [b"1"] * (number + 1), "what the other sees")
        await one.append("a", 1, 6)
        same(len(await one.stream("a")), 7, "the number of events after the other closed")


@PART.law("Capabilities are tested both ways: what does not declare `durable` never shows a part of what was.")
async def undeclared_durability_shows_nothing(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as desk:
        if desk.backend.capabilities.durable:
            return
        id = desk.backend.id
        await desk.done(appending("a", 2), Put("k", b"x", b"1"))
    try:
        async with open_desk(stores, name) as desk:
            holds(desk.backend.id != id, "the store came back with its id: declare `durable`, or draw a new id")
            same((await desk.backend.head(), await desk.backend.revision()), (0, 0), "head and revision of what was opened again")
    except PerdureError:
        return


@PART.law("Capabilities are tested both ways: what declares `shared_reads` is durable as well, so that others can find it.")
async def shared_reads_need_durability(stores: Stores) -> None:
    async with open_desk(stores) as desk:
        declared = desk.backend.capabilities
        holds(declared.durable or not declared.shared_reads, "shared_reads without durable: there is nothing that another process could open")
        same(set(declared.declared()) <= set(attrs.asdict(Capabilities())), True, "whether only known capabilities are declared")
