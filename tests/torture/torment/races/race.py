"""One process's part of a race: runtimes, tasks in them, and what each was answered, by the clock that all processes of a machine share."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

import attrs
import trio

from perdure.backends.conformance.operation import Call, Found, Get, Operation, Outcome, Read, Said, Seen
from perdure.backends.errors import Closed, InDoubt, Unavailable
from perdure.runtime import ANY, App, Append, Conflict, Delete, Put, Runtime, event, of, open_runtime

What = Literal["appends", "entries"]
BUCKET = "raced"
READ_SHARE, CANCELLED_SHARE, ANY_SHARE, DELETE_SHARE = 0.35, 0.1, 0.6, 0.15
CANCELLED_WITHIN_S = 0.003
NEWEST = 3


@event("raced")
@attrs.frozen
class Raced:
    ident: str


APP = App(events=of(Raced))


@attrs.frozen
class Race:
    """*who* takes part: *runtimes* with *tasks* each, of which each does *turns*; *targets* are the streams or keys that all have in common."""

    url: str
    who: str
    what: What
    seed: int
    runtimes: int
    tasks: int
    turns: int
    targets: int
    stale: bool = False
    """Some looks are answered from memory: to show that the judge can fail."""


@attrs.define
class Racer:
    """One task."""

    race: Race
    rt: Runtime
    name: str
    draw: random.Random
    noted: list[Operation]
    numbers: dict[str, int] = attrs.field(factory=dict)
    """What it last saw of each target: a seq, or a revision."""
    seen: dict[str, Any] = attrs.field(factory=dict)
    turn: int = 0

    async def run(self) -> None:
        """All its turns."""
        write, look = (self._append, self._read) if self.race.what == "appends" else (self._put, self._get)
        while self.turn < self.race.turns:
            target = f"raced-{self.draw.randrange(self.race.targets)}"
            if self.draw.random() < READ_SHARE:
                await look(target)
            else:
                self.turn += 1
                await write(target)
            if self.draw.random() < 0.5:
                await trio.lowlevel.checkpoint()

    # -- writing -----------------------------------------------------------------------------

    async def _append(self, stream: str) -> None:
        idents = [f"{self.name}.{self.turn}.{n}" for n in range(self.draw.choice((1, 1, 1, 3)))]
        expected = ANY if self.draw.random() < ANY_SHARE else self.numbers.get(stream, 0)
        answer = await self._ask(Append(stream, idents, expected), lambda: self.rt.append(stream, list(map(Raced, idents)), expected=expected))
        if isinstance(answer, Conflict):
            self.numbers[stream] = answer.actual  # type: ignore[assignment]  # a seq
        elif not isinstance(answer, Outcome):
            self.numbers[stream] = answer.last

    async def _put(self, key: str) -> None:
        bucket, value = self.rt.kv(BUCKET, str), f"{self.name}.{self.turn}"
        expected = ANY if self.draw.random() < ANY_SHARE else self.numbers.get(key, 0)
        if self.draw.random() < DELETE_SHARE:
            answer = await self._ask(Delete(BUCKET, key, expected), lambda: bucket.delete(key, expected=expected))
            after = 0
        else:
            answer = await self._ask(Put(BUCKET, key, value, expected), lambda: bucket.put(key, value, expected=expected))
            after = getattr(answer, "revision", 0)
        if isinstance(answer, Conflict):
            self.numbers[key] = answer.actual  # type: ignore[assignment]  # a revision
        elif not isinstance(answer, Outcome):
            self.numbers[key] = after

    async def _ask(self, call: Call, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Note what comes of it; at times it is cancelled after a moment."""
        patience_s = self.draw.random() * CANCELLED_WITHIN_S if self.draw.random() < CANCELLED_SHARE else float("inf")
        answer: Any = Outcome.NOTHING
        began = time.monotonic_ns()
        with trio.move_on_after(patience_s):
            try:
                answer = await ask()
            except (Unavailable, Closed):
                pass
            except InDoubt:
                answer = Outcome.UNKNOWN
        self._note(call, answer, began)
        return answer

    # -- looking -----------------------------------------------------------------------------

    async def _read(self, stream: str) -> None:
        began = time.monotonic_ns()
        self._note(Read(stream), self._remembered(stream, await seen(self.rt, stream, NEWEST)), began)

    async def _get(self, key: str) -> None:
        began = time.monotonic_ns()
        entry = await self.rt.kv(BUCKET, str).get(key)
        self._note(Get(BUCKET, key), self._remembered(key, None if entry is None else Found(entry.revision, entry.value)), began)

    def _remembered(self, target: str, found: Any) -> Any:
        if self.race.stale and self.draw.random() < 0.2:
            return self.seen.get(target, found)
        self.seen[target] = found
        self.numbers[target] = (found.last if isinstance(found, Seen) else found.revision) if found else 0
        return found

    def _note(self, call: Call, answer: Said, began: int) -> None:
        self.noted.append(Operation(call, answer, began, time.monotonic_ns(), self.name))


async def seen(rt: Runtime, stream: str, newest: int | None = None) -> Seen:
    """A look at a stream's end."""
    events: list[Any] = [event async for event in rt.read(stream, backward=True, limit=newest)][::-1]
    if not events:
        return Seen(0)
    return Seen(events[-1].seq, tuple(event.data.ident for event in events), tuple(event.position for event in events))


async def run(race: Race, ready: Callable[[], Awaitable[None]]) -> list[Operation]:
    """The whole part; *ready* returns when the race begins."""
    draw, noted = random.Random(f"{race.seed} {race.who}"), list[Operation]()
    async with AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(open_runtime(race.url, APP)) for _ in range(race.runtimes)]
        await ready()
        async with trio.open_nursery() as nursery:
            for number, rt in enumerate(runtimes):
                for task in range(race.tasks):
                    racer = Racer(race, rt, f"{race.who}{number}.{task}", random.Random(draw.random()), noted)
                    nursery.start_soon(racer.run)
    return noted
