"""The flights go from memory to a file, to LMDB, to PostgreSQL and to LMDB again, while a writer appends and projections and a follower go on."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from itertools import islice

import pytest
import trio

from perdure.actors.seat import seat_of
from perdure.runtime import EVERYTHING, START, App, NewEvent, open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.migrate import migrate, move_back

ROWS = int(os.environ.get("PERDURE_TEST_MIGRATE_ROWS", "12000"))
"""336776 where there is time for it: all of them."""
PER_S = 200


@pytest.mark.slow
@pytest.mark.timeout(1_200)
async def test_the_flights_move_while_they_are_in_use(load, root, tmp_path, database, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "examples")])
    csv, feed, domain = (load(f"examples/{name}.py") for name in ("flights_csv", "flights_feed", "flights_domain"))
    places = [f"file:{tmp_path}/a", f"lmdb:{tmp_path}/b", "back", f"lmdb:{tmp_path}/c", database, f"lmdb:{tmp_path}/d"]
    seen: list[int] = [0]
    acknowledged: list[object] = []
    waits_s: list[float] = []
    told: list[str] = []
    over, ended = trio.Event(), trio.Event()

    async with open_runtime("memory:", App(projections=[domain.CARRIERS, domain.BOARDS])) as rt, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with rt.subscribe(EVERYTHING, after=START, name="follower") as events:
                async for event in events:
                    assert event.position == seen[0] + 1
                    seen[0] = event.position

        async def write() -> None:
            while not over.is_set():
                began = trio.current_time()
                acknowledged.append(await rt.append(f"live-{len(acknowledged) % 50}", [NewEvent({"n": len(acknowledged)}, type="noted")]))
                waits_s.append(trio.current_time() - began)
                await trio.sleep_until(began + 1 / PER_S)
            ended.set()

        left_to_read = csv.read_rows(ROWS)
        while rows := list(islice(left_to_read, 12_000)):
            by_stream = defaultdict(list)
            for row in rows:
                by_stream[f"{domain.CATEGORY}-{csv.tail_of(row)}"].append(feed.to_event(row))
            for stream, events in by_stream.items():
                await rt.append(stream, events)
        nursery.start_soon(follow)
        nursery.start_soon(write)
        await trio.sleep(0.3)
        for place in places:
            began, before = trio.current_time(), len(waits_s)
            done = await (move_back(rt) if place == "back" else migrate(rt, place))
            took_s, waited_s = trio.current_time() - began, max(waits_s[before:], default=0.0)
            pause = f"pause {done.longest_pause_s * 1e3:.0f} ms, longest append {waited_s * 1e3:.0f} ms"
            told.append(f"{place.partition(':')[0]}: {done.events:,} events in {took_s:.1f} s, {pause}")
            left = seat_of(rt.backend).left
            assert left is not None
            assert (await digest_of(left)).log == done.log_digest
            assert done.longest_pause_s < 0.5
            await trio.sleep(0.3)
        over.set()
        await ended.wait()
        head = await rt.head()
        with trio.fail_after(60):
            await rt.model(domain.CARRIERS).wait_for(head)
            await rt.model(domain.BOARDS).wait_for(head)
            while seen[0] < head:  # noqa: ASYNC110 - it is a number
                await trio.sleep(0.01)
        assert rt.model(domain.CARRIERS).state
        assert head == ROWS + len(acknowledged)
        nursery.cancel_scope.cancel()

    print(*told, f"{len(acknowledged):,} appends meanwhile", sep="\n")
    async with open_runtime(places[-1]) as rt:
        assert await rt.backend.verify() == []
        assert await rt.head() == head
