"""Concurrent writers, whose answers must have one order: many tasks, at times cancelled, of several processes where a store allows that."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from functools import partial

from perdure.backends.conformance import Outcome
from perdure.runtime import Appended, Conflict
from torment.races.race import Race, What
from torment.races.track import Track
from torment.row import Row, Tally
from torment.stores import STORES, Kind

PROCESSES = 3
TURNS = 40
"""So many writes of each task are one race, on a store of its own."""


def run(kind: Kind, what: What, tally: Tally, *, stale: bool = False) -> None:
    """One race after the other, each of another shape. *stale*: with racers that tell old news, until that shows."""
    draw, counts = random.Random(tally.seed), Counter[str]()
    with Track(tally.folder, PROCESSES if kind.processes else 1) as track:
        while not tally.over and not (stale and tally.violations):
            store = tally.folder / "store"
            runtimes, tasks, targets = draw.choice(((1, 4, 1), (2, 8, 6), (2, 20, 40), (3, 6, 12)))
            seed = draw.randrange(1 << 32)
            if not kind.processes:
                runtimes, tasks = 1, runtimes * tasks
            race = Race(kind.url(store), "", what, seed, runtimes, tasks, TURNS, targets, stale=stale)
            history, problems = track.race(race)
            for problem in problems:
                tally.violation(f"{kind.name}: seed {tally.seed}, race {counts['races']} of seed {seed}: {problem}")
            counts["races"] += 1
            tally.done += sum(isinstance(one.answer, Appended) for one in history) if what == "appends" else len(history)
            tally.note("races")
            tally.note("operations", len(history))
            tally.note("conflicts", sum(isinstance(one.answer, Conflict) for one in history))
            tally.note("cancelled", sum(one.answer is Outcome.NOTHING for one in history))
            tally.note("in doubt", sum(one.answer is Outcome.UNKNOWN for one in history))
            shutil.rmtree(store)


ROWS = [
    *(Row("concurrent appends have one order", kind.name, "appends", 10_000, 500_000, partial(run, kind, "appends")) for kind in STORES),
    *(Row("concurrent puts and gets have one order", kind.name, "operations", 20_000, 1_000_000, partial(run, kind, "entries")) for kind in STORES),
]
