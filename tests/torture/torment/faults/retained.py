"""SIGKILL at random instants of a process that appends, retains, sweeps and compacts."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import trio

from torment.retaining.check import SLACK_BYTES, freed, move_hold, problems
from torment.row import Row, Tally
from torment.stores import STORES, Kind

STORE_EVERY = 12
"""So many lives on one store."""
WORKING_S, COMPACTING_S = 0.6, 0.15
TORTURE = Path(__file__).resolve().parents[2]


def run(kind: Kind, tally: Tally, *, lies: str = "") -> None:
    """A life, killed, and the store held against all that must be so; at the end of each store room is given back. One that *lies* goes on until that shows."""
    draw = random.Random(tally.seed)
    acknowledged: dict[str, int] = {}
    while not tally.over and not (lies and tally.violations):
        number = tally.done // STORE_EVERY
        store, blobs = tally.folder / f"store-{number}", tally.folder / f"blobs-{number}"
        if tally.done % STORE_EVERY == 0:
            acknowledged = {}
        _life(kind, store, blobs, draw, acknowledged, tally, lies)
        tally.done += 1
        told = f"{kind.name}: seed {tally.seed}, cycle {tally.done}"
        if not acknowledged:
            continue
        found = trio.run(problems, kind.url(store), blobs, acknowledged)
        for problem in found:
            tally.violation(f"{told}: {problem}")
        if draw.random() < 0.5:
            trio.run(move_hold, kind.url(store), draw)
        if not lies and (tally.done % STORE_EVERY == 0 or tally.over):
            went, smaller = trio.run(freed, kind.url(store), store, blobs)
            tally.note("bytes that went", went)
            tally.note("bytes freed", smaller)
            if smaller < 0.8 * went - SLACK_BYTES:
                tally.violation(f"{told}: {went:,} bytes went, and the files are {smaller:,} bytes smaller")
            shutil.rmtree(store)
            shutil.rmtree(blobs)


def _life(kind: Kind, store: Path, blobs: Path, draw: random.Random, acknowledged: dict[str, int], tally: Tally, lies: str) -> None:
    compacts = bool(acknowledged) and draw.random() < 0.3
    command = [sys.executable, "-m", "torment.retaining.life", kind.url(store), str(blobs), str(draw.randrange(1 << 32)), "compacts" if compacts else lies]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TORTURE), *filter(None, sys.path)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        opened = child.stdout.readline() == "open\n"
        if opened:
            time.sleep(draw.random() * (COMPACTING_S if compacts else WORKING_S))
        child.kill()
        for line in child.stdout:
            stream, _, seq = line.partition(" ")
            if line.endswith("\n") and seq:
                acknowledged[stream] = int(seq)
        if not opened or child.wait() != -9:
            tally.violation(f"seed {tally.seed}, cycle {tally.done + 1}: a life ended with {child.wait()}: {child.stderr.read()[-2_000:]}")
    tally.note("while compacting" if compacts else "while working")


ROWS = [Row("SIGKILL while it retains and compacts", kind.name, "cycles", 6, 400, partial(run, kind)) for kind in STORES]
