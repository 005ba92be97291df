"""Processes of a simulated disk: killed, frozen, cancelled and buried; their locks; and the points of their calls."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from perdure.backends.disk import Taken
from perdure.backends.faults import OPS, Fault
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedProcess


async def file_of(process: SimulatedProcess, path: str = "a"):
    return await process.open(path, create=True)


# -- every call is a point -------------------------------------------------------------------

CALLS: dict[str, Callable[[SimulatedProcess], Awaitable[object]]] = {
    "open": lambda process: process.open("new", create=True),
    "entries": lambda process: process.entries("/"),
    "exists": lambda process: process.exists("a"),
    "make_folder": lambda process: process.make_folder("new"),
    "rename": lambda process: process.rename("a", "new"),
    "remove": lambda process: process.remove("a"),
    "remove_folder": lambda process: process.remove_folder("empty"),
    "sync_folder": lambda process: process.sync_folder("/"),
    "lock": lambda process: process.lock("new"),
    "free_bytes": lambda process: process.free_bytes("/"),
    "boot": lambda process: process.boot(),
}
PATHS = {"entries": "/", "free_bytes": "/", "sync_folder": "/", "open": "new", "make_folder": "new", "remove_folder": "empty", "lock": "new", "boot": ""}
FILE_CALLS = {
    "read": lambda file: file.read(0, 1),
    "write": lambda file: file.write(0, b"new"),
    "flush": lambda file: file.flush(),
    "size": lambda file: file.size(),
}


async def prepared() -> tuple[SimulatedDisk, SimulatedProcess, Callable[[str], Awaitable[object]]]:
    """A disk with an unflushed file `a`, and what makes one call of a kind."""
    disk = SimulatedDisk()
    process = disk.process()
    await process.make_folder("empty")
    file = await file_of(process)
    await file.write(0, b"old")
    return disk, process, lambda op: FILE_CALLS[op](file) if op in FILE_CALLS else CALLS[op](process)


def test_every_kind_of_call_is_tried():
    assert sorted([*CALLS, *FILE_CALLS]) == sorted(OPS)


@pytest.mark.parametrize("op", OPS)
async def test_a_call_is_counted_and_told_before_and_after(op):
    disk, process, call = await prepared()
    told: list[tuple[object, ...]] = []
    disk.on_point = lambda *point: told.append(("before", disk.changes, *point))
    disk.after_point = lambda *point: told.append(("after", disk.changes, *point))
    before, points = disk.changes, disk.points

    with assert_checkpoints():
        await call(op)

    (first, changes, caller, number, kind, path), (second, *_) = told
    assert (first, second) == ("before", "after")
    assert (changes, caller, number, kind) == (before, process, points + 1, op)
    assert path == PATHS.get(op, "a")


@pytest.mark.parametrize("op", OPS)
async def test_a_call_cancelled_before_it_began_has_done_nothing(op):
    disk, _, call = await prepared()
    before = (disk.changes, disk.points, disk.digest())

    with trio.CancelScope() as scope:
        scope.cancel()
        await call(op)

    assert scope.cancelled_caught
    assert (disk.changes, disk.points, disk.digest()) == before


@pytest.mark.parametrize("op", OPS)
async def test_a_call_of_the_killed_waits_for_ever_and_does_nothing(op, autojump_clock):
    disk, process, call = await prepared()
    before = (disk.changes, disk.points, disk.digest())
    process.kill()

    with trio.move_on_after(1e6) as scope:
        await call(op)

    assert scope.cancelled_caught
    assert (disk.changes, disk.points, disk.digest()) == before


@pytest.mark.parametrize("op", OPS)
async def test_killed_as_it_begins_a_call_does_nothing(op, autojump_clock):
    disk, process, call = await prepared()
    before = (disk.changes, disk.digest())
    disk.on_point = lambda *_: process.kill()

    with trio.move_on_after(1) as scope:
        await call(op)

    assert scope.cancelled_caught
    assert (disk.changes, disk.digest()) == before


async def test_killed_just_after_it_acted_a_call_has_acted_and_never_answers(autojump_clock):
    disk, process, call = await prepared()
    disk.after_point = lambda *_: process.kill()

    with trio.move_on_after(1) as scope:
        await call("write")

    assert scope.cancelled_caught
    assert disk.read_file("a") == b"new"


@pytest.mark.parametrize("op", OPS)
async def test_a_call_of_the_frozen_waits_until_it_is_thawed(op, autojump_clock):
    disk, process, call = await prepared()
    before = (disk.changes, disk.points, disk.digest())
    process.freeze()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, op)
        await wait_all_tasks_blocked()
        assert (disk.changes, disk.points, disk.digest()) == before
        process.thaw()

    assert disk.points == before[1] + 1


async def test_a_call_of_the_frozen_can_be_cancelled_and_has_done_nothing(autojump_clock):
    disk, process, call = await prepared()
    process.freeze()

    with trio.move_on_after(1) as scope:
        await call("write")

    assert scope.cancelled_caught
    assert disk.read_file("a") == b"old"


async def test_calls_take_a_time_drawn_from_the_seed(autojump_clock):
    async def taken(seed: int) -> float:
        process = SimulatedDisk(seed, latency_s=(0.001, 0.01)).process()
        began = trio.current_time()
        await (await file_of(process)).write_flush(0, b"x")
        return trio.current_time() - began

    assert await taken(1) == pytest.approx(await taken(1))
    assert await taken(1) != pytest.approx(await taken(2))
    assert 0.002 <= await taken(3) <= 0.02


# -- write_flush -----------------------------------------------------------------------------


async def test_write_flush_is_two_points():
    disk = SimulatedDisk()
    file = await file_of(disk.process())
    told: list[tuple[str, bytes, bytes]] = []
    disk.on_point = lambda _, number, op, path: told.append((op, disk.read_file(path), disk.image("keep").read_file(path)))

    await file.write_flush(0, b"new")

    assert told == [("write", b"", b""), ("flush", b"new", b"new")]


async def test_others_run_between_write_and_flush():
    disk = SimulatedDisk()
    file = await file_of(disk.process())
    seen: set[str] = set()

    async def look() -> None:
        while True:
            seen.add(disk.page_state("a", 0))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        for _ in range(50):  # who runs first in a round of the loop is drawn
            await file.write_flush(0, b"new")
        nursery.cancel_scope.cancel()

    assert seen == {"clean", "dirty"}


async def test_write_flush_once_begun_is_not_cancelled():
    disk = SimulatedDisk()
    file = await file_of(disk.process())
    await disk.process().sync_folder("/")

    with trio.CancelScope() as scope:
        disk.after_point = lambda *_: scope.cancel()
        await file.write_flush(0, b"new")

    assert not scope.cancelled_caught
    assert disk.image("lose").read_file("a") == b"new"


async def test_killed_between_write_and_flush(autojump_clock):
    disk = SimulatedDisk()
    process = disk.process()
    file = await file_of(process)
    await process.sync_folder("/")
    disk.on_point = lambda _, number, op, path: process.kill() if op == "flush" else None

    with trio.move_on_after(1):
        await file.write_flush(0, b"new")

    assert (disk.read_file("a"), disk.image("lose").read_file("a")) == (b"new", b"")


async def test_frozen_between_write_and_flush_it_goes_on_though_cancelled(autojump_clock):
    disk = SimulatedDisk()
    process = disk.process()
    file = await file_of(process)
    await process.sync_folder("/")
    disk.on_point = lambda _, number, op, path: process.freeze() if op == "flush" else None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.write_flush, 0, b"new")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert disk.image("lose").read_file("a") == b""
        process.thaw()

    assert disk.image("lose").read_file("a") == b"new"


# -- what becomes of a process ---------------------------------------------------------------


async def test_what_the_killed_wrote_stays_in_the_cache():
    disk = SimulatedDisk()
    process = disk.process()
    await (await file_of(process)).write(0, b"kept")

    process.kill()

    assert await (await disk.process().open("a")).read(0, 9) == b"kept"


async def test_the_killed_let_go_of_their_files():
    disk = SimulatedDisk(capacity_bytes=4_096)
    process = disk.process()
    file = await file_of(process)
    await file.write(0, b"x")
    await process.remove("a")

    process.kill()

    assert await disk.process().free_bytes("/") == 4_096
    file.close()
    assert await disk.process().free_bytes("/") == 4_096


async def test_the_buried_fail_so_that_shielded_cleanup_ends(autojump_clock):
    disk, process, call = await prepared()
    errors: list[int | None] = []

    async def clean_up() -> None:
        for _ in range(2):
            with trio.CancelScope(shield=True):
                try:
                    await call("write")
                except OSError as error:
                    errors.append(error.errno)

    async with trio.open_nursery() as nursery:
        process.kill()
        nursery.start_soon(clean_up)
        await wait_all_tasks_blocked()
        assert errors == []
        process.bury()

    assert errors == [errno.EIO, errno.EIO]
    assert disk.read_file("a") == b"old"


async def test_a_power_cut_kills_all_and_is_another_boot(autojump_clock):
    disk, process, call = await prepared()
    frozen = disk.process()
    frozen.freeze()
    boot = await process.boot()
    assert boot == await disk.process().boot()

    disk.power_cut("keep")

    assert process.state == frozen.state == "killed"
    assert await disk.process().boot() != boot
    with trio.move_on_after(1) as scope:
        await call("write")
    assert scope.cancelled_caught


async def test_no_boot_comes_back():
    disk = SimulatedDisk(7)
    boots = []
    for _ in range(3):
        boots.append(await disk.process().boot())
        disk.power_cut()
    for seed in (0, 7):
        image = disk.image("lose", seed)
        boots.append(await image.process().boot())
        image.power_cut()
        boots.append(await image.process().boot())

    assert len(set(boots)) == 7
    assert await SimulatedDisk(7).process().boot() == boots[0]


async def test_the_dead_do_not_rise():
    process = SimulatedDisk().process()
    process.kill()

    process.thaw()
    process.freeze()

    assert process.state == "killed"


# -- locks -----------------------------------------------------------------------------------


async def test_a_lock_excludes_all_others_and_names_its_holder():
    disk = SimulatedDisk()
    one, other = disk.process(pid=77), disk.process()
    lock = await one.lock("l")

    for process in (one, other):
        with pytest.raises(Taken, match="process 77"):
            await process.lock("l")

    lock.release()
    lock.release()
    await other.lock("l")


async def test_a_lock_goes_with_the_killed_and_stays_with_the_frozen():
    disk = SimulatedDisk()
    killed, frozen, other = disk.process(), disk.process(), disk.process()
    await killed.lock("k")
    await frozen.lock("f")

    killed.kill()
    frozen.freeze()

    await other.lock("k")
    with pytest.raises(Taken):
        await other.lock("f")


async def test_the_killed_cannot_release_what_another_one_has_now():
    disk = SimulatedDisk()
    killed, other = disk.process(), disk.process()
    lock = await killed.lock("l")
    killed.kill()
    await other.lock("l")

    lock.release()

    with pytest.raises(Taken):
        await disk.process().lock("l")


async def test_a_lock_belongs_to_the_file_and_not_to_its_name():
    disk = SimulatedDisk()
    one, other = disk.process(), disk.process()
    await one.lock("l")
    await one.rename("l", "m")

    await other.lock("l")

    with pytest.raises(Taken):
        await other.lock("m")


async def test_a_lock_keeps_its_file_though_it_has_no_name():
    disk = SimulatedDisk(capacity_bytes=4_096)
    process = disk.process()
    lock = await process.lock("l")
    await process.remove("l")
    assert await process.free_bytes("/") == 0

    lock.release()

    assert await process.free_bytes("/") == 4_096


async def test_a_lock_whose_file_is_damaged_names_nobody():
    disk = SimulatedDisk()
    await disk.process().lock("l")
    disk.write_file("l", b"?")

    with pytest.raises(Taken, match="unknown"):
        await disk.process().lock("l")


async def test_a_lock_is_free_after_a_power_cut():
    disk = SimulatedDisk()
    await disk.process().lock("l")

    disk.power_cut("keep")

    await disk.process().lock("l")


async def test_a_fault_may_be_given_and_healed_at_a_point():
    disk, _, call = await prepared()
    disk.on_point = lambda *_: disk.inject(Fault("fail"))

    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        await call("write")
    disk.on_point = lambda *_: disk.heal()
    await call("write")

    assert disk.read_file("a") == b"new"
