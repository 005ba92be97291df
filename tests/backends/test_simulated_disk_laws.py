"""The laws of the simulated disk as functions, and disks that break one on purpose: each liar is caught by the law named beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from perdure.backends.cuts import POLICIES, Policy
from perdure.backends.disk import Taken
from perdure.backends.faults import Fault
from perdure.backends.filesystem import FileSystem
from perdure.backends.nodes import Change, FileNode, FolderNode, Node, Slot
from perdure.backends.pages import PAGE
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedProcess

Make = Callable[..., SimulatedDisk]
Law = Callable[[Make], Awaitable[None]]


def images(disk: SimulatedDisk) -> list[SimulatedDisk]:
    """What a cut may leave, by every policy and some seeds."""
    return [disk.image(policy, seed) for policy in POLICIES for seed in range(30)]


async def a_file(disk: SimulatedDisk, data: bytes = b"o" * 2 * PAGE) -> Any:
    """An open file `a`: bytes and name durable."""
    process = disk.process()
    file = await process.open("a", create=True)
    await file.write_flush(0, data)
    await process.sync_folder("/")
    return file


# -- laws ------------------------------------------------------------------------------------


async def flushed_is_never_lost(make: Make) -> None:
    disk = make()
    file = await a_file(disk)
    await file.write_flush(100, b"flushed")
    await file.write(PAGE, b"not flushed")

    assert all(image.read_file("a")[100:107] == b"flushed" for image in images(disk))


async def unflushed_is_lost_or_kept(make: Make) -> None:
    disk = make()
    file = await a_file(disk)
    await file.write(0, b"unflushed")

    assert disk.image("lose").read_file("a") == b"o" * 2 * PAGE
    assert disk.image("keep").read_file("a")[:9] == b"unflushed"


async def a_failed_flush_is_gone_at_the_cut_though_it_reads_well(make: Make) -> None:
    disk = make()
    file = await a_file(disk)
    disk.inject(Fault("drop", "flush"))
    await file.write(0, b"lost")
    with suppress(OSError):
        await file.flush()
        raise AssertionError("the flush did not fail")

    await file.write_flush(PAGE, b"later")

    assert await file.read(0, 4) == b"lost"
    boot = await disk.process().boot()
    assert all(image.read_file("a")[:4] == b"oooo" for image in images(disk))
    assert all(image.read_file("a")[PAGE : PAGE + 5] == b"later" for image in images(disk))
    assert await disk.process().boot() == boot
    disk.evict()
    assert await file.read(0, 4) == b"oooo"


async def a_page_written_again_is_durable_by_the_next_flush(make: Make) -> None:
    disk = make()
    file = await a_file(disk)
    disk.inject(Fault("drop", "flush"))
    await file.write(0, b"lost")
    with suppress(OSError):
        await file.flush()

    await file.write_flush(10, b"again")

    assert all(image.read_file("a")[:15] == b"lostoooooo" + b"again" for image in images(disk))


async def names_wait_for_a_sync(make: Make) -> None:
    disk = make()
    process = disk.process()
    await a_file(disk)
    for path in ("removed", "b"):
        await process.open(path, create=True)
    await process.sync_folder("/")
    await process.rename("a", "renamed")
    await process.remove("removed")
    await process.open("made", create=True)

    assert disk.image("lose").paths() == ["/a", "/b", "/removed"]
    assert disk.image("keep").paths() == disk.paths() == ["/b", "/made", "/renamed"]


async def synced_names_are_never_lost(make: Make) -> None:
    disk = make()
    process = disk.process()
    await a_file(disk)
    await process.rename("a", "b")
    await process.sync_folder("/")

    assert {tuple(image.paths()) for image in images(disk)} == {("/b",)}


async def a_rename_leaves_one_name_or_the_other(make: Make) -> None:
    disk = make()
    process = disk.process()
    await a_file(disk)
    for folder in ("one", "two"):
        await process.make_folder(folder)
    await process.sync_folder("/")
    await process.rename("a", "one/a")
    await process.sync_folder("/")
    assert {tuple(image.paths()) for image in images(disk)} == {("/a",), ("/one/a",)}
    await process.rename("one/a", "two/a")
    await process.sync_folder("one")
    assert {tuple(image.paths()) for image in images(disk)} == {("/one/a",), ("/two/a",)}
    await process.sync_folder("two")
    assert {tuple(image.paths()) for image in images(disk)} == {("/two/a",)}


async def a_write_is_torn_where_a_sector_begins(make: Make) -> None:
    disk = make()
    file = await a_file(disk, b"")
    await file.write(0, b"n" * 2 * PAGE)

    sizes = {len(disk.image("prefix", seed).read_file("a")) for seed in range(100)}

    assert {size % 512 for size in sizes} == {0}
    assert {0, 512, PAGE} <= sizes


async def the_same_seed_is_the_same_image(make: Make) -> None:
    disk, twin = make(seed=1), make(seed=1)
    for one in (disk, twin):
        file = await a_file(one)
        for at in range(20):
            await file.write(at * 700, bytes([at]) * 700)

    drawn = [disk.image("random", seed).digest() for seed in range(30)]

    assert drawn == [disk.image("random", seed).digest() for seed in range(30)]
    assert len(set(drawn)) > 25
    disk.power_cut("random")
    twin.power_cut("random")
    assert disk.digest() == twin.digest()


async def an_image_is_its_own(make: Make) -> None:
    disk = make()
    file = await a_file(disk)
    await file.write(0, b"unflushed")
    image, other = disk.image("keep"), disk.image("keep")

    await (await image.process().open("a")).write_flush(0, b"in the image")
    await image.process().remove("a")
    await image.process().sync_folder("/")
    await file.write_flush(0, b"going on")

    assert await file.read(0, 8) == b"going on"
    assert disk.image("lose").paths() == ["/a"]
    assert other.read_file("a")[:9] == b"unflushed"


async def a_cut_is_the_image_that_was_announced(make: Make) -> None:
    for policy in POLICIES:
        disk = make()
        file = await a_file(disk)
        await file.write(300, b"n" * 9_000)
        boot = await disk.process().boot()
        image = disk.image(policy, 5)

        disk.power_cut(policy, 5)

        assert disk.digest() == image.digest() == disk.image("lose").digest()
        assert len({boot, await disk.process().boot(), await image.process().boot()}) == 3


async def a_lock_ends_with_its_process_and_not_before(make: Make) -> None:
    disk = make()
    process = disk.process()
    await process.lock("l")
    process.freeze()
    await _refused(disk)
    process.kill()
    await disk.process().lock("l")
    await _refused(disk)


async def _refused(disk: SimulatedDisk) -> None:
    try:
        await disk.process().lock("l")
    except Taken:
        return
    raise AssertionError("two have the lock")


async def the_killed_act_no_more(make: Make) -> None:
    disk = make()
    process = disk.process()
    process.kill()

    with trio.move_on_after(1) as scope:
        await process.open("after death", create=True)

    assert scope.cancelled_caught
    assert disk.paths() == []


async def the_cancelled_have_done_nothing(make: Make) -> None:
    disk = make()
    file = await a_file(disk)

    with trio.CancelScope() as scope:
        scope.cancel()
        await file.write(0, b"cancelled")

    assert scope.cancelled_caught
    assert disk.read_file("a") == b"o" * 2 * PAGE


LAWS: list[Law] = [
    flushed_is_never_lost,
    unflushed_is_lost_or_kept,
    a_failed_flush_is_gone_at_the_cut_though_it_reads_well,
    a_page_written_again_is_durable_by_the_next_flush,
    names_wait_for_a_sync,
    synced_names_are_never_lost,
    a_rename_leaves_one_name_or_the_other,
    a_write_is_torn_where_a_sector_begins,
    the_same_seed_is_the_same_image,
    an_image_is_its_own,
    a_cut_is_the_image_that_was_announced,
    a_lock_ends_with_its_process_and_not_before,
    the_killed_act_no_more,
    the_cancelled_have_done_nothing,
]


# -- liars -----------------------------------------------------------------------------------


def on(files: type[FileSystem]) -> type[SimulatedDisk]:
    """A disk with another file system."""

    class Liar(SimulatedDisk):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._files = files()

    return Liar


def run_by(process: type[SimulatedProcess]) -> type[SimulatedDisk]:
    """A disk with other processes."""

    class Liar(SimulatedDisk):
        def process(self, pid: int | None = None) -> SimulatedProcess:
            made = process(self, 7 if pid is None else pid)
            self._processes[made] = None
            return made

    return Liar


class DurableAtOnce(FileSystem):
    """Forgets that names wait for a sync."""

    def _change(self, slots: dict[Slot, Node | None]) -> None:
        super()._change(slots)
        for folder, _ in slots:
            self.sync(folder)


class HalfRenames(FileSystem):
    """Renames in two steps."""

    def rename(self, old: str, new: str) -> None:
        self._change({self.slot(new): self.file(old)})
        self._change({self.slot(old): None})


class OneFolderIsEnough(FileSystem):
    """Takes a rename for durable when one of its folders was synced."""

    def sync(self, folder: FolderNode) -> None:
        for change in self.changes:
            if folder in change.waits:
                change.waits[:] = [folder]
        super().sync(folder)


class HalfSynced(FileSystem):
    """Loses what a sync made durable of names when the next change is lost."""

    def _take(self, chosen: Callable[[Change], bool]) -> list[Change]:
        super()._take(chosen)
        return []


class KeepsDirty(FileSystem):
    """Forgets that a failed flush calls pages clean."""

    def fail_flush(self, node: FileNode, reached: Callable[[int], bool]) -> None:
        pass


class ForgetsTheCache(FileSystem):
    """Shows at once what a failed flush lost."""

    def fail_flush(self, node: FileNode, reached: Callable[[int], bool]) -> None:
        super().fail_flush(node, reached)
        node.pages.evict()


class Revives(FileSystem):
    """Flushes all of the cache, what was lost with it."""

    def flush(self, node: FileNode) -> None:
        super().flush(node)
        node.pages.durable, node.pages.durable_size = node.pages.live.copy(), node.pages.size


class LostForGood(FileSystem):
    """Writes a lost page no more."""

    def write(self, node: FileNode, offset: int, data: bytes, path: str) -> None:
        lost = node.pages.state(offset // PAGE) == "lost"
        super().write(node, offset, data, path)
        if lost:
            node.pages.unflushed.clear()


class FlushesNothing(SimulatedDisk):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, faults=[Fault("lie", "flush", nth=2, for_good=True)], **options)


class SyncsNothing(SimulatedDisk):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, faults=[Fault("lie", "sync_folder", nth=2, for_good=True)], **options)


class TornAnywhere(SimulatedDisk):
    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        made = super().image(policy, seed)
        if policy == "prefix" and made.paths() == ["/a"]:
            made.write_file("a", made.read_file("a")[: -seed or None])
        return made


class Unseeded(SimulatedDisk):
    drawn = 0

    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        self.drawn += 1
        return super().image(policy, self.drawn)


class SharesItsFiles(SimulatedDisk):
    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        made = super().image(policy, seed)
        if policy == "keep":
            made._files.root = self._files.root
        return made


class SharesItsPages(SimulatedDisk):
    def image(self, policy: Policy = "lose", seed: int = 0) -> SimulatedDisk:
        made = super().image(policy, seed)
        for path, node in made._files.files():
            node.pages = self._files.file(path).pages
        return made


class SameBoot(SimulatedDisk):
    def power_cut(self, policy: Policy = "lose", seed: int | None = None) -> None:
        boot = self._boot
        super().power_cut(policy, seed)
        self._boot = boot


class KeepsAllAtTheCut(SimulatedDisk):
    def power_cut(self, policy: Policy = "lose", seed: int | None = None) -> None:
        super().power_cut("keep", seed)


class LosesLocksFrozen(SimulatedProcess):
    def freeze(self) -> None:
        for lock in list(self._locks):
            lock.release()
        super().freeze()


class LocksOutliveIt(SimulatedProcess):
    def kill(self) -> None:
        self._locks.clear()
        super().kill()


class LocksForAll(SimulatedProcess):
    async def lock(self, path: str) -> Any:
        self._files.open(path, create=True).holder = None
        return await super().lock(path)


class ActsOn(SimulatedProcess):
    async def _stand(self, begun: bool) -> None:
        await trio.lowlevel.checkpoint()


class ActsThoughCancelled(SimulatedProcess):
    async def _arrive(self, begun: bool) -> None:
        await super()._arrive(begun=True)


LIARS: list[tuple[Make, Law]] = [
    (FlushesNothing, flushed_is_never_lost),
    (SyncsNothing, synced_names_are_never_lost),
    (on(DurableAtOnce), names_wait_for_a_sync),
    (on(HalfSynced), synced_names_are_never_lost),
    (on(HalfRenames), a_rename_leaves_one_name_or_the_other),
    (on(OneFolderIsEnough), a_rename_leaves_one_name_or_the_other),
    (on(KeepsDirty), a_failed_flush_is_gone_at_the_cut_though_it_reads_well),
    (on(ForgetsTheCache), a_failed_flush_is_gone_at_the_cut_though_it_reads_well),
    (on(Revives), a_failed_flush_is_gone_at_the_cut_though_it_reads_well),
    (on(LostForGood), a_page_written_again_is_durable_by_the_next_flush),
    (TornAnywhere, a_write_is_torn_where_a_sector_begins),
    (Unseeded, the_same_seed_is_the_same_image),
    (SharesItsFiles, an_image_is_its_own),
    (SharesItsPages, unflushed_is_lost_or_kept),
    (SameBoot, a_cut_is_the_image_that_was_announced),
    (KeepsAllAtTheCut, a_cut_is_the_image_that_was_announced),
    (run_by(LosesLocksFrozen), a_lock_ends_with_its_process_and_not_before),
    (run_by(LocksForAll), a_lock_ends_with_its_process_and_not_before),
    (run_by(LocksOutliveIt), a_lock_ends_with_its_process_and_not_before),
    (run_by(ActsOn), the_killed_act_no_more),
    (run_by(ActsThoughCancelled), the_cancelled_have_done_nothing),
]


def broken(law: Law, make: Make) -> str | None:
    """How *make*'s disk breaks *law*; None if it keeps it."""
    try:
        trio.run(law, make, clock=MockClock(autojump_threshold=0))
    except (AssertionError, OSError, Taken) as error:
        return str(error) or type(error).__name__
    return None


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_simulated_disk_keeps(law):
    assert broken(law, SimulatedDisk) is None


@pytest.mark.parametrize(("make", "law"), LIARS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_liar_is_caught(make, law):
    assert broken(law, make)


def test_every_law_catches_one():
    assert {law.__name__ for law in LAWS} == {law.__name__ for _, law in LIARS}


def test_a_digest_is_the_same_in_every_process():
    program = (
        "from perdure.backends.simulated_disk import SimulatedDisk; disk = SimulatedDisk(); "
        "disk.write_file('a', b'x' * 5_000); disk.write_file('b', b''); print(disk.digest().hex())"
    )

    found = {subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout for seed in "12"}

    assert len(found) == 1


@pytest.mark.parametrize("other", [{"a": b"x", "c": b"y"}, {"a": b"x"}, {"a": b"x", "b": b"z"}, {"a": b"xy", "b": b""}, {"a": b"x", "b": b"y\0"}])
def test_other_names_or_bytes_give_another_digest(other):
    def digest(files: dict[str, bytes]) -> bytes:
        disk = SimulatedDisk()
        for path, data in files.items():
            disk.write_file(path, data)
        return disk.digest()

    assert digest({"a": b"x", "b": b"y"}) == digest({"b": b"y", "a": b"x"}) != digest(other)
