"""The flights go from memory to a file, to LMDB, to PostgreSQL and to LMDB again, while a writer appends and projections and a follower go on.

Each way is cut off a few times before it is let go to its end: what is in memory cannot be killed, so it is cancelled.
"""

from __future__ import annotations

import os
import random
import sys
from collections import defaultdict
from itertools import cycle, islice

import pytest
import trio

from perdure.actors.seat import seat_of
from perdure.runtime import EVERYTHING, START, App, open_runtime
from perdure.runtime.carry import digest_of
from perdure.runtime.migrate import migrate, move_back
from perdure.runtime.verify_models import verify_models

ROWS = int(os.environ.get("PERDURE_TEST_MIGRATE_ROWS", "12000"))
"""336776 where there is time for it: all of them."""
SEED = int(os.environ.get("PERDURE_TEST_SEED", "6"))
CANCELS = 2
PER_S = 200


@pytest.mark.slow
@pytest.mark.timeout(1_200)
async def test_the_flights_move_while_they_are_in_use(load, root, tmp_path, database, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "examples")])
    csv, feed, domain = (load(f"examples/{name}.py") for name in ("flights_csv", "flights_feed", "flights_domain"))
    app = App(projections=[domain.CARRIERS, domain.BOARDS])
    places = [f"file:{tmp_path}/a", f"lmdb:{tmp_path}/b", "back", f"lmdb:{tmp_path}/c", database, f"lmdb:{tmp_path}/d"]
    draw = random.Random(SEED)
    seen: list[int] = [0]
    acknowledged: list[int] = []
    waits_s: list[float] = []
    told: list[str] = []
    over, ended = trio.Event(), trio.Event()

    async with open_runtime("memory:", app) as rt, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with rt.subscribe(EVERYTHING, after=START, name="follower") as events:
                async for event in events:
                    assert event.position == seen[0] + 1
                    seen[0] = event.position

        async def write() -> None:
            for number, row in enumerate(cycle(islice(csv.read_rows(5_000), 5_000))):
                if over.is_set():
                    break
                began = trio.current_time()
                appended = await rt.append(f"{domain.CATEGORY}-live{number % 50}", [feed.to_event(row)])
                acknowledged.append(appended.position or 0)
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
            began, before, cancelled, done = trio.current_time(), len(waits_s), 0, None
            while done is None:
                limit_s = draw.random() * (0.2 + ROWS / 50_000) if cancelled < CANCELS else float("inf")
                with trio.move_on_after(limit_s):
                    done = await (move_back(rt) if place == "back" else migrate(rt, place))
                cancelled += done is None
            took_s, waited_s = trio.current_time() - began, max(waits_s[before:], default=0.0)
            pause = f"writers waited for {done.longest_pause_s * 1e3:.0f} ms, the longest append took {waited_s * 1e3:.0f} ms"
            told.append(f"to {place.partition(':')[0]}: {took_s:.1f} s, cancelled {cancelled} times, {pause}")
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
        assert acknowledged == list(range(ROWS + 1, head + 1))
        nursery.cancel_scope.cancel()

    with capsys.disabled():
        print("", *told, f"{len(acknowledged):,} appends meanwhile", sep="\n")
    async with open_runtime(places[-1]) as rt:
        assert await rt.backend.verify() == []
        assert await rt.head() == head
        reports = await verify_models(rt.backend, app)
        assert all(report.checked and not report.problems for report in reports)
