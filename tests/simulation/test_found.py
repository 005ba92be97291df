"""What simulation found in perdure, each as the shortest story that shows it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from perdure.backends.commit import Append, Committed, Draft, Put, propose
from perdure.backends.commit_log import CommitLog, LogDoubtful
from perdure.backends.disk import Disk
from perdure.backends.environment import Environment, InlineThreads
from perdure.backends.errors import Unavailable
from perdure.backends.faults import Fault
from perdure.backends.file import FileMap, Options, open_file
from perdure.backends.logged import LoggedMap
from perdure.backends.ordered import OrderedBackend
from perdure.backends.place import Place
from perdure.backends.simulated_disk import SimulatedDisk

STORE = bytes(16)
SECOND = "/log/0000000000000002.log"


def log_on(disk: Disk) -> CommitLog:
    return CommitLog(disk, "log", STORE, Place("inline"), 8 << 10)


async def test_the_last_batch_may_be_written_again_behind_a_segment_that_has_none():
    machine = SimulatedDisk()
    await log_on(machine.process()).create()
    await machine.process().sync_folder(".")
    log = log_on(machine.process())
    await log.recover(0)

    def die_in_the_second_segment(process, number, op, path):
        if op == "write" and SECOND in machine.paths():
            machine.power_cut("lose")
            process.bury()

    machine.on_point = die_in_the_second_segment
    written = 0
    with pytest.raises(LogDoubtful):
        while True:
            written = await log.append(b"x" * 500)
    machine.on_point = None

    for _ in range(3):  # the first opening writes the last batch again, the others read that
        found = await log_on(machine.process()).recover(0)
        machine.power_cut("keep")
        assert [batch.number for batch in found] == list(range(1, written + 1))


# -- stores ----------------------------------------------------------------------------------


@asynccontextmanager
async def opened(machine):
    """A `file:` store, and one of a commit log before it: on one machine, as `lmdb:` with segments."""
    environment = Environment(disk=machine.process(), threads=InlineThreads())
    below = await open_file("store", Options(flush="inline", segment=8 << 10), url="file:store", environment=environment)
    base = below._store
    assert isinstance(base, FileMap)

    def new_log():
        return CommitLog(environment.disk, "store/front", bytes.fromhex(base.id), Place("inline"), 64 << 10)

    await new_log().create()
    logged = LoggedMap(base, new_log)
    await logged.load()
    backend = OrderedBackend(logged, url="segments:store", capabilities=below.capabilities, environment=environment)
    yield below, backend
    await backend.aclose()


def commit(number):
    return propose([Append("a-1", [Draft("happened", 1, b"\xc0")])], id=bytes([number] * 16), at_us=number)


async def test_a_disk_that_does_not_say_how_much_room_there_is_stops_no_commit():
    machine = SimulatedDisk(faults=[Fault("fail", op="free_bytes", for_good=True)])
    async with opened(machine) as (below, _):
        group = await below.commit([commit(1)])

    assert isinstance(group.answers[0], Committed)


async def test_commits_before_which_the_map_could_not_be_written_were_not_begun(autojump_clock):
    machine = SimulatedDisk()
    async with opened(machine) as (_, backend):
        await backend.commit([commit(1)])
        await trio.sleep(2)  # what waits is due to be applied
        machine.inject(Fault("drop", op="flush", path="store/log/*"))

        with pytest.raises(Unavailable):
            await backend.commit([commit(2)])

        await backend.reopen()
        await backend.commit([commit(2)])
        assert await backend.head() == 2


async def test_upkeep_waits_while_the_disk_is_full(autojump_clock):
    machine = SimulatedDisk()
    async with opened(machine) as (_, backend):
        await backend.commit([commit(1)])
        machine.resize(machine.used_bytes)

        assert await backend.maintain() is False

        machine.resize(None)


# -- images and cuts -------------------------------------------------------------------------


async def put(backend, number):
    await backend.commit([propose([Put("bucket", b"key %d" % number, bytes(400))], id=number.to_bytes(16), at_us=number)])


@asynccontextmanager
async def opened_file(machine):
    environment = Environment(disk=machine.process(), threads=InlineThreads())
    backend = await open_file("store", Options(flush="inline", segment=8 << 10), url="file:store", environment=environment)
    yield backend
    await backend.aclose()


@pytest.mark.parametrize("point", range(1, 10))
async def test_an_image_is_whole_though_upkeep_was_cancelled_in_the_middle_of_it(point):
    machine = SimulatedDisk()
    async with opened_file(machine) as backend:
        count = 0
        while backend._store._imaging is None:
            await put(backend, count := count + 1)
        with trio.CancelScope() as scope:
            begun = machine.points
            machine.on_point = lambda process, number, op, path: scope.cancel() if number == begun + point else None
            while await backend.maintain():
                pass
        machine.on_point = None
        while backend._store._imaging is not None:
            await put(backend, count := count + 1)

    async with opened_file(machine) as backend:
        assert len(await backend.scan("bucket", limit=1_000)) == count


async def test_a_spare_is_not_written_to_before_its_old_name_is_gone():
    machine = SimulatedDisk()
    await log_on(machine.process()).create()
    await machine.process().sync_folder(".")
    log = log_on(machine.process())
    await log.recover(0)
    last = 0
    while log.segments < 3:
        last = await log.append(b"x" * 500)
    machine.inject(Fault("fail", op="sync_folder"))
    with pytest.raises(OSError):
        await log.cut(last)

    log = log_on(machine.process())
    images = []
    machine.after_point = lambda *_: images.append(machine.image("lose"))
    await log.recover(last)

    for image in images:
        assert await log_on(image.process()).recover(last) == []


async def test_segments_that_a_crash_kept_from_being_cut_go_with_the_next_cut():
    machine = SimulatedDisk()
    await log_on(machine.process()).create()
    log = log_on(machine.process())
    await log.recover(0)
    last = 0
    while log.segments < 4:
        last = await log.append(b"x" * 500)

    log = log_on(machine.process())
    await log.recover(last)
    await log.cut(last)

    assert [path for path in machine.paths() if path.endswith(".log")] == ["/log/0000000000000005.log"]
