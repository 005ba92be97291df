"""The moment at which a store is elsewhere: made durable by one mark on the source, and taken back by another.

    source open, target loading      the log and the rest are brought; a kill changes nothing
    nobody commits to the source     what is missing is brought, and verified
    the source is marked             from here on it is at the target: a kill now, and the same migration only has to end
    the target is open

The source is marked before the target opens, so there is no moment at which both take commits. Going back is the same the other way
round: the target is marked, then the mark of the source goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from perdure.backends.carried import Answered
from perdure.backends.errors import Misuse, PerdureError, StoreMoved, Unavailable
from perdure.backends.protocol import Backend, Held, State
from perdure.runtime.carry import Carrier

PAUSE_S: Final = 0.5
"""Writers wait so long at most, unless told otherwise."""
_BRING_SHARE: Final = 0.7
"""So much of that may go by before the source is marked; else they go on, and it is tried again."""
ATTEMPTS: Final = 10
OWN: Final = "$"
"""What the names of perdure's own buckets begin with."""


@attrs.frozen
class Pause:
    """How long writers waited, at the attempt that succeeded and at most, and how many attempts it took."""

    took_s: float
    longest_s: float
    attempts: int


async def cut_over(
    carrier: Carrier, source: Backend, target: Backend, to: str, *, pause_s: float = PAUSE_S, then: Callable[[], object] = lambda: None
) -> Pause:
    """Bring what is missing while nobody commits, mark *source* as being at *to*, open *target*; *then* is called before the first commit may go on.

    Raises:
      Unavailable: writers would have had to wait longer than *pause_s*, each time; or nobody knows whether the mark is there.
      StoreMoved: another one has brought it elsewhere.
    """
    longest_s = 0.0
    for attempt in range(1, ATTEMPTS + 1):
        await carrier.catch_up()
        done = False
        async with source.hold_commits() as held:
            began = trio.current_time()
            if gone_to := await source.moved_to():
                raise StoreMoved(source.id, gone_to)
            with trio.move_on_after(_BRING_SHARE * pause_s):
                done = await carrier.finish()
            if done:
                with trio.CancelScope(shield=True):
                    await held.mark(to)
                    await _open(target, held, to)
                    then()
        took_s = trio.current_time() - began
        longest_s = max(longest_s, took_s)
        if done:
            return Pause(took_s, longest_s, attempt)
    why = f"to bring what comes while it is brought takes longer than the {pause_s:g} s for which writers may wait"
    raise Unavailable(f"{why}: try when there is less to do, or let them wait longer")


async def _open(target: Backend, held: Held, to: str) -> None:
    """End the loading of *target*; where that fails for certain, the source is where it was."""
    failed: PerdureError | None = None
    try:
        await target.end_load()
    except PerdureError as error:
        failed = error
    if failed is None:
        return
    try:
        await target.reopen()
        loading = target.state is State.LOADING
    except PerdureError as error:
        unknown = f"nobody knows whether {to} could be opened ({failed})"
        raise Unavailable(f"{unknown}, and the source says that it is there: migrate again, the same way") from error
    if loading:
        await held.mark("")
        raise failed


async def end_cut_over(carrier: Carrier, source: Backend, target: Backend) -> None:
    """The source was marked and the target not opened: nobody can have committed since, so it is compared and opened.

    Raises:
      Misuse, Corrupt: what is in the target is not what the source holds.
    """
    brought = False
    while not brought:
        await carrier.catch_up()
        async with source.hold_commits():
            brought = await carrier.finish()
    await target.end_load()


async def turn_back(source: Backend, target: Backend, *, back: str, to: str) -> None:
    """The store is at the source again, named *back*: the target, at *to*, is marked, then the mark of the source goes.

    Raises:
      Misuse: the source was not moved there, or the target has accepted something of its own.
    """
    if await source.moved_to() != to:
        raise Misuse(f"{back} was not brought to {to}: there is nothing to take back")
    async with target.hold_commits() as held:
        if await target.moved_to() not in ("", back):
            raise StoreMoved(to, await target.moved_to())
        if own := await _accepted(source, target):
            raise Misuse(f"{to} has accepted {own} since it was opened, which a rollback would lose: migrate it back instead, from {to} to {back}")
        with trio.CancelScope(shield=True):
            await held.mark(back)
            async with source.hold_commits() as other:
                await other.mark("", revision=await target.revision())


async def _accepted(source: Backend, target: Backend) -> str:
    """What the target has that the source has not, but for what perdure itself keeps; '' if nothing."""
    if await target.head() != await source.head():
        return "events"
    numbers, after = await source.read_numbers(), b""
    while True:
        page = await target.read_entries(beyond=numbers.revision, after=after, limit=1_000, bytes_max=1 << 20)
        if any(not entry.bucket.startswith(OWN) for entry in page.entries):
            return "kv entries"
        if page.after is None:
            break
        after = page.after
    after = b""
    while True:
        aged = await target.read_aged(since_us=numbers.at_us, after=after, limit=1_000)
        for one in aged.aged:
            if isinstance(one, Answered):
                if await source.answer(one.id) is None:
                    return "commits with a key"
            elif one.revision > numbers.revision and not one.bucket.startswith(OWN):
                return "deletes"
        if aged.after is None:
            return ""
        after = aged.after
