"""Laws of events in: what an append takes, and what of it comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.backends.commit import EXISTS, Append, Appended, Put
from perdure.backends.conformance.law import Stores, fails, holds, is_a, new_name, refused, same
from perdure.backends.environment import Environment
from perdure.backends.errors import ClockAhead, Conflict, Misuse
from perdure.backends.event import Unknown, to_datetime
from perdure.backends.schema import NewEvent
from perdure.runtime.conformance.kit import Happened, RuntimePart, listed
from perdure.runtime.encode import traceparent
from perdure.runtime.open import open_runtime
from perdure.runtime.runtime import Runtime

PART = RuntimePart("events")


@PART.runtime("An item is a payload or `NewEvent`, and comes back as it went.")
async def payloads_come_back(rt: Runtime) -> None:
    moment = datetime(2020, 2, 29, 12, 30, 1, 5, tzinfo=UTC)
    new = NewEvent(Happened(2), tags=["x", "y"], meta={"who": ["a", 1]}, occurred=moment, id="mine")
    await rt.append("a-1", [Happened(1, "ä", "t"), new, NewEvent({"free": [1, None]}, type="plain")])

    one, two, three = await listed(rt.read("a-1"))
    same((one.data, one.type, one.version, one.tags, one.meta), (Happened(1, "ä", "t"), "kit-happened", 1, ("tag:t",), {}), "the payload")
    same((two.tags, two.meta, two.occurred, two.id), (("x", "y"), {"who": ["a", 1]}, moment, "mine"), "the envelope")
    same((three.type, three.data.value, three.occurred), ("plain", {"free": [1, None]}, three.at), "the plain event")


@PART.runtime("str, bytes and `Event` are `Misuse`, and nothing is stored.")
async def what_is_no_event_is_misuse(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(1)])
    (known,) = await listed(rt.read("a-1"))

    for item in ("text", b"bytes", known, {"a": 1}, None, 5, Happened):
        await fails(Misuse, rt.append("a-1", [Happened(2), item]), f"an append of {item!r:.40}")
    lists: list[Any] = ["text", b"bytes", Happened(1), {Happened(1)}, 5]
    for items in lists:
        await fails(Misuse, rt.append("a-1", items), f"an append of {items!r:.40} as the list")
    same(await rt.head(), 1, "the head")


@PART.runtime("An append of several is one commit, consecutive seqs.")
async def several_are_one_commit(rt: Runtime) -> None:
    same(await rt.append("a-1", [Happened(n) for n in range(5)]), Appended(1, 5, await rt.head()), "the answer")
    found = await listed(rt.read("a-1"))
    same([event.seq for event in found], [1, 2, 3, 4, 5], "the list of seqs")
    same(len({(event.at, event.record.commit) for event in found}), 1, "the number of commits")


@PART.runtime("`id` is its commit's id and ordinal unless given.")
async def ids_are_the_commits(rt: Runtime) -> None:
    await rt.append("a-1", [Happened(1), NewEvent(Happened(2), id="x"), Happened(3)])
    one, two, three = [event.id for event in await listed(rt.read("a-1"))]
    same((two, one[:-1], one[-2:], three[-2:]), ("x", three[:-1], "-0", "-2"), "the list of ids")


@PART.runtime("A conflict comes back as a value with the facts; without `expected` there is none.")
async def conflicts_are_values(rt: Runtime) -> None:
    is_a(await rt.append("a-1", [Happened(1)], expected=EXISTS), Conflict)
    is_a(await rt.append("a-1", [Happened(1)]), Appended)
    conflict = is_a(await rt.append("a-1", [Happened(1)], expected=5), Conflict)
    same((conflict.what, conflict.subject, conflict.expected, conflict.actual), ("stream", "a-1", 5, 1), "the conflict")
    expectations: list[Any] = [-1, True, "1", 1.0]
    for wrong in expectations:
        await fails(Misuse, rt.append("a-1", [Happened(1)], expected=wrong), f"expected={wrong!r}")


@PART.runtime("`at` (UTC, microseconds) is one value per commit and never goes back in the log.")
async def at_never_goes_back(rt: Runtime) -> None:
    for number in range(30):
        await rt.transact(Append(f"a-{number % 3}", [Happened(1)]), Append("b-1", [Happened(2)]), Put("k", "x", number))
    found = await listed(rt.read_all())
    times = [event.at for event in found]
    holds(times == sorted(times) and all(at.tzinfo is UTC for at in times), f"the times are {times}")
    same([len({e.at for e in found if e.record.commit == event.record.commit}) for event in found], [1] * 60, "the times of each commit")


@PART.law("The engine takes the later of the proposed time and the log's last.")
async def a_clock_set_back_is_no_matter(stores: Stores) -> None:
    name = new_name()
    async with stores.open(name) as backend:
        now = await backend.now_us()
        clock = [now]
        async with open_runtime(backend, environment=Environment(clock=lambda: clock[0], elapsed=lambda: 0.0)) as rt:
            await rt.append("a-1", [Happened(1)])
            clock[0] -= 3_600_000_000
            await rt.append("a-1", [Happened(2)])
            one, two = await listed(rt.read("a-1"))
            same(two.at, one.at, "the time of an append after the clock was set back")


@PART.law("A proposal more than 300 s ahead of the store and of the time since it was last seen is `ClockAhead`.")
async def a_clock_ahead_is_refused(stores: Stores) -> None:
    async with stores.open(new_name()) as backend:
        clock, elapsed = [await backend.now_us()], [0.0]
        async with open_runtime(backend, environment=Environment(clock=lambda: clock[0], elapsed=lambda: elapsed[0])) as rt:
            clock[0] += 301_000_000
            error = await fails(ClockAhead, rt.append("a-1", [Happened(1)]), "an append 301 s ahead")
            same((round(error.ahead_s), error.limit_s), (301, 300), "the error")
            elapsed[0] += 2
            await rt.append("a-1", [Happened(1)])
            clock[0] += 3_600_000_000
            elapsed[0] += 3_600
            await rt.append("a-1", [Happened(1)])
        same(await backend.head(), 2, "the head")


@PART.runtime("When it happened in the world is `occurred`; it needs a time zone.")
async def occurred_is_kept(rt: Runtime) -> None:
    for moment in (to_datetime(0), to_datetime(-1), datetime(2500, 1, 1, tzinfo=UTC), datetime.now(UTC) - timedelta(days=9)):
        await rt.append("a-1", [NewEvent(Happened(1), occurred=moment)])
        (found,) = await listed(rt.read("a-1", backward=True, limit=1))
        same((found.occurred, found.at == moment), (moment, False), "occurred")

    naive = datetime(2020, 1, 1)  # noqa: DTZ001 - what is refused
    refused(Misuse, lambda: NewEvent(Happened(1), occurred=naive), "a naive occurred")


@PART.runtime("Contextvars: `traceparent` is taken from the caller into `meta`.")
async def traceparent_is_taken(rt: Runtime) -> None:
    token = traceparent.set("00-trace")
    try:
        await rt.append("a-1", [Happened(1), NewEvent(Happened(2), meta={"a": 1})])
    finally:
        traceparent.reset(token)
    await rt.append("a-1", [Happened(3)])
    same([event.meta for event in await listed(rt.read("a-1"))], [{"traceparent": "00-trace"}, {"a": 1, "traceparent": "00-trace"}, {}], "the meta")


@PART.law("An event without a class has `data: Unknown(type, version, value)`; the registry belongs to the runtime.")
async def without_a_class_it_is_unknown(stores: Stores) -> None:
    async with stores.open(new_name()) as backend:
        async with open_runtime(backend) as rt:
            await rt.append("a-1", [Happened(1, "x")])
        async with open_runtime(backend) as rt:
            (found,) = await listed(rt.read("a-1"))
            same(found.data, Unknown("kit-happened", 1, {"number": 1, "text": "x", "tag": ""}), "the data")
