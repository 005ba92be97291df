"""A forked process may not use what was opened before the fork, and does not keep its parent's locks alive."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from crowd.driver import gather
from crowd.laws import acknowledged, ordered

GATE_S = 1.0


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
async def test_a_forked_process_is_refused(tmp_path: Path, how: str) -> None:
    async with gather(tmp_path) as crowd:
        parent = await crowd.start("parent", "append", "put", "follow", "fork", how=how)

        await parent.noted("used", 9)
        await parent.noted("ack", len(parent.of("ack")) + 100)
        await parent.kill()
        log = await crowd.log()

    used = {note.words[0]: note.words[1] for note in parent.of("used")}
    used.pop("all")
    assert used == dict.fromkeys(used, "Misuse")
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
async def test_a_forked_process_keeps_no_lock_of_its_dead_parent(tmp_path: Path, how: str) -> None:
    """Others write at once, and the last of them to close marks the store clean, while the forked process still lives."""
    async with gather(tmp_path) as crowd:
        parent = await crowd.start("parent", "append", "fork", how=how)
        forked = (await parent.noted("forked"))[0].number(0)
        await parent.kill()

        began_ns = time.monotonic_ns()
        writer = await crowd.start("w", "append", gate_s=GATE_S, stop_after=20)
        acks = await writer.noted("ack", 20)
        await writer.end()
        os.kill(forked, 0)  # it lives
        clean = crowd.clean()
        log = await crowd.log()

    assert not writer.of("no")
    assert (acks[0].at_ns - began_ns) / 1e9 < GATE_S + 2
    assert clean
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
