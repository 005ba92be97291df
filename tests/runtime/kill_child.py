"""What test_kill kills: writes all kinds of things on one LMDB store, and tells what was acknowledged before going on.

Standard output is a protocol: one line per acknowledgement, written at once. Each line of standard input
begins a life in a forked child, so that the imports are paid for once.
"""

from __future__ import annotations

import os
import random
import sys
import traceback

import attrs
import trio

import perdure.backends.lmdb  # noqa: F401 - before the fork, not in each child
from perdure.actors import snapshots
from perdure.runtime import App, Append, Event, Fold, Keyed, Projection, Put, event, of, open_runtime

snapshots.EVENTS = 25  # type: ignore[misc]  # so that snapshots are written all the time


@event("counted")
@attrs.frozen
class Counted:
    writer: str
    number: int


def total(state: int, event: Event[Counted]) -> int:
    return state + event.data.number


def last(state: tuple[int, ...], event: Event[Counted]) -> tuple[int, ...]:
    return (*state, event.data.number)[-5:]


COUNT: Fold[int, Counted] = Fold(0, lambda state, event: state + 1)
TOTAL = Projection("total", version=1, initial=0, step=total, events=of(Counted))
NONE: tuple[int, ...] = ()
LAST = Keyed("last", version=1, initial=NONE, step=last, events=of(Counted), key=lambda event: event.data.writer, type=tuple[int, ...])
APP = App(projections=[TOTAL, LAST])


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def append(rt, number):
    stream = f"run-{number}"
    _, seq = await rt.fold(stream, COUNT)
    while True:
        count = random.randint(1, 4)
        answer = await rt.append(stream, [Counted(stream, seq + n) for n in range(1, count + 1)], expected=seq)
        seq = answer.unwrap().last
        tell("stream", stream, seq)


async def pairs(rt):
    """An event and an entry in one commit: never one without the other."""
    bucket = rt.kv("pairs", int)
    stream = "pair-1"
    _, seq = await rt.fold(stream, COUNT)
    while True:
        seq += 1
        answer = await rt.transact(Append(stream, [Counted(stream, seq)], seq - 1), Put(bucket, "seq", seq), Put(bucket, f"{seq % 7}", seq))
        answer.unwrap()
        tell("pair", "seq", seq)


async def put(rt, number):
    bucket = rt.kv("values", int)
    entry = await bucket.get(f"k{number}")
    value = 0 if entry is None else entry.value
    while True:
        value += 1
        (await bucket.put(f"k{number}", value)).unwrap()
        tell("value", f"k{number}", value)


async def follow(rt):
    async with rt.subscribe(of(Counted), name="audit") as events:
        async for _ in events:
            pass


async def main(folder: str) -> None:
    async with open_runtime(f"lmdb:{folder}", APP) as rt, trio.open_nursery() as nursery:
        tell("open")
        nursery.start_soon(follow, rt)
        nursery.start_soon(pairs, rt)
        for number in range(4):
            nursery.start_soon(append, rt, number)
        for number in range(2):
            nursery.start_soon(put, rt, number)


def live_on_request(folder: str) -> None:
    """A life per line; "end" when it has been ended."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                random.seed(line)
                trio.run(main, folder)
            finally:
                traceback.print_exc()
                os._exit(1)
        tell("pid", pid)
        os.waitpid(pid, 0)
        tell("end")


if __name__ == "__main__":
    live_on_request(sys.argv[1])
