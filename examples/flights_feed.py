"""The flights demo's worker: a process that appends what the store does not hold yet, through many concurrent writers.

It is started by flights.py, as a process of its own, because it is going to be killed. It says what happens in lines of
JSON on standard output. Started again it asks the store what is there and goes on behind that.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zlib import crc32

import attrs
import trio
from flights_csv import MISSING, Row, moment, read_rows, tail_of
from flights_domain import CARRIERS, CATEGORY, FlightCancelled, FlightDeparted
from flights_sql import in_sql

from perdure.runtime import NewEvent, Runtime, What, lifecycle, open_runtime
from perdure.runtime.testing import crash

WRITERS = 512
DEAL_ROWS = 12_000
"""Rows are dealt out so many at a time (some two weeks); what an aircraft did in them is one append."""
AHEAD = 4
"""A writer has at most so many hands before it: the file is read as fast as the store takes it."""
GC_THRESHOLDS = 20_000, 20, 20
"""Thousands of live streams are many objects to look through: done as often as by default it is a third of the whole time."""
SAY_EVERY_S = 0.2
KILL_AFTER_S = 0.002

Hand = dict[str, tuple[int, list[Row]]]
"""By stream: the seq that it must have before, and the rows that come next."""


def say(what: str, **facts: Any) -> None:
    """Tell the process that started this one."""
    print(json.dumps({"what": what, **facts}), flush=True)


class Saying(logging.Handler):
    """Passes on what perdure logs: a supervisor swallows nothing silently."""

    def emit(self, record: logging.LogRecord) -> None:
        say("log", text=record.getMessage())


def to_event(row: Row) -> NewEvent:
    """The event of a row."""
    data: FlightDeparted | FlightCancelled
    if row.dep_time == MISSING:
        data = FlightCancelled(row.carrier, int(row.flight), row.origin, row.dest, int(row.hour), int(row.distance))
    else:
        data = FlightDeparted(
            carrier=row.carrier,
            flight=int(row.flight),
            origin=row.origin,
            dest=row.dest,
            hour=int(row.hour),
            miles=int(row.distance),
            departure_delay_min=int(row.dep_delay),
            arrival_delay_min=None if row.arr_delay == MISSING else int(row.arr_delay),
            air_min=None if row.air_time == MISSING else int(row.air_time),
        )
    return NewEvent(data, occurred=moment(row.time_hour))


async def stored_seqs(rt: Runtime) -> dict[str, int]:
    """The last seq of every stream of aircraft."""
    found: dict[str, int] = {}
    after = None
    while page := await rt.backend.streams(prefix=f"{CATEGORY}-", after=after, limit=1_000):
        found.update({stream.name: stream.last for stream in page})
        after = page[-1].name
    return found


@attrs.define
class Feed:
    """One run of the worker. At *crash_at* stored events an actor fails; at *kill_at* the process dies (0: not in this run)."""

    rt: Runtime
    stored: dict[str, int]
    events: int
    """Stored, and acknowledged to this process or found by it."""
    crash_at: int
    kill_at: int
    began: float = attrs.field(factory=trio.current_time)
    crash_now: trio.Event = attrs.field(factory=trio.Event)
    kill_now: trio.Event = attrs.field(factory=trio.Event)
    recovered: trio.Event = attrs.field(factory=trio.Event)

    @property
    def breaks(self) -> bool:
        """Whether an actor is to fail in this run."""
        return self.crash_at > 0

    async def run(self, rows: int) -> None:
        """Append what is missing of the first *rows* rows; return when all of it is durable."""
        async with trio.open_nursery() as nursery:
            if self.breaks:
                nursery.start_soon(self.break_an_actor)
            if self.kill_at:
                nursery.start_soon(self.die)
            async with trio.open_nursery() as writers:
                writers.start_soon(self.deal, rows, writers)
            self.tell()

    async def deal(self, rows: int, writers: trio.Nursery) -> None:
        """Read the file and hand each row to the writer that its aircraft belongs to: so its order is that of the file."""
        sends = []
        for _ in range(WRITERS):
            send, receive = trio.open_memory_channel[Hand](AHEAD)
            writers.start_soon(self.write, receive)
            sends.append(send)
        dealt = 0
        deal_rows = min(DEAL_ROWS, max(1, rows // 12))
        for hands in deals(read_rows(rows), self.stored, deal_rows):
            for number, hand in hands.items():
                try:
                    sends[number].send_nowait(hand)  # every `await` here would be a turn of the loop, and so a flush
                except trio.WouldBlock:
                    await sends[number].send(hand)
            dealt += deal_rows
            if self.breaks and dealt >= self.kill_at:
                await self.recovered.wait()  # only a short run gets here before the supervisor
        for send in sends:
            send.close()

    async def write(self, receive: trio.MemoryReceiveChannel[Hand]) -> None:
        """One of the writers: each append says which seq its stream must stand at."""
        async for hand in receive:
            for stream, (last, rows) in hand.items():
                answer = await self.rt.append(stream, [to_event(row) for row in rows], expected=last)
                answer.unwrap()  # a conflict would say that someone else writes here, or that an event was doubled
                self.events += len(rows)
                if self.events >= self.crash_at:
                    self.crash_now.set()
                if self.events >= self.kill_at:
                    self.kill_now.set()

    def tell(self) -> None:
        """Say how far it is."""
        say("stored", events=self.events, seconds=trio.current_time() - self.began)

    async def keep_telling(self) -> None:
        """Say so every now and then."""
        while True:
            self.tell()
            await trio.sleep(SAY_EVERY_S)

    # -- what goes wrong -------------------------------------------------------------------------

    async def break_an_actor(self) -> None:
        """Let the actor of one projection fail, and see what its supervisor does."""
        await self.crash_now.wait()
        name = CARRIERS.name
        say("moment", position=await self.rt.head(), time=datetime.now(UTC).isoformat(timespec="milliseconds"))
        async with lifecycle(self.rt) as happenings:
            crash(self.rt, CARRIERS, RuntimeError("a fault of the actor, injected by the demo"))
            async for happening in happenings:
                if happening.actor.endswith(f"/{name}"):
                    if happening.what is What.FAILED:
                        say("failed", actor=name, events=self.events, error=happening.error)
                    if happening.what is What.RESTARTED:
                        break
        model = self.rt.model(CARRIERS)
        await model.wait_for(await self.rt.head())
        status = self.rt.status().find(name)
        say("restarted", actor=name, snapshot=restored_from(self.rt, name), restarts=status.restarts if status is not None else 0)
        self.recovered.set()

    async def die(self) -> None:
        """Kill this process from a thread: the loop does not know when, so it may be in the middle of a flush."""
        await self.kill_now.wait()
        if self.breaks:
            await self.recovered.wait()
        say("killing", events=self.events)
        threading.Timer(KILL_AFTER_S, os.kill, (os.getpid(), signal.SIGKILL)).start()
        await trio.sleep_forever()


def deals(rows: Iterator[Row], stored: dict[str, int], deal_rows: int) -> Iterator[dict[int, Hand]]:
    """The rows that are not stored yet, by writer, *deal_rows* of the file at a time."""
    seqs: dict[str, int] = defaultdict(int)
    while page := list(islice(rows, deal_rows)):
        hands: dict[int, Hand] = defaultdict(dict)
        for row in page:
            stream = f"{CATEGORY}-{tail_of(row)}"
            seqs[stream] += 1
            if seqs[stream] > stored.get(stream, 0):
                hand = hands[crc32(stream.encode()) % WRITERS]
                hand.setdefault(stream, (seqs[stream] - 1, []))[1].append(row)
        yield hands


def restored_from(rt: Runtime, name: str) -> int:
    """The position of the snapshot from which the actor of a projection began."""
    return next(running.actor.restored_from for running in rt._models.all() if running.projection.name == name)


async def main(url: str, database: str, rows: int, crash_at: int, kill_at: int) -> None:
    """Feed, wait until every model is up to date, and say how it went."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    began = trio.current_time()
    app, table = in_sql(database)
    async with open_runtime(url, app) as rt:
        stored = await stored_seqs(rt)
        events = sum(stored.values())
        say("found", events=events, streams=len(stored), seconds=trio.current_time() - began)
        feed = Feed(rt, stored, events, crash_at, kill_at)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.keep_telling)
            await feed.run(rows)
            fed = trio.current_time()
            head = await rt.head()
            for projection in app.projections:
                await rt.model(projection).wait_for(head)
            await rt.model(table).wait_for(head)
            nursery.cancel_scope.cancel()
        status = rt.status()
        restarts = {actor.name: actor.restarts for _, actor in status.root.walk() if actor.restarts}
        journal = status.journal
        say("done", behind_s=trio.current_time() - fed, groups=journal.groups, flush_mean_s=journal.flush_mean_s, restarts=restarts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("database", help="the URL of the read model in SQL")
    for option in ("--rows", "--crash-at", "--kill-at"):
        parser.add_argument(option, type=int, default=0)
    logging.getLogger("perdure").addHandler(Saying())
    try:
        trio.run(main, *vars(parser.parse_args()).values())
    except KeyboardInterrupt:
        sys.exit(130)
