"""Laws of a failed flush: nobody knows what is stored, until the store was reopened; then everybody does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import attrs
import trio

from perdure.backends.commit import Check, Put, SaveSnapshot, Write, key_id
from perdure.backends.conformance.abilities import FailsFlush, HoldsTurn
from perdure.backends.conformance.law import (
    Desk,
    Part,
    appending,
    fails,
    holds,
    new_id,
    new_name,
    now_us,
    open_desk,
    same,
    settle,
)
from perdure.backends.conformance.waiting import SOON_S, ends
from perdure.backends.errors import Closed, InDoubt, Unavailable
from perdure.backends.event import Position
from perdure.backends.protocol import State


@attrs.define
class DoubtDesk(Desk):
    """A desk whose store's flushes can be made to fail."""

    stores: FailsFlush
    name: str
    stored: bool
    """Whether what a failed flush wrote is there afterwards."""

    async def fail(self, *commits: Sequence[Write], ids: Sequence[bytes] | None = None, keys: Sequence[bytes | None] | None = None) -> InDoubt:
        """A group whose flush fails."""
        at_us = await self.backend.now_us()
        self.stores.fail_flush(self.backend, stored=self.stored)
        return await fails(InDoubt, self.group(*commits, ids=ids, keys=keys, at_us=at_us), "a group whose flush fails")

    async def back(self) -> None:
        """Reopen it."""
        await self.backend.reopen()
        same(self.backend.state, State.OPEN, "the state after reopening")


WithDoubt = Callable[[DoubtDesk], Awaitable[None]]


class DoubtPart(Part):
    """Laws whose checks get a fresh store, once with what a failed flush wrote being there afterwards, once without."""

    def desk(self, sentence: str, *, needs: Sequence[str] = ()) -> Callable[[WithDoubt], Callable[[FailsFlush], Awaitable[None]]]:
        """Mark a function of a `DoubtDesk` as the check of *sentence*."""

        def mark(function: WithDoubt) -> Callable[[FailsFlush], Awaitable[None]]:
            async def check(stores: FailsFlush) -> None:
                for stored in (True, False):
                    name = new_name()
                    async with stores.open(name) as backend:
                        await function(DoubtDesk(backend, stores, name, stored))

            check.__name__ = function.__name__
            return self.law(sentence, needs=("fail_flush", *needs))(check)

        return mark


PART = DoubtPart("doubt")


# -- while it lasts --------------------------------------------------------------------------


@PART.desk("A failed flush is `InDoubt(id, key)`, and leaves the store doubtful.")
async def a_failed_flush_is_in_doubt(desk: DoubtDesk) -> None:
    same(desk.backend.state, State.OPEN, "the state of a sound store")
    id = new_id()
    error = await desk.fail([appending("a")], [appending("b")], ids=[id, new_id()])
    same((error.id, error.key), (id, None), "the id and key in the error")
    same(desk.backend.state, State.DOUBTFUL, "the state")
    await desk.back()
    error = await desk.fail([Put("k", b"x", b"1")], keys=[b"once"])
    same((error.id, error.key), (key_id(b"once"), b"once"), "the id and key in the error of a keyed commit")


@PART.desk("A doubtful store commits nothing: `Unavailable`, and nothing of it will happen.")
async def a_doubtful_store_commits_nothing(desk: DoubtDesk) -> None:
    ids = [new_id() for _ in range(4)]
    await desk.append("a")
    await desk.fail([appending("a")])
    for id in ids[:2]:
        await fails(Unavailable, desk.ask(appending("never"), id=id, at_us=now_us()), "a commit to a doubtful store")
    await fails(Unavailable, desk.ask(Put("never", b"x", b""), id=ids[2], at_us=now_us()), "a put to a doubtful store")
    await fails(Unavailable, desk.ask(Check(1, stream="a"), id=ids[3], key=b"once", at_us=now_us()), "a check of a doubtful store")
    await fails(Unavailable, desk.backend.maintain(), "upkeep of a doubtful store")
    same(desk.backend.state, State.DOUBTFUL, "the state")
    await desk.back()
    same((await desk.payloads("never"), await desk.backend.get("never", b"x")), ([], None), "what became of what was refused")
    same([await desk.backend.answer(id) for id in (*ids, key_id(b"once"))], [None] * 5, "what is known of what was refused")
    same(len(await desk.log()), 1 + desk.stored, "the number of events")


@PART.desk("Nothing is shown before it is durable: in a doubtful store reads go on as before, or wait until it is reopened.")
async def nothing_in_doubt_is_shown(desk: DoubtDesk) -> None:
    backend, id = desk.backend, new_id()
    await desk.done(appending("a"), Put("k", b"x", b"1"), SaveSnapshot("s", Position(1), "f", b"1"))
    reads: dict[str, Any] = {
        "head": backend.head,
        "revision": backend.revision,
        "answer": lambda: backend.answer(id),
        "log": desk.log,
        "stream": lambda: desk.stream("a"),
        "info": lambda: backend.stream("a"),
        "streams": lambda: backend.streams(limit=9),
        "entry": lambda: backend.get("k", b"x"),
        "scan": lambda: backend.scan("k", limit=9),
        "changes": lambda: backend.read_changes("k", after=0, limit=9),
        "snapshot": lambda: backend.read_snapshot("s"),
    }
    before = {what: await read() for what, read in reads.items()}
    found: dict[str, Any] = {}

    async def ask(what: str) -> None:
        found[what] = await reads[what]()

    await desk.fail([appending("a"), Put("k", b"x", b"2"), SaveSnapshot("s", Position(2), "f", b"2")], ids=[id])
    async with trio.open_nursery() as nursery:
        for what in reads:
            nursery.start_soon(ask, what)
        await settle()
        await trio.sleep(0.05)
        for what, value in dict(found).items():
            same(value, before[what], f"{what} in a doubtful store")
        await desk.back()
    after = {what: await read() for what, read in reads.items()}
    for what in reads:
        holds(found[what] in (before[what], after[what]), f"{what}, asked while the store was doubtful, became {found[what]!r:.200}")
        same(after[what] != before[what], desk.stored, f"whether {what} was changed by a flush that failed")


@PART.desk("A reopening that does not succeed is `Unavailable`, shows nothing, and may be tried again.", needs=["hold_turn"])
async def a_reopening_may_fail(desk: DoubtDesk) -> None:
    id, heads = new_id(), list[int]()
    await desk.append("a")
    await desk.fail([appending("a")], ids=[id])

    async def look() -> None:
        heads.append(await desk.backend.head())

    async with trio.open_nursery() as nursery:
        with cast(HoldsTurn, desk.stores).hold_turn(desk.name):
            nursery.start_soon(fails, Unavailable, desk.backend.reopen(), "reopening while a frozen process has the right to write")
            for _ in range(8):
                await trio.sleep(0.02)
                nursery.start_soon(look)
            while desk.backend.state is State.REOPENING:  # noqa: ASYNC110 - it says nothing when it gives up
                await trio.sleep(0.02)
            nursery.start_soon(look)
            await trio.sleep(0.05)
            same(set(heads) <= {1}, True, f"whether only what is durable was shown while it was being reopened (heads: {heads})")
            same(desk.backend.state, State.DOUBTFUL, "the state after a reopening that failed")
        await desk.back()
    holds(set(heads) <= {1, 1 + desk.stored}, f"the heads that were read are {heads}")
    same((await desk.backend.answer(id)) is not None, desk.stored, "whether the commit in doubt is known to be stored")


# -- reopening -------------------------------------------------------------------------------


@PART.desk("`reopen` makes a store open again; where nothing is in doubt it is at once; it may be repeated.")
async def reopening_makes_it_open(desk: DoubtDesk) -> None:
    await ends(desk.backend.reopen(), "reopening a store that is open")
    await desk.append("a")
    await desk.fail([appending("a")])
    for _ in range(3):
        await desk.back()
    async with trio.open_nursery() as nursery:
        await desk.fail([appending("b")])
        for _ in range(3):
            nursery.start_soon(desk.backend.reopen)
    same(desk.backend.state, State.OPEN, "the state")
    same(len(await desk.log()), 1 + 2 * desk.stored, "the number of events")
    await desk.append("c")


@PART.desk("A reopening that is cancelled leaves the store as it was, or open; the next one knows all.")
async def a_cancelled_reopening_may_be_repeated(desk: DoubtDesk) -> None:
    for steps in range(10):
        id, head = new_id(), await desk.backend.head()
        await desk.fail([appending("a"), Put("k", b"x", b"")], ids=[id])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.backend.reopen)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        holds(desk.backend.state in (State.DOUBTFUL, State.OPEN), f"the state after a cancelled reopening is {desk.backend.state}")
        await desk.back()
        answer = await desk.backend.answer(id)
        same((answer is not None, await desk.backend.head() > head), (desk.stored, desk.stored), "whether it is known, and there")
        await desk.append("a")


@PART.desk("On reopening the views are cut: what holds one gets out.")
async def views_are_cut(desk: DoubtDesk) -> None:
    if not desk.backend.capabilities.views:
        return
    errors: list[Exception] = []
    held = 0

    async def hold() -> None:
        nonlocal held
        try:
            async with desk.backend.view() as view:
                same(await view.head(), 1, "the head in a view")
                held += 1
                await trio.sleep_forever()
        except (Closed, Unavailable) as error:
            errors.append(error)

    await desk.append("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        nursery.start_soon(hold)
        while held < 2:  # noqa: ASYNC110 - they have nothing to tell it by
            await trio.sleep(0.01)
        await desk.fail([appending("a")])
        await ends(desk.back(), "reopening a store with views")
        with trio.move_on_after(SOON_S):
            while len(errors) < 2:  # noqa: ASYNC110 - they have nothing to tell it by
                await trio.sleep(0.01)
        same(len(errors), 2, "the number of views that were cut")
    async with desk.backend.view() as view:
        same(await view.head(), 1 + desk.stored, "the head in a new view")


@PART.desk("Who waits over a failed flush is woken by what turns out to be stored, and by what comes after the reopening.")
async def waits_go_on(desk: DoubtDesk) -> None:
    seen: list[tuple[str, int]] = []

    async def follow(beyond: int) -> None:
        await desk.backend.wait_beyond(Position(beyond))
        seen.append(("head", await desk.backend.head()))

    async def watch(beyond: int) -> None:
        await desk.backend.wait_changed(beyond)
        seen.append(("revision", await desk.backend.revision()))

    await desk.done(appending("a"), Put("k", b"x", b""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, 1)
        nursery.start_soon(watch, 1)
        await settle()
        await trio.sleep(0.2)  # a store at the end of a wire takes its time to be asked
        await desk.fail([appending("a"), Put("k", b"x", b"")])
        await settle()
        same(seen, [], "what was seen of a flush that failed")
        await desk.back()
        if not desk.stored:
            await settle()
            same(seen, [], "what was seen of a flush that stored nothing")
            await desk.done(appending("a"), Put("k", b"x", b""))
        with trio.move_on_after(SOON_S):
            while len(seen) < 2:  # noqa: ASYNC110 - they have nothing to tell it by
                await trio.sleep(0.01)
        same(sorted(seen), [("head", 2), ("revision", 2)], "what was seen by those who waited")
        nursery.cancel_scope.cancel()


@PART.desk("Closing a doubtful store ends what waits for it with `Closed`; opened again, it is sound.")
async def a_doubtful_store_can_be_closed(desk: DoubtDesk) -> None:
    ended: list[str] = []
    backend, id = desk.backend, new_id()

    async def gets_out(what: str, waiting: Any) -> None:
        with suppress(Closed):  # a read may have gone on before
            await waiting
        ended.append(what)

    await desk.append("a")
    await desk.fail([appending("a")], ids=[id])
    async with trio.open_nursery() as nursery:
        for what, waiting in (("a wait", backend.wait_beyond(Position(9))), ("a watch", backend.wait_changed(9)), ("a read", backend.head())):
            nursery.start_soon(gets_out, what, waiting)
        await settle()
        await backend.aclose()
        with trio.move_on_after(SOON_S):
            while len(ended) < 3:  # noqa: ASYNC110 - they have nothing to tell it by
                await trio.sleep(0.01)
        same(sorted(ended), ["a read", "a wait", "a watch"], "what got out")
        nursery.cancel_scope.cancel()
    same(backend.state, State.CLOSED, "the state")
    await fails(Closed, backend.reopen(), "reopening a closed store")
    if backend.capabilities.durable:
        async with open_desk(desk.stores, desk.name) as again:
            same((len(await again.log()), await again.backend.verify()), (1 + desk.stored, []), "the number of events, and the problems")
            same(await again.backend.answer(id) is not None, desk.stored, "whether the commit in doubt is known to be stored")
            await again.append("a", 1, 1 + desk.stored)
