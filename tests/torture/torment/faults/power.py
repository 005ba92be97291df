"""Power cuts at every IO point of a recorded run, failed flushes before them, and IO that fails: on a simulated disk."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from functools import partial

import attrs
import trio

from perdure.backends.cuts import POLICIES, Policy
from perdure.backends.errors import PerdureError
from perdure.backends.faults import Fault, Op
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedProcess
from torment.clear import is_clear
from torment.recorded import Recorded, content, opened, write_some
from torment.row import Row, Tally

SCHEMES = {"file:": "file:", "segments": "lmdb:?log=segments (its commit log, before a map on the same disk)"}
VIOLATIONS_MAX = 100
"""Enough to know."""
COMMITS = 12
"""Of one life; two make a run."""


@attrs.frozen
class Image:
    """A disk after a power cut, and what may be found on it: one of *allowed*."""

    disk: SimulatedDisk
    policy: Policy
    point: int
    op: str
    acknowledged: int
    in_flight: bool

    def __str__(self) -> str:
        return f"cut before point {self.point} ({self.op}), policy {self.policy!r}, {self.acknowledged} acknowledged"


class Camera:
    """Takes an image under each policy before every point at which the disk is another than at the last."""

    def __init__(self, disk: SimulatedDisk, recorded: Recorded, draw: random.Random, *, chance: float = 1.0) -> None:
        self.images: list[Image] = []
        self.recorded = recorded
        self._disk = disk
        self._draw = draw
        self._chance = chance
        self._changes = -1
        self._seen: set[tuple[bytes, int]] = set()
        disk.on_point = self.look

    def look(self, process: SimulatedProcess, number: int, op: str, path: str) -> None:
        """Called at each point."""
        if self._disk.changes == self._changes or self._draw.random() > self._chance:
            return
        self._changes = self._disk.changes
        for policy in POLICIES:
            image = self._disk.image(policy, seed=self._draw.getrandbits(32))
            key = image.digest(), self.recorded.acknowledged
            if key not in self._seen:
                self._seen.add(key)
                self.images.append(Image(image, policy, number, f"{op} {path}", self.recorded.acknowledged, self.recorded.in_flight))

    def stop(self) -> None:
        """Take no more."""
        self._disk.on_point = None


def power_cuts(scheme: str, tally: Tally) -> None:
    """Run, recorded, from creation on; every different image is opened and must say what was acknowledged, and no more than what was on its way."""
    draw = random.Random(tally.seed)
    while not tally.over and tally.violations <= VIOLATIONS_MAX:
        seed = draw.getrandbits(32)
        disk = SimulatedDisk(seed)
        recorded = Recorded()
        camera = Camera(disk, recorded, random.Random(seed))
        trial(tally, f"{scheme}, seed {seed}", partial(trio.run, two_lives, scheme, disk, seed, recorded))
        camera.stop()
        tally.note("runs")
        for image in camera.images:
            if tally.over or tally.violations > VIOLATIONS_MAX:
                return
            check_image(scheme, image, recorded, tally, f"seed {seed}")


async def two_lives(scheme: str, disk: SimulatedDisk, seed: int, recorded: Recorded) -> None:
    """Create, write, close; open, write, and be killed."""
    draw = random.Random(seed)
    first = disk.process()
    async with opened(scheme, first, seed) as backend:
        await write_some(backend, draw, COMMITS, recorded)
    second = disk.process()
    async with opened(scheme, second, seed + 1) as backend:
        await write_some(backend, draw, COMMITS, recorded)
        second.bury()


def check_image(scheme: str, image: Image, recorded: Recorded, tally: Tally, what: str) -> None:
    """Open it, twice, with a commit in between."""
    contents = recorded.contents
    allowed = contents[image.acknowledged : image.acknowledged + 1 + image.in_flight]
    try:
        cuts, found = trio.run(partial(open_twice, scheme, image.disk))
        if found not in allowed:
            near = [number for number, known in enumerate(contents) if known == found]
            tally.violation(f"{scheme}, {what}, {image}: found the content after {near or 'no'} acknowledgements")
        tally.note("bytes set aside", cuts)
    except PerdureError as error:
        tally.violation(f"{scheme}, {what}, {image}: {error!r}")
    except Exception as error:
        tally.violation(f"{scheme}, {what}, {image}: {error!r}")
    tally.done += 1


async def open_twice(scheme: str, disk: SimulatedDisk) -> tuple[int, str]:
    """What is there after the cut; it must still be there, and one commit more, after another cut that loses all it may."""
    process = disk.process()
    async with opened(scheme, process) as backend:
        found = await content(backend)
        status = await backend.store_status()
        later = Recorded([found])
        await write_some(backend, random.Random(disk.seed), 1, later)
        disk.power_cut("lose")
        process.bury()
    async with opened(scheme, disk.process()) as backend:
        again = await content(backend)
    if again != later.contents[-1]:
        raise AssertionError("what was found, and a commit more, was gone after the next power cut")
    return sum(cut.size_bytes for cut in status.recovery.cuts), found


# -- failed flushes --------------------------------------------------------------------------


def failed_flushes(scheme: str, tally: Tally) -> None:
    """A flush fails; the store is opened again in the same boot, by its keeper or by another process; then the power is cut."""
    draw = random.Random(tally.seed)
    while not tally.over:
        seed = draw.getrandbits(32)
        trial(tally, f"{scheme}, seed {seed}", partial(trio.run, _failed_flush, scheme, seed, tally))
        tally.done += 1


async def _failed_flush(scheme: str, seed: int, tally: Tally) -> None:
    draw = random.Random(seed)
    disk = SimulatedDisk(seed)
    recorded = Recorded()
    process = disk.process()
    async with opened(scheme, process, seed) as backend:
        await write_some(backend, draw, draw.randrange(6), recorded)
        disk.inject(Fault("drop", op="flush", nth=draw.randint(1, 12), part=draw.choice((0.0, 0.0, 0.5, 0.9))))
        await write_some(backend, draw, draw.randint(4, 12), recorded)
        disk.heal()
        shown = recorded.contents[-1]
        if draw.random() < 0.5:
            process.bury()
    if draw.random() < 0.7:  # another process, in the same boot: the cache shows what may be lost
        process = disk.process()
        async with opened(scheme, process, seed + 1) as backend:
            same_boot = await content(backend)
            if same_boot != shown:
                tally.violation(f"{scheme}, seed {seed}: another content in the same boot")
            process.bury()
    disk.power_cut(draw.choice(POLICIES))
    async with opened(scheme, disk.process(), seed + 2) as backend:
        if await content(backend) != shown:
            tally.violation(f"{scheme}, seed {seed}: what had been shown was gone after the power cut")
    tally.note("reopened", recorded.reopened)


# -- IO that fails ---------------------------------------------------------------------------


def io_faults(scheme: str, tally: Tally) -> None:
    """Each of the first 40 writes, syncs and changes of folders fails, from creation on or after opening, once or for good."""
    draw = random.Random(tally.seed)
    while not tally.over:
        seed = draw.getrandbits(32)
        fault = draw_fault(tally.done, draw)
        trial(tally, f"{scheme}, seed {seed}, {fault}", partial(trio.run, _io_fault, scheme, seed, fault, tally))
        tally.done += 1


def draw_fault(number: int, draw: random.Random) -> Fault:
    """The number-th: every operation is met before any comes again."""
    nth = number % 40 + 1
    op: Op = draw.choice(("write", "write", "flush", "flush", "sync_folder", "rename", "open", "remove", "make_folder", "read"))
    error = draw.choice((errno.EIO, errno.ENOSPC))
    if op == "write" and draw.random() < 0.4:
        return Fault("short", op=op, nth=nth, error=error, part=draw.random(), for_good=draw.random() < 0.3)
    if op in ("flush", "sync_folder") and draw.random() < 0.6:
        return Fault("drop", op=op, nth=nth, part=draw.choice((0.0, 0.5)), for_good=draw.random() < 0.3)
    return Fault("fail", op=op, nth=nth, error=error, for_good=draw.random() < 0.3)


async def _io_fault(scheme: str, seed: int, fault: Fault, tally: Tally) -> None:
    draw = random.Random(seed)
    disk = SimulatedDisk(seed)
    recorded = Recorded()
    if draw.random() < 0.5:
        await _life(scheme, disk, seed, draw, recorded, tally)
    disk.inject(fault)
    await _life(scheme, disk, seed + 1, draw, recorded, tally)
    disk.heal()
    if draw.random() < 0.5:
        disk.power_cut(draw.choice(POLICIES))
    allowed = recorded.contents[-1:]
    if recorded.in_flight:
        allowed = [*allowed, ""]
    async with opened(scheme, disk.process(), seed + 2) as backend:
        found = await content(backend)
        if found not in allowed and not recorded.in_flight:
            tally.violation(f"{scheme}, seed {seed}, {fault}: not the content that was acknowledged")


async def _life(scheme: str, disk: SimulatedDisk, seed: int, draw: random.Random, recorded: Recorded, tally: Tally) -> None:
    process = disk.process()
    try:
        async with opened(scheme, process, seed) as backend:
            await write_some(backend, draw, draw.randrange(2, 10), recorded)
            if draw.random() < 0.3:
                process.bury()
    except PerdureError as error:
        tally.note("typed errors")
        if not is_clear(error):
            tally.unclear_error(repr(error))
    finally:
        process.bury()


def trial(tally: Tally, what: str, run: Callable[[], object]) -> None:
    """Run it; what leaves it is a violation."""
    try:
        run()
    except Exception as error:
        tally.violation(f"{what}: {error!r}")


CUTS = "power cut at every IO point, five policies"
FLUSHES = "failed flush, reopened in the same boot, then a power cut"
ROWS = [
    *(Row(CUTS, name, "images", 500, 25_000, partial(power_cuts, scheme)) for scheme, name in SCHEMES.items()),
    *(Row(FLUSHES, name, "runs", 100, 5_000, partial(failed_flushes, scheme)) for scheme, name in SCHEMES.items()),
    *(Row("injected IO faults", name, "runs", 100, 5_000, partial(io_faults, scheme)) for scheme, name in SCHEMES.items()),
]
