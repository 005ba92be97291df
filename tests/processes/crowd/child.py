"""A member of the crowd: `python -m crowd.child JSON`. One runtime on the store, some jobs; ends when its standard input does."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

import perdure.backends.lmdb  # noqa: F401 - now, and not in the loop while the store is opened
from crowd import jobs, models, trouble
from crowd.notes import Notebook
from crowd.options import Options, read_options
from crowd.tallies import tallies
from perdure.actors import snapshots
from perdure.runtime import App, Limits, Runtime, open_runtime

GAP_S = 0.05
"""A loop that did not turn for longer is noted."""

Job = Callable[[Runtime, Options, Notebook], Awaitable[None]]

JOBS: dict[str, Job] = {
    "append": jobs.append,
    "put": jobs.put,
    "follow": jobs.follow,
    "watch": jobs.watch,
    "project": models.project,
    "read": models.read,
    "host": models.host,
    "tabulate": models.host,
    "fork": trouble.fork,
}


async def live(options: Options, notes: Notebook) -> None:
    """Open, work until asked to end, close."""
    snapshots.EVENTS, snapshots.IDLE_S = options.snapshot_events, 0.3  # type: ignore[misc]  # so that what is kept is soon the newest
    app = App(
        projections=models.projections(options) if {"project", "host"} & set(options.jobs) else [],
        sql=[tallies(options.database, options.tables_version)] if "tabulate" in options.jobs else [],
    )
    limits = Limits(gate_s=options.gate_s, close_s=options.close_s, lease_s=options.lease_s, ring_bytes=options.ring_bytes)
    async with trio.open_nursery() as watching:
        watching.start_soon(beat, options, notes)
        async with open_runtime(options.where, app, limits=limits) as rt:
            async with trio.open_nursery() as working:
                for job in options.jobs:
                    working.start_soon(JOBS[job], rt, options, notes)
                notes.write("open", os.getpid())
                await trio.lowlevel.wait_readable(0)
                notes.write("ending")
                working.cancel_scope.cancel()
        watching.cancel_scope.cancel()
    notes.write("closed")


async def beat(options: Options, notes: Notebook) -> None:
    """Note each time that the loop stood still, and once a second what the process has used."""
    turned_ns, told_ns = time.monotonic_ns(), 0
    while True:
        await trio.sleep(options.beat_s)
        now_ns = time.monotonic_ns()
        if now_ns - turned_ns > (GAP_S + options.beat_s) * 1e9:
            notes.write("gap", turned_ns)
        if now_ns - told_ns >= 1e9:
            notes.write("alive", time.process_time_ns(), rss_kib())
            told_ns = now_ns
        turned_ns = now_ns


def rss_kib() -> int:
    """The memory that is this process's own; pages of the store's map are not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    chosen = read_options(sys.argv[1])
    logging.basicConfig(filename=f"{chosen.notes}.log")  # what a supervisor deals with is no complaint: standard error stays empty
    if chosen.hold:
        trouble.hold(chosen, Notebook(Path(chosen.notes)))
    else:
        if chosen.freeze_at:
            trouble.freeze_at_commit(chosen, Notebook(Path(chosen.notes)))
        trio.run(live, chosen, Notebook(Path(chosen.notes)))
