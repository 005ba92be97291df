"""Laws of views: several reads of one state."""

from __future__ import annotations

from typing import Any

import trio

from perdure.backends.commit import Delete, Put, SaveSnapshot, key_id
from perdure.backends.conformance.law import MANY, Broken, Desk, Part, appending, holds, same
from perdure.backends.errors import Closed, Unsupported
from perdure.backends.event import START, Position
from perdure.backends.limits import LIMITS
from perdure.backends.protocol import Reads

PART = Part("views")


async def _everything(reads: Reads) -> dict[str, Any]:
    """What every kind of read says."""
    return {
        "head": await reads.head(),
        "revision": await reads.revision(),
        "log": await reads.read_log(after=START, limit=MANY, bytes_max=MANY),
        "stream": await reads.read_stream("a", after=0, limit=MANY, bytes_max=MANY),
        "backward": await reads.read_stream("a", after=0, limit=3, bytes_max=MANY, backward=True),
        "info": await reads.stream("a"),
        "streams": await reads.streams(limit=99),
        "get": await reads.get("k", b"x"),
        "scan": await reads.scan("k", limit=99),
        "changes": await reads.read_changes("k", after=0, limit=99),
        "snapshot": await reads.read_snapshot("s"),
        "snapshots": await reads.snapshots("s"),
        "answer": await reads.answer(key_id(b"3")),
    }


async def _change(desk: Desk, number: int) -> None:
    await desk.done(
        appending("a", 2, type=f"type-{number}"),
        appending(f"s-{number}"),
        Put("k", b"x", b"%d" % number),
        Delete("k", b"y"),
        Put("k", b"%d" % number, b""),
        SaveSnapshot("s", Position(3 * number), "f", b"%d" % number, (Position(3 * number - 3),)),
        key=b"%d" % number,
    )


@PART.store("`view()`: all its reads stand at one position.")
async def a_view_stands_still(desk: Desk) -> None:
    if not desk.backend.capabilities.views:
        return
    await _change(desk, 1)

    async with desk.backend.view() as view:
        before = await _everything(view)
        for number in (2, 3):
            await _change(desk, number)
            while await desk.backend.maintain():
                pass
        after = await _everything(view)

    for what, value in before.items():
        same(after[what], value, f"what the view says of {what} after later commits")
    same((before["head"], before["revision"], before["answer"]), (3, 1, None), "head, revision and answer of the view")
    now = await _everything(desk.backend)
    same((now["head"], now["revision"]), (9, 3), "head and revision beside the view")


@PART.store("A view stands at the newest state when it is opened; each at its own.")
async def a_view_begins_now(desk: Desk) -> None:
    if not desk.backend.capabilities.views:
        return
    async with desk.backend.view() as empty:
        await _change(desk, 1)
        async with desk.backend.view() as first:
            await _change(desk, 2)
            async with desk.backend.view() as second:
                same([await view.head() for view in (empty, first, second)], [0, 3, 6], "the heads of three views")
                same([await view.revision() for view in (empty, first, second)], [0, 1, 2], "the revisions of three views")
            same(await first.get("k", b"2"), None, "what the older view knows")
            same(len((await first.read_log(after=START, limit=MANY, bytes_max=MANY)).records), 3, "the number of events in the older view")


@PART.store("A view answers as the store itself does at that position.")
async def a_view_answers_as_the_store(desk: Desk) -> None:
    if not desk.backend.capabilities.views:
        return
    for number in (1, 2, 3):
        await _change(desk, number)

    async with desk.backend.view() as view:
        same(await _everything(view), await _everything(desk.backend), "what the view says")


@PART.store("A view lasts 5 s at most: then its body is cancelled and `Closed` raised.")
async def a_view_ends(desk: Desk) -> None:
    if not desk.backend.capabilities.views:
        return
    await desk.append("a")
    ended = False
    try:
        with trio.fail_after(LIMITS.view_s + 1):
            async with desk.backend.view() as view:
                await view.head()
                await trio.sleep_forever()
    except Closed:
        ended = True
    except trio.TooSlowError:
        raise Broken("", f"a view is still open after {LIMITS.view_s + 1:g} s") from None
    holds(ended, "a view that was cut raises no Closed")

    same(await desk.backend.head(), 1, "the head")
    await desk.append("a")
    async with desk.backend.view() as view:
        same(await view.head(), 2, "the head of the next view")


@PART.store("What fails inside a view leaves it as it is.")
async def errors_pass_through_a_view(desk: Desk) -> None:
    if not desk.backend.capabilities.views:
        return
    own = KeyError("own")
    try:
        async with desk.backend.view():
            raise own
    except KeyError as error:
        holds(error is own, "another error left the view")
    else:
        holds(False, "a view swallowed its body's error")
    with trio.CancelScope() as scope:
        async with desk.backend.view():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    holds(scope.cancelled_caught, "a view swallowed a cancellation")


@PART.store("Capabilities are tested both ways: without `views`, `view()` is `Unsupported`.")
async def undeclared_views_are_unsupported(desk: Desk) -> None:
    declared = desk.backend.capabilities.views
    try:
        async with desk.backend.view() as view:
            await view.head()
    except Unsupported as error:
        holds(not declared, f"views are declared, and yet: {error}")
        same(error.capability, "views", "the capability in the error")
    else:
        holds(declared, "views are not declared, and yet there is one: declare them")
