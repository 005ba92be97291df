"""A full disk: filled by the store itself, or by another file while the store is written to. `Full` is the answer, and nothing else changes."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from zlib import crc32

import attrs
import trio

from perdure.backends.errors import Full, PerdureError, Unavailable
from perdure.backends.limits import Limits
from perdure.runtime import App, Event, Projection, Runtime, event, of, open_runtime
from torment.quiet import quiet
from torment.row import Row, Tally
from torment.small_disk import fill, small_disk, ways, why_none
from torment.stores import STORES, Kind

BALLAST_BYTES = 10 << 20
"""Another file, which frees so much when it goes."""
SMALL, LARGE = (20, 500, 3_000), (100, 2_000, 60_000, 300_000)
FULL_AT_LEAST = 3
"""So often each task is told `Full`."""
WITHIN_S = 25.0
AGAIN_WITHIN_S = 5.0
LIMITS = Limits(commit_s=10)


@event("filled")
@attrs.frozen
class Filled:
    number: int
    data: bytes


def total(state: int, event: Event[Filled]) -> int:
    return state + 1


COUNTED = Projection("filled-count", version=1, initial=0, step=total, events=of(Filled))
APP = App(projections=[COUNTED])


@attrs.define
class Ledger:
    """What was acknowledged, by digests; and what else was answered."""

    streams: dict[str, list[int]] = attrs.field(factory=dict)
    entries: dict[str, int] = attrs.field(factory=dict)
    full: dict[str, int] = attrs.field(factory=dict)
    others: list[PerdureError] = attrs.field(factory=list)
    doubts: int = 0

    def refused(self, name: str, error: PerdureError) -> None:
        if isinstance(error, Full):
            self.full[name] = self.full.get(name, 0) + 1
        else:
            self.others.append(error)


@attrs.define
class Disk:
    """A store on a small disk, and what is done to it."""

    url: str
    place: Path
    draw: random.Random
    ledger: Ledger = attrs.field(factory=Ledger)

    # -- writing -----------------------------------------------------------------------------

    async def write_until_full(self, rt: Runtime, *, from_outside: bool) -> None:
        """Several tasks at once, until each was told so a few times."""
        self.ledger.full.clear()
        names = [f"s-{number}" for number in range(3)] + [f"k{number}" for number in range(3)]
        with trio.move_on_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._task, rt, name, random.Random(self.draw.random()), SMALL if from_outside else LARGE)
                if from_outside:
                    await trio.sleep(self.draw.random() * 0.5)
                    await trio.to_thread.run_sync(fill, self.place / "outside")
                while not all(self.ledger.full.get(name, 0) >= FULL_AT_LEAST for name in names):  # noqa: ASYNC110 - they tell nobody
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    async def _task(self, rt: Runtime, name: str, draw: random.Random, sizes: tuple[int, ...]) -> None:
        while True:
            data = draw.randbytes(draw.choice(sizes))
            try:
                await (self._append(rt, name, data) if name.startswith("s-") else self._put(rt, name, data))
            except PerdureError as error:
                self.ledger.refused(name, error)
                await trio.sleep(0.02)
            await trio.sleep(0)

    async def _append(self, rt: Runtime, stream: str, data: bytes) -> None:
        known = self.ledger.streams.setdefault(stream, [])
        (await rt.append(stream, [Filled(len(known) + 1, data)], expected=len(known))).unwrap()
        known.append(crc32(data))

    async def _put(self, rt: Runtime, name: str, data: bytes) -> None:
        key = f"{name} {crc32(data) % 50}"
        await rt.kv("k", bytes).put(key, data)
        self.ledger.entries[key] = crc32(data)

    async def delete_some(self, rt: Runtime, *, none_free: bool) -> str:
        """Deletes and upkeep work on a full disk, or (where there is *none_free* at all) say that it is; what is wrong with that."""
        bucket = rt.kv("k", bytes)
        try:
            for key in list(self.ledger.entries)[::2]:
                await bucket.delete(key)
                del self.ledger.entries[key]
            while await rt.backend.maintain():
                pass
        except PerdureError as error:
            if not (none_free and isinstance(error, Full)):
                return f"a delete, or upkeep, on a full disk is answered {type(error).__name__}: {error}"
        return ""

    async def goes_on(self, rt: Runtime) -> str:
        """Writes succeed again once there is room; what is wrong with that."""
        data = self.draw.randbytes(50_000)
        error: PerdureError | None = None
        with trio.move_on_after(AGAIN_WITHIN_S):
            for write, name in ((self._append, "s-0"), (self._put, "k0")):
                while True:
                    try:
                        await write(rt, name, data)
                        break
                    except PerdureError as refused:
                        error = refused
                        await trio.sleep(0.05)
            return ""
        return f"{AGAIN_WITHIN_S:g} s after space was freed a write is answered {type(error).__name__}: {error}"

    # -- looking -----------------------------------------------------------------------------

    async def wrong(self, rt: Runtime) -> list[str]:
        """What was acknowledged and is not there as it was; what is there and was not."""
        found: list[str] = []
        for stream, known in self.ledger.streams.items():
            stored = [crc32(event.data.data) async for event in rt.read(stream)]  # type: ignore[attr-defined]  # all are Filled
            if stored != known:
                found.append(f"{stream} has {len(stored)} events, {len(known)} were acknowledged; the first that differs is {_first(stored, known)}")
        entries = {entry.key: crc32(entry.value) for entry in (await rt.kv("k", bytes).scan()).entries}
        if entries != self.ledger.entries:
            differing = sorted(key for key in {*entries, *self.ledger.entries} if entries.get(key) != self.ledger.entries.get(key))
            found.append(f"{len(differing)} entries are not as acknowledged: {differing[:3]}")
        return found


def _first(stored: list[int], known: list[int]) -> int:
    return next((n for n, (one, other) in enumerate(zip(stored, known, strict=False), 1) if one != other), min(len(stored), len(known)) + 1)


async def one_disk(disk: Disk, *, from_outside: bool, reopens: bool) -> list[str]:
    """Fill it, delete while it is full, free space, go on; what is wrong."""
    found: list[str] = []
    fill(disk.place / "ballast", BALLAST_BYTES)
    async with open_runtime(disk.url, APP, limits=LIMITS) as rt:
        await disk.write_until_full(rt, from_outside=from_outside)
        if not disk.ledger.full:
            found.append("a full disk was never told")
        found += await disk.wrong(rt)
        found += filter(None, [await disk.delete_some(rt, none_free=from_outside)])
        found += await disk.wrong(rt)
        if not reopens:
            found += await _freed(disk, rt)
        disk.ledger.doubts += rt.status().journal.doubts
    if reopens:
        try:
            async with open_runtime(disk.url, APP, limits=LIMITS) as rt:
                found += await disk.wrong(rt)
                found += await _freed(disk, rt)
        except PerdureError as error:
            if not (from_outside and isinstance(error, Unavailable)):  # no byte is left for what every opening writes: told, and nothing lost below
                found.append(f"a store on a full disk does not open: {type(error).__name__}: {error}")
    for name in ("outside", "ballast"):
        (disk.place / name).unlink(missing_ok=True)
    async with open_runtime(disk.url, APP, limits=LIMITS) as rt:
        found += [*await disk.wrong(rt), *await rt.backend.verify()]
        await rt.model(COUNTED).wait_for(await rt.head())
        if rt.model(COUNTED).state != (count := sum(map(len, disk.ledger.streams.values()))):
            found.append(f"the model has counted {rt.model(COUNTED).state} events of {count}")
    return found


async def _freed(disk: Disk, rt: Runtime) -> list[str]:
    for name in ("outside", "ballast"):
        (disk.place / name).unlink(missing_ok=True)
    return [*filter(None, [await disk.goes_on(rt)]), *await disk.wrong(rt)]


def run(kind: Kind, tally: Tally) -> None:
    """One small disk after the other."""
    draw = random.Random(tally.seed)
    possible = ways(tally.folder)
    if not possible:
        tally.skipped = f"no small disk can be had: {why_none(tally.folder)}"
        return
    while not tally.over:
        how, from_outside, reopens = possible[tally.done % len(possible)], tally.done % 2 == 1, draw.random() < 0.5
        with small_disk(how, tally.folder / f"{tally.done}") as place:
            disk = Disk(kind.url(place / "store"), place, random.Random(draw.random()))
            by = "from outside" if from_outside else "by itself"
            told = f"{kind.name} on {how}, filled {by}{', opened again' if reopens else ''}, seed {tally.seed}, disk {tally.done}"
            with quiet():
                found = trio.run(partial(one_disk, disk, from_outside=from_outside, reopens=reopens))
            for problem in found:
                tally.violation(f"{told}: {problem}")
            for error in disk.ledger.others[:5]:
                tally.unclear_error(f"{told}: {type(error).__name__}: {error}")
        tally.note("told Full", sum(disk.ledger.full.values()))
        tally.note("told something else", len(disk.ledger.others))
        tally.note("flushes that met the end", disk.ledger.doubts)
        tally.done += 1


ROWS = [Row("a full disk", kind.name, "disks", 3, 50, partial(run, kind)) for kind in STORES]
