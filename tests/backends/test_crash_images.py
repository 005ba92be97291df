"""A small store on the simulated disk, cut off from power at each of its points: an honest one loses nothing, careless ones are found out."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest
import trio

from perdure.backends.cuts import POLICIES
from perdure.backends.disk import Disk, File
from perdure.backends.faults import Fault, Op
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedProcess

SEEDS = 6
LINE = 600
"""Bytes of a record: more than a sector, so that it can be torn."""


class Store:
    """Numbers from 0, each a record of a log; every fifth time what there is goes into an image that replaces the last one."""

    flushes = True
    flushes_image = True
    syncs = True
    retries = False
    rewrites = True

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.count = 0
        self.acked = 0
        self.end = 0
        self.log: File | None = None

    async def open(self) -> None:
        """Read what is there: the image, then records that follow it; and write these again, for only the cache may vouch for them."""
        self.count = 0
        await self.disk.make_folder("s")
        await self._sync("/")
        if await self.disk.exists("s/image"):
            self.count = int((await self._read("s/image"))[:LINE] or b"0")
        self.log = await self.disk.open("s/log", create=True)
        await self._sync("s")
        text = await self.log.read(0, 1 << 20)
        if self.rewrites:
            await self.log.write_flush(0, text)
        self.end = 0
        for at in range(0, len(text), LINE):
            if text[at : at + LINE] == _record(self.count):
                self.count += 1
                self.end = at + LINE
        self.acked = self.count

    async def add(self) -> None:
        """Append the next number."""
        assert self.log is not None
        await self.log.write(self.end, _record(self.count))
        if self.flushes:
            try:
                await self.log.flush()
            except OSError:
                if not self.retries:
                    raise
                await self.log.flush()
        self.count += 1
        self.end += LINE
        if self.count % 5 == 0:
            await self._image()
        self.acked = self.count

    async def _image(self) -> None:
        new = await self.disk.open("s/image.new", create=True)
        await new.write(0, (b"%d" % self.count).ljust(LINE))
        if self.flushes_image:
            await new.flush()
        new.close()
        await self.disk.rename("s/image.new", "s/image")
        await self._sync("s")
        assert self.log is not None
        self.log.close()
        await self.disk.remove("s/log")
        self.log, self.end = await self.disk.open("s/log", create=True), 0
        await self._sync("s")

    async def _sync(self, folder: str) -> None:
        if self.syncs:
            await self.disk.sync_folder(folder)

    async def _read(self, path: str) -> bytes:
        file = await self.disk.open(path)
        text = await file.read(0, 1 << 20)
        file.close()
        return text


def _record(number: int) -> bytes:
    return (b"%d." % number).ljust(LINE, b"#")


class AcksBeforeFlush(Store):
    flushes = False


class RenamesBeforeFlush(Store):
    flushes_image = False


class NeverSyncs(Store):
    syncs = False


class FlushesAgain(Store):
    retries = True


class TrustsTheCache(Store):
    rewrites = False


async def crash_everywhere(kind: type[Store], *faults: Fault, adds: int = 12) -> tuple[int, list[str]]:
    """Run a store, opened again when it fails; at each point take images and open each: how many there were, and what was lost."""
    disk = SimulatedDisk()
    store = kind(disk.process())
    found: dict[bytes, tuple[int, str, SimulatedDisk]] = {}
    images = 0

    def look(_: SimulatedProcess, number: int, op: Op, path: str) -> None:
        nonlocal images
        for policy in POLICIES:
            for seed in range(SEEDS if policy in ("prefix", "random") else 1):
                image = disk.image(policy, seed)
                images += 1
                where = f"acked {store.acked} before point {number} ({op} {path}), cut {policy!r} with seed {seed}"
                if store.acked >= found.get(image.digest(), (-1,))[0]:
                    found[image.digest()] = store.acked, where, image

    disk.on_point = look
    await store.open()
    disk.inject(*faults)
    for _ in range(adds):
        try:
            await store.add()
        except OSError:
            with suppress(OSError):
                await store.open()
    lost = []
    for acked, where, image in found.values():
        again = Store(image.process())
        try:
            await again.open()
        except ValueError:
            lost.append(f"{where}: the image is damaged")
        else:
            if not acked <= again.count <= adds:
                lost.append(f"{where}: {again.count} were there")
    return images, lost


async def test_an_honest_store_loses_nothing_at_any_point():
    images, lost = await crash_everywhere(Store, adds=40)

    assert lost == []
    assert images > 2_000


@pytest.mark.parametrize("nth", range(1, 12))
async def test_an_honest_store_loses_nothing_by_a_failed_flush(nth):
    _, lost = await crash_everywhere(Store, Fault("drop", "flush", nth=nth, part=0.5))

    assert lost == []


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("nth", range(1, 16))
async def test_an_honest_store_loses_nothing_on_a_full_disk(nth, for_good):
    _, lost = await crash_everywhere(Store, Fault("short", nth=nth, error=errno.ENOSPC, for_good=for_good))

    assert lost == []


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        (AcksBeforeFlush, []),
        (RenamesBeforeFlush, []),
        (NeverSyncs, []),
        (FlushesAgain, [Fault("drop", "flush", nth=3)]),
        (TrustsTheCache, [Fault("drop", "flush", nth=3)]),
        (Store, [Fault("lie", "flush", for_good=True)]),
        (Store, [Fault("lie", "sync_folder", for_good=True)]),
    ],
    ids=[
        *("acks before the flush", "renames before the flush", "never syncs", "flushes again", "trusts the cache"),
        *("a disk that lies of flushes", "a disk that lies of syncs"),
    ],
)
async def test_who_is_careless_is_found_out(kind, faults):
    _, lost = await crash_everywhere(kind, *faults)

    assert lost


async def test_a_run_killed_at_any_point_goes_on_in_another_process(autojump_clock):
    async def killed_at(nth: int) -> bool:
        """Whether the store was still running at point *nth*."""
        disk = SimulatedDisk()
        store = Store(disk.process())
        disk.on_point = lambda process, number, op, path: process.kill() if number == nth else None
        with trio.move_on_after(1) as scope:
            await store.open()
            for _ in range(7):
                await store.add()
        disk.on_point = None
        again = Store(disk.process())
        await again.open()
        assert store.acked <= again.count <= store.acked + 1
        return scope.cancelled_caught

    nth = 1
    while await killed_at(nth):
        nth += 1

    assert nth > 30
