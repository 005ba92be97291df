"""What simulation found in perdure, each as the shortest story that shows it."""

from __future__ import annotations

import pytest

from perdure.backends.commit_log import CommitLog, LogDoubtful
from perdure.backends.disk import Disk
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
