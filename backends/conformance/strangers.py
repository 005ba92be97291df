"""Laws of what else goes on in the server of a store: transactions that stay open, of strangers and of other processes of our own.

Commit order is position order, so no reader needs a horizon, and no open transaction holds one back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import trio

from perdure.backends.commit import Put
from perdure.backends.conformance.abilities import HoldsElsewhere, HoldsFlush, HoldsOpen
from perdure.backends.conformance.law import Desk, Stores, appending, holds, new_name, open_desk, same
from perdure.backends.conformance.sharing import SharingPart
from perdure.backends.conformance.waiting import ends
from perdure.backends.errors import Unavailable
from perdure.backends.event import START

PART = SharingPart("strangers")
_ROUNDS = 4
_HELD_S = 0.3
"""So long a group is on its way: less than a server leaves to a client that says nothing."""

Hold = Callable[[], AbstractContextManager[None]]


@PART.law("Open transactions of strangers, idle or having written, hide nothing and hold nobody up.", needs=["hold_open"])
async def open_transactions_hide_nothing(stores: HoldsOpen) -> None:
    name = new_name()
    await _go_on_beside(stores, name, lambda: stores.hold_open(name))


@PART.law("Nor do those in another database of the same server, whose ids are of one row with ours.", needs=["hold_elsewhere"])
async def transactions_elsewhere_hide_nothing(stores: HoldsElsewhere) -> None:
    await _go_on_beside(stores, new_name(), lambda: stores.hold_elsewhere())


async def _go_on_beside(stores: Stores, name: str, hold: Hold) -> None:
    """Two processes write and read, and one of them follows, while others keep transactions open, some from beginning to end."""
    async with open_desk(stores, name) as one, open_desk(stores, name) as other:
        await one.done(appending("a"), Put("k", b"x", b""))
        seen: list[int] = []
        with hold():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends, _follow(other, seen, 21), "following beside open transactions")
                for number in range(1, 21):
                    writer, reader = (one, other) if number % 2 else (other, one)
                    await ends(writer.done(appending("a", 1, number), Put("k", b"x", b"", number)), "a commit beside open transactions")
                    same((len(await reader.stream("a")), await reader.backend.revision()), (number + 1, number + 1), "what another process sees")
                    if number == 10:
                        nursery.start_soon(_hold_more, hold)
        same(seen, list(range(1, 22)), "what a follower saw")
        same(await one.backend.verify(), [], "the list of problems")


async def _hold_more(hold: Hold) -> None:
    """Transactions that begin and end in the midst of it."""
    for _ in range(5):
        with hold():
            await trio.sleep(0.005)


async def _follow(desk: Desk, seen: list[int], until: int) -> None:
    """Note the positions of all events, until there are so many."""
    cursor = START
    while len(seen) < until:
        await desk.backend.wait_beyond(cursor)
        page = await desk.backend.read_log(after=cursor, limit=100, bytes_max=1 << 20)
        seen.extend(record.position for record in page.records)
        cursor = page.examined


@PART.law(
    "A group on its way is seen by nobody, and what other processes commit comes after it: no event becomes visible below a position already examined.",
    needs=["hold_flush"],
)
async def nothing_becomes_visible_below(stores: HoldsFlush) -> None:
    name = new_name()
    async with open_desk(stores, name) as one, open_desk(stores, name) as other, open_desk(stores, name) as reader:
        if not one.backend.capabilities.shared_writes:
            return
        await one.append("a")
        seen: list[int] = []
        async with trio.open_nursery() as following:
            following.start_soon(_follow, reader, seen, 1 << 30)
            for number in range(_ROUNDS):
                head = await reader.backend.head()
                async with trio.open_nursery() as nursery:
                    with stores.hold_flush(one.backend) as begun:
                        nursery.start_soon(one.append, f"held-{number}", 2)
                        with trio.fail_after(5):
                            await begun.wait()
                        nursery.start_soon(_append_sometime, other, f"free-{number}")
                        await trio.sleep(_HELD_S)
                        same(await reader.payloads(f"held-{number}"), [], "what is shown of a group on its way")
                        holds(await reader.backend.head() in (head, head + 1), "the head counts a group on its way")
            with trio.move_on_after(2):
                while len(seen) < 1 + 3 * _ROUNDS:  # noqa: ASYNC110 - nobody is told
                    await trio.sleep(0.01)
            following.cancel_scope.cancel()
        same(seen, list(range(1, 2 + 3 * _ROUNDS)), "the positions that a follower saw")
        same([record.position for record in await reader.log()], seen, "the log")


async def _append_sometime(desk: Desk, stream: str) -> None:
    """It may be told once or twice that another has the right to write."""
    for _ in range(5):
        with suppress(Unavailable):
            await desk.append(stream)
            return
