"""Laws of many who write and read at the same time: what they were answered is noted, and judged as one history."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from perdure.backends.commit import ANY, Append, Committed, Delete, Draft, Expected, Put, Write
from perdure.backends.conformance.abilities import FailsFlush
from perdure.backends.conformance.histories import History
from perdure.backends.conformance.law import Broken, Desk, Part, Stores, draft, holds, new_id, new_name, open_desk
from perdure.backends.conformance.operation import Call, Found, Get, Outcome, Read, Said, Seen
from perdure.backends.errors import Conflict, InDoubt, Unavailable
from perdure.backends.protocol import State

PART = Part("concurrency")
TASKS = 6
TURNS = 40
_NEWEST = 3
"""So many events are read with a stream's end."""


@attrs.define
class Witness:
    """Tasks that use *desks* at the same time, each by a seed of its own, and the history of what they were answered."""

    desks: Sequence[Desk]
    history: History = attrs.field(factory=History)
    doubts: int = 0
    _values: int = 0

    async def see(self, *jobs: Job, seed: int) -> None:
        """Let every task take its turns at *jobs*, and judge."""
        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(self._task, self.desks[number % len(self.desks)], random.Random(f"{seed} {number}"), jobs)
        refusal = self.history.refusal()
        holds(refusal is None, f"these answers have no order:\n{refusal}")

    async def _task(self, desk: Desk, draw: random.Random, jobs: Sequence[Job]) -> None:
        for _ in range(TURNS):
            await draw.choice(jobs)(self, desk, draw)
            for _ in range(draw.choice((0, 0, 1, 3))):
                await trio.lowlevel.checkpoint()

    def value(self) -> bytes:
        """One that never comes twice."""
        self._values += 1
        return b"%d" % self._values

    async def write(self, desk: Desk, call: Call, write: Write) -> None:
        """Ask for it, and note the answer; what is in doubt is answered once the store is back."""
        began, id = self.history.begin(), new_id()
        try:
            answer = await desk.ask(write, id=id)
        except Unavailable:
            self.history.note(call, Outcome.NOTHING, began)
            await _back(desk)
        except InDoubt:
            self.doubts += 1
            await _back(desk)
            found = await desk.backend.answer(id)
            self.history.note(call, Outcome.NOTHING if found is None else found.parts[0], began)
        else:
            self.history.note(call, _said(answer), began)

    async def read(self, desk: Desk, stream: str) -> None:
        """Look at a stream's end."""
        began = self.history.begin()
        newest = (await desk.stream(stream, limit=_NEWEST, backward=True))[::-1]
        events, positions = tuple(record.payload for record in newest), tuple(record.position for record in newest)
        self.history.note(Read(stream), Seen(newest[-1].seq if newest else 0, events, positions), began)

    async def get(self, desk: Desk, key: bytes) -> None:
        """Look at an entry."""
        began = self.history.begin()
        entry = await desk.backend.get("k", key)
        self.history.note(Get("k", key), None if entry is None else Found(entry.revision, entry.value), began)


Job = Callable[[Witness, Desk, random.Random], Awaitable[None]]


async def _back(desk: Desk) -> None:
    """Return when the store is open; reopen it, if nobody else is at it."""
    while desk.backend.state is not State.OPEN:
        try:
            await desk.backend.reopen()
        except Unavailable:
            await trio.sleep(0.001)


def _said(answer: object) -> Said:
    if isinstance(answer, Committed):
        return answer.parts[0]
    if isinstance(answer, Conflict):
        return answer
    raise Broken("", f"a commit that is sound is answered {answer!r}")


# -- what a task does in a turn --------------------------------------------------------------


async def _append(witness: Witness, desk: Desk, draw: random.Random) -> None:
    """One to three events to one of two streams, expecting what is there just now, or anything."""
    stream, expected = f"s-{draw.randrange(2)}", await _last(desk, draw)
    payloads = [witness.value() for _ in range(draw.choice((1, 1, 3)))]
    await witness.write(desk, Append(stream, payloads, expected), Append[Draft](stream, [draft(payload) for payload in payloads], expected))


async def _last(desk: Desk, draw: random.Random) -> Expected:
    if draw.random() < 0.4:
        return ANY
    found = await desk.backend.stream(f"s-{draw.randrange(2)}")  # often of the other one: then it is a guess
    return found.last if found else 0


async def _read(witness: Witness, desk: Desk, draw: random.Random) -> None:
    await witness.read(desk, f"s-{draw.randrange(2)}")


async def _put(witness: Witness, desk: Desk, draw: random.Random) -> None:
    """A new value for one of three keys, or its end, expecting the revision that is there just now, or anything."""
    key = b"%d" % draw.randrange(3)
    entry = await desk.backend.get("k", key)
    expected: Expected = ANY if draw.random() < 0.3 else entry.revision if entry else 0
    write: Put[bytes] | Delete = Delete("k", key, expected) if draw.random() < 0.2 else Put("k", key, witness.value(), expected)
    await witness.write(desk, write, write)


async def _get(witness: Witness, desk: Desk, draw: random.Random) -> None:
    await witness.get(desk, b"%d" % draw.randrange(3))


# -- the laws --------------------------------------------------------------------------------


@PART.store("Concurrent appends and reads of streams are linearizable: one order, that of positions, explains every answer.")
async def histories_of_appends_are_linearizable(desk: Desk) -> None:
    await Witness([desk]).see(_append, _append, _read, seed=1)


@PART.store("Concurrent puts, deletes and gets are linearizable: one order, that of revisions, explains every answer.")
async def histories_of_entries_are_linearizable(desk: Desk) -> None:
    await Witness([desk]).see(_put, _put, _get, seed=2)


@PART.law("The same holds whichever processes they are in.")
async def histories_of_processes_are_linearizable(stores: Stores) -> None:
    name = new_name()
    async with open_desk(stores, name) as one:
        if one.backend.capabilities.shared_writes:
            async with open_desk(stores, name) as other:
                await Witness([one, other]).see(_append, _read, _put, _get, seed=3)


@PART.law("The same holds when flushes fail: what is answered to a commit that was in doubt is what came of it.", needs=["fail_flush"])
async def histories_of_doubt_are_linearizable(stores: FailsFlush) -> None:
    told = 0

    async def fail(witness: Witness, desk: Desk, draw: random.Random) -> None:
        nonlocal told
        await trio.lowlevel.checkpoint()
        if told == witness.doubts and desk.backend.state is State.OPEN:
            told += 1
            stores.fail_flush(desk.backend, stored=draw.random() < 0.5)

    async with open_desk(stores) as desk:
        witness, draw = Witness([desk]), random.Random(5)
        await witness.see(_append, _append, _read, _put, _put, _get, fail, seed=4)
        while witness.doubts < told:  # what is told to fail must not be left to another law
            await _append(witness, desk, draw)
        holds(witness.doubts, "no flush has failed, though it was told to")
