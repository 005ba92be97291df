"""Power cuts of the real files: the store is on a file system that forgets what was not synced, in every way that a disk may."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

from torment.lives import boots
from torment.lives.check import problems
from torment.lives.mother import Mother
from torment.lives.told import Told
from torment.lives.work import Life
from torment.power.client import Power, why_not
from torment.power.disk import POLICIES
from torment.row import Row, Tally
from torment.stores import STORES, Kind

STORE_EVERY = 8
"""So many cuts of one store: what a cut leaves, the next life opens, and may be cut while it recovers."""
OPENING_OPERATIONS, WRITING_OPERATIONS = 40, 250
WITHIN_S = 3.0


def run(kind: Kind, tally: Tally, *, unsynced: bool = False) -> None:
    """A life that is cut before its nth write, sync or change of a folder; what is left must open and hold all that was told.

    With an *unsynced* store it ends as soon as that shows.
    """
    if reason := why_not():
        tally.skipped = reason
        return
    draw = random.Random(tally.seed)
    with Power(tally.folder) as power, Mother(Told(), tally.folder / "errors") as mother:
        while not tally.over and not (unsynced and tally.violations):
            if tally.done % STORE_EVERY == 0:
                mother.told = Told()
                power.make(f"disk-{tally.done}")
            _cut_a_life(kind, tally, power, mother, draw, unsynced)


def _cut_a_life(kind: Kind, tally: Tally, power: Power, mother: Mother, draw: random.Random, unsynced: bool) -> None:
    told, number, left = mother.told, tally.done, tally.folder / "left"
    policy, seed = draw.choice(POLICIES), draw.randrange(1 << 32)
    power.stop(draw.randrange(draw.choice((OPENING_OPERATIONS, WRITING_OPERATIONS))))
    before = told.acknowledged
    url = kind.url(power.mount / f"disk-{number}" / "store")
    mother.begin(Life(url, "w", draw.randrange(1 << 32), boot=f"boot {number}", unsynced=kind.name if unsynced else ""))
    power.stopped(WITHIN_S)
    mother.kill(lambda: power.cut(f"disk-{number}", policy, seed, left, f"disk-{number + 1}"))
    tally.done += 1
    tally.note(policy)
    tally.note("acknowledged", told.acknowledged - before)
    for refused in told.refused:
        tally.violation(f"{kind.name}: seed {tally.seed}, cut {number}: a life was refused {refused}")
    told.refused.clear()
    for problem in _problems(kind, left, told, f"boot {tally.done}"):
        tally.violation(f"{kind.name}: seed {tally.seed}, cut {number} ({policy}): {problem}")
    shutil.rmtree(left)


def _problems(kind: Kind, left: Path, told: Told, boot: str) -> list[str]:
    if not (left / "store").exists():
        return ["all is lost, the folder too"] if told.acknowledged else []
    with boots.pretended(boot):
        return problems(kind.url(left / "store"), told)


ROWS = [Row("power cuts of the real files", kind.name, "cuts", 30, 1_500, partial(run, kind)) for kind in STORES]
