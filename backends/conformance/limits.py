"""Laws of limits: what is just allowed works, what is beyond is refused with its number, before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from perdure.backends.commit import ANY, Append, Check, Commit, Delete, Fence, Put, SaveSnapshot, Unless, Write, propose
from perdure.backends.conformance.law import Desk, Part, appending, draft, holds, new_id, refused, same
from perdure.backends.errors import Misuse, TooLarge
from perdure.backends.event import START, Position
from perdure.backends.selector import EVERYTHING, Selector

PART = Part("limits")
MIB = 1 << 20


def _propose(*writes: Write) -> Commit:
    return propose(list(writes), id=new_id(), at_us=1)


def _beyond(limit: int, size: int, *writes: Write) -> TooLarge:
    error = refused(TooLarge, lambda: _propose(*writes), f"something of {size:,}, with a limit of {limit:,},")
    same(error.limit, limit, "the limit in the error")
    same(error.size, size, "the size in the error")
    holds(f"{limit:,}" in str(error) and ":" in str(error), f"the message names no number or remedy: {error}")
    return error


@PART.store("A stream's name has at most 255 bytes.")
async def stream_names_are_bounded(desk: Desk) -> None:
    for name in ("x" * 255, "ü" * 127, "😀" * 63 + "abc", "x" * 254 + "-"):
        await desk.append(name)
        await desk.done(Check(1, stream=name))
        same([record.stream for record in await desk.stream(name)], [name], "the stream's name")
    same(len(await desk.backend.streams(limit=9)), 4, "the number of streams")
    _beyond(255, 256, appending("x" * 256))
    _beyond(255, 256, appending("ü" * 128))
    _beyond(255, 256, Check(0, stream="x" * 256))


@PART.store("A bucket's name has at most 64 bytes, a key 400, a value 1 MiB.")
async def entries_are_bounded(desk: Desk) -> None:
    bucket, key = "b" * 64, b"\xff" * 400
    for value in (b"x" * MIB, b""):
        await desk.store(Put(bucket, key, value))
        entry = await desk.backend.get(bucket, key)
        holds(entry is not None and entry.value == value, "the largest entry came back otherwise")
    same([entry.key for entry in await desk.backend.scan(bucket, prefix=key, limit=9)], [key], "the scan")
    same([change.key for change in (await desk.backend.read_changes(bucket, after=0, limit=9)).changes], [key], "the changes")
    await desk.store(Delete(bucket, key))
    _beyond(64, 65, Put("b" * 65, b"k", b""))
    _beyond(400, 401, Put("k", b"x" * 401, b""))
    _beyond(400, 401, Delete("k", b"x" * 401))
    _beyond(400, 401, Check(0, bucket="k", key=b"x" * 401))
    _beyond(MIB, MIB + 1, Put("k", b"x", b"x" * (MIB + 1)))


@PART.store("A type has at most 128 bytes; an event has at most 8 tags of 128 bytes.")
async def types_and_tags_are_bounded(desk: Desk) -> None:
    tags = [f"{number}" + "ü" * 63 + "x" for number in range(8)]
    await desk.done(Append("a", [draft(type="t" * 128, tags=tags)]))
    same([record.tags for record in await desk.log(where=EVERYTHING.within(types=["t" * 128], tags=tags))], [tuple(tags)], "the tags")
    _beyond(128, 129, appending("a", type="t" * 129))
    _beyond(8, 9, appending("a", tags=[f"{number}" for number in range(9)]))
    _beyond(128, 129, appending("a", tags=["t" * 129]))


@PART.store("An event has at most 1 MiB.")
async def events_are_bounded(desk: Desk) -> None:
    payload = bytes(range(256)) * 4096
    await desk.done(Append("a", [draft(payload), draft(b"")]))
    holds(await desk.payloads("a") == [payload, b""], "the largest event came back otherwise")
    _beyond(MIB, MIB + 1, Append("a", [draft(b"x" * (MIB + 1))]))


@PART.store("A commit has at most 10,000 events or 16 MiB.")
async def commits_are_bounded(desk: Desk) -> None:
    await desk.append("a", 10_000)
    await desk.done(appending("a", 5_000), appending("b", 5_000))
    await desk.done(Append("c", [draft(b"x" * 1_000_000)] * 16, ANY))
    same(await desk.backend.head(), 20_016, "the head")
    _beyond(10_000, 10_001, appending("a", 10_001))
    _beyond(10_000, 10_002, appending("a", 5_001), appending("b", 5_001))
    error = refused(TooLarge, lambda: _propose(Append("a", [draft(b"x" * MIB)] * 17)), "a commit of 17 MiB")
    same(error.limit, 16 * MIB, "the limit in the error")
    error = refused(TooLarge, lambda: _propose(*(Put("k", b"%d" % number, b"x" * MIB) for number in range(17))), "17 MiB of entries")
    same(error.limit, 16 * MIB, "the limit in the error")


@PART.store("A selector has at most 8 items.")
async def selectors_are_bounded(desk: Desk) -> None:
    await desk.append("s-7")
    eight: Selector[Any] = EVERYTHING.within(streams=["s-0"])
    for number in range(1, 8):
        eight = eight | EVERYTHING.within(streams=[f"s-{number}"])

    same(len(await desk.log(where=eight)), 1, "the number of events of eight items")
    error = refused(TooLarge, lambda: eight | EVERYTHING, "a selector of nine items")
    same((error.size, error.limit), (9, 8), "the numbers in the error")


@PART.store("In one commit each stream and each key occurs once.")
async def nothing_occurs_twice(desk: Desk) -> None:
    twice: list[Sequence[Write]] = [
        (appending("a"), appending("a")),
        (appending("a"), Check(0, stream="a")),
        (Check(0, stream="a"), Check(0, stream="a")),
        (Put("k", b"x", b"1"), Put("k", b"x", b"2")),
        (Put("k", b"x", b"1"), Delete("k", b"x")),
        (Delete("k", b"x"), Check(0, bucket="k", key=b"x")),
    ]
    for writes in twice:
        error = refused(Misuse, partial(_propose, *writes), f"{writes}")
        holds("occurs twice" in str(error), f"the message does not say why: {error}")
    await desk.done(appending("a"), Put("a", b"x", b""), Put("k", b"x", b""), Check(0, stream="x"), Check(0, bucket="k", key=b"a"))


@PART.store("`Misuse` is a ValueError: bad names, keys and expectations are refused before they are asked.")
async def misuse_is_refused_before(desk: Desk) -> None:
    bad: list[Callable[[], object]] = [
        lambda: _propose(),
        lambda: _propose(appending("")),
        lambda: _propose(appending("a\nb")),
        lambda: _propose(appending("a\0b")),
        lambda: _propose(appending("\ud800")),
        lambda: _propose(appending(7)),  # type: ignore[arg-type]  # wrong on purpose
        lambda: _propose(appending("a", type="")),
        lambda: _propose(appending("a", tags=["x\0y"])),
        lambda: _propose(appending("a", 1, -1)),
        lambda: _propose(appending("a", 1, True)),
        lambda: _propose(appending("a", 1, 1.0)),  # type: ignore[arg-type]  # wrong on purpose
        lambda: _propose(appending("a", 1, "any")),  # type: ignore[arg-type]  # wrong on purpose
        lambda: _propose(appending("a", 1, 1 << 63)),
        lambda: _propose(Put("", b"x", b"")),
        lambda: _propose(Put("k\0", b"x", b"")),
        lambda: _propose(Put("k", b"", b"")),
        lambda: _propose(Put("k", "text", b"")),
        lambda: _propose(Put("k", b"x", "text")),
        lambda: _propose(Put("k", b"x", b"", None)),  # type: ignore[arg-type]  # wrong on purpose
        lambda: _propose(Unless(EVERYTHING, after=-1)),  # type: ignore[arg-type]  # wrong on purpose
        lambda: _propose(Check(0, stream="a", bucket="k", key=b"x")),
        lambda: _propose(Check(0)),
        lambda: _propose(Check(0, bucket="k")),
        lambda: Selector(()),
        lambda: EVERYTHING.within(types="text"),
    ]
    for number, function in enumerate(bad):
        error = refused(Misuse, function, f"misuse number {number}")
        holds(isinstance(error, ValueError) and len(str(error)) > 15, f"the error says little: {error!r}")
    same(await desk.backend.head(), 0, "the head")


@PART.store("What a condition asks for and a snapshot is called is bounded like what is stored.")
async def queries_and_snapshots_are_bounded(desk: Desk) -> None:
    await desk.append("a", 1, tags=["t"])
    long = "t" * 600
    queries = [EVERYTHING.within(tags=[long]), EVERYTHING.within(types=[long]), EVERYTHING.within(streams=[long]), EVERYTHING.within(categories=[long])]
    for query in queries:
        same(await desk.log(where=query), [], "what a query for a name that is too long selects")
        try:
            commit = _propose(Unless(query, after=START), appending("b"))
        except TooLarge:
            continue
        group = await desk.backend.commit([commit, _propose(appending("c"))])
        holds(len(group.answers) == 2, "a condition with a name that is too long")
    _beyond(255, 256, SaveSnapshot("s" * 256, Position(1), "f", b""))
    for write in (SaveSnapshot("s\0x", Position(1), "f", b""), SaveSnapshot("s", Position(-1), "f", b""), Fence("", 1)):
        refused(Misuse, partial(_propose, write), f"{write}")
