"""Writing and following: each job goes on until it is cancelled, and notes what it asked for before it asks."""

from __future__ import annotations

import random
import re
import time

import trio

from crowd.domain import COUNT, VALUES, Done
from crowd.notes import Notebook
from crowd.options import Options
from perdure.runtime import ANY, START, Conflict, InDoubt, Runtime, Unavailable, of

CANCEL_WITHIN_S = 0.004
"""A cancelled append is cancelled within this time: before, in and after its flush."""


async def append(rt: Runtime, options: Options, notes: Notebook) -> None:
    """One append after the other to one stream, expecting what it last saw there."""
    draw = random.Random(f"{options.seed} {options.by}")
    _, last = await rt.fold(options.stream, COUNT)
    number = 0
    while not options.stop_after or number < options.stop_after:
        number += 1
        patience_s = draw.random() * CANCEL_WITHIN_S if draw.random() < options.cancel_share else float("inf")
        last = await append_one(rt, options, notes, number, last, patience_s)
        await pause(options, draw)


async def append_one(rt: Runtime, options: Options, notes: Notebook, number: int, last: int, patience_s: float) -> int:
    """Ask, note the answer, and return the last seq as far as it is known now."""
    notes.write("try", options.by, number)
    began_ns = time.monotonic_ns()
    answered = False
    try:
        with trio.move_on_after(patience_s):
            answer = await rt.append(options.stream, [Done(options.by, number)], expected=last if options.expecting else ANY)
            answered = True
            if isinstance(answer, Conflict):
                notes.write("no", options.by, number, "Conflict", 0)
                assert isinstance(answer.actual, int)
                return answer.actual
            waited_ns = time.monotonic_ns() - began_ns
            notes.write("ack", options.by, number, answer.position, options.stream, answer.last, waited_ns)
            return answer.last
    except Unavailable as error:
        answered = True
        notes.write("no", options.by, number, "Unavailable", named(error))
    except InDoubt:
        answered = True
        notes.write("doubt", options.by, number)
    finally:
        if not answered:
            notes.write("no", options.by, number, "Cancelled", 0)
    return last


def named(error: Unavailable) -> int:
    """The process that the error names; 0 if none."""
    found = re.search(r"perdure (\d+) at", error.why) or re.search(r"process (\d+)", error.why)
    return int(found[1]) if found else 0


async def pause(options: Options, draw: random.Random) -> None:
    """What lies between two writes."""
    if options.pace_s:
        await trio.sleep(draw.expovariate(1 / options.pace_s))
    else:
        await trio.lowlevel.checkpoint()


async def put(rt: Runtime, options: Options, notes: Notebook) -> None:
    """Values that never come twice to seven keys, each put expecting the revision of the one before."""
    draw = random.Random(f"{options.seed} {options.by} put")
    bucket = rt.kv(VALUES, str)
    revisions = {entry.key: entry.revision for entry in (await bucket.scan()).entries}
    number = 0
    while True:
        number += 1
        key, value = f"k{draw.randrange(7)}", f"{options.by}:{number}"
        notes.write("tryput", key, value)
        try:
            stored = await bucket.put(key, value, expected=revisions.get(key, 0))
        except Unavailable:
            notes.write("noput", key, value)
        else:
            if isinstance(stored, Conflict):
                notes.write("noput", key, value)
                assert isinstance(stored.actual, int)
                revisions[key] = stored.actual
            else:
                notes.write("put", key, stored.revision, value)
                revisions[key] = stored.revision
        await pause(options, draw)


async def follow(rt: Runtime, options: Options, notes: Notebook) -> None:
    """Note every event; without a name from the head, with one from where it stood."""
    after = await rt.head()
    async with rt.subscribe(of(Done), after=after if options.subscription is None else START, name=options.subscription) as events:
        notes.write("from", after if options.subscription is None else "kept")
        async for event in events:
            notes.write("got", event.position, event.seq, event.stream, event.data.by, event.data.number)


async def watch(rt: Runtime, options: Options, notes: Notebook) -> None:
    """Note every change of the bucket."""
    notes.write("watching", 0)
    async for change in rt.kv(VALUES, str).watch():
        notes.write("changed", change.key, change.revision, "-" if change.entry is None else change.entry.value)
