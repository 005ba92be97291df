"""What is done where the user says nothing: random events of the app's classes, kv, reads, expectations and cancellations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Final

import trio

from perdure.backends.commit import ANY, EXISTS, Append, Appended, Check, Put, Unless
from perdure.backends.errors import ConditionTooBroad, Conflict, Full, InDoubt, KeyReused, Misuse, ModelFaulted, Truncated, Unavailable
from perdure.backends.event import START, Position
from perdure.backends.schema import event_type
from perdure.backends.selector import EVERYTHING, of
from perdure.runtime.app import App
from perdure.runtime.runtime import Runtime
from perdure.runtime.simulation.draw import draw_instance

BUCKET: Final = "simulation"
STREAMS: Final = 3
"""Of each category: few, so that writers meet."""


class Workload:
    """See the module: *steps* of it in each session."""

    def __init__(self, app: App, steps: int = 10) -> None:
        self._app = app
        self._steps = steps
        self._classes = app.classes()
        self._streams = _streams_of(app)
        if not self._classes:
            raise Misuse("the app names no event class: give it events=of(...), or write a workload")

    async def __call__(self, rt: Runtime, random: Random) -> None:
        """Do them; a step whose outcome is in doubt, or that the store refuses, is over."""
        session = _Session(rt, random, self)
        steps = [session.append, session.append, session.expect, session.keyed, session.transact, session.kv, session.kv, session.read, session.wait]
        for _ in range(self._steps):
            await session.step(random.choice(steps))

    def event(self, random: Random) -> Any:
        """A payload."""
        return draw_instance(random.choice(self._classes), random)

    def stream(self, random: Random) -> str:
        """A stream's name."""
        return random.choice(self._streams)


def _streams_of(app: App) -> list[str]:
    """Streams that the app's selectors name, and some of each category."""
    items = [item for projection in app.projections for item in projection.events.items]
    named = [stream for item in items for stream in item.streams]
    categories = [category for item in items for category in item.categories]
    if not categories:
        categories = [mark.name.partition("-")[0] for cls in app.classes() if (mark := event_type(cls)) is not None]
    return list(dict.fromkeys([*named, *(f"{category}-{number}" for category in categories for number in range(1, STREAMS + 1))]))


class _Session:
    """The steps of one session, with what it believes of the store."""

    def __init__(self, rt: Runtime, random: Random, workload: Workload) -> None:
        self._rt = rt
        self._random = random
        self._workload = workload
        self._last: dict[str, int] = {}
        """Last seqs, as it saw them: others may have appended."""
        self._revisions: dict[str, int] = {}
        self._keys = 0

    async def step(self, act: Callable[[], Awaitable[None]]) -> None:
        """One step; now and then it is given little time."""
        random = self._random
        if random.random() < 0.1:
            await trio.sleep(random.random() ** 3 * 3)
        try:
            if random.random() < 0.1:
                with trio.move_on_after(random.choice((0.0, 0.001, 0.05))):
                    await act()
            else:
                await act()
        except (InDoubt, Unavailable, Full):
            await trio.sleep(random.random())

    def _events(self) -> list[Any]:
        return [self._workload.event(self._random) for _ in range(self._random.choice((1, 1, 1, 2, 3)))]

    async def append(self) -> None:
        """Whatever is there."""
        stream, events = self._workload.stream(self._random), self._events()
        appended = await self._rt.append(stream, events)
        self._last[stream] = appended.last
        if appended.last - appended.first + 1 != len(events):
            raise AssertionError(f"{len(events)} events were appended to {stream} as {appended}")

    async def expect(self) -> None:
        """With an expectation that may not hold."""
        stream = self._workload.stream(self._random)
        expected: Any = self._random.choice((self._last.get(stream, 0), self._last.get(stream, 0), 0, EXISTS))
        answer = await self._rt.append(stream, self._events(), expected=expected)
        if isinstance(answer, Appended):
            self._last[stream] = answer.last
        elif isinstance(answer.actual, int):
            self._last[stream] = answer.actual

    async def keyed(self) -> None:
        """With a key, and then once more as if the answer had been lost."""
        stream, events = self._workload.stream(self._random), self._events()
        key = self._random.randbytes(8)
        first = await self._rt.append(stream, events, key=key)
        if self._random.random() < 0.7:
            again = await self._rt.append(stream, events, key=key)
            if again != first:
                raise AssertionError(f"one key gave {first}, then {again}")
        else:
            try:
                await self._rt.append(stream, [*events, *events], key=key)
            except KeyReused:
                return
            raise AssertionError(f"a key was used for another content, and nothing was said: {stream}")

    async def transact(self) -> None:
        """Two streams, a key and a condition at once."""
        random = self._random
        streams = list(dict.fromkeys((self._workload.stream(random), self._workload.stream(random))))
        writes: list[Any] = [Append(stream, self._events(), random.choice((ANY, self._last.get(stream, 0)))) for stream in streams]
        writes.append(Put(BUCKET, f"k{random.randrange(4)}", self._value()))
        if random.random() < 0.2:
            writes.append(Check(random.choice((0, self._last.get("other-1", 0))), stream="other-1"))
        if random.random() < 0.2:
            writes.append(Unless(of(random.choice(self._workload._classes)), after=random.choice((START, await self._rt.head()))))
        try:
            await self._rt.transact(*writes, key=random.choice((None, random.randbytes(8))))
        except (ConditionTooBroad, Truncated):
            return

    def _value(self) -> str:
        """Its like is not written again; some reach over several sectors of the disk."""
        return f"{self._random.randrange(1 << 53)} {'x' * self._random.choice((0, 0, 500, 2_000))}"

    async def kv(self) -> None:
        """Put, get or delete, with an expectation or without."""
        bucket, random = self._rt.kv(BUCKET, str), self._random
        key = f"k{random.randrange(4)}"
        expected: Any = random.choice((ANY, ANY, self._revisions.get(key, 0)))
        if random.random() < 0.2:
            answer = await bucket.delete(key, expected=expected)
        else:
            answer = await bucket.put(key, self._value(), expected=expected)
        if isinstance(answer, Conflict):
            entry = await bucket.get(key)
            self._revisions[key] = 0 if entry is None else entry.revision
        else:
            self._revisions[key] = answer.revision

    async def read(self) -> None:
        """A stream, some of the log, or a bucket."""
        random, stream = self._random, self._workload.stream(self._random)
        match random.randrange(4):
            case 0:
                known = self._last.get(stream, 0)
                first, seqs = await self._seqs(stream)
                if seqs != list(range(first, first + len(seqs))) or first + len(seqs) <= known:
                    raise AssertionError(f"{stream} was known up to seq {known}, and is read as {seqs}")
            case 1:
                newest: list[int] = []
                with suppress(Truncated):
                    newest += [event.seq async for event in self._rt.read(stream, backward=True, limit=3)]
                if newest and newest[0] < self._last.get(stream, 0):
                    raise AssertionError(f"{stream} was known up to seq {self._last[stream]}, its newest events are {newest}")
            case 2:
                positions = await self._positions(20)
                if positions != sorted(set(positions)):
                    raise AssertionError(f"the log is read as {positions}")
            case _:
                scan = await self._rt.kv(BUCKET, str).scan()
                if any(entry.revision > scan.revision for entry in scan.entries):
                    raise AssertionError(f"a scan of revision {scan.revision} has a later entry: {scan.entries}")

    async def _seqs(self, stream: str) -> tuple[int, list[int]]:
        """What is left of a stream, and where that begins."""
        first = 1
        while True:
            try:
                return first, [event.seq async for event in self._rt.read(stream, after=first - 1)]
            except Truncated as error:
                first = error.first

    async def _positions(self, limit: int) -> list[int]:
        """The first of what is left of the log. It may be cut again before it is read beyond a cut."""
        after = START
        while True:
            try:
                return [event.position async for event in self._rt.read_all(EVERYTHING, limit=limit, after=after)]
            except Truncated as error:
                after = Position(error.position)

    async def wait(self) -> None:
        """For a model, up to the head."""
        if not self._workload._app.projections:
            return
        model = self._rt.model(self._random.choice(self._workload._app.projections))
        head = await self._rt.head()
        try:
            with trio.move_on_after(5):
                await model.wait_for(head)
                if model.position < head:
                    raise AssertionError(f"{model} was waited for at {head}")
        except ModelFaulted:
            return  # that is judged at the end
