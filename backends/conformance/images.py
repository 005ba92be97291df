"""Laws of reading a whole store as it is at one moment, and of filling another one with that."""

from __future__ import annotations

from perdure.backends import keys
from perdure.backends.commit import Append, Delete, Put, SaveSnapshot, key_id
from perdure.backends.conformance.law import Desk, Part, Stores, appending, draft, fails, holds, new_name, open_desk, same
from perdure.backends.errors import Misuse, Unsupported
from perdure.backends.event import Position
from perdure.backends.protocol import State

PART = Part("images")

Slices = list[tuple[str, list[tuple[bytes, bytes]]]]


async def _fill(desk: Desk) -> None:
    for number in range(1, 8):
        await desk.done(
            Append(f"s-{number % 3}", [draft(b"%d" % number, type=f"type-{number % 4}", tags=["t"] if number % 2 else [])] * number),
            Put("k", b"%d" % (number % 4), b"%d" % number),
            Delete("k", b"gone") if number % 2 else Put("k", b"gone", b""),
            Put("$checkpoints", b"p", b"%d" % number),
            SaveSnapshot("s", Position(number), "f", b"%d" % number),
            key=b"key-%d" % number,
        )
    await desk.append("big", 2_000)


async def _everything(desk: Desk) -> dict[str, object]:
    backend = desk.backend
    return {
        "head": await backend.head(),
        "revision": await backend.revision(),
        "log": await desk.log(),
        "streams": await backend.streams(limit=99),
        "stream": [await desk.stream(f"s-{number}") for number in range(3)],
        "scan": await backend.scan("k", limit=99),
        "checkpoint": await backend.get("$checkpoints", b"p"),
        "changes": await backend.read_changes("k", after=0, limit=99),
        "snapshots": await backend.snapshots("s"),
        "snapshot": await backend.read_snapshot("s", at_most=Position(4)),
        "answers": [await backend.answer(key_id(b"key-%d" % number)) for number in range(9)],
    }


async def _all(desk: Desk) -> Slices:
    async with desk.backend.moment() as moment:
        return [slice async for slice in moment]


@PART.law("All rows of a store, loaded into another one, make it the same: log, streams, entries, changes, snapshots, answers to keys.")
async def an_image_makes_the_same_store(stores: Stores) -> None:
    async with open_desk(stores) as one:
        if not one.backend.capabilities.images:
            return
        await _fill(one)
        slices, before, id = await _all(one), await _everything(one), one.backend.id
    name = new_name()
    async with open_desk(stores, name) as other:
        await other.backend.begin_load()
        for table, rows in slices:
            await other.backend.load_rows(table, rows)
        await other.backend.end_load()

        after = await _everything(other)
        for what, value in before.items():
            same(after[what], value, f"what the loaded store says of {what}")
        holds(other.backend.id != id, "the loaded store has taken over the other one's id")
        same(await other.backend.verify(), [], "the list of problems")
        same((await other.append("s-0", 1, 9)).position, before["head"] + 1, "the position of the next append")  # type: ignore[operator]  # an int
        same(await other.store(Put("k", b"new", b"", 0)), before["revision"] + 1, "the next revision")  # type: ignore[operator]  # an int


@PART.store("Slices give the rows of one table after the other, in order of their keys, each row once; tables by their place in the list.")
async def slices_are_in_order(desk: Desk) -> None:
    if not desk.backend.capabilities.images:
        return
    await _fill(desk)
    for number in range(6):
        await desk.done(Put("large", b"%d" % number, bytes(900_000)))

    rows = [(keys.TABLES.index(table), key) for table, part in await _all(desk) for key, _ in part]
    same(rows == sorted(set(rows)), True, "whether rows come in order and once")
    holds(max(sum(len(value) for _, value in part) for _, part in await _all(desk)) < 3 << 20, "a slice of many large rows is larger than 3 MiB")


@PART.store("What a moment gives stands still: nothing that is committed meanwhile is in it, and its numbers are those of its rows.")
async def a_moment_stands_still(desk: Desk) -> None:
    if not desk.backend.capabilities.images:
        return
    await _fill(desk)
    before = await _all(desk)
    head, revision = await desk.backend.head(), await desk.backend.revision()
    async with desk.backend.moment() as moment:
        await desk.done(appending("s-0", 9), Put("k", b"1", b"later"), Delete("k", b"2"))
        found = []
        async for slice in moment:
            found.append(slice)
            await desk.append("more", 3)
            await desk.backend.maintain()

        same((moment.id, moment.head, moment.revision), (desk.backend.id, head, revision), "id, head and revision")
    same(found == before, True, "whether the rows are those of before")


@PART.store("Rows are loaded while a store is being loaded and into tables that there are: else `Misuse`.")
async def rows_are_loaded_while_loading(desk: Desk) -> None:
    if not desk.backend.capabilities.images:
        return
    await fails(Misuse, desk.backend.load_rows("kv", [(b"k\0x", b"")]), "loading rows without begin_load")
    await desk.backend.begin_load()
    await fails(Misuse, desk.backend.load_rows("no-such-table", []), "loading rows of a table that there is not")
    same(desk.backend.state, State.LOADING, "the state")


@PART.store("Capabilities are tested both ways: without `images`, `moment` and `load_rows` are `Unsupported`.")
async def undeclared_images_are_unsupported(desk: Desk) -> None:
    if desk.backend.capabilities.images:
        await _all(desk)
        return
    error = await fails(Unsupported, _all(desk), "a moment of what declares no `images`")
    same(error.capability, "images", "the capability in the error")
    await fails(Unsupported, desk.backend.load_rows("kv", []), "loading rows into what declares no `images`")
