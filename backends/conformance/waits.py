"""Laws of waiting: at once or woken, never lost, and a way out."""

from __future__ import annotations

from collections.abc import Awaitable

import trio

from perdure.backends.commit import Check, Delete, Put, SaveSnapshot
from perdure.backends.conformance.law import Desk, Part, Stores, appending, fails, holds, is_a, new_name, open_desk, same, settle
from perdure.backends.conformance.waiting import ends, waits_on, woken
from perdure.backends.errors import Closed, Conflict
from perdure.backends.event import START, Position

PART = Part("waits")


@PART.store("`wait_beyond` returns at once if the head is already beyond.")
async def waiting_for_the_past_ends_at_once(desk: Desk) -> None:
    await desk.append("a", 3)

    for position in range(3):
        await ends(desk.backend.wait_beyond(Position(position)), f"wait_beyond({position}) with head 3")


@PART.store("`wait_changed` returns at once if kv has already changed beyond that revision.")
async def waiting_for_a_past_change_ends_at_once(desk: Desk) -> None:
    await desk.store(Put("k", b"x", b"1"))
    await desk.store(Delete("k", b"x"))

    for revision in range(2):
        await ends(desk.backend.wait_changed(revision), f"wait_changed({revision}) at revision 2")


@PART.store("`wait_beyond` is woken by events.")
async def events_wake(desk: Desk) -> None:
    await woken(lambda: desk.backend.wait_beyond(START), lambda: desk.append("a", 2), "wait_beyond(0)")
    await woken(lambda: desk.backend.wait_beyond(Position(2)), lambda: desk.append("b", 1), "wait_beyond(2)")


@PART.store("`wait_changed` is woken by puts and by deletes.")
async def changes_wake(desk: Desk) -> None:
    await woken(lambda: desk.backend.wait_changed(0), lambda: desk.store(Put("k", b"x", b"1")), "wait_changed(0)")
    await woken(lambda: desk.backend.wait_changed(1), lambda: desk.store(Delete("k", b"x")), "wait_changed(1)")


@PART.store("A commit without events wakes no follower of the log.")
async def what_has_no_events_wakes_no_follower(desk: Desk) -> None:
    await desk.append("a")

    async def conflict() -> None:
        is_a(await desk.ask(appending("a", 1, 9)), Conflict)

    await waits_on(
        lambda: desk.backend.wait_beyond(Position(1)),
        [
            lambda: desk.done(Put("k", b"x", b"1")),
            lambda: desk.done(SaveSnapshot("s", Position(1), "f", b"")),
            lambda: desk.done(Check(1, stream="a"), key=b"once"),
            conflict,
        ],
        "wait_beyond(1)",
    )


@PART.store("Events and kv are told apart: events wake no watcher of kv.")
async def events_wake_no_watcher_of_kv(desk: Desk) -> None:
    await desk.store(Put("k", b"x", b"1"))

    await waits_on(lambda: desk.backend.wait_changed(1), [lambda: desk.append("a", 2)], "wait_changed(1)")


@PART.store("`wait_beyond` waits for the position asked for, not for any event.")
async def a_wait_is_for_its_position(desk: Desk) -> None:
    await desk.append("a", 1)
    await waits_on(lambda: desk.backend.wait_beyond(Position(5)), [lambda: desk.append("a", 4)], "wait_beyond(5) at head 5")

    await ends(desk.backend.wait_beyond(Position(4)), "wait_beyond(4) at head 5")


@PART.store("All who wait are woken.")
async def all_who_wait_are_woken(desk: Desk) -> None:
    woken: list[str] = []

    async def follow(number: int) -> None:
        await ends(desk.backend.wait_beyond(START), "wait_beyond(0)")
        woken.append(f"event {number}")

    async def watch(number: int) -> None:
        await ends(desk.backend.wait_changed(0), "wait_changed(0)")
        woken.append(f"change {number}")

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(follow, number)
            nursery.start_soon(watch, number)
        await settle()
        await desk.done(appending("a"), Put("k", b"x", b"1"))
    same(len(woken), 40, "the number of the woken")


@PART.store("No wake-up is lost, whenever the event comes: wake-ups are hints, the log is the truth.")
async def no_wake_up_is_lost(desk: Desk) -> None:
    """Two tasks answer each other; the commit falls between every two steps of the other's wait."""

    async def player(stream: str, own: int) -> None:
        for turn in range(own, 40, 2):
            await ends(desk.backend.wait_beyond(Position(turn - 1)), f"wait_beyond({turn - 1})") if turn else None
            for _ in range(turn % 7):
                await trio.lowlevel.checkpoint()
            await desk.append(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(player, "a", 0)
        nursery.start_soon(player, "b", 1)
    same(await desk.backend.head(), 40, "the head")

    for steps in range(12):  # the commit comes so many steps after the wait began
        head = await desk.backend.head()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends, desk.backend.wait_beyond(head), f"wait_beyond({head}), an event {steps} steps later,")
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await desk.append("c")


@PART.store("From a cancelled wait: nothing changed; others go on waiting.")
async def a_cancelled_wait_disturbs_no_other(desk: Desk) -> None:
    async def both() -> None:
        with trio.move_on_after(0.01) as scope:
            await desk.backend.wait_beyond(START)
        holds(scope.cancelled_caught, "a cancelled wait returns as if woken")
        await desk.append("a")

    await woken(lambda: desk.backend.wait_beyond(START), both, "wait_beyond(0) beside a cancelled one")


@PART.store("A wait in a cancelled scope is cancelled, even if its reason has come.")
async def a_wait_sees_cancellation(desk: Desk) -> None:
    await desk.done(appending("a"), Put("k", b"x", b"1"))

    with trio.CancelScope() as scope:
        scope.cancel()
        await desk.backend.wait_beyond(START)
        await desk.backend.wait_changed(0)
        await desk.backend.wait_beyond(Position(1))
    holds(scope.cancelled_caught, "three waits in a cancelled scope did not see it")


@PART.law("Every wait has a way out: closing the store ends it with `Closed`.")
async def closing_ends_waits(stores: Stores) -> None:
    ended: list[Closed] = []

    async def waits(wait: Awaitable[None], what: str) -> None:
        ended.append(await fails(Closed, wait, what))

    async with open_desk(stores) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(waits, desk.backend.wait_beyond(START), "wait_beyond in a store that closes")
        nursery.start_soon(waits, desk.backend.wait_changed(0), "wait_changed in a store that closes")
        await settle()
        await desk.backend.aclose()
    same(len(ended), 2, "the number of waits that ended")


@PART.law("Followers are woken by what was committed through any opening of the store.")
async def any_opening_wakes(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if not one.backend.capabilities.shared_writes:
            return
        async with open_desk(stores, name) as other:
            await woken(lambda: one.backend.wait_beyond(START), lambda: other.append("a"), "wait_beyond(0) through another opening")
            await woken(lambda: other.backend.wait_changed(0), lambda: one.store(Put("k", b"x", b"1")), "wait_changed(0) through another opening")
