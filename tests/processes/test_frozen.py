"""A frozen process: the others go on or say who holds them up, their loops turn, and what was refused never happens."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest
import trio

from crowd.driver import Member, gather
from crowd.laws import acknowledged, ordered, turning

FREEZES = 8
GATE_S = 0.4
FROZEN_S = (0.05, 1.0)
OPEN_S = 5.0
CLOSE_S = 1.0
LOOP_MS = 200.0
"""So long a loop may stand still: its own flushes and a busy machine are in it, a wait for the lock (`GATE_S`) is not."""


@pytest.mark.parametrize("lock", ["next.lock", "gate.lock"])
async def test_whoever_waits_for_a_lock_that_is_never_given_back_is_told_who_has_it(tmp_path: Path, lock: str) -> None:
    async with gather(tmp_path) as crowd:
        writer = await crowd.start("w", "append", gate_s=GATE_S)
        await writer.noted("ack", 10)

        holder = await crowd.start("holder", hold=lock)
        holder.freeze()
        refused = await writer.noted("no", 2)
        acks = len(writer.of("ack"))
        await holder.kill()
        await writer.noted("ack", acks + 10)
        await crowd.end_all()
        log = await crowd.log()

    assert {note.words[2:] for note in refused} == {("Unavailable", str(holder.pid))}
    tried_ns = {note.ident: note.at_ns for note in writer.of("try")}
    waits_s = [(note.at_ns - tried_ns[note.ident]) / 1e9 for note in refused]
    assert all(GATE_S * 0.9 <= wait <= GATE_S + 0.3 for wait in waits_s), waits_s
    assert turning(writer.of("gap"), [], LOOP_MS) == []
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []


async def test_a_writer_frozen_in_its_flush_keeps_nobody_from_opening_and_reading(tmp_path: Path) -> None:
    async with gather(tmp_path) as crowd:
        writer = await crowd.start("w", "append", gate_s=GATE_S)
        await writer.noted("ack", 10)
        holder = await crowd.start("holder", hold="gate.lock", flushing=True)
        holder.freeze()

        newcomer = await crowd.start("late", "append", "follow", gate_s=GATE_S, within_s=OPEN_S)
        refused = await newcomer.noted("no", within_s=OPEN_S)
        await holder.kill()
        await newcomer.noted("ack", 10)
        await newcomer.noted("got", 10)
        await crowd.end_all()
        log = await crowd.log()

    assert {note.words[2:] for note in refused} == {("Unavailable", str(holder.pid))}
    for member in (writer, newcomer):
        assert turning(member.of("gap"), [], LOOP_MS) == []
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []


async def test_a_process_frozen_while_it_opens_keeps_nobody_from_closing(tmp_path: Path) -> None:
    async with gather(tmp_path) as crowd:
        writer = await crowd.start("w", "append", close_s=CLOSE_S)
        await writer.noted("ack", 10)
        holder = await crowd.start("holder", hold="opening.lock")
        holder.freeze()

        await writer.end(within_s=CLOSE_S + 3)
        await holder.kill()
        clean = crowd.clean()
        log = await crowd.log()

    assert not clean  # whoever could not look whether it is the last does not say so
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []


async def test_a_writer_frozen_at_any_moment_holds_up_nobody_for_longer_than_the_limit(tmp_path: Path) -> None:
    draw = random.Random(3)
    async with gather(tmp_path) as crowd:
        writers = [await crowd.start(name, "append", gate_s=GATE_S, cancel_share=0.1, expecting=False) for name in ("w1", "w2")]
        for _ in range(FREEZES):
            draw.shuffle(writers)
            await freeze_one(writers[0], writers[1], draw)
        await crowd.end_all()
        log = await crowd.log()

    named = {note.words[3] for note in crowd.of("no") if note.words[2] == "Unavailable"}
    assert named <= {str(writer.pid) for writer in writers}
    for writer in writers:
        assert turning(writer.of("gap"), writer.frozen, LOOP_MS) == []
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []


async def freeze_one(frozen: Member, other: Member, draw: random.Random) -> None:
    """Freeze one for a while: the other is answered all the time, one way or the other; then both write again."""
    await trio.sleep(draw.random() * 0.02)  # the moment of a freeze is real time
    frozen.freeze()
    began_ns = time.monotonic_ns()
    await trio.sleep(draw.uniform(*FROZEN_S))
    frozen.thaw()
    ended_ns = time.monotonic_ns()
    for writer in (frozen, other):
        await writer.noted("ack", len(writer.of("ack")) + 3, within_s=5)

    answered_ns = [began_ns, *(note.at_ns for note in other.of("ack", "no") if began_ns <= note.at_ns <= ended_ns), ended_ns]
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(answered_ns)) / 1e9
    assert longest_s < GATE_S + 0.3, f"{other.options.by} had no answer for {longest_s:.2f} s"
    refused = [note for note in other.of("no") if note.words[2] == "Unavailable" and began_ns <= note.at_ns <= ended_ns]
    assert {note.words[3] for note in refused} <= {str(frozen.pid)}
