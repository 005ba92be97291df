"""Processes come, go and are killed at random: the store always opens, and the clean mark tells the truth."""

from __future__ import annotations

import random
import time
from pathlib import Path

import trio

from crowd.driver import Crowd, Member, gather
from crowd.laws import acknowledged, ordered

LIVES = 5
"""Of each of the three that come and go."""
LIFE_S = 0.4
KILLED_SHARE = 0.5
NAMES = ("a", "b", "c")


async def test_processes_come_and_go_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    lies: list[str] = []
    async with gather(tmp_path) as crowd:
        async with trio.open_nursery() as watching:
            watching.start_soon(watch_mark, crowd, lies)
            async with trio.open_nursery() as nursery:
                for name in NAMES:
                    nursery.start_soon(come_and_go, crowd, name)
            watching.cancel_scope.cancel()

        killed = await crowd.start("killed", "append")
        await killed.noted("ack", 3)
        await killed.kill()
        after_kill = crowd.clean()
        last = await crowd.start("last", "append")
        await last.end()
        after_end = crowd.clean()
        log = await crowd.log()

    assert lies == []
    assert (after_kill, after_end) == (False, True)
    assert ordered(log) + acknowledged(log, crowd.of("try", "ack", "no")) == []
    assert len(crowd.of("open")) == LIVES * len(NAMES) + 2


async def come_and_go(crowd: Crowd, name: str) -> None:
    """One life after the other, each ended politely or killed, some before they have opened the store."""
    draw = random.Random(name)
    for _ in range(LIVES):
        member = await crowd.launch(name, "append", stream="shared-1", seed=draw.randrange(1000))
        await member.noted("open")
        await trio.sleep(draw.random() * LIFE_S)  # the moment of an end is real time
        if draw.random() < KILLED_SHARE:
            await member.kill()
        else:
            await member.end()


async def watch_mark(crowd: Crowd, lies: list[str]) -> None:
    """Note whenever the mark is there while somebody has the store open, from before the look at it until after."""
    while True:
        await trio.sleep(0.002)
        users = [member for member in crowd.members if uses(member)]
        if crowd.clean() and (still := [member.options.by for member in users if uses(member)]):
            lies.append(f"marked clean while {still} had it open, at {time.monotonic_ns()}")


def uses(member: Member) -> bool:
    """Whether it surely has the store open."""
    return member.alive and not member.asked_to_end and bool(member.of("open"))
