"""Laws of subscriptions: one loop, no gap, and a place that is kept."""

from __future__ import annotations

import trio

from perdure.backends.commit import CHECKPOINTS
from perdure.backends.conformance.law import Stores, fails, holds, new_name, same
from perdure.backends.errors import AlreadyRunning, Misuse, Rewound
from perdure.backends.event import HEAD, START, Position
from perdure.backends.limits import Limits
from perdure.backends.selector import EVERYTHING, Selector, of
from perdure.runtime.conformance.kit import Happened, Other, RuntimePart
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = RuntimePart("subscriptions")


async def _follow(rt: Runtime, count: int, events: Selector[Happened], after: Position, got: list[int], pause: int = 0) -> None:
    async with rt.subscribe(events, after=after) as found:
        while len(got) < count:
            got.append((await anext(found)).data.number)
            for _ in range(pause):
                await trio.lowlevel.checkpoint()


async def _no_gap(rt: Runtime) -> None:
    eager, lazy = list[int](), list[int]()
    for number in range(30):
        await rt.append("a-1", [Happened(number)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, rt, 100, of(Happened), START, eager)
        nursery.start_soon(_follow, rt, 100, of(Happened), START, lazy, 7)
        for number in range(30, 100, 2):
            await rt.append(f"a-{number % 5}", [Happened(number), Other(), Happened(number + 1)])
    same(eager, list(range(100)), "what an eager follower got")
    same(lazy, list(range(100)), "what a lazy follower got")


@PART.runtime("A follower sees the selected events in order, without a gap, once per run.")
async def no_gap(rt: Runtime) -> None:
    await _no_gap(rt)


@PART.runtime("A follower takes from the ring only at or beyond its floor, else from the backend.", limits=Limits(ring_bytes=1_500, page_records=3))
async def ring_and_log_agree(rt: Runtime) -> None:
    await _no_gap(rt)


@PART.runtime("Without a ring the log is the truth.", limits=Limits(ring_bytes=1))
async def the_log_is_the_truth(rt: Runtime) -> None:
    await _no_gap(rt)


@PART.law("The ring is a chain: a group that another wrote in between clears it, and nothing is missed.")
async def others_may_write(stores: Stores) -> None:
    async with stores.open(new_name()) as backend, open_runtime(backend) as one, open_runtime(backend) as other:
        eager, lazy = list[int](), list[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, one, 60, of(Happened), START, eager)
            nursery.start_soon(_follow, one, 60, of(Happened), START, lazy, 7)
            for number in range(60):
                await (one if number % 3 else other).append("a-1", [Happened(number)])
    same(eager, list(range(60)), "what an eager follower got")
    same(lazy, list(range(60)), "what a lazy follower got")


@PART.runtime("A slow follower never slows a writer, never loses an event, holds one page.", limits=Limits(ring_bytes=2_000, page_records=10))
async def a_slow_follower_loses_nothing(rt: Runtime) -> None:
    async with rt.subscribe(of(Happened), after=HEAD) as idle:
        for number in range(300):
            await rt.append("a-1", [Happened(number)])
        same([(await anext(idle)).data.number for _ in range(300)], list(range(300)), "what it got at last")
        holds(len(idle._events) <= 20, f"it holds {len(idle._events)} events")


@PART.runtime("`after=HEAD`: those to come; a position: those beyond it; one beyond the head is `Rewound`.")
async def where_it_begins(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(number) for number in range(3)])
    await rt.append("a-1", [Happened(3)])
    async with rt.subscribe(of(Happened)) as to_come, rt.subscribe(of(Happened), after=Position(3)) as beyond:
        await rt.append("a-1", [Happened(4)])
        same(((await anext(to_come)).data.number, (await anext(beyond)).data.number), (4, 3), "the first events")

    async def subscribe(after: object) -> None:
        async with rt.subscribe(EVERYTHING, after=after):  # type: ignore[arg-type]  # one of them is wrong on purpose
            pass

    await fails(Rewound, subscribe(99), "after=99")
    await fails(Misuse, subscribe("1"), "after='1'")


@PART.law("Asking for the next event says that the last one is done; a restart goes on from the last checkpoint.")
async def a_named_one_resumes(stores: Stores) -> None:
    async with stores.open(new_name()) as backend:
        async with open_runtime(backend) as rt:
            for number in range(6):
                await rt.append("a-1", [Happened(2 * number), Happened(2 * number + 1)])
            async with rt.subscribe(of(Happened), after=START, name="s") as events:
                for _ in range(8):
                    await anext(events)
        async with open_runtime(backend) as rt, rt.subscribe(of(Happened), after=START, name="s") as events:
            same((await anext(events)).data.number, 6, "the first event: its commit was not done whole")


@PART.runtime("A named one checkpoints the last commit of which all is done, at most every second and at the end.")
async def places_are_kept(rt: Runtime) -> None:
    for number in range(40):
        await rt.append("a-1", [Happened(number)])
    kept: set[int] = set()

    async def look() -> int:
        entry = await rt.backend.get(CHECKPOINTS, b"subscription s")
        kept.update([] if entry is None else [entry.revision])
        return len(kept)

    async with rt.subscribe(of(Happened), after=START, name="s") as events:
        for _ in range(25):
            await anext(events)
            await look()
            await trio.sleep(0.1)
        during = await look()
        holds(1 <= during <= 3, f"within 2.5 s its place was kept {during} times")
    same(await look(), during + 1, "how often it was kept with the end")


@PART.runtime("A name is used once at a time.")
async def a_name_is_used_once(rt: Runtime) -> None:
    async def subscribe() -> None:
        async with rt.subscribe(EVERYTHING, name="s"):
            pass

    async with rt.subscribe(EVERYTHING, name="s"):
        await fails(AlreadyRunning, subscribe(), "the name a second time")
    await subscribe()


@PART.law("The iteration ends when the runtime closes, after the event in hand.")
async def closing_ends_it(stores: Stores) -> None:
    got: list[int] = []

    async def follow(rt: Runtime, ready: trio.Event) -> None:
        async with rt.subscribe(of(Happened), after=START) as events:
            async for event in events:
                got.append(event.data.number)
                ready.set()
                await trio.sleep(0.05)

    async with stores.open(new_name()) as backend, trio.open_nursery() as nursery:
        async with open_runtime(backend) as rt:
            await rt.append("a-1", [Happened(number) for number in range(9)])
            ready = trio.Event()
            nursery.start_soon(follow, rt, ready)  # noqa: ASYNC111 - the runtime's closing is what ends it
            await ready.wait()
    same(got, [0], "what it got")
