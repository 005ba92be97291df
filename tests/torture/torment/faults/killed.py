"""SIGKILL at random instants of a life: while it opens the store, while it writes, while it closes."""

from __future__ import annotations

import random
import shutil
import time
from functools import partial

import attrs

from torment.lives.check import problems
from torment.lives.mother import Mother
from torment.lives.told import Told
from torment.lives.work import Life
from torment.row import Row, Tally
from torment.stores import STORES, Kind

STORE_EVERY = 20
"""So many lives on one store: the checks read all of it."""
OPENING_S, WRITING_S, CLOSING_S = 0.03, 0.08, 0.12


def run(kind: Kind, tally: Tally) -> None:
    """A life, killed, and the store held against all that was told; half of the times a copy of it, so that the next life opens what was left."""
    draw = random.Random(tally.seed)
    told = Told()
    with Mother(told, tally.folder / "errors") as mother:
        while not tally.over:
            store = tally.folder / f"store-{tally.done // STORE_EVERY}"
            if tally.done % STORE_EVERY == 0:
                mother.told = told = Told()
            _life(mother, kind.url(store), draw, tally)
            checked = store
            if store.exists() and draw.random() < 0.5:
                checked = tally.folder / "copy"
                shutil.rmtree(checked, ignore_errors=True)
                shutil.copytree(store, checked)
            tally.done += 1
            if store.exists() or told.acknowledged:
                for problem in problems(kind.url(checked), told):
                    tally.violation(f"{kind.name}: seed {tally.seed}, cycle {tally.done}: {problem}")
            for refused in told.refused:
                tally.violation(f"{kind.name}: seed {tally.seed}, cycle {tally.done}: a life was refused {refused}")
            told.refused.clear()
            if tally.done % STORE_EVERY == 0:
                shutil.rmtree(store, ignore_errors=True)


def _life(mother: Mother, url: str, draw: random.Random, tally: Tally) -> None:
    told, before = mother.told, attrs.evolve(mother.told)
    closes = draw.random() < 0.15
    mother.begin(Life(url, "w", draw.randrange(1 << 32), close_after_s=draw.random() * CLOSING_S / 4 if closes else 0.0))
    if not closes and draw.random() < 0.35:
        time.sleep(draw.random() * OPENING_S)
    else:
        mother.wait_open()
        time.sleep(draw.random() * (CLOSING_S if closes else WRITING_S))
    status = mother.kill()
    if status not in (9, 0):
        tally.violation(f"seed {tally.seed}, cycle {tally.done}: a life ended with {status}: {mother.complaints()}")
    tally.note("acknowledged", told.acknowledged - before.acknowledged)
    tally.note("while opening", told.opened == before.opened)
    tally.note("while closing", closes and told.closed == before.closed)
    tally.note("closed before", told.closed - before.closed)


ROWS = [Row("SIGKILL at random instants", kind.name, "cycles", 30, 2_000, partial(run, kind)) for kind in STORES]
