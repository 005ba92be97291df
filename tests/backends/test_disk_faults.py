"""Faults of a simulated disk: each kind does what it says, at the call that it says."""

from __future__ import annotations

import errno
from collections.abc import Iterable

import pytest
import trio

from perdure.backends.cuts import POLICIES
from perdure.backends.errors import Misuse
from perdure.backends.faults import OPS, Fault, Faults, Op
from perdure.backends.pages import PAGE
from perdure.backends.simulated_disk import SimulatedDisk
from perdure.backends.simulated_process import SimulatedFile


async def opened(*faults: Fault, seed: int = 0) -> tuple[SimulatedDisk, SimulatedFile]:
    """A disk with a durable file `a` that says `old`; *faults* count from there."""
    disk = SimulatedDisk(seed)
    disk.write_file("a", b"old")
    file = await disk.process().open("a")
    disk.inject(*faults)
    return disk, file


def fails(number: int = errno.EIO):
    return pytest.raises(OSError, check=lambda error: error.errno == number and error.filename is not None)


# -- kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_a_call_that_fails_has_done_nothing(number):
    disk, file = await opened(Fault("fail", "write", error=number))

    with fails(number):
        await file.write(0, b"new")

    assert disk.read_file("a") == b"old"


async def test_a_flush_that_fails_leaves_the_pages_dirty():
    disk, file = await opened(Fault("fail", "flush"))
    await file.write(0, b"new")

    with fails():
        await file.flush()

    assert disk.page_state("a", 0) == "dirty"
    await file.flush()
    assert disk.image("lose").read_file("a") == b"new"


@pytest.mark.parametrize(("part", "there"), [(0.5, b"newold"), (0.0, b"oldold"), (1.0, b"newnew")])
async def test_a_short_write_puts_a_part(part, there):
    disk, file = await opened()
    disk.write_file("a", b"oldold")
    disk.inject(Fault("short", part=part, error=errno.ENOSPC))

    with fails(errno.ENOSPC):
        await file.write(0, b"newnew")

    assert disk.read_file("a") == there


async def test_what_a_failed_flush_drops_reads_well_and_is_gone_at_the_cut():
    disk, file = await opened(Fault("drop", "flush"))
    await file.write(0, b"new")

    with fails():
        await file.flush()

    assert (disk.page_state("a", 0), await file.read(0, 3)) == ("lost", b"new")
    await file.flush()
    assert {disk.image(policy, seed).read_file("a") for policy in POLICIES for seed in range(20)} == {b"old"}


async def test_of_what_a_failed_flush_drops_a_part_may_have_reached_the_medium():
    async def left(seed: int) -> bytes:
        disk, file = await opened(Fault("drop", "flush", part=0.5), seed=seed)
        await file.write(0, b"x" * 8 * PAGE)
        with fails():
            await file.flush()
        return disk.image("keep").read_file("a")

    found = [await left(seed) for seed in range(20)]

    assert len({one.count(b"x") for one in found}) > 3
    assert found == [await left(seed) for seed in range(20)]


async def test_names_whose_sync_was_dropped_are_seen_and_gone_at_the_cut():
    disk, _ = await opened(Fault("drop", "sync_folder"))
    process = disk.process()
    await process.rename("a", "b")

    with fails():
        await process.sync_folder("/")
    await process.sync_folder("/")

    assert disk.paths() == ["/b"]
    assert {tuple(disk.image(policy).paths()) for policy in POLICIES} == {("/a",)}


@pytest.mark.parametrize("op", ["flush", "sync_folder"])
async def test_a_lie_is_answered_and_nothing_is_durable(op):
    disk, file = await opened(Fault("lie", op, for_good=True))
    process = disk.process()
    await file.write(0, b"new")
    await process.rename("a", "b")

    await file.flush()
    await process.sync_folder("/")

    left, kept = disk.image("lose"), disk.image("keep")
    assert {path: left.read_file(path) for path in left.paths()} == ({"/b": b"old"} if op == "flush" else {"/a": b"new"})
    assert kept.read_file("b") == b"new"


async def test_a_stall_takes_its_time_and_is_not_cancelled(autojump_clock):
    disk, file = await opened(Fault("stall", "write", stall_s=3))
    began = trio.current_time()

    with trio.move_on_after(1) as scope:
        await file.write(0, b"new")

    assert not scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(3)
    assert disk.read_file("a") == b"new"


async def test_who_is_killed_while_it_stalls_does_not_act(autojump_clock):
    disk, file = await opened(Fault("stall", "write", stall_s=1e9))
    began = trio.current_time()

    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.write, 0, b"new")
            await trio.sleep(1)
            disk.power_cut("keep")

    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(10)
    assert disk.read_file("a") == b"old"


async def test_stalls_of_one_call_add_up_and_it_may_fail_as_well(autojump_clock):
    _, file = await opened(Fault("stall", stall_s=1), Fault("stall", "write", stall_s=2), Fault("fail", "write"))
    began = trio.current_time()

    with fails():
        await file.write(0, b"new")

    assert trio.current_time() - began == pytest.approx(3)


# -- which call ------------------------------------------------------------------------------


def struck(fault: Fault, calls: Iterable[tuple[Op, str]]) -> list[int]:
    """Which of *calls* (op and path, by process 1) it strikes, from 1."""
    faults = Faults([fault])
    return [number for number, (op, path) in enumerate(calls, 1) if faults.strike(op, path, 1)[0]]


CALLS: list[tuple[Op, str]] = [("write", "a"), ("flush", "a"), ("write", "d/b"), ("flush", "d/b"), ("write", "a"), ("flush", "a")]


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (Fault("fail"), [1]),
        (Fault("fail", nth=4), [4]),
        (Fault("fail", nth=4, for_good=True), [4, 5, 6]),
        (Fault("fail", "flush", nth=2), [4]),
        (Fault("drop", nth=2), [4]),
        (Fault("short", nth=2), [3]),
        (Fault("fail", path="d/*"), [3]),
        (Fault("fail", "write", path="a", nth=2), [5]),
        (Fault("fail", path="*b", for_good=True), [3, 4]),
        (Fault("fail", pid=2), []),
        (Fault("fail", pid=1, for_good=True), [1, 2, 3, 4, 5, 6]),
    ],
    ids=str,
)
def test_it_strikes_the_call_that_it_names(fault, calls):
    assert struck(fault, CALLS) == calls


def test_of_two_faults_the_one_given_first_has_the_call():
    first, second = Fault("fail", nth=2), Fault("fail", for_good=True)
    faults = Faults([first, second])

    assert [faults.strike("read", "a", 1)[0] for _ in range(3)] == [second, first, second]


async def test_the_two_of_write_flush_count_each():
    disk, file = await opened(Fault("drop", "flush", nth=2))

    await file.write_flush(0, b"one")
    with fails():
        await file.write_flush(0, b"two")

    assert disk.image("keep").read_file("a") == b"one"


@pytest.mark.parametrize("op", OPS)
async def test_any_call_can_fail(op):
    disk, file = await opened(Fault("fail", op, error=errno.ENOSPC))
    process = disk.process()
    file_calls = {"read": lambda: file.read(0, 1), "write": lambda: file.write(0, b"x"), "flush": file.flush, "size": file.size}
    calls = {"boot": process.boot, "rename": lambda: process.rename("a", "b")}

    with fails(errno.ENOSPC):
        await (file_calls | calls).get(op, lambda: getattr(process, op)("a"))()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "explode"}, "no kind of fault is called 'explode'"),
        ({"kind": "short", "op": "flush"}, "'short' cannot strike 'flush': it is for write"),
        ({"kind": "fail", "op": "fly"}, "cannot strike 'fly'"),
        ({"kind": "fail", "nth": 0}, "nth counts from 1"),
        ({"kind": "drop", "part": 1.5}, "part is of 0 to 1"),
        ({"kind": "stall", "stall_s": -1}, "not negative"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(Misuse, match=says):
        Fault(**wrong)
