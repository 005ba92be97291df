"""Laws of reading streams, and of when what was committed is seen."""

from __future__ import annotations

import attrs
import msgspec
import trio

from perdure.backends.commit import Append, Put, SaveSnapshot, Write, key_id
from perdure.backends.conformance.law import MANY, Desk, Part, Stores, appending, draft, holds, new_id, new_name, now_us, open_desk, same
from perdure.backends.event import START, Position, Record, unpack_extra
from perdure.backends.protocol import StreamInfo

PART = Part("reads")


def _seqs(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


@PART.store("`read_stream` gives the records beyond `after`, oldest first; `limit` of them at most.")
async def a_stream_is_read_onwards(desk: Desk) -> None:
    for count in (3, 1, 6):
        await desk.append("a", count)
        await desk.append("b", 2)

    same(_seqs(await desk.stream("a")), list(range(1, 11)), "the whole stream")
    for after in range(12):
        for limit in (1, 2, 5, 100):
            same(_seqs(await desk.stream("a", after=after, limit=limit)), list(range(1, 11))[after:][:limit], f"after {after}, limit {limit}")


@PART.store("`read_stream` backward: below `after`, 0 is from the end, newest first.")
async def a_stream_is_read_backward(desk: Desk) -> None:
    for count in (3, 1, 6):
        await desk.append("a", count)
        await desk.append("b", 2)

    same(_seqs(await desk.stream("a", backward=True)), list(range(10, 0, -1)), "the whole stream")
    for below in range(1, 13):
        for limit in (1, 2, 5, 100):
            expected = [seq for seq in range(10, 0, -1) if seq < below][:limit]
            same(_seqs(await desk.stream("a", after=below, limit=limit, backward=True)), expected, f"below {below}, limit {limit}")


@PART.store("`bytes_max` bounds a read of a stream, but at least one record comes, however large.")
async def a_read_has_at_least_one_record(desk: Desk) -> None:
    for size in (10, 50_000, 10, 10):
        await desk.done(Append("a", [draft(b"x" * size)]))

    for backward in (False, True):
        for after in (0, 1, 2, 3, 4) if not backward else (0, 5, 4, 3, 2):
            records = await desk.stream("a", after=after, bytes_max=1, backward=backward)
            holds(len(records) == 1 or (not backward and after == 4), f"bytes_max=1 after {after} gives {len(records)} records")
    holds(len(await desk.stream("a", bytes_max=40_000)) < 4, "bytes_max=40,000 gives all of 50,030 bytes")


@PART.store("A record is what was appended, with its place, time and commit.")
async def a_record_is_what_was_appended(desk: Desk) -> None:
    id, at_us = new_id(), now_us()
    meta = msgspec.Raw(msgspec.msgpack.encode({"by": "me", "n": 1}))
    full = draft(b"\0\xff" * 50, type="ünï code", version=7, tags=["a:1", "ä"], occurred_us=-5, id="given", meta=meta, traceparent="00-x")
    await desk.done(Append("s-ü", [draft(b""), full]), id=id, at_us=at_us)

    plain, record = await desk.stream("s-ü")

    same((plain.payload, plain.extra, plain.tags, plain.type, plain.version), (b"", b"", (), "happened", 1), "the plain record")
    same((record.stream, record.seq, record.position, record.ordinal), ("s-ü", 2, 2, 1), "the place")
    same((record.type, record.version, record.payload), ("ünï code", 7, b"\0\xff" * 50), "type, version and payload")
    same((record.at_us, record.commit), (at_us, id), "time and commit")
    same(unpack_extra(record.extra), unpack_extra(full.extra), "the rest")
    same(record.tags, ("a:1", "ä"), "the tags")


@PART.store("Reading a stream and reading the log give the same records.")
async def stream_and_log_agree(desk: Desk) -> None:
    for number in range(12):
        await desk.done(appending(f"s-{number % 3}", 1 + number % 4), appending("other", 1, tags=["t"]))

    log = await desk.log()

    for info in await desk.backend.streams(limit=10):
        same(await desk.stream(info.name), [record for record in log if record.stream == info.name], f"stream {info.name}")


@PART.store("A stream is a named sequence of events: its last seq is 0 while it has none, `first` is 1 until something is cut.")
async def a_stream_is_known_by_its_events(desk: Desk) -> None:
    same(await desk.backend.stream("a"), None, "an unknown stream")
    same(await desk.stream("a"), [], "its records")
    same(await desk.stream("a", backward=True), [], "its records backward")
    await desk.append("a", 3)
    await desk.append("b", 2)
    await desk.append("a", 1)

    same(await desk.backend.stream("a"), StreamInfo("a", 1, 4, Position(6)), "what is known of the stream")
    same(await desk.backend.stream("b"), StreamInfo("b", 1, 2, Position(5)), "what is known of the other")


@PART.store("Streams are listed in order of their names' bytes, by prefix, those beyond a name.")
async def streams_are_listed(desk: Desk) -> None:
    names = ["a", "a-1", "a-10", "a-2", "b", "z", "ä-1", "日本", "😀"]
    for name in reversed(names):
        await desk.append(name)

    async def listed(**how: str) -> list[str]:
        found: list[str] = []
        while part := await desk.backend.streams(limit=2, **({"after": found[-1]} if found else {}), **how):
            found += [info.name for info in part]
        return found

    same(await listed(), sorted(names, key=str.encode), "the list of all")
    same(await listed(prefix="a"), ["a", "a-1", "a-10", "a-2"], "the list with prefix a")
    same(await listed(prefix="a-"), ["a-1", "a-10", "a-2"], "the list with prefix a-")
    same(await listed(prefix="ä"), ["ä-1"], "the list with prefix ä")
    same([info.name for info in await desk.backend.streams(after="a-10", limit=2)], ["a-2", "b"], "the list after a-10")
    same(await desk.backend.streams(prefix="nothing", limit=2), [], "the list with another prefix")


@PART.store("When `commit` has answered, every later read sees it.")
async def what_was_answered_is_seen(desk: Desk) -> None:
    for number in range(1, 31):
        writes: list[Write] = [appending("a", 2), Put("k", b"x", b"%d" % number), SaveSnapshot("s", Position(number), "f", b"%d" % number)]
        answer = await desk.done(*writes, key=b"%d" % number)
        backend = desk.backend

        same(await backend.head(), 2 * number, "the head")
        same(await backend.revision(), number, "the revision")
        same(_seqs(await desk.stream("a", after=2 * number - 2)), [2 * number - 1, 2 * number], "the stream's end")
        page = await backend.read_log(after=Position(2 * number - 2), limit=5, bytes_max=MANY)
        same(([record.position for record in page.records], page.head), ([2 * number - 1, 2 * number], 2 * number), "the log's end")
        same(await backend.stream("a"), StreamInfo("a", 1, 2 * number, Position(2 * number)), "what is known of the stream")
        same([entry.value for entry in await backend.scan("k", limit=2)], [b"%d" % number], "the scan")
        same([change.revision for change in (await backend.read_changes("k", after=number - 1, limit=2)).changes], [number], "the changes")
        snapshot = await backend.read_snapshot("s")
        same(snapshot and snapshot.state, b"%d" % number, "the snapshot's state")
        same(await backend.answer(key_id(b"%d" % number)), answer, "the known answer")
        with trio.fail_after(1):
            await backend.wait_beyond(Position(2 * number - 1))
            await backend.wait_changed(number - 1)


@PART.law("When `commit` has answered, every later read sees it, through any opening of the store.")
async def every_opening_sees_what_was_answered(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not one.backend.capabilities.shared_writes:
            return
        async with open_desk(stores, name) as other:
            for number in range(10):
                writer, reader = (one, other) if number % 2 else (other, one)
                await writer.done(appending(f"s-{number}", 1, type=f"type-{number}"), appending("a", 1, number), Put("k", b"x", b"%d" % number))

                same([record.seq for record in await reader.stream("a")], list(range(1, number + 2)), "the stream")
                same([record.type for record in await reader.log()][-2:], [f"type-{number}", "happened"], "the end of the log")
                entry = await reader.backend.get("k", b"x")
                same(entry and (entry.value, entry.revision), (b"%d" % number, number + 1), "the entry")


@PART.law("Nothing is shown before it is durable.")
async def what_was_shown_stays(stores: Stores) -> None:
    """What readers saw beside the writers is there after the store was opened again."""
    name, seen, revisions = new_name(), set[tuple[int, bytes]](), set[int]()
    async with open_desk(stores, name) as desk:
        durable = desk.backend.capabilities.durable

        async def watch() -> None:
            while True:
                seen.update((record.position, record.payload) for record in await desk.log())
                revisions.add(await desk.backend.revision())
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for number in range(20):
                await desk.done(appending("a", 3), Put("k", b"x", b"%d" % number))
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        holds({(record.position, record.payload) for record in await desk.log()} >= seen, "what a reader saw is gone")
    if durable:
        async with open_desk(stores, name) as desk:
            holds({(record.position, record.payload) for record in await desk.log()} >= seen, "what a reader saw is gone after reopening")
            holds(await desk.backend.revision() >= max(revisions), "a revision that a reader saw is gone after reopening")


@PART.store("A commit is seen whole or not at all by every one call.")
async def a_commit_is_seen_whole(desk: Desk) -> None:
    async def watch() -> None:
        while True:
            records = await desk.log(limit=1)
            same(len(records) % 5, 0, "the rest of events in commits of five")
            entries = await desk.backend.scan("k", limit=10)
            same(len({entry.revision for entry in entries}) <= 1, True, "whether all entries are of one commit")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for number in range(30):
            value = b"%d" % number
            await desk.group([appending("a", 3), appending("b", 2), Put("k", b"x", value), Put("k", b"y", value)], [appending("c", 5)])
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


@PART.store("Upkeep changes no answer: merged frames hold the same records.")
async def upkeep_changes_no_answer(desk: Desk) -> None:
    for number in range(60):
        await desk.done(appending(f"s-{number % 7}", 1 + number % 3, tags=["t"] if number % 5 == 0 else []), Put("k", b"%d" % (number % 9), b"%d" % number))
    before = (await desk.log(), [await desk.stream(f"s-{number}", after=2) for number in range(7)], await desk.backend.streams(limit=99))
    kv = (await desk.backend.scan("k", limit=99), await desk.backend.read_changes("k", after=0, limit=99))

    slices = 0
    while await desk.backend.maintain():
        slices += 1
        holds(slices < 1_000, "upkeep never ends")

    same(await desk.log(), before[0], "the log")
    same([await desk.stream(f"s-{number}", after=2) for number in range(7)], before[1], "the list of streams' records")
    same(await desk.backend.streams(limit=99), before[2], "the list of streams")
    same((await desk.backend.scan("k", limit=99), await desk.backend.read_changes("k", after=0, limit=99)), kv, "entries and changes")
    same(await desk.backend.verify(), [], "the list of problems")
    await desk.append("s-1", 1, len(await desk.stream("s-1")))


@PART.store("`Cancelled` from a read or a wait: nothing changed.")
async def a_cancelled_read_changes_nothing(desk: Desk) -> None:
    await desk.done(appending("a", 3), Put("k", b"x", b"1"))
    before = await desk.backend.store_status()

    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(100):
            await desk.log()
            await desk.stream("a")
    holds(scope.cancelled_caught, "a hundred reads in a cancelled scope did not see it")

    after = await desk.backend.store_status()
    same((after.head, after.revision, after.id), (before.head, before.revision, before.id), "head, revision and id")
    same([record.position for record in await desk.log(after=START)], [1, 2, 3], "the log")


@PART.store("A store that was used has no problems, and says how much it holds.")
async def a_used_store_verifies(desk: Desk) -> None:
    for number in range(5):
        await desk.done(appending("a", 2, tags=["t"]), Put("k", b"x", b"%d" % number), SaveSnapshot("s", Position(number), "f", b""))

    same(await desk.backend.verify(), [], "the list of problems")
    status = attrs.asdict(await desk.backend.store_status())
    same((status["head"], status["revision"], status["id"]), (10, 5, desk.backend.id), "head, revision and id of the status")
    holds(status["bytes_used"] > 0 and status["verified"] and status["url"], f"the status is {status}")
