"""A program over a store at the end of a bad line: it writes, follows and folds, notes what it is told, and judges in the end."""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
import trio

from perdure.backends.errors import InDoubt, PerdureError, Unavailable
from perdure.backends.event import START, Event
from perdure.backends.limits import Limits
from perdure.runtime import App, Appended, Keyed, Projection, Runtime, event, of, open_runtime

LIMITS = Limits(reopen_s=600, lease_s=1.0)
STREAMS = 6
HANG_S = 45.0
"""No call takes longer: `limits.commit_s` and what a thread needs to notice."""


@event("pg-noted")
@attrs.frozen
class Noted:
    """What is written: once each, whatever happens."""

    number: int


def _add(state: int, event: Event[Noted]) -> int:
    return state + event.data.number


TOTAL = Projection("pg-total", version=1, initial=0, step=_add, events=of(Noted))
BY_STREAM = Keyed("pg-by-stream", version=1, initial=0, step=_add, events=of(Noted), key=lambda event: event.stream)


@attrs.define
class Program:
    """See the module."""

    url: str
    draw: Random
    next: int = 0
    told: dict[int, Appended] = attrs.field(factory=dict)
    """What was acknowledged,"""
    doubted: set[int] = attrs.field(factory=set)
    """what may be stored,"""
    refused: set[int] = attrs.field(factory=set)
    """and what is not, so cancelled or refused."""
    seen: list[int] = attrs.field(factory=list)
    """What the subscription gave, by position."""
    problems: list[str] = attrs.field(factory=list)
    errors: Counter[str] = attrs.field(factory=Counter)
    longest_s: float = 0.0
    owners: int = 0

    async def write_on(self, rt: Runtime) -> None:
        """Append, one event after the other, until cancelled."""
        while True:
            self.next += 1
            await self._write(rt, self.next)
            await trio.sleep(self.draw.uniform(0, 0.02))

    async def _write(self, rt: Runtime, number: int) -> None:
        began = trio.current_time()
        key = b"%d" % number if number % 3 == 0 else None
        try:
            self.told[number] = await rt.append(f"s-{number % STREAMS}", [Noted(number)], key=key)
        except trio.Cancelled:
            self.refused.add(number)
            raise
        except InDoubt as error:
            self._note(error)
            self.doubted.add(number)
        except Unavailable as error:
            self._note(error)
            self.refused.add(number)
            await trio.sleep(0.05)
        except PerdureError as error:
            self.problems.append(f"an append of a sound program was told {error!r}")
        took_s = trio.current_time() - began
        self.longest_s = max(self.longest_s, took_s)
        if took_s > HANG_S:
            self.problems.append(f"an append took {took_s:.1f} s")

    def _note(self, error: PerdureError) -> None:
        self.errors[type(error).__name__] += 1
        if "try again" not in str(error) and "ask again" not in str(error) and "retry" not in str(error):
            self.problems.append(f"an error that does not say what to do: {error}")

    async def follow(self, rt: Runtime) -> None:
        """See all, until cancelled."""
        async with rt.subscribe(of(Noted), after=START) as events:
            async for one in events:
                self.seen.append(one.data.number)

    async def note_owners(self, rt: Runtime) -> None:
        """Count how often a projection begins or ceases to be run by that runtime, until cancelled."""
        ran: set[str] = set()
        while True:
            runs = {one.name for projection in APP.projections if (one := rt.status().find(projection.name)) and one.state == "running"}
            self.owners += len(runs ^ ran)
            ran = runs
            await trio.sleep(0.05)

    async def works(self, rt: Runtime, within_s: float = 60) -> None:
        """Return when an append succeeds again."""
        with trio.move_on_after(within_s):
            while True:
                before = len(self.told)
                self.next += 1
                await self._write(rt, self.next)
                if len(self.told) > before:
                    return
        self.problems.append(f"nothing could be appended for {within_s:g} s after the fault was over")

    async def judge(self, rt: Runtime) -> None:
        """Compare what was told with what is there."""
        stored = [one async for one in rt.read_all(of(Noted))]
        numbers = [one.data.number for one in stored]
        streams = sorted({one.stream for one in stored})
        counts = Counter(numbers)
        self._expect([n for n, times in counts.items() if times > 1], "stored more than once")
        self._expect([n for n in self.told if n not in counts], "acknowledged and lost")
        self._expect([n for n in self.refused if n in counts], "refused or cancelled, and yet stored")
        by_number = {one.data.number: one for one in stored}
        self._expect([n for n, answer in self.told.items() if n in by_number and by_number[n].position != answer.position], "told another position")
        for name in streams:
            seqs = [one.seq for one in stored if one.stream == name]
            if seqs != list(range(1, len(seqs) + 1)):
                self.problems.append(f"the seqs of {name} are {seqs}")
        with trio.move_on_after(30):
            while len(self.seen) < len(numbers):  # noqa: ASYNC110 - it has nothing to tell it by
                await trio.sleep(0.02)
        if self.seen != numbers:
            self.problems.append(f"the subscription saw {len(self.seen)} events, {len(numbers)} are stored: missed or twice or out of order")
        await self.judge_models(rt)

    async def judge_models(self, rt: Runtime) -> None:
        """Compare what that runtime shows with the fold."""
        stored = [one async for one in rt.read_all(of(Noted))]
        last = stored[-1].position
        total, by_stream = rt.model(TOTAL), rt.model(BY_STREAM)
        with trio.move_on_after(30) as patience:
            await total.wait_for(last)
            await by_stream.wait_for(last)
        if patience.cancelled_caught:
            self.problems.append(f"a model stands at {min(total.position, by_stream.position)}, the log ends at {last}")
        if total.state != sum(one.data.number for one in stored):
            self.problems.append(f"the model says {total.state}, the fold is {sum(one.data.number for one in stored)}")
        for name in sorted({one.stream for one in stored}):
            found, true = await by_stream.get(name), sum(one.data.number for one in stored if one.stream == name)
            if found != true:
                self.problems.append(f"the model says {found} of {name}, the fold is {true}")

    def _expect(self, wrong: list[int], what: str) -> None:
        if wrong:
            self.problems.append(f"{len(wrong)} {what}: {wrong[:5]}")


APP = App(projections=[TOTAL, BY_STREAM])

__all__ = ["APP", "LIMITS", "Program", "open_runtime"]
