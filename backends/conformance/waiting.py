"""How a law waits: for what must come soon, and for what must not come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from perdure.backends.conformance.law import Broken, holds, settle

SOON_S = 2.0
"""A wait whose reason has come ends within this time."""


async def ends(wait: Awaitable[object], what: str) -> None:
    """*wait* must end soon."""
    try:
        with trio.fail_after(SOON_S):
            await wait
    except trio.TooSlowError:
        raise Broken("", f"{what} does not end within {SOON_S:g} s") from None


async def woken(wait: Callable[[], Awaitable[None]], cause: Callable[[], Awaitable[object]], what: str) -> None:
    """*wait* waits, until *cause* has happened."""
    ended = False

    async def waiting() -> None:
        nonlocal ended
        await ends(wait(), what)
        ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting)
        await settle()
        holds(not ended, f"{what} ends before there is a reason")
        await cause()


async def waits_on(wait: Callable[[], Awaitable[None]], causes: list[Callable[[], Awaitable[object]]], what: str) -> None:
    """*wait* goes on waiting, whatever of *causes* happens."""
    ended = False

    async def waiting() -> None:
        nonlocal ended
        await wait()
        ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting)
        await settle()
        for cause in causes:
            await cause()
        await settle()
        await trio.sleep(0.12)
        holds(not ended, f"{what} ends without a reason")
        nursery.cancel_scope.cancel()
