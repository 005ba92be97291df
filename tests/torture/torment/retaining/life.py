"""A life of the process: `python -m torment.retaining.life URL BLOBS SEED [compacts | loses | passes]`.

It tells `open`, then each stream and seq that was acknowledged.
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs
import trio

from perdure.actors import snapshots
from perdure.backends import engine, upkeep
from perdure.backends.blobs.urls import open_blobs
from perdure.backends.environment import random_id
from perdure.backends.errors import Unavailable
from perdure.backends.urls import open_backend
from perdure.runtime import open_runtime, retention
from perdure.runtime.compact import compact
from perdure.runtime.retention import Retention, retain
from perdure.runtime.runtime import Runtime
from torment.retaining.domain import APP, POLICIES, STREAMS, noted

snapshots.EVENTS, snapshots.IDLE_S = 25, 0.05  # type: ignore[misc]  # so that places move all the time
upkeep.DOUBTS = 0.02  # type: ignore[assignment]  # and what was cut is swept half a second later


def tell(*words: object) -> None:
    """One line, by one call."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(url: str, folder: str, seed: int, policies: Sequence[Retention] = POLICIES) -> None:
    """Append, retain and sweep for ever."""
    draw = random.Random(seed)
    async with open_blobs(f"directory:{folder}") as blobs, open_runtime(url, APP, blobs=blobs) as rt:
        tell("open")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_append, rt, draw)
            while True:
                await retain(rt.backend, policies, ids=random_id, blobs=blobs)
                with suppress(Unavailable):  # somebody else writes: the runtime
                    await rt.backend.maintain()


async def _append(rt: Runtime, draw: random.Random) -> None:
    while True:
        stream = draw.choice(STREAMS)
        info = await rt.backend.stream(stream)
        last = 0 if info is None else info.last
        answer = await rt.append(stream, [noted(stream, last + number) for number in range(1, draw.randint(2, 12))], expected=last)
        tell(stream, answer.unwrap().last)


async def settle(url: str) -> None:
    """Compact again and again."""
    async with open_backend(url) as backend:
        tell("open")
        while True:
            await compact(backend)


def pass_all() -> None:
    """A liar: no consumer is asked."""
    judge = engine._judge_cut

    def judge_alone(cut: Any, facts: Any, done: Any) -> Any:
        facts.holds.clear()
        return judge(cut, facts, done)

    async def nobody(backend: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    engine._judge_cut = judge_alone
    retention.consumers = nobody  # type: ignore[attr-defined, assignment]  # in this process


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    policies = [attrs.evolve(policy, archive="loses" not in sys.argv) for policy in POLICIES]
    if "passes" in sys.argv:
        pass_all()
    if "compacts" in sys.argv:
        trio.run(settle, sys.argv[1])
    else:
        trio.run(work, sys.argv[1], sys.argv[2], int(sys.argv[3]), policies)
