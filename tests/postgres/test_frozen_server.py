"""A process frozen with a transaction in PostgreSQL in its hand: the server takes that from it, and nobody waits for longer than 2 s."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence

import pytest
import trio

from crowd.driver import Crowd, Member, gather
from crowd.laws import acknowledged, ordered, turning
from crowd.notes import Note
from perdure.backends.postgres.session import IDLE_S

SOON_S = 0.8
"""What a busy machine may add."""
FREEZES = 4
FROZEN_S = (0.05, 3.0)
LEASE_S, MORE_S = 2.0, 2.0
"""A hand-over takes so much more than the lease time at most, and this once more when the owner holds everyone."""
LOOP_MS = 200.0
"""So long a loop may stand still."""
AT = {"before it writes": False, "before it commits": True}


def longest_s(began_ns: int, until_ns: int, answered: Member) -> float:
    """The longest time in which it got no answer."""
    moments = [began_ns, *(note.at_ns for note in answered.of("ack", "no") if began_ns <= note.at_ns <= until_ns), until_ns]
    return max(later - earlier for earlier, later in itertools.pairwise(moments)) / 1e9


def unavailable(crowd: Crowd) -> list[Note]:
    """What writers were told that got no right to write."""
    return [note for note in crowd.of("no") if note.words[2] == "Unavailable"]


async def judged(crowd: Crowd) -> list[str]:
    """What is wrong with the log."""
    return ordered(log := await crowd.log()) + acknowledged(log, crowd.of("try", "ack", "no"))


@pytest.mark.parametrize("moment", AT)
async def test_frozen_in_a_transaction_it_holds_the_others_for_two_seconds(moment, database, tmp_path):
    async with gather(tmp_path, database) as crowd:
        writers = [await crowd.start(name, "append", "put" if name == "w1" else "follow", expecting=False) for name in ("w1", "w2")]
        holder = await crowd.start("holder", "append", expecting=False, freeze_at=20, freeze_written=AT[moment])
        (froze,) = await holder.noted("freezes")
        await trio.sleep(IDLE_S + 1.5)  # the server's clock is real time
        holder.thaw()
        thawed_ns = now_ns()
        acks = len(holder.of("ack"))
        await holder.noted("ack", acks + 5)
        await crowd.end_all()
        problems = await judged(crowd)

    waits_s = [longest_s(froze.at_ns, thawed_ns, writer) for writer in writers]
    assert IDLE_S - 0.5 < max(waits_s) < IDLE_S + SOON_S, waits_s  # else it was frozen elsewhere
    assert unavailable(crowd) == []
    for writer in writers:
        assert turning(writer.of("gap"), [], LOOP_MS) == []
    assert problems == []


async def test_who_waits_less_long_is_told_who_is_in_the_way(database, tmp_path):
    async with gather(tmp_path, database) as crowd:
        writer = await crowd.start("w", "append", gate_s=0.4, expecting=False)
        holder = await crowd.start("holder", "append", expecting=False, freeze_at=20, freeze_written=True)
        await holder.noted("freezes")
        refused = await writer.noted("no")
        acks = len(writer.of("ack"))
        await writer.noted("ack", acks + 5, within_s=IDLE_S + SOON_S)
        holder.thaw()
        await crowd.end_all()
        problems = await judged(crowd)

    assert {note.words[2:] for note in refused} == {("Unavailable", str(holder.pid))}
    assert problems == []


async def test_a_writer_frozen_at_any_moment_holds_up_nobody_for_longer(database, tmp_path):
    draw = random.Random(4)
    async with gather(tmp_path, database) as crowd:
        writers = [await crowd.start(name, "append", cancel_share=0.1, expecting=False) for name in ("w1", "w2")]
        for _ in range(FREEZES):
            draw.shuffle(writers)
            await freeze_one(writers, draw)
        await crowd.end_all()
        problems = await judged(crowd)

    assert unavailable(crowd) == []
    for writer in writers:
        assert turning(writer.of("gap"), writer.frozen, LOOP_MS) == []
    assert problems == []


async def freeze_one(writers: Sequence[Member], draw: random.Random) -> None:
    """Freeze the first for a while: the other is answered all the time; then both write again."""
    frozen, other = writers
    await trio.sleep(draw.random() * 0.02)  # the moment of a freeze is real time
    began_ns = now_ns()
    frozen.freeze()
    await trio.sleep(draw.uniform(*FROZEN_S))
    frozen.thaw()
    until_ns = now_ns()
    for writer in writers:
        await writer.noted("ack", len(writer.of("ack")) + 3, within_s=5)
    assert longest_s(began_ns, until_ns, other) < IDLE_S + SOON_S


@pytest.mark.slow
@pytest.mark.parametrize("moment", AT)
async def test_an_owner_frozen_in_a_commit_is_replaced_two_seconds_later_at_most(moment, database, tmp_path):
    async with gather(tmp_path, database) as crowd:
        writer = await crowd.start("w", "append", pace_s=0.02, expecting=False)
        owner = await crowd.start("owner", "host", pairs=3, lease_s=LEASE_S, freeze_at=40, freeze_written=AT[moment])
        await owner.noted("runs", 6)
        heir = await crowd.start("heir", "host", pairs=3, lease_s=LEASE_S)
        (froze,) = await owner.noted("freezes")
        runs = await heir.noted("runs", 6, within_s=20)
        owner.thaw()
        await owner.noted("waits", 6)
        await writer.end()
        await crowd.end_all()
        problems = await judged(crowd)

    assert (runs[-1].at_ns - froze.at_ns) / 1e9 < LEASE_S + MORE_S + IDLE_S
    assert problems == []


def now_ns() -> int:
    """Now, on the clock of notes."""
    return time.monotonic_ns()
