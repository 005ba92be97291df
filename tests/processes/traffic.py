"""A program on a store that moves: it writes, follows and keeps models until it is told to stop, or that the store is elsewhere.

`python traffic.py URL JOURNAL PER_S NAME [TARGET]`; with TARGET it brings the store there itself, under way. What it was answered and what it
has seen goes into JOURNAL, a line each: `append POSITION STREAM WAIT_S`, `seen POSITION`, `moved`, `arrived PAUSE_S`, `run`.
"""

from __future__ import annotations

import sys
from itertools import cycle, islice
from pathlib import Path
from typing import TextIO

import trio

from perdure.backends.errors import RuntimeFailed, StoreMoved
from perdure.runtime import EVERYTHING, START, App, NewEvent, Position, Runtime, open_runtime
from perdure.runtime.migrate import migrate

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

from flights_csv import read_rows
from flights_domain import BOARDS, CARRIERS, CATEGORY
from flights_feed import to_event

APP = App(projections=[CARRIERS, BOARDS])
STREAMS = 50


async def run(url: str, journal: TextIO, per_s: float, name: str, target: str) -> None:
    """Once all has caught up, until standard input ends."""
    async with open_runtime(url, APP) as rt, trio.open_nursery() as nursery:
        head = (await rt.append("ready", [NewEvent({}, type="ready")])).position or START
        stop, caught_up = trio.Event(), trio.Event()
        nursery.start_soon(follow, rt, journal, head, caught_up)
        await rt.model(CARRIERS).wait_for(head)
        await rt.model(BOARDS).wait_for(head)
        await caught_up.wait()
        nursery.start_soon(write, rt, journal, per_s, name, stop)
        print("open", flush=True)
        if target:
            done = await migrate(rt, target)
            journal.write(f"arrived {done.longest_pause_s}\n")
            print(done.log_digest, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        stop.set()
        head = await rt.head()
        await rt.model(CARRIERS).wait_for(head)
        await rt.model(BOARDS).wait_for(head)
        nursery.cancel_scope.cancel()


async def write(rt: Runtime, journal: TextIO, per_s: float, name: str, stop: trio.Event) -> None:
    """Flights that come again and again."""
    for number, row in enumerate(cycle(islice(read_rows(5_000), 5_000))):
        if stop.is_set():
            return
        began, stream = trio.current_time(), f"{CATEGORY}-{name}{number % STREAMS}"
        appended = await rt.append(stream, [to_event(row)], key=f"{name} {number}".encode())
        journal.write(f"append {appended.position} {stream} {trio.current_time() - began:.4f}\n")
        await trio.sleep_until(began + 1 / per_s)


async def follow(rt: Runtime, journal: TextIO, head: Position, caught_up: trio.Event) -> None:
    """All events, from where it stood."""
    async with rt.subscribe(EVERYTHING, after=START, name="follower") as events:
        async for event in events:
            journal.write(f"seen {event.position}\n")
            if event.position == head:
                caught_up.set()


def main() -> None:
    """See the module."""
    url, journal, per_s, name, *target = sys.argv[1:]
    with Path(journal).open("a", buffering=1, encoding="utf-8") as lines:
        lines.write("run\n")
        try:
            trio.run(run, url, lines, float(per_s), name, target[0] if target else "")
        except* (StoreMoved, RuntimeFailed):
            lines.write("moved\n")


if __name__ == "__main__":
    main()
