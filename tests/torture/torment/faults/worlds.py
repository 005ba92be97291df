"""States are the same bytes in every world: whatever the hash seed, the time zone, the locale, the page size, and wherever the process was started again."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import trio

from perdure.runtime import open_runtime
from perdure.runtime.testing import encoded
from torment.row import Row, Tally
from torment.stores import STORES, Kind
from torment.worlds.domain import EACH, ONE, app, drawn
from torment.worlds.folder import Asked, Dump

EVENTS = 300
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "XYZ-13:37", "Europe/Berlin")
LOCALES = ("C", "C.UTF-8", "POSIX", "de_DE.UTF-8", "tr_TR.UTF-8", "en_US.ISO-8859-1")
WITHIN_S = 60
TORTURE = Path(__file__).resolve().parents[2]


def run(kind: Kind, tally: Tally, *, lies: bool = False) -> None:
    """One world after the other, each over a copy of the same store. With a step that *lies* about sets, until that shows."""
    draw = random.Random(tally.seed)
    store, events_seed = tally.folder / "store", draw.randrange(1 << 32)
    truth = Truth(*trio.run(_write, kind.url(store), events_seed))
    while not tally.over and not (lies and tally.violations):
        copy = tally.folder / "copy"
        shutil.copytree(store, copy)
        restarts = sorted(draw.sample(range(1, EVENTS), draw.choice((0, 1, 3))))
        asked = Asked(kind.url(copy), str(tally.folder / "dump"), restarts, draw.choice((1, 7, 64, 1_000)), draw.choice((1, 10, 10_000)), events_seed, lies)
        world = {"PYTHONHASHSEED": str(draw.randrange(1 << 32)), "TZ": draw.choice(ZONES), "LC_ALL": draw.choice(LOCALES), "PYTHONUTF8": draw.choice("01")}
        done = subprocess.run(
            [sys.executable, "-m", "torment.worlds.folder", msgspec.json.encode(asked).decode()],
            env={**os.environ, **world, "PYTHONPATH": os.pathsep.join([str(TORTURE), *filter(None, sys.path)])},
            capture_output=True,
            timeout=WITHIN_S,
            check=False,
        )
        tally.done += 1
        told = f"{kind.name}: seed {tally.seed}, world {tally.done} ({world}, restarts at {restarts}, pages of {asked.page_records})"
        if done.returncode:
            tally.violation(f"{told}: {done.stderr.decode(errors='replace')[-2_000:]}")
        else:
            dump = msgspec.msgpack.decode(Path(asked.dump).read_bytes(), type=Dump)
            for problem in truth.problems(dump):
                tally.violation(f"{told}: {problem}")
            tally.note("snapshots", len(dump.snapshots))
            tally.note("keyed states", len(dump.keyed))
        shutil.rmtree(copy)


class Truth:
    """What a plain fold in this process gives, and the first world's dump, as far as only that tells."""

    def __init__(self, states: dict[int, bytes], shown: dict[str, bytes], records: list[bytes]) -> None:
        self.states = states
        self.shown = shown
        self.records = records
        self._keyed: dict[str, bytes] | None = None

    def problems(self, dump: Dump) -> list[str]:
        """What differs."""
        self._keyed = self._keyed or dump.keyed
        found = [f"the snapshot at {at} is {raw!r:.300}, not {self.states[at]!r:.300}" for at, raw in dump.snapshots.items() if raw != self.states[at]]
        if not dump.snapshots or max(dump.snapshots) != EVENTS:
            found.append(f"there is no snapshot at the end, only at {sorted(dump.snapshots)}")
        for what, one, other in (("model", dump.shown, self.shown), ("keyed", dump.keyed, self._keyed)):
            found += [f"{what} {key!r} is {one.get(key)!r:.300}, not {other.get(key)!r:.300}" for key in {**one, **other} if one.get(key) != other.get(key)]
        if dump.records != self.records:
            found.append("the same events are encoded as other bytes")
        return found


async def _write(url: str, events_seed: int) -> tuple[dict[int, bytes], dict[str, bytes], list[bytes]]:
    """Make the store, without running a projection over it, and fold it here."""
    data = drawn(events_seed, EVENTS)
    async with open_runtime(url) as rt:
        for begin in range(0, EVENTS, 30):
            await rt.append(f"world-{begin % 4}", list(data[begin : begin + 30]))
    async with open_runtime(url) as rt:
        events = [event async for event in rt.read_all(ONE.events)]
        encode = rt._codec.encoder(ONE.state_type)
        states, state = {}, ONE.initial
        for event in events:
            state = ONE.step(state, event)
            states[int(event.position)] = encode(state)
        shown = {"": states[EVENTS], **{f"={key}": raw for key, raw in encoded(rt._codec, EACH, events).items()}}
    async with open_runtime("memory:", app(lies=False)) as rt:
        await rt.append("anew-1", list(data[:50]))
        records = [record.payload + record.extra for record in await rt.backend.read_stream("anew-1", after=0, limit=1_000, bytes_max=1 << 30)]
    return states, shown, records


ROWS = [Row("the same bytes of state in every world", kind.name, "worlds", 12, 100, partial(run, kind)) for kind in STORES]
