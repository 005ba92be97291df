"""Two writer processes on one store, killed at different times: one dies while the other writes on, comes back, and finds all."""

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

ALIVE_S = 0.15
CHECKED_SHARE = 0.5
STORE_EVERY = 20


@attrs.define
class Writer:
    """One of the two, through its lives."""

    name: str
    mother: Mother
    alive: bool = False

    def begin(self, url: str, draw: random.Random) -> None:
        """A new life, which has opened the store when this returns, or (at times) is on its way."""
        self.mother.begin(Life(url, self.name, draw.randrange(1 << 32), subscribes=self.name == "a", projects=draw.random() < 0.7))
        self.alive = True
        if draw.random() < 0.7:
            self.mother.wait_open()

    def kill(self) -> None:
        """Now."""
        self.mother.kill()
        self.alive = False


def run(kind: Kind, tally: Tally) -> None:
    """Again and again one of the two is killed; half of the times the other too, a moment later, and then the store is held against all that both told."""
    draw = random.Random(tally.seed)
    with Mother(Told(), tally.folder / "errors-a") as one, Mother(Told(), tally.folder / "errors-b") as other:
        writers = [Writer("a", one), Writer("b", other)]
        while not tally.over:
            store = tally.folder / f"store-{tally.done}"
            one.told = other.told = told = Told()
            for _ in range(STORE_EVERY):
                if tally.over:
                    break
                _kills(kind.url(store), writers, draw, tally)
                for problem in [*problems(kind.url(store), told), *(f"a life was refused {refused}" for refused in told.refused)]:
                    tally.violation(f"{kind.name}: seed {tally.seed}, kill {tally.done}: {problem}")
                told.refused.clear()
            tally.note("acknowledged", told.acknowledged)
            tally.note("events to the same stream", len(told.shared))
            shutil.rmtree(store)


def _kills(url: str, writers: list[Writer], draw: random.Random, tally: Tally) -> None:
    """Until both are dead."""
    for writer in writers:
        writer.begin(url, draw)
    while any(writer.alive for writer in writers):
        time.sleep(draw.random() * ALIVE_S)
        victim = draw.choice([writer for writer in writers if writer.alive])
        victim.kill()
        tally.done += 1
        time.sleep(draw.random() * ALIVE_S / 3)
        if draw.random() > CHECKED_SHARE and any(writer.alive for writer in writers):
            victim.mother.told.ended += 1
            victim.begin(url, draw)


ROWS = [
    Row("two writer processes, killed at different times", kind.name, "kills", 30, 400, partial(run, kind)) for kind in STORES if kind.processes
]
