"""Laws of the limits: each refuses with an error that says its number, and stores nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from perdure.actors.fold import Projection
from perdure.backends.commit import Append, Put
from perdure.backends.conformance.law import Stores, fails, holds, is_a, refused, same
from perdure.backends.errors import Closed, StateTooLarge, TooLarge
from perdure.backends.limits import LIMITS, Limits
from perdure.backends.schema import NewEvent
from perdure.backends.selector import EVERYTHING, of
from perdure.runtime.conformance.kit import COUNT, Happened, RuntimePart, listed, runtime_on
from perdure.runtime.log import StreamReader
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = RuntimePart("limits")
MIB = 1 << 20


async def _bounded(rt: Runtime, limit: int, fits: Callable[[], Awaitable[object]], exceeds: Callable[[], Awaitable[object]], what: str) -> None:
    await fits()
    head, revision = await rt.head(), await rt.backend.revision()
    error = await fails(TooLarge, exceeds(), f"{what} beyond its limit")
    same(error.limit, limit, f"the limit that the error tells of {what}")
    holds(f"{limit:,}" in str(error), f"the message does not say the number: {error}")
    same((await rt.head(), await rt.backend.revision()), (head, revision), "the store afterwards")


def _one(**more: Any) -> list[NewEvent]:
    return [NewEvent({"x": 1}, **{"type": "t", **more})]


@PART.runtime("A stream's name has at most 255 bytes.")
async def stream_names(rt: Runtime) -> None:
    await _bounded(rt, 255, lambda: rt.append("ä" * 127, _one()), lambda: rt.append("ä" * 128, _one()), "a stream name")


@PART.runtime("A bucket's name has at most 64 bytes, a key 400, a value 1 MiB.")
async def kv_bounds(rt: Runtime) -> None:
    await _bounded(rt, 64, lambda: rt.kv("b" * 64, int).put("x", 1), lambda: rt.transact(Put("b" * 65, "x", 1)), "a bucket name")
    refused(TooLarge, lambda: rt.kv("b" * 65, int), "a bucket name of 65 bytes")
    bucket = rt.kv("k", str)
    await _bounded(rt, 400, lambda: bucket.put("x" * 400, ""), lambda: bucket.put("x" * 401, ""), "a key")
    await _bounded(rt, MIB, lambda: bucket.put("x", "v" * (MIB - 5)), lambda: bucket.put("x", "v" * MIB), "a value")


@PART.runtime("A type has at most 128 bytes, an event 8 tags of 128 bytes.")
async def types_and_tags(rt: Runtime) -> None:
    await rt.append("a-1", _one(type="t" * 128))
    refused(Exception, lambda: NewEvent({}, type="t" * 129), "a type of 129 bytes")
    eight = [f"{number}" for number in range(8)]
    await _bounded(rt, 8, lambda: rt.append("a-1", _one(tags=eight)), lambda: rt.append("a-1", _one(tags=[*eight, "x"])), "a tag list")
    await _bounded(rt, 128, lambda: rt.append("a-1", _one(tags=["t" * 128])), lambda: rt.append("a-1", _one(tags=["t" * 129])), "a tag")


@PART.runtime("An event has at most 1 MiB.")
async def events_are_bounded(rt: Runtime) -> None:
    def sized(size: int) -> list[object]:
        return [Happened(1, "x" * (size - 30))]

    await _bounded(rt, MIB, lambda: rt.append("a-1", sized(MIB)), lambda: rt.append("a-1", sized(MIB + 100)), "an event")


@PART.runtime("A commit has at most 10,000 events or 16 MiB.")
async def commits_are_bounded(rt: Runtime) -> None:
    many = [Happened(1)] * 10_001
    await _bounded(rt, 10_000, lambda: rt.append("a-1", many[:-1]), lambda: rt.append("b-1", many), "a commit")
    big = [Happened(1, "x" * (MIB - 100))] * 17
    await _bounded(rt, 16 * MIB, lambda: rt.append("c-1", big[:15]), lambda: rt.append("d-1", big), "a commit in bytes")
    await fails(TooLarge, rt.transact(Append("e-1", many[:6_000]), Append("f-1", many[:6_000])), "two appends of 6,000 events")


@PART.runtime("A page has at most 1,000 records or 1 MiB, soft by one commit: readers hold no more.")
async def pages_are_bounded(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(n) for n in range(2_500)])
    reader = is_a(rt.read("a-1"), StreamReader)
    await anext(reader)
    holds(len(reader._events) <= 1_000, f"the reader holds {len(reader._events)} events")
    same(len(await listed(reader)), 2_499, "the number of the others")


@PART.runtime("A selector has at most 8 items.")
async def selectors_are_bounded(rt: Runtime) -> None:
    query = EVERYTHING
    for _ in range(7):
        query = query | EVERYTHING
    error = refused(TooLarge, lambda: query | EVERYTHING, "a selector of nine items")
    same((error.limit, await listed(rt.read_all(query))), (8, []), "the limit")


@PART.law("A single-value state has at most 1 MiB: beyond that `StateTooLarge`, which says to use `Keyed`.")
async def states_are_bounded(stores: Stores) -> None:
    grow = Projection("grow", version=1, initial="", step=lambda state, event: state + event.data.text, events=of(Happened))
    async with runtime_on(stores, limits=Limits(state_bytes=5_000)) as rt:
        await rt.append("a-1", [Happened(1, "x" * 6_000)])

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                model = await nursery.start(rt.project, grow)
                await model.wait_for(await rt.head())
                rt._models.stop()

        try:
            await run()
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
            holds(isinstance(error, StateTooLarge) and error.limit_bytes == 5_000 and "Keyed" in str(error), f"it failed with {error!r}")
        else:
            holds(False, "a state of 6,000 bytes was kept with a limit of 5,000")
    same(LIMITS.state_bytes, MIB, "the default")


@PART.law("A view stands 5 s at most: then its body is cancelled and `Closed` raised.")
async def views_are_bounded(stores: Stores) -> None:
    async with runtime_on(stores) as rt:
        if not rt.backend.capabilities.views:
            return

        async def stay() -> None:
            async with rt.view():
                await trio.sleep(20)

        await fails(Closed, stay(), "a view that is kept")
    same(LIMITS.view_s, 5, "the default")


@PART.law("The ring holds at most its bytes, a mailbox its requests, the journal its bytes: writers are held back, none is lost.")
async def queues_are_bounded(stores: Stores) -> None:
    limits = Limits(ring_bytes=2_000, mailbox=2, journal_bytes=3_000, stream_actors=3, group_commits=5)
    async with stores.open("queues-" + str(id(limits))) as backend, open_runtime(backend, limits=limits) as rt:
        async with trio.open_nursery() as nursery:
            for number in range(150):
                nursery.start_soon(rt.append, f"a-{number % 10}", [Happened(number, "x" * 100)])
            for _ in range(50):
                await trio.lowlevel.checkpoint()
                status = rt.status()
                holds(status.ring_bytes <= 2_000, f"the ring holds {status.ring_bytes} bytes")
                holds(status.journal.waiting_bytes <= 3_500, f"{status.journal.waiting_bytes} bytes wait in the journal")
                streams = status.find("streams")
                holds(streams is not None and len(streams.children) <= 3, "more stream actors live than may")
        same(sum([(await rt.fold(f"a-{number}", COUNT))[0] for number in range(10)]), 150, "the number of events")


@PART.runtime("The limits are one frozen value with these defaults.")
async def the_defaults(rt: Runtime) -> None:
    same(await rt.head(), 0, "the head")
    found = rt.limits
    same((found.group_commits, found.group_bytes, found.ring_bytes, found.journal_bytes), (4_096, 4 * MIB, 16 * MIB, 64 * MIB), "the queues")
    same((found.mailbox, found.stream_actors, found.page_records, found.page_bytes), (256, 10_000, 1_000, MIB), "the rest of them")
    same((found.commit_s, found.gate_s, found.ask_s, found.close_s), (30, 5, 5, 10), "the times")
    same((found.keys_kept_s, found.tombstones_kept_s), (604_800, 604_800), "what is kept for 7 days")
    refused(ValueError, lambda: Limits(mailbox=0), "mailbox=0")
    refused(AttributeError, lambda: setattr(found, "mailbox", 1), "setting a limit")
