"""Laws of reading through the runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs

from perdure.actors.fold import Fold
from perdure.backends.conformance.law import fails, holds, same
from perdure.backends.errors import Misuse, ProjectionFailed, Rewound, Unreadable
from perdure.backends.event import Event, Position
from perdure.backends.limits import Limits
from perdure.backends.schema import NewEvent, event
from perdure.backends.selector import of
from perdure.runtime.conformance.kit import COUNT, Happened, Other, RuntimePart, listed
from perdure.runtime.runtime import Runtime

PART = RuntimePart("readers")


@PART.runtime("`read` gives a stream's events beyond a seq, or backward those below it, to the end it finds.", limits=Limits(page_records=3))
async def a_stream_is_read_from_any_place(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(n) for n in range(1, 11)])
    await rt.append("b-1", [Other()])
    for after in range(12):
        forward = [event.seq for event in await listed(rt.read("a-1", after=after))]
        backward = [event.seq for event in await listed(rt.read("a-1", after=after, backward=True))]
        same(forward, list(range(after + 1, 11)), f"the stream after {after}")
        same(backward, list(range((after or 11) - 1, 0, -1))[-10:], f"the stream backward from {after}")
        same([event.seq for event in await listed(rt.read("a-1", after=after, limit=2))], forward[:2], f"two after {after}")
    same(await listed(rt.read("none-1")), [], "a stream that is not there")


@PART.runtime("`read_all` gives the selected events in order, beyond a position.", limits=Limits(page_records=4))
async def the_log_is_read_by_selector(rt: Runtime) -> None:
    for number in range(12):
        await rt.append(f"a-{number % 3}", [Happened(number), Other(number)])
    found = await listed(rt.read_all(of(Happened)))
    same([event.data.number for event in found], list(range(12)), "the selected events")
    after = await listed(rt.read_all(of(Happened), after=found[4].position))
    same([event.data.number for event in after], list(range(5, 12)), "those beyond the fifth")
    same(len(await listed(rt.read_all(of(Happened) | of(Other), limit=7))), 7, "the number of limited events")
    same(len(await listed(rt.read_all(of(Happened).within(streams=["a-1"])))), 4, "the number in one stream")


@PART.runtime("Readers are iterator objects with a cursor: read to the end, asked again, they give what has come since.")
async def readers_go_on(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(1)])
    log: AsyncIterator[Event[Any]] = rt.read_all()
    stream = rt.read("a-1")
    same((len(await listed(log)), len(await listed(stream))), (1, 1), "the first events")
    await rt.append("a-1", [Happened(2)])
    same(([e.seq for e in await listed(log)], [e.seq for e in await listed(stream)]), ([2], [2]), "the next ones")


@PART.runtime("What may not be asked is `Misuse`; a position beyond the head is `Rewound`.")
async def what_may_not_be_asked(rt: Runtime) -> None:
    async def read(**how: Any) -> None:
        await listed(rt.read("a-1", **how))

    for how in ({"after": -1}, {"after": "1"}, {"after": True}, {"limit": -1}, {"limit": "x"}):
        await fails(Misuse, read(**how), f"read({how})")
    await fails(Rewound, listed(rt.read_all(after=Position(99))), "read_all(after=99)")


@PART.runtime("`fold` gives a stream's state and last seq; an event that cannot be folded says where.", limits=Limits(page_records=2))
async def a_stream_is_folded(rt: Runtime) -> None:
    same(await rt.fold("a-1", COUNT), (0, 0), "the fold of nothing")
    await rt.append("a-1", [Happened(n) for n in range(7)])
    same(await rt.fold("a-1", COUNT), (7, 7), "the fold")

    def broken(state: int, event: object) -> int:
        return 1 // 0 if state == 4 else state + 1

    error = await fails(ProjectionFailed, rt.fold("a-1", Fold(0, broken)), "a fold that raises")
    same((error.stream, error.seq, type(error.__cause__)), ("a-1", 5, ZeroDivisionError), "the error")


@PART.runtime("What several calls see together is one state inside `view()`.")
async def a_view_stands(rt: Runtime) -> None:
    bucket = rt.kv("k", int)
    await rt.append("a-1", [Happened(1)])
    await bucket.put("x", 1)
    async with rt.view() as view:
        await rt.append("a-1", [Happened(2)])
        await bucket.put("x", 2)
        entry = await view.get(bucket, "x")
        same((await view.head(), len(await listed(view.read("a-1"))), len(await listed(view.read_all())), entry and entry.value), (1, 1, 1, 1), "the view")
        same(([one.value for one in await view.scan(bucket)], await view.fold("a-1", COUNT)), ([1], (1, 1)), "the view's scan and fold")
    same(await rt.head(), 2, "the head")


@PART.runtime("A payload that does not fit is `Unreadable`, an error of the event: those before and after it are read.")
async def unreadable_is_of_the_event(rt: Runtime) -> None:
    await rt.append("a-1", [NewEvent({"number": 1}, type="kit-late"), NewEvent({"number": "x"}, type="kit-late"), NewEvent({"number": 3}, type="kit-late")])
    late: Any = event("kit-late")(attrs.make_class("Late", {"number": attrs.field(type=int)}, frozen=True))
    reader = rt.read_all(of(late))
    same((await anext(reader)).seq, 1, "the event before")
    error = await fails(Unreadable, anext(reader), "reading what does not fit")
    holds("number" in error.path and error.position == 2, f"the error does not say where: {error}")
    same((await anext(reader)).seq, 3, "the event after")
