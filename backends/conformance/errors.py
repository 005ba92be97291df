"""Laws of errors and of closing."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable

import trio

from perdure.backends.commit import Answer, Put, Unless, propose
from perdure.backends.conformance.law import Desk, Part, Stores, appending, fails, holds, new_id, now_us, open_desk, same
from perdure.backends.errors import Closed, Compacted, ConditionTooBroad, Conflict, KeyReused, PerdureError, Rewound
from perdure.backends.event import START, Position
from perdure.backends.protocol import Backend
from perdure.backends.selector import EVERYTHING

PART = Part("errors")


async def _open_view(backend: Backend) -> None:
    async with backend.view() as view:
        await view.head()


CALLS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "commit": lambda backend: backend.commit([propose([appending("a")], id=new_id(), at_us=1)]),
    "read_stream": lambda backend: backend.read_stream("a", after=0, limit=1, bytes_max=1),
    "read_log": lambda backend: backend.read_log(after=START, limit=1, bytes_max=1),
    "head": lambda backend: backend.head(),
    "revision": lambda backend: backend.revision(),
    "answer": lambda backend: backend.answer(new_id()),
    "get": lambda backend: backend.get("k", b"x"),
    "scan": lambda backend: backend.scan("k", limit=1),
    "read_changes": lambda backend: backend.read_changes("k", after=0, limit=1),
    "read_snapshot": lambda backend: backend.read_snapshot("s"),
    "snapshots": lambda backend: backend.snapshots("s"),
    "stream": lambda backend: backend.stream("a"),
    "streams": lambda backend: backend.streams(limit=1),
    "wait_beyond": lambda backend: backend.wait_beyond(START),
    "wait_changed": lambda backend: backend.wait_changed(0),
    "view": _open_view,
    "now_us": lambda backend: backend.now_us(),
    "maintain": lambda backend: backend.maintain(),
    "scrub": lambda backend: backend.scrub(),
    "verify": lambda backend: backend.verify(),
    "store_status": lambda backend: backend.store_status(),
}
"""Every method that a closed store refuses."""


@PART.store("A scrub reads all that is kept, a slice at a time, while others write, and finds nothing in a sound store.")
async def a_scrub_goes_through(desk: Desk) -> None:
    if not desk.backend.capabilities.upkeep:
        same((await desk.backend.scrub(), await desk.backend.maintain()), (False, False), "whether there is more to do where others do it")
        return
    for number in range(60):
        await desk.done(appending("a", 30), Put("k", b"%d" % number, b"x" * 5_000))
    slices, rounds = 0, 0
    while rounds < 2:
        rounds += not await desk.backend.scrub()
        slices += 1
        if slices < 10:
            await desk.append("b")

    status = await desk.backend.store_status()
    holds(slices >= 6, "300 KB are read in at least three slices")
    same(status.damages, (), "what the scrub found")


@PART.store("A closed store says `Closed` to every call.")
async def a_closed_store_says_so(desk: Desk) -> None:
    await desk.done(appending("a"), Put("k", b"x", b"1"))
    await desk.backend.aclose()

    for name, call in CALLS.items():
        with trio.fail_after(2):
            await fails(Closed, call(desk.backend), f"{name} of a closed store")


@PART.store("`aclose` always closes, and is idempotent.")
async def closing_twice_is_closing_once(desk: Desk) -> None:
    await desk.append("a")
    for _ in range(3):
        await desk.backend.aclose()

    await fails(Closed, desk.backend.head(), "head of a store closed three times")


@PART.law("`aclose` always closes: in a cancelled scope too.")
async def closing_is_not_cancelled(stores: Stores) -> None:
    async with open_desk(stores) as desk:
        await desk.append("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await desk.backend.aclose()

        await fails(Closed, desk.backend.head(), "head of a store closed in a cancelled scope")


@PART.store("All errors derive from one base; each message names the facts and a remedy; they pickle.")
async def errors_say_what_and_pickle(desk: Desk) -> None:
    await desk.append("a", 10_000)
    await desk.append("a", 1)
    await desk.ask(appending("b"), key=b"once")
    answers: list[Answer] = [
        await desk.ask(appending("a", 1, 5)),
        await desk.ask(appending("b", 2), key=b"once"),
        await desk.ask(Unless(EVERYTHING.within(types=["none"]), after=START)),
    ]
    rewound = await fails(Rewound, desk.backend.read_log(after=Position(99_999), limit=1, bytes_max=1), "a page beyond the head")

    same([type(answer) for answer in answers], [Conflict, KeyReused, ConditionTooBroad], "the kinds of the answers")
    for error in (*answers, rewound, Compacted("k", 4)):
        holds(isinstance(error, PerdureError), f"{error!r} is not of the family")
        holds(len(str(error)) > 30 and any(mark in str(error) for mark in ":;"), f"the message {str(error)!r} names no remedy")
        again = pickle.loads(pickle.dumps(error))
        same((type(again), str(again)), (type(error), str(error)), "the error after pickling")


@PART.store("`now_us` is the later of the store's last time and its machine's clock.")
async def the_stores_time_is_the_later(desk: Desk) -> None:
    before = now_us()
    holds(await desk.backend.now_us() >= before, "the store's time is before its machine's clock")
    ahead = now_us() + 120_000_000
    await desk.done(appending("a"), at_us=ahead)

    holds(await desk.backend.now_us() >= ahead, "the store's time is before its last event")


@PART.store("Upkeep comes in bounded slices and ends; there may be nothing to do.")
async def upkeep_ends(desk: Desk) -> None:
    same(await desk.backend.maintain(), False, "whether an empty store needs upkeep")
    for number in range(100):
        await desk.done(appending(f"s-{number % 5}"))
    slices = 0
    while await desk.backend.maintain():
        slices += 1
        holds(slices < 1_000, "upkeep does not end")

    head = await desk.backend.head()
    same(await desk.backend.maintain(), False, "whether upkeep is due again at once")
    same(head, 100, "the head")
